"""Run directories as a training leaves them, made up but of a piece: figures, answers and curves fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from smartedge.metrics import evaluate

REFERENCE = {"jpeg_q90": 2210.4, "raw_uint8": 12288.0, "feature_float32": 512.0}
LINK = {  # up, down, codec, seconds, stages, peak memory
    "hierarchical": (171.3, 0.9, "uint8", 9.6, (8.9, 2.1, 7.4), 612e6),
    "cloud": (9120.0, 0.9, "image", 17.9, (1.2, 9.0, 16.8), 431e6),
    "split": (16544.0, 16500.0, "float32", 30.2, (8.1, 6.4, 15.5), 640e6),
    "edge": (0.0, 0.0, None, 24.4, (24.2, 0.0, 0.0), 1160e6),
}


def scores_for(rng: np.random.Generator, labels: np.ndarray, outputs: int, skill: float) -> np.ndarray:
    """Probabilities that point to the label the more, the higher the skill."""
    truth = np.eye(outputs)[labels] if labels.ndim == 1 else labels
    logits = skill * (truth - 0.5) + rng.normal(size=truth.shape)
    if labels.ndim == 1:
        exp = np.exp(2 * (logits - logits.max(axis=1, keepdims=True)))
        return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
    return (1 / (1 + np.exp(-3 * logits))).astype(np.float32)


def faces(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Discs with two dark eyes on plain grounds, uint8 (count, 3, size, size)."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    images = []
    for _ in range(count):
        ground, skin = rng.integers(40, 220, (2, 3, 1, 1))
        cy, cx = rng.uniform(-0.08, 0.08, 2)
        image = np.where(((x - cx) ** 2 + (y - cy) ** 2 < 0.11)[None], skin, ground)
        for side in (-0.12, 0.12):
            image = np.where(((x - cx - side) ** 2 + (y - cy + 0.08) ** 2 < 0.0012)[None], 20, image)
        images.append(image)
    return np.stack(images).astype(np.uint8)


def write_run(
    directory: Path,
    *,
    method: str = "hierarchical",
    kind: str = "single",
    names: tuple[str, ...] = ("no", "yes"),
    skills: tuple[float, float] = (1.9, 2.5),
    images: int = 2000,
    image_size: int = 64,
    epochs: int = 6,
    seed: int = 0,
    sample_images: np.ndarray | None = None,
    change: Callable[[dict[str, Any]], None] = lambda results: None,
) -> Path:
    """Write every file of a finished run; ``skills`` are those of exit and back, ``change`` edits results.json."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    outputs = len(names)
    labels = rng.choice(outputs, size=images) if kind == "single" else rng.integers(2, size=(images, outputs))
    skilled = {"exit": skills[0], "back": skills[1]}
    if method != "hierarchical":
        del skilled["exit"]
    answered = {head: scores_for(rng, labels, outputs, skill) for head, skill in skilled.items()}
    test = {head: {**evaluate(labels, scores, kind), "loss": 0.2914} for head, scores in answered.items()}
    gain = None
    if len(test) == 2:
        gain = test["back"]["accuracy"] - test["exit"]["accuracy"]
    up, down, codec, wall, busy, memory = LINK[method]
    results: dict[str, Any] = {
        "schema_version": 1,
        "smartedge_version": "0.1.0",
        "method": method,
        "schedule": "joint",
        "model": "resnet18",
        "cut": None if method == "edge" else "layer1",
        "bottleneck": [8, 4, 4] if method == "hierarchical" else None,
        "codec": codec,
        "seed": seed,
        "epochs": epochs,
        "task": {"kind": kind, "columns": ["smile"] if kind == "single" else list(names), "names": list(names)},
        "data": {
            "path": "drawn",
            "image_size": image_size,
            "train": 8000,
            "val": 1000,
            "test": images,
            "skipped": {"not an image": 3},
            "notes": ["Labels were drawn, not annotated."],
        },
        "test": {"back": test.get("back"), "exit": test.get("exit")},
        "cloud_gain": gain,
        "bytes_per_image": {
            "up": up,
            "down": down,
            "source": "kernel tcp_info" if up else None,
            "reference": REFERENCE,
        },
        "bytes_total": {"up": up * 8000 * epochs, "down": down * 8000 * epochs},
        "seconds_per_epoch": wall,
        "seconds_total": wall * epochs + 4,
        "stage_seconds": {**dict(zip(("edge", "link", "cloud"), busy, strict=True)), "encode": 0.4 if up else 0.0},
        "edge_data_share": 0.034,
        "edge_peak_rss_bytes": memory,
        "edge_baseline_rss_bytes": 340e6,
        "cloud_peak_rss_bytes": None if method == "edge" else 880e6,
        "releases_per_image": 0 if method == "edge" else epochs,
        "machine": {"processor": "x86_64", "cores": 2, "memory_bytes": 8e9, "system": "Linux x86_64"},
        "versions": {"smartedge": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.6"},
        "started": "2025-11-24T22:45:03+00:00",
        "command": f"smartedge train demo.yaml --method {method}",
    }
    change(results)
    (directory / "results.json").write_text(json.dumps(results))
    lines = []
    for epoch in range(epochs):
        for side, head in (("edge", "exit"), ("cloud", "back")):
            if head not in test:
                continue
            best = test[head]["balanced_accuracy"]
            if method == "edge":
                side = "edge"
            for split, ahead in (("train", 0.0), ("val", -0.01)):
                lack = (best - 0.5) * np.exp(-0.9 * (epoch + 1)) + 0.006 * rng.random()
                balanced = float(best - lack + ahead)
                line = {"side": side, "epoch": epoch, "split": split, "loss": 1.6 * (1 - balanced) + 0.1}
                lines.append({**line, "accuracy": balanced, "balanced_accuracy": balanced, "auroc": None, "seconds": 8})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = rng.permutation(images).astype(np.int64)
    save_file({"ids": ids, "labels": labels, **answered}, directory / "predictions.safetensors")
    (directory / "edge").mkdir(exist_ok=True)
    shown = faces(rng, 24, image_size) if sample_images is None else sample_images
    save_file(
        {
            "images": np.ascontiguousarray(shown),
            "ids": ids[: len(shown)],
            "labels": np.ascontiguousarray(labels[: len(shown)]),
        },
        directory / "edge" / "samples.safetensors",
    )
    (directory / "config.yaml").write_text(f"method: {method}\nepochs: {epochs}\nmodel:\n  name: resnet18\n")
    return directory


@pytest.fixture(name="write_run")
def write_run_fixture(tmp_path: Path) -> Callable[..., Path]:
    """``write_run(name="run", **settings)`` → a finished run directory under the test's temporary folder."""

    def write(name: str = "run", **settings: Any) -> Path:
        return write_run(tmp_path / name, **settings)

    return write
