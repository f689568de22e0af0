"""Image folders: with a metadata file (Hugging Face ``imagefolder``), or one folder per class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from smartedge.data.raw import Images, RawData, RawSplit, split_of
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["open_folder"]

METADATA = ("metadata.csv", "metadata.jsonl")
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def open_folder(path: Path) -> RawData:
    """Open a folder of images, divided into ``train``, ``val`` and ``test`` folders, or all training.

    In each: ``metadata.csv`` or ``metadata.jsonl`` with a column ``file_name``, the other columns being attributes;
    or one folder per class, whose name is the class in the column ``label``.

    Raises:
        DataError: the folder holds no images in either layout, or a metadata file cannot be read.
    """
    folders: dict[SplitName, Path] = {}
    for folder in sorted(child for child in path.iterdir() if child.is_dir()):
        if split := split_of(folder.name):
            if split in folders:
                raise DataError(f"{folders[split]} and {folder} are both the {split} split; leave one of them")
            folders[split] = folder
    if "train" not in folders:
        folders = {"train": path}
    notes: list[str] = []
    splits = {split: _open_split(folder, notes) for split, folder in folders.items()}
    return RawData(path.name, splits, notes=tuple(notes))


def _open_split(folder: Path, notes: list[str]) -> RawSplit:
    for metadata in METADATA:
        if (folder / metadata).is_file():
            return _with_metadata(folder, _read_metadata(folder / metadata), notes)
    return _by_class(folder, notes)


def _read_metadata(file: Path) -> pa.Table:
    try:
        if file.suffix == ".csv":
            options = pa.csv.ConvertOptions(strings_can_be_null=True)
            table = pa.csv.read_csv(io.BytesIO(file.read_bytes()), convert_options=options)
        else:
            table = pa.json.read_json(io.BytesIO(file.read_bytes()))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if "file_name" not in table.column_names:
        raise DataError(
            f"{file} has no column 'file_name', the image of each row. Its columns are: {', '.join(table.column_names)}"
        )
    return table


def _with_metadata(folder: Path, table: pa.Table, notes: list[str]) -> RawSplit:
    names = pc.fill_null(table["file_name"].cast(pa.string()), "").to_pylist()
    files = [folder / name for name in names]
    unlisted = len({file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES} - set(files))
    if unlisted:
        notes.append(f"{unlisted} image(s) in {folder} have no row in its metadata file and are not used")
    return RawSplit.from_table(_images(files), table.drop_columns(["file_name"]))


def _by_class(folder: Path, notes: list[str]) -> RawSplit:
    files: list[Path] = []
    labels: list[str] = []
    others = 0
    for directory in sorted(child for child in folder.iterdir() if child.is_dir()):
        for file in sorted(child for child in directory.rglob("*") if child.is_file()):
            if file.suffix.lower() in SUFFIXES:
                files.append(file)
                labels.append(directory.name)
            else:
                others += 1
    if not files:
        raise DataError(
            f"{folder} holds no images that can be used: expected {' or '.join(METADATA)} with a column 'file_name', "
            f"or one folder of images per class ({', '.join(sorted(SUFFIXES))})"
        )
    if others:
        notes.append(f"{others} file(s) in {folder} are not images by their name and are not used")
    return RawSplit.from_table(_images(files), pa.table({"label": labels}))


def _images(files: Sequence[Path]) -> Images:
    return Images(len(files), key="files", items=partial(iter, files), files=files)
