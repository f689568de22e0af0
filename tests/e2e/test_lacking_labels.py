"""A run on a data set in which many images lack some of their labels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from smartedge import train
from smartedge.errors import DataError
from smartedge.runs.progress import Quiet

IMAGES = 120


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """Images whose brightness and hue are the two labels; a half of each is lacking."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=(IMAGES, 2))
    lacking = rng.random((IMAGES, 2)) < 0.5
    files = []
    for bright, red in truth:
        shade = 90 + 120 * bright
        picture = Image.new("RGB", (16, 16), (shade, shade // 3, 40) if red else (40, shade // 3, shade))
        picture.save(buffer := io.BytesIO(), "PNG")
        files.append({"bytes": buffer.getvalue(), "path": None})
    columns = {
        name: [None if lacking[i, k] else int(truth[i, k]) for i in range(IMAGES)]
        for k, name in enumerate(("bright", "red"))
    }
    pq.write_table(pa.table({"image": files, **columns}), tmp_path / "train.parquet")
    return {
        "epochs": 1,
        "run_dir": str(tmp_path / "run"),
        "data": {
            "path": str(tmp_path / "train.parquet"),
            "desired": ["bright", "red"],
            "image_size": 16,
            "cache_dir": str(tmp_path / "cache"),
        },
        "model": {"name": "narrow:build", "cut": "layer1", "bottleneck": "4x2x2"},
        "train": {"batch_size": 8},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }


def test_they_are_masked_on_both_sides(settings: dict[str, object], tmp_path: Path) -> None:
    results = train(settings, single_process=True, monitor=Quiet())
    assert results.data.train > 60  # three quarters of the images have a label
    assert any("labels that are lacking" in note for note in results.data.notes)
    assert results.test.back is not None and results.test.exit is not None
    for head in (results.test.back, results.test.exit):
        assert 0 <= head.accuracy <= 1 and np.isfinite(head.loss)
    predictions = load_file(tmp_path / "run" / "predictions.safetensors")
    assert np.isnan(predictions["labels"]).any()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_they_cannot_be_randomised(settings: dict[str, object]) -> None:
    settings["dp"] = {"mechanism": "gaussian", "sigma": 1.0, "label_epsilon": 2.0}
    with pytest.raises(DataError, match=r"lacks some of the labels, and dp\.label_epsilon cannot hide which"):
        train(settings, single_process=True, monitor=Quiet())
