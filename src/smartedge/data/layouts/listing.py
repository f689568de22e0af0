"""Files that hold many images each: which of them belong to a data set, and to which split."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from smartedge.data.raw import SPLIT_NAMES, refuse_no_file, split_in, words
from smartedge.errors import DataError, list_some
from smartedge.images.decode import is_hidden
from smartedge.types import SplitName

__all__ = ["FilesBySplit", "find_files"]

_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(-[0-9a-f]+)?", re.IGNORECASE)  # Hugging Face appends a hash
_NUMBERED = re.compile(r"(.*?)(\d+)")
_CACHED = re.compile(r"(cache|tmp)[-_]?\w*\.arrow", re.IGNORECASE)  # results that `datasets` keeps beside a data set


class FilesBySplit(NamedTuple):
    """Files by split, and what the user should know about how they were divided."""

    splits: dict[SplitName, list[Path]]
    notes: tuple[str, ...]


def find_files(path: Path, endings: Collection[str]) -> FilesBySplit:
    """The files with one of these endings: those in a folder, else in its folder ``data``, else in folders below it.

    Two levels below are searched. A file belongs to the split that a word of its name names
    (``train-00000-of-00002.parquet``, ``my_test.parquet``), else to the one that a folder above it names. Where no file
    names a split, all are training.

    Raises:
        DataError: a file of a series such as ``train-00001-of-00003.parquet`` is missing or there twice, or there are
            two series of one name.
    """
    for place, below in ((path, 0), (path / "data", 0), (path, 2)):
        if place.is_dir() and (found := sorted(_within(place, endings, below))):
            return _by_split(path, found)
    return FilesBySplit({}, ())


def _within(folder: Path, endings: Collection[str], below: int) -> Iterator[Path]:
    """The files with one of these endings in a folder, and in the folders so many levels below it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():  # the second refuses a link to itself
                if below:
                    yield from _within(folder / entry.name, endings, below - 1)
            elif os.path.splitext(entry.name)[1].lower() in endings and not _CACHED.fullmatch(entry.name):
                yield refuse_no_file(folder / entry.name)


def _by_split(root: Path, files: Sequence[Path]) -> FilesBySplit:
    notes = _check_shards(files)
    splits: dict[SplitName, list[Path]] = {}
    called: dict[SplitName, dict[str, Path]] = {}  # split → the word that names it → a file
    unnamed: list[Path] = []
    for file in files:
        names = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
        name = next(filter(split_in, names), "")
        if (split := split_in(name)) is None:
            unnamed.append(file)
            continue
        splits.setdefault(split, []).append(file)
        called.setdefault(split, {})[next(word for word in words(name) if word in SPLIT_NAMES)] = file
    for split, found in called.items():
        if len(found) > 1:
            one, other, *_ = found.values()
            raise DataError(f"{one} and {other} are both the {split} split; leave one, or write the same word in both")
    listed = list_some(file.relative_to(root) for file in unnamed)
    if not splits:
        if len(unnamed) > 1:
            notes.append(f"no file of {root} names a split, so all are training: {listed}")
        return FilesBySplit({"train": unnamed}, tuple(notes))
    for split, paths in splits.items():
        if len(folders := dict.fromkeys(str(file.parent.relative_to(root)) for file in paths)) > 1:
            notes.append(f"the {split} split joins the files of several folders: {list_some(folders)}")
    if unnamed:
        notes.append(f"not used, because their names name no split: {listed}")
    return FilesBySplit(splits, tuple(notes))


def _check_shards(files: Sequence[Path]) -> list[str]:
    """Refuse a series of files that is not complete; note numbers that a series without a stated length lacks."""
    series: dict[tuple[Path, str], dict[int, dict[int, Path]]] = {}  # folder and name → total → number → file
    numbered: dict[tuple[Path, str], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.stem):
            totals = series.setdefault((file.parent, match[1]), {})
            same = totals.setdefault(int(match[3]), {}).setdefault(int(match[2]), file)
            if same is not file:
                raise DataError(f"{same} and {file.name} are the same part of one series; leave one of them")
        elif match := _NUMBERED.fullmatch(file.stem):
            numbered.setdefault((file.parent, match[1]), set()).add(int(match[2]))
    for (folder, name), totals in series.items():
        if len(totals) > 1:
            raise DataError(
                f"{folder}: the files {name}-* are of several series, of {' and '.join(map(str, sorted(totals)))} "
                "files, which would be used together; leave one series"
            )
        (total, parts), *_ = totals.items()
        if absent := sorted(set(range(total)) - parts.keys()):
            raise DataError(
                f"{folder}: of the {total} files {name}-*-of-{total:05d}{files[0].suffix}, these numbers are missing: "
                f"{list_some(absent)}; fetch them, or give the others names without '-of-'"
            )
    notes = []
    for (folder, name), numbers in numbered.items():
        lacking = sorted(set(range(min(numbers), max(numbers))) - numbers)
        if 0 < len(lacking) < len(numbers):  # otherwise the numbers do not count the files
            notes.append(f"{folder}: files {name}* are numbered, and these numbers are missing: {list_some(lacking)}")
    return notes
