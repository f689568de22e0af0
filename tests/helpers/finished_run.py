"""A finished run with weights that are known, made without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.config import load_config
from smartedge.inference import TrainedRun
from smartedge.models.network import Divided, divide
from smartedge.runs.checkpoint import save_weights
from smartedge.types import Task

TASK = Task("single", ("kind",), ("a", "b", "c"))
SETTINGS = {
    "model": {"name": "narrow:build", "cut": "layer3", "bottleneck": None},
    "data": {"image_size": 32, "desired": "kind"},
    "codec": {"name": "float32"},
}


def finished_run(folder: Path, **changes: Any) -> tuple[TrainedRun, Divided]:
    """A run in a folder, and its network: other weights than a new one has, and statistics of its own."""
    config = load_config(SETTINGS, changes)
    divided = divide(dataclasses.replace(config.division(3), seed=5))
    with torch.no_grad():
        features_BF = divided.front(torch.randn(16, *config.data.image_size.shape))
        divided.task_exit(features_BF), divided.back(features_BF)
    parts = {"edge/front": divided.front, "edge/exit": divided.task_exit, "cloud/back": divided.back}
    for name, part in parts.items():
        file = folder / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(file, part.eval().state_dict())
    session = Session(started=0.0, ended=1.0, epochs=1)
    CloudSummary(finished=True, session=session, busy_seconds=1.0, test=None, peak_rss_bytes=None, frames=1).write(
        folder / "cloud" / "summary.json"
    )
    return TrainedRun(folder, config, TASK, config.agreement()), divided
