"""Settings of runs small enough for tests, for this process and for the processes it starts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import Command
from forked import Popen

from smartedge.cloud.store.feature_log import FeatureReader, log_folder
from smartedge.config import Config, load_config
from smartedge.launch import processes

HERE = Path(__file__).parent


@pytest.fixture
def open_log() -> Callable[[Path], FeatureReader]:
    """``open_log(run_dir)``: what the cloud stored of the one edge."""
    return lambda run_dir: FeatureReader(log_folder(run_dir / "cloud"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """``start("edge", file, ...)``: a command as a process, killed at the end of the test."""
    started: list[Command] = []

    def start(*argv: str | Path) -> Command:
        started.append(Command(tmp_path / "output", *argv))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def forked_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """``smartedge train`` forks its two sides, which need not import torch then. The edge divides the network."""
    monkeypatch.setattr("smartedge.training.check_and_divide", lambda config: nullcontext())
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=Popen, PIPE=subprocess.PIPE))


@pytest.fixture
def tiny_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_faces: Path) -> Callable[..., Config]:
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
            "cache_dir": str(drawn_faces),
        },
        "model": {"name": "tiny:build", "cut": "stage1", "bottleneck": None, "exit": {"width": 8, "depth": 1}},
        "train": {"batch_size": 16},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }

    def make(name: str, **changes: Any) -> Config:
        return load_config(load_config(base), {"run_dir": str(tmp_path / name), **changes})

    return make
