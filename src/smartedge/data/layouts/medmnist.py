"""MedMNIST's ``.npz`` files: medical images with one label, or with several yes/no labels. Keras has other names."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.raw import Images, RawData, RawSplit
from smartedge.errors import DataError, list_some
from smartedge.images.decode import too_large
from smartedge.images.size import MOST_CHANNELS, RGB
from smartedge.types import SPLITS, SplitName

__all__ = ["open_medmnist"]


def open_medmnist(path: Path, channels: int) -> RawData:
    """Open ``{train,val,test}_{images,labels}``, or ``{x,y}_{train,val,test}``, as Keras names the arrays.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, or as many as are asked for, uint8, or
    uint16, which is divided by 256; labels are (N, 1) or (N, L).

    One label is the column ``label``. Several are yes/no columns ``label_0``, ``label_1``, ..., and ``label`` stands
    for all of them, a multi-label task.

    Raises:
        DataError: an array is missing, does not have these shapes, or holds Python objects (which are never unpickled).
    """
    splits: dict[SplitName, RawSplit] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        if f"{_array(path, split, 'images')}.npy" not in _members(path):
            continue
        shape, _ = _image_form(path, split, channels)
        labels = _labels(path, split)
        if len(labels) != shape[0]:
            raise DataError(f"{path}: {split} has {shape[0]} images and {len(labels)} labels")
        if labels.shape[1] == 1:
            table = pa.table({"label": labels[:, 0]})
        else:
            table = pa.table({f"label_{column}": labels[:, column] for column in range(labels.shape[1])})
            groups = {"label": tuple(table.column_names)}
        images = Images(shape[0], key=f"npz {split}", items=partial(_items, path, split, channels), files=[path])
        splits[split] = RawSplit.from_table(images, table)
    if "train" not in splits:
        raise DataError(
            f"{path} has no array 'train_images'. It holds: {', '.join(_members(path)) or 'nothing'}; write it with "
            "the arrays train_images, train_labels, test_images and test_labels (numpy.savez)"
        )
    used = {f"{_array(path, split, what)}.npy" for split in splits for what in ("images", "labels")}
    notes = (
        [f"not used, because their names are no split's: {list_some(others)}"]
        if (others := [name.removesuffix(".npy") for name in _members(path) if name not in used])
        else []
    )
    return RawData(path.stem, splits, groups=groups, notes=tuple(notes))


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an .npz file that can be read: {error}; fetch or write it again") from error


def _array(path: Path, split: SplitName, what: str) -> str:
    """The name of the array of a split's images or labels: MedMNIST's, unless only Keras's is there."""
    usual, other = f"{split}_{what}", f"{'x' if what == 'images' else 'y'}_{split}"
    members = _members(path)
    return other if f"{usual}.npy" not in members and f"{other}.npy" in members else usual


def _labels(path: Path, split: SplitName) -> NDArray[np.generic]:
    """(N, L), numbers."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels: NDArray[np.generic] = arrays[_array(path, split, "labels")]
    except (KeyError, ValueError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: {split}_labels cannot be read: {error}; write them as numbers or texts (labels.astype(str))"
        ) from error
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2:
        raise DataError(f"{path}: {split}_labels has shape {labels.shape}; expected (N, 1) or (N, L)")
    return labels.astype(labels.dtype.newbyteorder("="))  # pyarrow takes no other order of bytes


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _image_form(path: Path, split: SplitName, channels: int) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{_array(path, split, 'images')}.npy") as file:
            shape, fortran, dtype = _header(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {split}_images cannot be read: {error}") from error
    allowed = (1, RGB, channels)
    whole = len(shape) == 3 or (len(shape) == 4 and (shape[3] in allowed or shape[1] in allowed))
    if dtype not in (np.uint8, np.uint16) or fortran or not whole:
        raise DataError(
            f"{path}: {split}_images is {dtype} of shape {shape}; expected uint8 or uint16 (N, H, W), (N, H, W, C) or "
            f"(N, C, H, W) with 1 or 3 channels, in C order: write numpy.ascontiguousarray(images, numpy.uint8), with "
            f"values from 0 to 255. Other numbers of channels, up to {MOST_CHANNELS}, are said in data.image_size: "
            "HEIGHTxWIDTHxCHANNELS"
        )
    height, width = shape[1:3] if len(shape) == 3 or shape[3] in allowed else shape[2:]
    if too_large(width, height):
        raise DataError(
            f"{path}: {split}_images has images of {height} x {width} pixels, which are too large; make them smaller"
        )
    return shape, dtype


def _items(path: Path, split: SplitName, channels: int) -> Iterator[NDArray[np.uint8]]:
    """One image after the other: the array may be larger than the memory."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{_array(path, split, 'images')}.npy") as file:
            shape, _, dtype = _header(file)
            for _ in range(shape[0]):
                pixels = np.frombuffer(file.read(int(np.prod(shape[1:])) * dtype.itemsize), dtype).reshape(shape[1:])
                if dtype == np.uint16:
                    pixels = (pixels >> 8).astype(np.uint8)
                if pixels.ndim == 3 and pixels.shape[2] not in (1, RGB, channels):
                    pixels = pixels.transpose(1, 2, 0)
                yield np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {split}_images is damaged: {error}") from error
