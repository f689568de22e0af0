"""Further label columns of a data set that was opened: those that an audit tries to read, and who is in each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from smartedge.data.dataset import DataSet, Split
from smartedge.data.labels import BOOLEAN, person_names, read_column
from smartedge.data.raw import RawData
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["persons_of", "read_columns", "yes_no_columns"]


def read_columns(
    raw: RawData, dataset: DataSet, names: Sequence[str]
) -> tuple[dict[SplitName, dict[str, Tensor]], dict[str, tuple[str, ...]]]:
    """Labels of any columns for the images of an open data set.

    Args:
        raw: the data set as it lies on disk.
        dataset: the same, as :func:`~smartedge.data.open_dataset` gave it.
        names: the columns, desired and sensitive ones among them.

    Returns:
        split → column → int64 (N,) in the order of the split, −1 where an image has no label that can be used; and
        column → the names of its classes.

    Raises:
        DataError: a column is unknown, or cannot be a label.
    """
    columns = [read_column(raw, name) for name in names]
    labels: dict[SplitName, dict[str, Tensor]] = {}
    for name, split in dataset.splits.items():
        source: SplitName = name if name in raw.splits else "train"  # a split that was set apart from the training one
        labels[name] = {c.column: torch.from_numpy(c.codes[source][split.ids].copy()) for c in columns}
    return labels, {column.column: column.names for column in columns}


def persons_of(raw: RawData, dataset: DataSet, column: str) -> dict[str, Tensor] | None:
    """The person in each image of an open data set. Any value may name a person; what counts is whether two are equal.

    Args:
        raw: the data set as it lies on disk.
        dataset: the same, as :func:`~smartedge.data.open_dataset` gave it.
        column: names the persons: texts, of which spaces around them do not count, or numbers.

    Returns:
        split → int64 (N,), equal for images of one person, also over splits; −1 where an image names none. The images
        that are set apart for the audit are the split ``audit``. None: the data set has no such column.

    Raises:
        DataError: only some splits have the column, or its values cannot be names.
    """
    lacking = [split for split, each in raw.splits.items() if column not in each.columns]
    if len(lacking) == len(raw.splits):
        return None
    if lacking:
        raise DataError(
            f"{raw.name} has a column {column!r}, but not in its {' and '.join(lacking)} split. Without it nobody can "
            "tell whether a person is in two splits; add it, empty for images of which nothing is known"
        )
    names = {split: person_names(raw, split, column) for split in raw.splits}
    everybody = pc.unique(pa.chunked_array([chunk for part in names.values() for chunk in part.chunks], pa.string()))
    codes: dict[str, NDArray[np.int64]] = {
        split: np.asarray(pc.fill_null(pc.index_in(part, pc.drop_null(everybody)), -1).to_numpy(), np.int64)
        for split, part in names.items()
    }
    parts: dict[str, Split] = {str(split): images for split, images in dataset.splits.items()}
    if dataset.audit is not None:
        parts["audit"] = dataset.audit
    # A split that the files do not have was set apart from their training images.
    return {split: torch.from_numpy(codes.get(split, codes["train"])[images.ids]) for split, images in parts.items()}


def yes_no_columns(raw: RawData) -> tuple[str, ...]:
    """The yes/no columns that every split of a data set has, in the data set's order."""
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
