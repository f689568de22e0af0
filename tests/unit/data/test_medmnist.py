"""MedMNIST's files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartedge.data import open_dataset
from smartedge.data.sources import open_raw
from smartedge.errors import DataError
from smartedge.images.size import ImageSize


def write(path: Path, labels: int = 1, classes: int = 3, channels: int = 1, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        shape = (count, 28, 28) if channels == 1 else (count, 28, 28, channels)
        arrays[f"{split}_images"] = rng.integers(256, size=shape, dtype=np.uint8)
        values = np.arange(count * labels).reshape(count, labels) % (2 if labels > 1 else classes)
        arrays[f"{split}_labels"] = values.astype(np.uint8)
    arrays.update(changes)
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_one_label_and_grey_images(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "bloodmnist.npz")
    data = open_dataset(str(path), "label", image_size=28, cache_dir=cache)
    assert data.name == "bloodmnist"
    assert data.task.names == ("0", "1", "2")
    assert data.splits["val"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    with np.load(path) as arrays:
        expected = arrays["test_images"][4]
    image = data.splits["test"].read(np.array([4])).images_BCHW[0].numpy()
    np.testing.assert_array_equal(image, np.stack([expected] * 3))


def test_colour_images_are_resized(tmp_path: Path, cache: Path) -> None:
    data = open_dataset(str(write(tmp_path / "c.npz", channels=3)), "label", image_size=14, cache_dir=cache)
    with np.load(tmp_path / "c.npz") as arrays:
        mean = arrays["train_images"].mean()
    assert data.splits["train"].read(np.arange(12)).images_BCHW.float().mean().item() == pytest.approx(mean, abs=2)


@pytest.mark.parametrize("form", ["last", "first", "one", "one first"])
@pytest.mark.parametrize("deep", [False, True])
def test_channels_and_16_bits(form: str, deep: bool, tmp_path: Path, cache: Path) -> None:
    pixels = np.random.default_rng(1).integers(
        256, size=(12, 8, 8, 3 if form in ("last", "first") else 1), dtype=np.uint8
    )
    given = pixels.astype(np.uint16) * 256 + 255 if deep else pixels
    given = given.transpose(0, 3, 1, 2) if "first" in form else given
    path = write(tmp_path / "d.npz", train_images=np.ascontiguousarray(given), val_images=None, test_images=None)
    train = open_dataset(str(path), "label", image_size=8, cache_dir=cache).splits["train"]
    found = train.read(np.arange(len(train))).images_BCHW.numpy()
    np.testing.assert_array_equal(found, np.broadcast_to(pixels[train.ids].transpose(0, 3, 1, 2), found.shape))


def test_two_classes_are_yes_and_no(tmp_path: Path, cache: Path) -> None:
    data = open_dataset(str(write(tmp_path / "d.npz", classes=2)), "label", image_size=8, cache_dir=cache)
    assert data.task.names == ("no", "yes")


def test_several_labels(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "chestmnist.npz", labels=3)
    data = open_dataset(str(path), "label", image_size=8, cache_dir=cache)
    assert (data.task.kind, data.task.names) == ("multi", ("label_0", "label_1", "label_2"))
    assert data.splits["val"].labels[:2].tolist() == [[0, 1, 0], [1, 0, 1]]
    one = open_dataset(str(path), "label_1", sensitive=["label_2"], image_size=8, cache_dir=cache)
    assert one.task.kind == "single"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": None}, "no array 'train_images'"),
        ({"val_labels": None}, "val_labels cannot be read"),
        ({"val_labels": np.zeros((5, 1))}, "val has 6 images and 5 labels"),
        ({"val_labels": np.zeros((6, 1, 1))}, r"val_labels has shape \(6, 1, 1\)"),
        ({"test_images": np.zeros((6, 28, 28, 28), np.uint8)}, r"test_images is uint8 of shape \(6, 28, 28, 28\)"),
        ({"test_images": np.zeros((6, 28, 28), np.float32)}, "test_images is float32"),
        ({"test_labels": np.array([[None]] * 6, object)}, "test_labels cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_wrong(changes: dict[str, Any], message: str, tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(str(path), "label", image_size=8, cache_dir=cache)


def claiming(file: Path, array: str, shape: tuple[int, ...]) -> Path:
    """A file of arrays, one of which says that it has this shape, and holds little."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    write(file)
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {**held, f"{array}.npy": header.getvalue() + b"1"}.items():
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize(
    ("array", "shape", "message"),
    [
        ("train_labels", (2**60,), "train_labels cannot be read: Unable to allocate"),
        ("train_images", (12, 2**14, 2**14, 3), "train_images has images of 16384 x 16384 pixels, which are too large"),
        ("train_images", (12, 2**33, 2**33), "too large"),
    ],
)
def test_claims_of_much_memory(array: str, shape: tuple[int, ...], message: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(str(claiming(tmp_path / "d.npz", array, shape)), "label", image_size=8, cache_dir=cache)


def test_a_file_that_is_no_archive(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"not a zip file")
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        open_dataset(str(tmp_path / "d.npz"), "label", image_size=8, cache_dir=cache)


def test_arrays_that_are_not_used_are_said(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_valid=images, y_valid=labels)
    assert open_raw(str(tmp_path / "d.npz"), ImageSize.of(8)).notes == (
        "not used, because their names are no split's: x_valid, y_valid",
    )
