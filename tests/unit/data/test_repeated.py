"""Images that lie in training and in another split are told of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smartedge.data.opening import open_dataset

EACH = 12  # images of a class in each split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in three splits, all images different."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("a", "b"):
            place = tmp_path / "set" / split / kind
            place.mkdir(parents=True)
            for number in range(EACH):
                Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return tmp_path / "set"


def said(folder: Path, cache_bytes: int | None = None) -> list[str]:
    data = open_dataset(
        str(folder), "label", image_size=8, cache_dir=folder.with_name("cache"), cache_bytes=cache_bytes
    )
    return [note for note in data.notes if "training images too" in note]


def test_nothing_is_said_where_all_images_differ(folder: Path) -> None:
    assert said(folder) == []


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_a_copy_of_training_images_is_counted_under_any_name(folder: Path, cache_bytes: int | None) -> None:
    for number in range(5):
        shutil.copy(folder / f"train/a/{number}.png", folder / f"test/b/{number}.png")
    (note,) = said(folder, cache_bytes)
    assert note.startswith("set: 5 of the 24 test images that were looked at are training images too, pixel by pixel")


def test_a_rare_one_is_not_worth_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.data.reading.repeated._SHARE", 1 / 24)
    shutil.copy(folder / "train/a/0.png", folder / "val/b/0.png")
    assert said(folder) == []
    shutil.copy(folder / "train/a/1.png", folder / "val/b/1.png")
    assert len(said(folder)) == 1


def test_only_the_first_images_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "train/a/0.png", folder / "test/a/0.png")
    monkeypatch.setattr("smartedge.data.reading.repeated._BYTES", 3 * 8 * 8 * 4)
    assert said(folder)[0].startswith("set: 1 of the 4 test images")
