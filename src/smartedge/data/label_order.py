"""Does the order of a data set tell its labels? Then randomising the labels hides nothing: a frame names its images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import DataError

__all__ = ["refuse_ordered_labels"]

_FEWEST_CHANGES = 0.1  # of those that a random order has
_FAR = 6.0  # standard deviations: in a random order, fewer changes come with a probability of about 1e-9


def refuse_ordered_labels(name: str, columns: Sequence[NDArray[np.integer]]) -> None:
    """Refuse images that stand class by class, as in a folder for each class and in a sorted table.

    Args:
        name: of the data set.
        columns: labels in the order of the images' ids, int64 (N,); one column for each label of an image.

    Raises:
        DataError: in one of the columns the label changes far less often, from image to image, than by chance.
    """
    if any(map(_in_order, columns)):
        raise DataError(
            f"dp.label_epsilon: the images of {name} stand in the order of their labels, and each frame names the "
            "places of its images. So the places tell the labels, however these are randomised. List the images in a "
            "table whose rows are in random order (metadata.csv, or Parquet); without dp.label_epsilon labels are sent "
            "as they are"
        )


def _in_order(labels_N: NDArray[np.integer]) -> bool:
    """Whether labels change so rarely that chance does not explain it.

    Mean and variance of the number of runs in a random order: Wald and Wolfowitz (1940); for more than two classes
    Barton and David (1957).
    """
    count = len(labels_N)
    sizes = np.unique(labels_N, return_counts=True)[1].astype(np.float64)
    if len(sizes) < 2:
        return False
    changes = int((labels_N[1:] != labels_N[:-1]).sum())
    squares, cubes = float((sizes**2).sum()), float((sizes**3).sum())
    mean = count - squares / count
    variance = (squares * (squares + count * (count + 1)) - 2 * count * cubes - count**3) / (count**2 * (count - 1))
    return changes <= _FEWEST_CHANGES * mean and changes < mean - _FAR * math.sqrt(max(variance, 0.0))
