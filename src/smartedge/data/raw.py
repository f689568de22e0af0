"""A data set before any label is read or image decoded. Every kind of data set is opened into this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.types import SplitName

__all__ = ["SPLIT_NAMES", "Images", "Item", "RawData", "RawSplit", "split_of"]

Item = bytes | Path | NDArray[np.uint8] | None
"""One image before decoding: a file's bytes, a file's path, pixels (H, W) or (H, W, 3), or None if there is none."""

SPLIT_NAMES: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> SplitName | None:
    """The split that a file or folder of this name holds, or None."""
    return SPLIT_NAMES.get(name.lower())


@dataclass(frozen=True)
class Images:
    """The images of one split, in order."""

    count: int
    key: str  # identifies the images, together with the files
    items: Callable[[], Iterator[Item]]  # yields ``count`` items
    files: Sequence[Path] = ()  # where the images come from: their path, size and time of change identify them


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
