"""Comparing what runs left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# Settings of protected runs of the tiny network.
ADVERSARY: dict[str, Any] = {
    "exits": ["linear", "mlp"],
    "steps": 2,
    "reset_every": 1,
    "dependence": 1.0,
    "mixture": 1.0,
}
GAUSSIAN: dict[str, Any] = {"mechanism": "gaussian", "epsilon": 8.0}
CODEWORDS: dict[str, Any] = {"mechanism": "randomised-response", "epsilon": 30.0}
PROTECTED: dict[str, dict[str, Any]] = {
    "gaussian": {"model": {"bottleneck": [4, 2, 2]}, "adversary": ADVERSARY, "dp": GAUSSIAN},
    "codewords": {"model": {"codebook": 6}, "adversary": ADVERSARY, "dp": CODEWORDS},
    "labels": {"model": {"bottleneck": [4, 2, 2]}, "dp": {**GAUSSIAN, "label_epsilon": 2.0}},
    "taught": {"model": {"bottleneck": [4, 2, 2]}, "train": {"distill": {"epochs": 2}}},
}

_WEIGHTS = ("front", "exit", "teacher", "network", "back")


def weights(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All parameters and buffers that a run ended with, by file."""
    files = [run_dir / side / f"{name}.safetensors" for side in ("edge", "cloud") for name in _WEIGHTS]
    return {file.stem: load_file(file) for file in files if file.exists()}


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs ended with the same weights, bit for bit, the same test results, and as many releases of an image."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys() != set()
    for part, tensors in left.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, right[part][name]), f"{part}.{name}"
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["releases_per_image"] == results[1]["releases_per_image"]


def share_key(*runs: Path) -> None:
    """Give runs the same secret of the noise before they begin, so that their releases are equal."""
    for run in runs:
        (run / "edge").mkdir(parents=True, exist_ok=True)
        key = run / "edge" / "noise.key"
        key.write_bytes(bytes(range(32)))
        key.chmod(0o600)
