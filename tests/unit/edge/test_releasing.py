"""An edge that releases with a published front: what it refuses before it opens anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from smartedge.config import load_config
from smartedge.edge.releasing import Releaser
from smartedge.errors import DataError
from smartedge.methods.mechanism import mechanism_of
from smartedge.runs.progress import Quiet
from smartedge.wire.memory import MemoryLink


def test_randomised_labels_need_an_order_that_does_not_tell_them(tmp_path: Path) -> None:
    """Its images lie in a folder for each class, so their numbers tell the class."""
    config = load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "schedule": "freeze-and-log",
            "model": {"bottleneck": "2x2x2"},
            "dp": {"mechanism": "gaussian", "sigma": 1.0, "label_epsilon": 1.0},
        }
    )
    front = SimpleNamespace(feature_shape=(2, 2, 2), mechanism=mechanism_of(config, (2, 2, 2)))
    with pytest.raises(DataError, match=r"in the order of their labels.*dp\.label_epsilon of this front hides nothing"):
        Releaser(front, config, tmp_path, MemoryLink(None), Quiet(), resume=False)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
