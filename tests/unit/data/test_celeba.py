"""The CelebA directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smartedge.data import open_dataset
from smartedge.errors import DataError


@pytest.fixture
def celeba(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rows, parts, people = ["12", "Smiling Male "], [], []
    for i in range(12):
        name = f"{i + 1:06d}.jpg"
        (folder / "img_align_celeba" / name).write_bytes(picture(10 * i, (178, 218), "JPEG"))
        rows.append(f"{name} {1 if i % 2 else -1:2d} {1 if i % 3 else -1:2d}")
        parts.append(f"{name} {max(0, i - 6) // 2}")
        people.append(f"{name} {i // 2 + 100}")
    (folder / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    (folder / "identity_CelebA.txt").write_text("\n".join(people) + "\n")
    return folder


def test_the_original_directory(celeba: Path, cache: Path) -> None:
    data = open_dataset(str(celeba), "Smiling", sensitive=["Male", "identity"], image_size=16, cache_dir=cache)
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert data.task.names == ("no", "yes")
    test = data.splits["test"]
    assert test.labels.tolist() == [0, 1]
    assert test.sensitive_labels["Male"].tolist() == [1, 1]
    assert data.sensitive["identity"].names == tuple(str(person) for person in range(100, 106))
    assert test.sensitive_labels["identity"].tolist() == [5, 5]
    shades = test.read(np.arange(2)).images_BCHW[:, 0, 8, 8].tolist()
    assert shades == pytest.approx([100, 110], abs=2)


def test_a_missing_image_is_counted(celeba: Path, cache: Path, picture: Callable[..., bytes]) -> None:
    names = [f"{i + 1:06d}.jpg" for i in range(40)]
    (celeba / "list_attr_celeba.txt").write_text(
        "40\nSmiling\n" + "".join(f"{n} {1 - 2 * (i % 2)}\n" for i, n in enumerate(names))
    )
    (celeba / "list_eval_partition.txt").write_text("".join(f"{n} 0\n" for n in names))
    (celeba / "identity_CelebA.txt").unlink()
    for name in names[:-1]:
        (celeba / "img_align_celeba" / name).write_bytes(picture(9))
    data = open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache)
    assert data.skipped == {"image file missing": 1}
    assert sum(len(part) for part in data.splits.values()) == 39


def test_a_list_names_a_file_outside(celeba: Path, cache: Path) -> None:
    for file in celeba.glob("*.txt"):
        file.write_text(file.read_text().replace("000003.jpg", "../000003.jpg"))
    with pytest.raises(DataError, match=r"names a file outside .*img_align_celeba: \.\./000003\.jpg"):
        open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("list_attr_celeba.txt", "nonsense", "expected a line with the number of images"),
        ("list_attr_celeba.txt", "2\nSmiling\n000001.jpg 1\n", "announces 2 images and lists 1"),
        ("list_attr_celeba.txt", "1\nSmiling Male\n000001.jpg 1\n", "line 3: 1 values for 2 attributes"),
        ("list_attr_celeba.txt", "1\nSmiling\n000001.jpg yes\n", "an attribute is not a number"),
        ("list_eval_partition.txt", "000001.jpg 0\n", "lacks 11 of the images .* the first is 000002.jpg"),
        ("list_eval_partition.txt", "000001.jpg\n", "expected an image and a whole number on every line"),
        ("list_eval_partition.txt", "".join(f"{i + 1:06d}.jpg 3\n" for i in range(12)), "3 is not a part"),
    ],
)
def test_lists_that_are_wrong(file: str, text: str, message: str, celeba: Path, cache: Path) -> None:
    (celeba / file).write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache)


def test_parts_that_are_missing(celeba: Path, cache: Path) -> None:
    (celeba / "img_align_celeba").rename(celeba / "elsewhere")
    with pytest.raises(DataError, match=r"unpack img_align_celeba\.zip"):
        open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache)
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"list_eval_partition\.txt cannot be read"):
        open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache)


def test_a_nested_image_folder(celeba: Path, cache: Path) -> None:
    (celeba / "img_align_celeba").rename(celeba / "inner")
    (celeba / "img_align_celeba").mkdir()
    (celeba / "inner").rename(celeba / "img_align_celeba" / "img_align_celeba")
    assert len(open_dataset(str(celeba), "Smiling", image_size=8, cache_dir=cache).splits["train"]) == 8
