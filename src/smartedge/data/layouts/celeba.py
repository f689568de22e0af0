"""The CelebA directory as its authors distribute it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from smartedge.data.layouts.image_files import images_of
from smartedge.data.layouts.tables import leads_out
from smartedge.data.raw import PERSON_COLUMN, RawData, RawSplit
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["is_celeba", "open_celeba"]

ATTRIBUTES_FILE = "list_attr_celeba"
PARTITION_FILE = "list_eval_partition"
IDENTITY_FILE = "identity_CelebA"
IMAGES_FOLDER = "img_align_celeba"
_PLACES = ("", "Anno", "Eval", "Img")  # folders of the authors' distribution
_PARTITIONS: dict[int, SplitName] = {0: "train", 1: "val", 2: "test"}


def open_celeba(path: Path) -> RawData:
    """Open the CelebA directory.

    It holds ``img_align_celeba/``, ``list_attr_celeba.txt`` (-1/1), ``list_eval_partition.txt`` (0/1/2) and perhaps
    ``identity_CelebA.txt``, which becomes the column ``identity``. They lie side by side, or in the folders ``Anno``,
    ``Eval`` and ``Img`` of the authors' distribution. Kaggle's copies of the lists end in ``.csv``.

    Raises:
        DataError: a list is missing or not in its format, or names a file outside the image folder, or that folder is
            missing.
    """
    attributes, names, values = _attributes(_list(path, ATTRIBUTES_FILE))
    columns = {name: values[:, column] for column, name in enumerate(names)}
    parts = _list(path, PARTITION_FILE)
    partition = _numbers(parts, attributes)
    if unknown := sorted(set(partition.tolist()) - set(_PARTITIONS)):
        raise DataError(f"{parts}: {unknown[0]} is not a part; expected 0 (train), 1 (val), 2 (test)")
    if (persons := _list(path, IDENTITY_FILE)).is_file():
        columns[PERSON_COLUMN] = _numbers(persons, attributes)
    folder = next(
        (path / place / IMAGES_FOLDER for place in _PLACES if (path / place / IMAGES_FOLDER).is_dir()),
        path / IMAGES_FOLDER,
    )
    if (folder / IMAGES_FOLDER).is_dir():  # some archives nest it
        folder = folder / IMAGES_FOLDER
    if not folder.is_dir():
        raise DataError(f"{path} has no folder {IMAGES_FOLDER}: unpack {IMAGES_FOLDER}.zip there")
    if outside := [name for name in attributes if leads_out(name)]:
        raise DataError(f"{_list(path, ATTRIBUTES_FILE)} names a file outside {folder}: {outside[0]}")
    splits: dict[SplitName, RawSplit] = {}
    for part, split in _PARTITIONS.items():
        rows = np.flatnonzero(partition == part)
        if len(rows):
            images = images_of([folder / attributes[row] for row in rows])
            splits[split] = RawSplit.from_table(
                images, pa.table({name: values[rows] for name, values in columns.items()})
            )
    return RawData("celeba", splits)


def is_celeba(path: Path) -> bool:
    """Whether a folder holds CelebA's list of attributes."""
    return _list(path, ATTRIBUTES_FILE).is_file()


def _list(path: Path, name: str) -> Path:
    """The file of a list, in any of its places; where it should be, if it is nowhere."""
    candidates = [path / place / f"{name}{ending}" for place in _PLACES for ending in (".txt", ".csv")]
    return next((file for file in candidates if file.is_file()), candidates[0])


def _attributes(file: Path) -> tuple[list[str], list[str], np.ndarray]:
    """File names, attribute names, and int8 (images, attributes) in {-1, 1}."""
    lines = _lines(file)
    if file.suffix == ".csv" and lines:  # without the number of images, and with a name above the images
        lines = [str(len(lines) - 1), lines[0].partition(" ")[2], *lines[1:]]
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise DataError(f"{file}: expected a line with the number of images, then one with the attributes' names")
    count, names = int(lines[0]), lines[1].split()
    rows = [line.split() for line in lines[2:] if line.strip()]
    if len(rows) != count:
        raise DataError(f"{file} announces {count} images and lists {len(rows)}: it is incomplete")
    for number, row in enumerate(rows, start=3):
        if len(row) != len(names) + 1:
            raise DataError(f"{file}, line {number}: {len(row) - 1} values for {len(names)} attributes")
    try:
        values = np.array([row[1:] for row in rows]).astype(np.int8)
    except ValueError as error:
        raise DataError(f"{file}: an attribute is not a number ({error})") from error
    return [row[0] for row in rows], names, values


def _numbers(file: Path, images: list[str]) -> np.ndarray:
    """int64 (images,): the number that the file lists for each image."""
    try:
        lines = _lines(file)[file.suffix == ".csv" :]  # a .csv has a line of names
        listed = {name: int(value) for name, value in (line.split() for line in lines if line.strip())}
    except ValueError as error:
        raise DataError(f"{file}: expected an image and a whole number on every line ({error})") from error
    if absent := [name for name in images if name not in listed]:
        raise DataError(f"{file} lacks {len(absent)} of the images in {ATTRIBUTES_FILE}.txt, the first is {absent[0]}")
    return np.array([listed[name] for name in images], np.int64)


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [line.replace(",", " ") for line in lines] if file.suffix == ".csv" else lines
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; a CelebA directory needs it") from error
