"""docs/store.md: its programs run, and its numbers are those of the code."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.store.export import SCHEMA, export_images
from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader
from smartedge.framelog import log, mark, records
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import serialise

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(# (\w+)\n.*?)```", PAGE, flags=re.DOTALL)
HEADER = stream_header(batch_size=3, frames=2, train_steps=2)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.zeros((3, *HEADER.feature_shape), np.float32)
    with contextlib.closing(FeatureLog(tmp_path / "log")) as opened:
        opened.begin(HEADER)
        batch = EncodedBatch(np.arange(3), np.array([0, 1, 0]), values.tobytes(), b"")
        opened.append(0, *serialise(Frame(0, batch), HEADER))
        opened.sync()
        export_images([FeatureReader(tmp_path / "log")], tmp_path / "images.parquet")


def test_there_are_programs():
    assert [library for _, library in PROGRAMS] == ["pyarrow", "polars", "duckdb"]


@pytest.mark.parametrize(("program", "library"), PROGRAMS, ids=[library for _, library in PROGRAMS])
def test_a_program_runs(exported, program, library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    names: dict[str, object] = {}
    exec(program, names)
    counted = names["per_split"][0]
    assert "train" in (counted.values() if isinstance(counted, dict) else counted)
    assert 3 in (counted.values() if isinstance(counted, dict) else counted)


def test_the_numbers_are_those_of_the_code():
    assert (records.FILE_HEADER_BYTES, records.RECORD_HEADER_BYTES, mark._SECTOR) == (48, 32, 512)
    assert (log._SEGMENT_BYTES, log._SPARE_BYTES) == (64 * 2**20, 64 * 2**20)
    for name in SCHEMA.names:
        assert f"`{name}`" in PAGE
