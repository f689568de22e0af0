"""Does the order of a data set tell what is to be hidden? A frame names its images by their places."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from smartedge.data.dataset import DataSet
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["order_tells", "refuse_ordered_hidden", "refuse_ordered_labels"]

_FEWEST_CHANGES = 0.1  # of those that a random order has
_FAR = 6.0  # standard deviations: in a random order, fewer changes come with a probability of about 1e-9
_REMEDY = "List the images in a table whose rows are in random order (metadata.csv, or Parquet)"


def refuse_ordered_labels(dataset: DataSet, splits: Iterable[SplitName]) -> None:
    """Refuse images that stand class by class, as in a folder for each class and in a sorted table.

    Args:
        dataset: images in the order of their ids.
        splits: whose labels are randomised.

    Raises:
        DataError: in one of the columns the label changes far less often, from image to image, than by chance.
    """
    for split in splits:
        labels_N = dataset.splits[split].labels.numpy()
        if any(map(_in_order, labels_N.reshape(len(labels_N), -1).T)):
            raise DataError(
                f"dp.label_epsilon: the {split} images of {dataset.name} stand in the order of their labels, and each "
                "frame names the places of its images. So the places tell the labels, however these are randomised. "
                f"{_REMEDY}; without dp.label_epsilon labels are sent as they are"
            )


def refuse_ordered_hidden(dataset: DataSet) -> None:
    """Refuse images that stand in the order of a sensitive column.

    Raises:
        DataError: as for labels.
    """
    for split, images in dataset.splits.items():
        for column, labels_N in images.sensitive_labels.items():
            if _in_order(labels_N.numpy()):
                raise DataError(
                    f"data.sensitive: the {split} images of {dataset.name} stand in the order of {column!r}, and each "
                    "frame names the places of its images. So the places tell it, whatever the features hide. "
                    f"{_REMEDY}"
                )


def order_tells(labels_N: NDArray[np.integer]) -> bool:
    """Whether labels change, from image to image, more or less often than chance explains.

    So it is where images stand in the order of the label, in groups such as persons, or by turns.
    """
    changes, mean, deviation = _changes(labels_N)
    return abs(changes - mean) > _FAR * deviation


def _in_order(labels_N: NDArray[np.integer]) -> bool:
    """Whether labels change so rarely that chance does not explain it."""
    changes, mean, deviation = _changes(labels_N)
    return changes <= _FEWEST_CHANGES * mean and changes < mean - _FAR * deviation


def _changes(labels_N: NDArray[np.integer]) -> tuple[int, float, float]:
    """How often labels change, and mean and standard deviation of that in a random order.

    The number of runs: Wald and Wolfowitz (1940); for more than two classes Barton and David (1957).
    """
    count = len(labels_N)
    if count < 2:
        return 0, 0.0, 0.0
    sizes = np.unique(labels_N, return_counts=True)[1].astype(np.float64)
    changes = int((labels_N[1:] != labels_N[:-1]).sum())
    squares, cubes = float((sizes**2).sum()), float((sizes**3).sum())
    mean = count - squares / count
    variance = (squares * (squares + count * (count + 1)) - 2 * count * cubes - count**3) / (count**2 * (count - 1))
    return changes, mean, math.sqrt(max(variance, 0.0))
