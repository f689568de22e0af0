"""A data set before any label is read or image decoded. Every kind of data set is opened into this."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.reading.readers import Reader
from smartedge.errors import DataError
from smartedge.images.decode import Item, is_lfs_pointer
from smartedge.types import SplitName

__all__ = [
    "MOST_PARTS",
    "PERSON_COLUMN",
    "SPLIT_NAMES",
    "Images",
    "RawData",
    "RawSplit",
    "refuse_lfs_pointer",
    "refuse_no_file",
    "slices",
    "split_in",
    "split_of",
    "words",
]

SPLIT_NAMES: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "valset": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "testset": "test",
}
PERSON_COLUMN = "identity"  # the column that says whose image it is, as CelebA and LFW call it
_AT_ONCE = 32  # images that a reader gives together: they may be large
MOST_PARTS = 200  # of decoded images: each is an open file


def split_of(name: str) -> SplitName | None:
    """The split whose name this is, or None."""
    return SPLIT_NAMES.get(name.lower())


def split_in(name: str) -> SplitName | None:
    """The split that a file or folder of this name holds: one of its words names a split (``seg_train``, ``TestData``).

    None where no word does, or where words name several splits.
    """
    found = {SPLIT_NAMES[word] for word in words(name) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def words(name: str) -> list[str]:
    """The words of a name in small letters: ``seg_train2`` and ``TrainData`` have two each."""
    return [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def refuse_lfs_pointer(path: Path) -> None:
    """Say so where a file is a git-LFS pointer.

    Raises:
        DataError: it is one.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        if is_lfs_pointer(file.read(64)):
            raise DataError(f"{path} is a git-LFS pointer, not the file itself; run 'git lfs pull' in its repository")


def refuse_no_file(path: Path) -> Path:
    """The path of a file.

    Raises:
        DataError: a link, pipe or device lies there.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is no file, but a link that leads nowhere, a pipe or a device; fetch what belongs there (such as "
            "by 'git annex get'), or remove it"
        )
    return path


def slices(count: int) -> list[slice]:
    """So many things in order, in :data:`MOST_PARTS` parts or fewer."""
    each = -(-count // MOST_PARTS)
    return [slice(start, start + each) for start in range(0, count, each)]


@dataclass(frozen=True)
class Images:
    """The images of one split, in order."""

    count: int
    key: str  # identifies the images, together with the files
    items: Callable[[], Iterator[Item]]  # yields ``count`` items
    files: Sequence[Path] = ()  # where the images come from: their path, size and time of change identify them
    name_of: Callable[[int], str] = "image {}".format  # what the image of an index is called in messages
    reader: Callable[[], Reader] | None = None  # gives them one by one; None: they can only be read in order
    parts: Sequence[Images] = ()  # the same images in parts, in order, where each is decoded and kept by itself

    def chosen(self, rows: NDArray[np.int64] | None) -> Iterator[Item]:
        """The images of these rows, which are in ascending order; None: all. A reader leaves out the others."""
        if rows is None:
            return self.items()
        if self.reader is None:
            wanted = set(rows.tolist())
            return (item for index, item in enumerate(self.items()) if index in wanted)
        reader = self.reader()
        places = range(0, len(rows), _AT_ONCE)
        return chain.from_iterable(reader.items(rows[start : start + _AT_ONCE]) for start in places)


@dataclass(frozen=True)
class RawSplit:
    """Images and label columns of one split."""

    images: Images
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], pa.Table]  # the columns named, ``images.count`` rows

    @classmethod
    def from_table(cls, images: Images, table: pa.Table) -> RawSplit:
        """A split whose label columns are in memory."""
        return cls(images, tuple(table.column_names), lambda names: table.select(list(names)))


@dataclass(frozen=True)
class RawData:
    """A data set as it lies on disk."""

    name: str
    splits: Mapping[SplitName, RawSplit]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of integer columns that are class labels
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # one name for several columns
    notes: tuple[str, ...] = ()  # what the user should know about how the data was read
