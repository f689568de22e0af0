"""Images that tables list: one table for all, with the splits in the names of its files, or a table for each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from smartedge.data.dividing import SPLIT_COLUMNS
from smartedge.data.layouts.image_files import images_of
from smartedge.data.layouts.tables import FILE_COLUMN, read_table, resolve, unused_tables
from smartedge.data.raw import RawSplit, split_of
from smartedge.errors import DataError, list_some
from smartedge.images.decode import walk
from smartedge.types import SPLITS, SplitName

__all__ = ["by_names", "by_table", "by_tables", "whole_table"]


def whole_table(folder: Path, file: Path, notes: list[str]) -> RawSplit:
    """The images of one split, which a table in its folder lists."""
    table, said = read_table(file)
    notes += [*said, *unused_tables(folder, file)]
    split, files = _listed(folder, table, notes)
    _note_unlisted(folder, [folder], files, notes)
    return split


def by_table(path: Path, file: Path, folders: Mapping[SplitName, Path], notes: list[str]) -> dict[SplitName, RawSplit]:
    """The splits of one table beside the folders of the splits: the first folder of a file's path names its split."""
    table, said = read_table(file)
    notes.extend(said)
    top = np.array([name.split("/")[0] for name in table[FILE_COLUMN].to_pylist()])
    splits: dict[SplitName, RawSplit] = {}
    used: list[Path] = []
    for split, folder in folders.items():
        rows = np.flatnonzero(top == folder.name)
        if not len(rows):
            raise DataError(
                f"{file} lists no image in {folder.name}/: name files like {folder.name}/image.jpg, or give "
                f"{folder.name}/ a table of its own; if its images have no labels, move it elsewhere"
            )
        splits[split], files = _listed(path, table.take(pa.array(rows)), notes)
        used += files
    if lost := len(top) - len(used):
        notes.append(f"{lost} row(s) of {file} name no image in the folder of a split and are not used")
    _note_unlisted(path, list(folders.values()), used, notes)
    return splits


def by_names(path: Path, file: Path, notes: list[str]) -> dict[SplitName, RawSplit]:
    """The splits of one table: by the folders of its files (``images/train/1.jpg``), if all of them name a split."""
    table, said = read_table(file)
    notes += [*said, *unused_tables(path, file)]
    parents = [name.replace("\\", "/").split("/")[:-1] for name in table[FILE_COLUMN].to_pylist()]
    named = np.array([next(filter(None, map(split_of, folders)), "") for folders in parents])
    found: list[SplitName] = [split for split in SPLITS if split in named]
    if (
        len(found) < 2
        or "train" not in found
        or "" in named
        or {*SPLIT_COLUMNS} & {*map(str.lower, table.column_names)}
    ):
        found, named = ["train"], np.full(len(named), "train")
    else:
        notes.append(f"the folders of the images divide {path}: {list_some(found)}")
    splits: dict[SplitName, RawSplit] = {}
    used: list[Path] = []
    for split in found:
        splits[split], files = _listed(path, table.take(pa.array(np.flatnonzero(named == split))), notes)
        used += files
    _note_unlisted(path, [path], used, notes)
    return splits


def by_tables(
    path: Path, tables: Mapping[SplitName, Path], folders: Mapping[SplitName, Path], notes: list[str]
) -> dict[SplitName, RawSplit]:
    """The splits of a table each. Their images lie in the folder of the split, if there is one, or anywhere below."""
    splits: dict[SplitName, RawSplit] = {}
    used: list[Path] = []
    for split, file in tables.items():
        table, said = read_table(file)
        notes.extend(said)
        splits[split], files = _listed(path, table, notes, first=folders.get(split))
        if both := len(set(files) & set(used)):
            notes.append(f"{both} image(s) of {path} are in two splits; figures on val or test are then too good")
        used += files
    notes.append(f"the tables divide {path}: {list_some(file.name for file in tables.values())}")
    _note_unlisted(path, [path], used, notes)
    return splits


def _listed(
    folder: Path, table: pa.Table, notes: list[str], *, first: Path | None = None
) -> tuple[RawSplit, list[Path]]:
    """The images that a table names in a folder. Names without a place are looked for in ``first``, if it is given.

    Raises:
        DataError: two rows give one image different labels.
    """
    names = table[FILE_COLUMN].to_pylist()
    files = resolve(folder, names, walk(folder if first is None else first))
    moved = [
        name for name, file in zip(names, files, strict=True) if "/" in name and file.parent != (folder / name).parent
    ]
    if moved:
        notes.append(
            f"{len(moved)} row(s) of the table of {folder} name an image at another place ({moved[0]}); the only image "
            "of that name is taken"
        )
    table = table.drop_columns([FILE_COLUMN])
    if len(set(files)) < len(files):
        rows = _once(folder, files, table)
        notes.append(f"{len(files) - len(rows)} row(s) of the table of {folder} repeat another row and are not used")
        files, table = [files[row] for row in rows], table.take(pa.array(rows))
    return RawSplit.from_table(images_of(files), table), files


def _once(folder: Path, files: Sequence[Path], table: pa.Table) -> list[int]:
    """The first row of every image; all of those that name none."""
    often = {file for file, count in Counter(files).items() if count > 1 and file != folder}
    repeated = [row for row, file in enumerate(files) if file in often]
    first: dict[Path, dict[str, object]] = {}
    again = set()
    for row, values in zip(repeated, table.take(pa.array(repeated, pa.int64())).to_pylist(), strict=True):
        kept = first.setdefault(files[row], values)
        if kept != values:
            column = next(column for column in values if values[column] != kept[column])
            raise DataError(
                f"two rows name the image {files[row]} and differ in column {column!r}: {kept[column]!r} and "
                f"{values[column]!r}; leave one row for each image"
            )
        if kept is not values:
            again.add(row)
    return [row for row in range(len(files)) if row not in again]


def _note_unlisted(place: Path, folders: Sequence[Path], files: Sequence[Path], notes: list[str]) -> None:
    if unlisted := len({file for folder in folders for file in walk(folder)} - set(files)):
        notes.append(f"{unlisted} image(s) in {place} have no row in its metadata file and are not used")
