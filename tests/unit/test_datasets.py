"""The data set of a run: named by its settings, or given in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smartedge.config import load_config
from smartedge.datasets import with_given_data
from smartedge.errors import ConfigError


def test_a_given_data_set_is_kept_with_the_run(tmp_path: Path) -> None:
    arrays = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    config = load_config({"run_dir": str(tmp_path / "run")})
    known = with_given_data(config, arrays)
    assert (known.data.path, known.data.desired) == (str(tmp_path / "run" / "data"), "label")
    file = tmp_path / "run" / "data" / "train.parquet"
    assert pq.read_schema(file).names == ["image", "label"]
    named = load_config({"run_dir": str(tmp_path / "run"), "data": {"desired": "age"}})
    assert with_given_data(named, arrays).data.desired == "age"
    assert pq.read_schema(file).names == ["image", "age"]
    (tmp_path / "run" / "edge").mkdir()
    (tmp_path / "run" / "edge" / "run.json").touch()  # the run has begun
    assert with_given_data(config, arrays) == known  # a run that goes on uses what it began with
    assert pq.read_schema(file).names == ["image", "age"]
    with pytest.raises(ConfigError, match=r"data\.path: leave it out"):
        with_given_data(load_config({"data": {"path": "elsewhere"}, "run_dir": str(tmp_path / "run")}), arrays)
