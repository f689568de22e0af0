"""A folder of labelled images, as an edge without torch reads it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smartedge.edge.labelled import LabelledFolder
from smartedge.errors import DataError
from smartedge.types import Task

TASK = Task("single", ("species",), ("ant", "bee", "cat"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each split has two images of ``bee`` and one of ``cat``, of one colour each: 10, 20, 30."""
    for split in ("train", "val", "test"):
        for name, colour in (("bee/b.png", 20), ("bee/a.png", 10), ("cat/a.png", 30)):
            file = tmp_path / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (colour, 0, 0)).save(file)
    return tmp_path


def test_images_are_numbered_by_class_and_name_and_labels_are_places_in_the_task(folder: Path) -> None:
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "notes.txt").write_text("no folder of a class")
    opened = LabelledFolder.open(folder, TASK)
    assert [file.relative_to(folder).as_posix() for file in opened.files["train"]] == [
        "train/bee/a.png",
        "train/bee/b.png",
        "train/cat/a.png",
    ]
    assert opened.labels["val"].tolist() == [1, 1, 2] and opened.labels["val"].dtype == np.int64


def test_batches_hold_the_pixels_of_the_images_that_can_be_decoded(folder: Path) -> None:
    (folder / "test" / "bee" / "b.png").write_bytes(b"no image")
    opened = LabelledFolder.open(folder, TASK)
    ids, problems = opened.usable("test", 4, "crop")
    assert ids.tolist() == [0, 2] and ids.dtype == np.int64
    assert list(problems) == [folder / "test" / "bee" / "b.png"]
    batches = list(opened.batches("test", ids, 1, 4, "crop"))
    assert [part.tolist() for part, _, _ in batches] == [[0], [2]]
    assert [labels.tolist() for _, _, labels in batches] == [[1], [2]]
    pixels = [pixels_BCHW for _, pixels_BCHW, _ in batches]
    assert [each.shape for each in pixels] == [(1, 3, 4, 4)] * 2
    assert [int(each[0, 0].max()) for each in pixels] == [10, 30] and pixels[0][0, 1:].max() == 0
    (whole,) = opened.batches("val", np.arange(3), 3, 4, "crop")
    assert whole[0].tolist() == [0, 1, 2] and whole[1].shape == (3, 3, 4, 4)


def test_an_image_that_was_removed_since_is_named(folder: Path) -> None:
    opened = LabelledFolder.open(folder, TASK)
    (folder / "train" / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"cat/a\.png: .*could be read before"):
        list(opened.batches("train", np.arange(3), 3, 4, "crop"))


def test_the_fingerprint_is_of_files_and_labels(folder: Path) -> None:
    opened = LabelledFolder.open(folder, TASK)
    known = opened.fingerprint()
    assert len(known) == 32 and known == LabelledFolder.open(folder, TASK).fingerprint()
    others = {LabelledFolder.open(folder, Task("single", ("species",), ("bee", "cat"))).fingerprint()}
    file = folder / "test" / "cat" / "a.png"
    os.utime(file, ns=(0, 0))
    others.add(LabelledFolder.open(folder, TASK).fingerprint())
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(0, 0))
    others.add(LabelledFolder.open(folder, TASK).fingerprint())
    file.rename(file.with_name("b.png"))
    others.add(LabelledFolder.open(folder, TASK).fingerprint())
    assert len(others | {known}) == 5


def test_folders_that_are_no_classes_of_the_front_are_refused(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder / "train" / "dog")
    with pytest.raises(DataError, match=r"val: cat: no class of this front; its classes are bee, dog"):
        LabelledFolder.open(folder, Task("single", ("species",), ("bee", "dog")))
    with pytest.raises(DataError, match=r"learned several labels \(bee, cat\)"):
        LabelledFolder.open(folder, Task("multi", ("bee", "cat"), ("bee", "cat")))


def test_a_split_that_lacks_or_holds_nothing_is_refused(folder: Path) -> None:
    for file in (folder / "test").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"test: holds no images in folders named ant, bee, cat"):
        LabelledFolder.open(folder, TASK)
    (folder / "val").rename(folder / "validation")
    with pytest.raises(DataError, match=r"val: cannot be read \(No such file or directory\); --source needs"):
        LabelledFolder.open(folder, TASK)
