"""Can the sensitive columns be hidden in the images that a run learns from? After all divisions of the data set."""

from __future__ import annotations

import torch
from torch import Tensor

from smartedge.data.dataset import DataSet
from smartedge.data.raw import PERSON_COLUMN
from smartedge.errors import DataError, list_some

__all__ = ["check_hidden"]


def check_hidden(dataset: DataSet) -> tuple[str, ...]:
    """Look at each sensitive column of the training images.

    Returns:
        Sentences on what training cannot hide: classes that no training image has, and a column that the desired label
        tells.

    Raises:
        DataError: all training images are of one class, so there is nothing from which hiding could be learned.
    """
    notes: list[str] = []
    train = dataset.splits["train"]
    for column, task in dataset.sensitive.items():
        labels_N = train.sensitive_labels[column]
        known = _classes(labels_N)
        if len(known) < 2:
            raise DataError(
                f"column {column!r} of {dataset.name}: all {len(train)} training images that are used are of one class "
                f"({task.names[known.pop()]}), so nothing can be hidden; use more images (data.limit, data.shard), or "
                "leave the column out of data.sensitive"
            )
        for split, images in dataset.splits.items():
            if column != PERSON_COLUMN and (unseen := _classes(images.sensitive_labels[column]) - known):
                notes.append(
                    f"column {column!r}: some {split} images are of a class that no training image has, so the front "
                    f"does not learn to hide it: {list_some(task.names[place] for place in sorted(unseen))}"
                )
        if _follows(labels_N, train.labels):
            notes.append(
                f"column {column!r} follows from the desired label: whoever knows the label of an image knows it too, "
                "so no training can hide it"
            )
    return tuple(notes)


def _classes(labels_N: Tensor) -> set[int]:
    return {int(place) for place in labels_N.unique().tolist()}


def _follows(hidden_N: Tensor, desired: Tensor) -> bool:
    """Whether images with the same desired label (or combination of labels) all have the same hidden one."""
    told_NL = desired.reshape(len(desired), -1).double()
    both = torch.cat([told_NL, hidden_N[:, None].double()], dim=1)
    combinations = len(told_NL.unique(dim=0))
    return combinations < len(desired) and len(both.unique(dim=0)) == combinations
