"""Further label columns of an open data set, which an audit tries to read from features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smartedge.data.dataset import DataSet
from smartedge.data.images import default_cache_dir
from smartedge.data.labels import BOOLEAN, read_column
from smartedge.data.sources import open_raw
from smartedge.errors import DataError
from smartedge.image_size import ImageSize
from smartedge.types import SplitName

__all__ = ["read_columns", "yes_no_columns"]


def read_columns(
    dataset: DataSet,
    path: str,
    names: Sequence[str],
    *,
    image_size: int | ImageSize,
    limit: Mapping[SplitName, int] | None = None,
    cache_dir: Path | None = None,
) -> tuple[dict[SplitName, dict[str, Tensor]], dict[str, tuple[str, ...]]]:
    """Labels of any columns for the images of an open data set.

    Args:
        dataset: as :func:`~smartedge.data.open_dataset` gave it.
        path: as in ``open_dataset``.
        names: the columns, desired and sensitive ones among them.
        image_size: as in ``open_dataset``.
        limit: as in ``open_dataset``.
        cache_dir: as in ``open_dataset``.

    Returns:
        split → column → int64 (N,) in the order of the split, −1 where an image has no label that can be used; and
        column → the names of its classes.

    Raises:
        DataError: a column is unknown, or cannot be a label.
    """
    raw = open_raw(path, ImageSize.of(image_size), dict(limit or {}), cache_dir or default_cache_dir())
    columns = [read_column(raw, name) for name in names]
    labels: dict[SplitName, dict[str, Tensor]] = {}
    for name, split in dataset.splits.items():
        source: SplitName = name if name in raw.splits else "train"  # a split that was set apart from the training one
        labels[name] = {c.column: torch.from_numpy(c.codes[source][split.ids].copy()) for c in columns}
    return labels, {column.column: column.names for column in columns}


def yes_no_columns(
    path: str,
    *,
    image_size: int | ImageSize,
    limit: Mapping[SplitName, int] | None = None,
    cache_dir: Path | None = None,
) -> tuple[str, ...]:
    """The yes/no columns that every split of a data set has, in the data set's order."""
    raw = open_raw(path, ImageSize.of(image_size), dict(limit or {}), cache_dir or default_cache_dir())
    splits = list(raw.splits.values())
    found = []
    for name in splits[0].columns:
        if all(name in split.columns for split in splits):
            try:
                if read_column(raw, name).names == BOOLEAN:
                    found.append(name)
            except DataError:  # not a label at all, such as fractions
                continue
    return tuple(found)
