"""A data set that is open: splits that give images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smartedge.data.reading.images import ImageStore
from smartedge.types import ImageBatch, SplitName, Task

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DataSet", "Split"]


class Split:
    """Part of a data set. Positions run from 0 to ``len(split) - 1``; ``ids[i]`` names the image at ``i``.

    Attributes:
        ids: int64 (N,), ascending: each image's index in its file or folder. Images that were left out keep theirs.
        labels: the desired labels, see :class:`~smartedge.types.Task`.
        sensitive_labels: column → int64 (N,). They stay on the edge.
        persons: int64 (N,): images with the same number show the same person. Where the data set does not say who is
            shown, every image has a number of its own.
    """

    def __init__(
        self,
        store: ImageStore,
        ids: NDArray[np.int64],
        labels: Tensor,
        sensitive_labels: Mapping[str, Tensor],
        persons: NDArray[np.int64] | None = None,
    ) -> None:
        self._store = store
        self.persons = np.arange(len(ids)) if persons is None else persons
        self.ids = ids
        self.labels = labels
        self.sensitive_labels = sensitive_labels

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: NDArray[np.int64]) -> ImageBatch:
        """The images at some positions, uint8 (B, C, H, W), with ids and all labels. Any thread may call this.

        Raises:
            IndexError: a position is outside the split.
        """
        ids = self.ids[indices]
        sensitive = {column: values[indices] for column, values in self.sensitive_labels.items()}
        return ImageBatch(ids, self._store.read(ids), self.labels[indices], sensitive)

    @property
    def streamed(self) -> bool:
        """Whether images are decoded when they are read, so that some orders are slow: see :meth:`shuffled`."""
        return self._store.streamed

    def shuffled(self, random: np.random.Generator) -> NDArray[np.int64]:
        """All positions in a random order: of images that are streamed, in one in which they can be read."""
        return self._store.shuffled(self.ids, random)

    def subset(self, indices: NDArray[np.int64]) -> Split:
        """A split of the images at some positions, which must ascend."""
        sensitive = {column: values[indices] for column, values in self.sensitive_labels.items()}
        return Split(self._store, self.ids[indices], self.labels[indices], sensitive, self.persons[indices])


@dataclass(frozen=True)
class DataSet:
    """A data set, opened for one task.

    Attributes:
        name: for people, such as ``"lfw-attributes"``.
        task: what the labels mean.
        splits: train, val and test.
        sensitive: what the sensitive labels mean, by column.
        skipped: reason → how many images were left out for it; empty where all could be used.
        notes: what else the user should know, such as a validation split that was set apart.
        audit: training images that no part of a run learns from, set apart for the attackers of its audit; None where
            there are none.
    """

    name: str
    task: Task
    splits: Mapping[SplitName, Split]
    sensitive: Mapping[str, Task] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    audit: Split | None = None
