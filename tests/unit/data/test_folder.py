"""Image folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smartedge.data import open_dataset
from smartedge.errors import DataError

Picture = Callable[..., bytes]


def test_a_folder_per_class(tmp_path: Path, cache: Path, picture: Picture) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for shade, kind in ((20, "wasp"), (90, "ant")):
            for number in range(count):
                file = tmp_path / "bugs" / split / kind / f"{number}.PNG"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture(shade))
    (tmp_path / "bugs" / "train" / "ant" / "Thumbs.db").write_bytes(b"")
    data = open_dataset(str(tmp_path / "bugs"), "label", image_size=8, cache_dir=cache)
    assert data.task.names == ("ant", "wasp")
    train = data.splits["train"]
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    assert train.read(np.array([0, 11])).images_BCHW[:, 0, 4, 4].tolist() == [90, 20]
    assert len([note for note in data.notes if "training images too" not in note]) == 1
    assert "1 file(s)" in data.notes[0]


def test_classes_without_splits(tmp_path: Path, cache: Path, picture: Picture) -> None:
    for kind in ("ant", "wasp"):
        (tmp_path / "bugs" / kind).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "bugs" / kind / f"{number}.png").write_bytes(picture(number))
    data = open_dataset(str(tmp_path / "bugs"), "label", image_size=8, cache_dir=cache)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [32, 4, 4]
    assert [len(part.labels.unique()) for part in data.splits.values()] == [2, 2, 2]
    assert len([note for note in data.notes if "training images too" not in note]) == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_metadata_file(kind: str, tmp_path: Path, cache: Path, picture: Picture) -> None:
    for split in ("train", "validation", "test"):
        folder = tmp_path / "d" / split
        folder.mkdir(parents=True)
        rows = [{"file_name": f"{i}.png", "smile": i % 2 == 0, "hue": "rg"[i % 2], "age": i} for i in range(4)]
        if kind == "csv":
            lines = ["file_name,smile,hue,age", *(",".join(map(str, row.values())) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (folder / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
        for i in range(5):  # the fifth has no row
            (folder / f"{i}.png").write_bytes(picture(i))
    data = open_dataset(str(tmp_path / "d"), "smile", sensitive=["hue"], image_size=8, cache_dir=cache)
    test = data.splits["test"]
    assert data.task.names == ("no", "yes")
    assert test.labels.tolist() == [1, 0, 1, 0]
    assert test.sensitive_labels["hue"].tolist() == [1, 0, 1, 0]
    assert test.read(np.arange(4)).images_BCHW[:, 0, 4, 4].tolist() == [0, 1, 2, 3]
    assert len([note for note in data.notes if "training images too" not in note]) == 3
    assert "1 image(s)" in data.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\na.png,1\n", "no column 'file_name'.*: name, x"),
        ("file_name,x\na.png\n", "metadata.csv cannot be read"),
    ],
)
def test_a_metadata_file_that_cannot_be_used(text: str, message: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path), "x", image_size=8, cache_dir=cache)


def test_no_images(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(
        DataError, match=r"holds no images that can be used\. .*metadata\.csv.* Found: 1 file\(s\) with \.txt"
    ):
        open_dataset(str(tmp_path), "label", image_size=8, cache_dir=cache)


def test_two_folders_for_one_split(tmp_path: Path, cache: Path) -> None:
    for name in ("val", "validation"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="both the val split"):
        open_dataset(str(tmp_path), "label", image_size=8, cache_dir=cache)
