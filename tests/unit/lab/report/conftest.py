"""Run directories as a training leaves them, made up but of a piece: figures, answers and curves fit together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_example import RUN, attribute, noise_test, privacy_block
from safetensors.numpy import save_file

from smartedge.metrics import evaluate

REFERENCE = {"jpeg_q90": 2210.4, "raw_uint8": 12288.0, "feature_float32": 512.0}
LINK = {  # up, down, codec, seconds, stages, peak memory
    "hierarchical": (171.3, 0.9, "uint8", 9.6, (8.9, 2.1, 7.4), 612e6),
    "upload": (9120.0, 0.9, "image", 17.9, (1.2, 9.0, 16.8), 431e6),
    "split": (16544.0, 16500.0, "float32", 30.2, (8.1, 6.4, 15.5), 640e6),
    "local": (0.0, 0.0, None, 24.4, (24.2, 0.0, 0.0), 1160e6),
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
        "schema_version": 2,
        "smartedge_version": "0.1.0",
        "method": method,
        "schedule": "joint",
        "model": "resnet18",
        "cut": None if method == "local" else "layer1",
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
        "cloud_peak_rss_bytes": None if method == "local" else 880e6,
        "releases_per_image": 0 if method == "local" else epochs,
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
            if method == "local":
                side = "edge"
            for split, ahead in (("train", 0.0), ("val", -0.01)):
                lack = (best - 0.5) * np.exp(-0.9 * (epoch + 1)) + 0.006 * rng.random()
                balanced = float(best - lack + ahead)
                shares = dict.fromkeys(("accuracy", "balanced_accuracy", "balanced_accuracy_adjusted"), balanced)
                line = {"side": side, "epoch": epoch, "split": split, "loss": 1.6 * (1 - balanced) + 0.1}
                lines.append({**line, **shares, "auroc": None, "base_rate": 0.5, "seconds": 8})
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


def reconstructed(psnr: float, sensitive: float) -> dict[str, Any]:
    """What one reconstruction attack achieved."""
    return {
        "images": 2000,
        "psnr": psnr,
        "ssim": psnr / 40,
        "perceptual": {"name": "distance in the features of resnet18", "value": 0.412},
        "sensitive_balanced_accuracy": {"masculine": sensitive},
        "sensitive_balanced_accuracy_adapted": {"masculine": sensitive + 0.01},
        "sensitive_auroc": {"masculine": sensitive + 0.02},
        "desired_balanced_accuracy": 0.871,
        "ci95": {"sensitive_balanced_accuracy": {"masculine": [0.6, 0.7]}, "desired_balanced_accuracy": [0.86, 0.88]},
        "training": {"share": 1.0, "seconds": None},
    }


def write_audit(
    directory: Path,
    attributes: Mapping[str, Any] | None = None,
    *,
    network: str = "resnet18",
    protected: bool = True,
    pictures: bool = True,
    seed: int = 0,
    change: Callable[[dict[str, Any]], None] = lambda audit: None,
) -> Path:
    """Write what ``smartedge audit`` leaves in a run directory (docs/audit-schema.md)."""
    folder = directory / "audit"
    (folder / "reconstruction").mkdir(parents=True, exist_ok=True)
    effort = {"budget_seconds": None, "seeds": 2, "undefended": None}
    statistic = {"statistic": "likelihood", "pairs": 4000}
    audit: dict[str, Any] = {
        "schema_version": 2,
        "smartedge_version": "0.1.0",
        "run": {**RUN.model_dump(), "undefended": not protected, "noise_on_audited_releases": protected},
        "settings": {**effort, "attributes": ["masculine"], "attacks": ["deep"], "stages": {"attributes": effort}},
        "attributes": {"masculine": attribute(0.661)} if attributes is None else dict(attributes),
        "reconstruction": {
            "decoder": {**reconstructed(19.2, 0.655), "undefended": reconstructed(24.8, 0.902)},
            "white_box": {**reconstructed(13.1, 0.61), "undefended": None},
            "originals": {
                "images": 2000,
                "sensitive_balanced_accuracy": {"masculine": 0.941},
                "sensitive_auroc": {"masculine": 0.985},
                "desired_balanced_accuracy": 0.938,
                "ci95": {"sensitive_balanced_accuracy": {}, "desired_balanced_accuracy": None},
            },
            "mean_image": {"psnr": 12.4, "ssim": 0.31, "perceptual": {"name": "as above", "value": 0.7}},
        },
        "membership": {
            "any": {"auroc": 0.812, "balanced_accuracy": 0.734, "ci95": [0.71, 0.75], **statistic},
            "same_label": {"auroc": 0.79, "balanced_accuracy": 0.713, "ci95": [0.69, 0.73], **statistic},
        },
        "dp": noise_test().model_dump(),
        "skipped": [{"attack": "fine-tuned", "evidence": "defended", "reason": "no time was left"}],
        "verdict": "masculine: see the page",
    }
    change(audit)
    (folder / "audit.json").write_text(json.dumps(audit))
    if pictures:
        rng = np.random.default_rng(seed)
        originals = faces(rng, 8, 32)
        blurred = {
            name: np.clip(originals * (1 - part) + part * 128 + rng.normal(0, 9, originals.shape), 0, 255)
            for name, part in (("defended", 0.8), ("undefended", 0.2))
        }
        notes = {
            "network": network,
            "attacks": {"defended": "decoder", "undefended": "gan"},
            "desired": {"column": "smile", "names": ["no", "yes"]},
            "sensitive": {"column": "masculine", "names": ["no", "yes"]},
        }
        save_file(
            {
                "ids": np.arange(8) * 3,
                "desired": np.repeat([0, 1], 4),
                "sensitive": np.tile(np.repeat([0, 1], 2), 2),
                "originals": np.ascontiguousarray(originals),
                **{name: np.ascontiguousarray(images.astype(np.uint8)) for name, images in blurred.items()},
            },
            folder / "reconstruction" / "samples.safetensors",
            metadata={name: json.dumps(note) for name, note in notes.items()},
        )
    return directory


def write_sweep_json(
    folder: Path,
    axes: Mapping[str, tuple[str, ...]],
    *,
    audited: bool = True,
    seeds: int = 3,
    bounds: bool = False,
    change: Callable[[dict[str, Any]], None] = lambda sweep: None,
) -> Path:
    """Write sweep.json (docs/sweep-schema.md) of a finished grid: the further along an axis, the more is hidden."""
    folder.mkdir(parents=True, exist_ok=True)
    places = list(np.ndindex(*map(len, axes.values())))

    def spread(mean: float) -> dict[str, float | None]:
        return {"mean": mean, "sd": 0.004 if seeds > 1 else None}

    rows = []
    for place in places:
        settings = {key: values[i] for (key, values), i in zip(axes.items(), place, strict=True)}
        far = sum(place)
        figures = {
            "best": 0.9 - 0.06 * far,
            "training_image": 0.91 - 0.06 * far,
            "undefended": 0.9281,  # no bound: it is rounded to the nearest digit
            "floor": 0.645,
            "prediction_floor": 0.64,
            "chance": 0.5,
        }
        rows.append(
            {
                "settings": settings,
                "runs": seeds,
                "failed": 0,
                "desired": spread(0.93 - 0.005 * far),
                "exit": spread(0.91),
                "epsilon": spread(4.0) if bounds else None,
                "bound": spread(0.98 - 0.02 * far) if bounds else None,
                "noise_bound": spread(0.95 - 0.02 * far) if bounds else None,
                "attributes": {"masculine": {k: spread(v) for k, v in figures.items()}} if audited else {},
            }
        )
    sweep = {
        "schema_version": 2,
        "config": "method: hierarchical\n",
        "axes": [{"key": key, "values": list(values)} for key, values in axes.items()],
        "seeds": list(range(seeds)),
        "audited": audited,
        "desired": ["smile"],
        "sensitive": ["masculine"],
        "points": [
            {"settings": row["settings"], "seed": seed, "run": f"runs/{i},{seed}", "state": "done", "error": None}
            for i, row in enumerate(rows)
            for seed in range(seeds)
        ],
        "undefended": [{"settings": {}, "seed": 0, "run": "undefended/seed=0", "desired": 0.932}] if audited else [],
        "rows": rows,
    }
    change(sweep)
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder


@pytest.fixture(name="write_run")
def write_run_fixture(tmp_path: Path) -> Callable[..., Path]:
    """``write_run(name="run", **settings)`` → a finished run directory under the test's temporary folder."""

    def write(name: str = "run", **settings: Any) -> Path:
        return write_run(tmp_path / name, **settings)

    return write


@pytest.fixture(name="privacy_block")
def privacy_block_fixture() -> Callable[..., dict[str, Any]]:
    """See :func:`privacy_block`."""
    return privacy_block


@pytest.fixture(name="attribute")
def attribute_fixture() -> Callable[..., dict[str, Any]]:
    """See :func:`attribute`."""
    return attribute


@pytest.fixture(name="write_audit")
def write_audit_fixture() -> Callable[..., Path]:
    """See :func:`write_audit`."""
    return write_audit


@pytest.fixture(name="write_sweep_json")
def write_sweep_json_fixture(tmp_path: Path) -> Callable[..., Path]:
    """``write_sweep_json(axes, name="sweep", **settings)`` → a finished sweep under the test's temporary folder."""

    def write(axes: Mapping[str, tuple[str, ...]], name: str = "sweep", **settings: Any) -> Path:
        return write_sweep_json(tmp_path / name, axes, **settings)

    return write
