"""Chooses the frames for each step of training.

Where the cloud learns from one edge while frames come (schedules ``joint`` and ``two-stage``), a step uses the next
frame of the sequence, once; for several edges see :mod:`smartedge.cloud.mixing`. Where each image was sent once
(``freeze-and-log``), an epoch uses all frames of all logs, shuffled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np
import torch

from smartedge.cloud.ingest import Key
from smartedge.cloud.store import FeatureReader
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch, SplitName

__all__ = ["Shuffled", "join", "next_in_sequence", "take"]

_SHUFFLE_FRAMES = 64  # frames decoded at once: bounds memory, mixes 64 batches


def next_in_sequence(log: FeatureReader, learned: int) -> int | None:
    """The frame to learn from next, when all before ``learned`` are done; None where it has not come yet."""
    return learned if learned < log.next_seq else None


class Shuffled:
    """Batches of complete logs, in an order that depends on seed, epoch and logs alone.

    Args:
        logs: edge → its log, which holds train, val and test frames.
        read: the decoded batch of a frame, by edge and number.
        batch_size: images in a step.
        seed: of the run.
        frames: edge → how many frames of it are used, from the first one on; None: all that are there.
    """

    def __init__(
        self,
        logs: Mapping[str, FeatureReader],
        read: Callable[[Key], FeatureBatch],
        *,
        batch_size: int,
        seed: int,
        frames: Mapping[str, int] | None = None,
    ) -> None:
        self._read = read
        self._batch_size = batch_size
        self._seed = seed
        self._keys: dict[SplitName, list[Key]] = {"train": [], "val": [], "test": []}
        self._images: dict[SplitName, Counter[str]] = {"train": Counter(), "val": Counter(), "test": Counter()}
        for edge, log in sorted(logs.items()):
            for seq in range(log.next_seq if frames is None else frames[edge]):
                if log.came(seq):
                    split = log.header_of(seq).split
                    self._keys[split].append((edge, seq))
                    self._images[split][edge] += log.images(seq)
        self.steps = max(1, self._images["train"].total() // batch_size)

    def images(self, split: SplitName) -> Counter[str]:
        """Edge → how many images of a split it sent, in the order of :meth:`split`."""
        return self._images[split]

    def split(self, name: SplitName) -> Iterator[FeatureBatch]:
        """The batches of a split as they were sent."""
        return map(self._read, self._keys[name])

    def epoch(self, number: int) -> Generator[FeatureBatch, None, None]:
        """``steps`` batches of the training images, each image at most once; a few frames are decoded at a time."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "log", number))
        keys, size = self._keys["train"], self._batch_size
        order = torch.randperm(len(keys), generator=generator).tolist()
        held: list[FeatureBatch] = []
        given = 0
        for place, index in enumerate(order, start=1):
            held.append(self._read(keys[index]))
            last = place == len(order)
            if place % _SHUFFLE_FRAMES and not last:
                continue
            pool = join(held)
            mixed = torch.randperm(len(pool.ids), generator=generator).numpy()
            whole = len(mixed) // size
            for part in range(max(1, whole) if last else whole):
                if given < self.steps:
                    given += 1
                    yield take(pool, mixed[part * size : (part + 1) * size])
            held = [take(pool, mixed[whole * size :])]


def join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """All images of several batches as one."""
    return FeatureBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.features_BF for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


def take(batch: FeatureBatch, index: np.ndarray) -> FeatureBatch:
    """The images at some positions of a batch."""
    return FeatureBatch(batch.ids[index], batch.features_BF[index], batch.labels[index])
