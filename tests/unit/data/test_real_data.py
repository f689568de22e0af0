"""Real photographs, where they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smartedge.data import open_dataset
from smartedge.data.layouts.cifar import CLASSES


@pytest.mark.slow
def test_faces(shared_data: Path, cache: Path) -> None:
    folder = shared_data / "lfw-attributes"
    data = open_dataset(str(folder), "Smiling", sensitive=["Male", "identity"], image_size=32, cache_dir=cache)
    assert data.name == "lfw-attributes"
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 9110, "val": 1210, "test": 1139}
    assert (data.skipped, data.notes) == ({}, ())
    people = {split: set(part.sensitive_labels["identity"].tolist()) for split, part in data.splits.items()}
    assert not people["train"] & people["test"]
    table = pq.read_table(folder / "test.parquet", columns=["Smiling"])
    assert data.splits["test"].labels.tolist() == table["Smiling"].to_pylist()
    images = data.splits["test"].read(np.arange(1139)).images_BCHW.float()
    assert 60 < images.mean() < 190
    middle, rim = images[:, :, 12:20, 12:20], images[:, :, :4, :4]
    assert (middle[:, 0] - middle[:, 2]).mean() > (rim[:, 0] - rim[:, 2]).mean()  # skin is redder than what is around
    every = [name for name in pq.read_schema(folder / "train.parquet").names if name not in ("image", "identity")]
    assert open_dataset(str(folder), every, image_size=32, cache_dir=cache).task.outputs == 40


@pytest.mark.slow
def test_cifar10(shared_data: Path, cache: Path) -> None:
    data = open_dataset(
        str(shared_data / "cifar10"), "label", image_size=32, limit={"train": 1000, "test": 500}, cache_dir=cache
    )
    assert data.task.names == CLASSES
    assert np.bincount(data.splits["train"].labels).tolist() == [100] * 10
    assert np.bincount(data.splits["val"].labels).tolist() == [500] * 10
    assert np.bincount(data.splits["test"].labels).tolist() == [50] * 10


def test_a_few_faces_decode(shared_data: Path, cache: Path) -> None:
    data = open_dataset(str(shared_data / "lfw-attributes" / "val.parquet"), "Smiling", image_size=64, cache_dir=cache)
    assert sum(len(part) for part in data.splits.values()) == 1210
    assert data.skipped == {}
