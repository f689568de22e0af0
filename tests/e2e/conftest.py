"""Settings of runs small enough for tests, for this process and for the processes it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smartedge.cloud.store import FeatureLog
from smartedge.config import Config, load_config

HERE = Path(__file__).parent


@pytest.fixture
def open_log() -> Iterator[Callable[[Path], FeatureLog]]:
    """``open_log(folder)``: a feature log that is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda folder: opened.enter_context(contextlib.closing(FeatureLog(folder)))


@pytest.fixture
def tiny_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """``tiny_config("run", method="split")``: settings of a few seconds' run in ``tmp_path / "run"``."""
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=":")
    monkeypatch.syspath_prepend(str(HERE))
    base: dict[str, Any] = {
        "epochs": 3,
        "data": {
            "path": "drawn",
            "desired": "smile",
            "sensitive": "masculine",
            "image_size": 16,
            "limit": {"train": 96, "val": 20, "test": 40},
            "audit_share": 0,
            "cache_dir": str(tmp_path.parent / "cache"),
        },
        "model": {"name": "tiny:build", "cut": "stage1", "exit": {"width": 8, "depth": 1}},
        "train": {"batch_size": 16},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }

    def make(name: str, **changes: Any) -> Config:
        return load_config(load_config(base), {"run_dir": str(tmp_path / name), **changes})

    return make
