"""Losses of a short run on embedded data that no refactoring may change.

Recorded with torch 2.13 on x86-64; other builds round differently, hence the tolerance. A change of data, model,
initialisation, order, augmentation, codec or optimizer moves them by far more.
"""

from __future__ import annotations

import json

import pytest

from smartedge.runs.progress import Quiet
from smartedge.training import train

LOSSES = {
    ("edge", 0, "train"): 0.7817,
    ("cloud", 0, "train"): 1.1251,
    ("edge", 1, "train"): 0.6066,
    ("cloud", 1, "train"): 1.0123,
    ("edge", 1, "test"): 0.6918,
    ("cloud", 1, "test"): 0.7006,
}


def test_the_losses_of_a_short_run(tmp_path):
    config = {
        "epochs": 2,
        "run_dir": str(tmp_path / "run"),
        "data": {
            "desired": "mouth_open",
            "image_size": 32,
            "limit": {"train": 128, "val": 16, "test": 64},
            "cache_dir": str(tmp_path),
        },
        "model": {"name": "resnet18", "cut": "layer1", "bottleneck": "4x4x4", "small_input": False},
        "train": {"batch_size": 32},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }
    train(config, single_process=True, monitor=Quiet(), report=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {(row["side"], row["epoch"], row["split"]): row["loss"] for row in rows}
    assert {key: found[key] for key in LOSSES} == pytest.approx(LOSSES, abs=2e-3)
