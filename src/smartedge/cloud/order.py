"""Chooses the frames for each step of training.

Where the cloud learns while frames come (schedules ``joint`` and ``two-stage``), a step uses the next frame of the
sequence, once. Where each image was sent once (``freeze-and-log``), an epoch uses all frames of the log, shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch

from smartedge.cloud.store import FeatureLog
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch, SplitName

__all__ = ["Shuffled", "next_in_sequence"]

_SHUFFLE_FRAMES = 64  # frames decoded at once: bounds memory, mixes 64 batches


def next_in_sequence(log: FeatureLog, learned: int) -> int | None:
    """The frame to learn from next, when all before ``learned`` are done; None where it has not come yet."""
    return learned if learned < log.next_seq else None


class Shuffled:
    """Batches of a complete log, in an order that depends on seed, epoch and log alone.

    Args:
        log: holds train, val and test frames.
        read: the decoded batch of a frame.
        batch_size: images in a step.
        seed: of the run.
    """

    def __init__(self, log: FeatureLog, read: Callable[[int], FeatureBatch], *, batch_size: int, seed: int) -> None:
        self._read = read
        self._batch_size = batch_size
        self._seed = seed
        self._seqs: dict[SplitName, list[int]] = {"train": [], "val": [], "test": []}
        for seq in range(log.next_seq):
            self._seqs[log.header_of(seq).split].append(seq)
        self.steps = max(1, sum(map(log.images, self._seqs["train"])) // batch_size)

    def split(self, name: SplitName) -> Iterator[FeatureBatch]:
        """The batches of a split as they were sent."""
        return map(self._read, self._seqs[name])

    def epoch(self, number: int) -> Generator[FeatureBatch, None, None]:
        """``steps`` batches of the training images, each image at most once; a few frames are decoded at a time."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "log", number))
        seqs, size = self._seqs["train"], self._batch_size
        order = torch.randperm(len(seqs), generator=generator).tolist()
        held: list[FeatureBatch] = []
        given = 0
        for place, index in enumerate(order, start=1):
            held.append(self._read(seqs[index]))
            last = place == len(order)
            if place % _SHUFFLE_FRAMES and not last:
                continue
            pool = _join(held)
            mixed = torch.randperm(len(pool.ids), generator=generator).numpy()
            whole = len(mixed) // size
            for part in range(max(1, whole) if last else whole):
                if given < self.steps:
                    given += 1
                    yield _take(pool, mixed[part * size : (part + 1) * size])
            held = [_take(pool, mixed[whole * size :])]


def _join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    return FeatureBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.features_BF for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


def _take(batch: FeatureBatch, index: np.ndarray) -> FeatureBatch:
    return FeatureBatch(batch.ids[index], batch.features_BF[index], batch.labels[index])
