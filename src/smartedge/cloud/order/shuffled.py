"""Chooses the images for each step where each image was sent once (``freeze-and-log``): an epoch uses all, shuffled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from smartedge.cloud.batches import gather, take
from smartedge.cloud.handover import FrameKey
from smartedge.cloud.order.ahead import ahead, in_order
from smartedge.cloud.store.feature_log import FeatureReader
from smartedge.cloud.workers.shared_step import ShardedBatch
from smartedge.methods.sharded_step import shard_sizes
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch, Labels, SplitName

__all__ = ["Shuffled"]

_SHUFFLE_FRAMES = 64  # frames decoded at once: bounds memory, mixes 64 batches


@dataclass(frozen=True)
class _Drawn:
    """The images of a batch, which are not copied together yet."""

    frames: Sequence[FeatureBatch]
    index: NDArray[np.int64]  # among all images of the frames


_Step = TypeVar("_Step")


class Shuffled:
    """Batches of complete logs, in an order that depends on seed, epoch and logs alone.

    Args:
        logs: edge → its log, which holds train, val and test frames.
        read: the decoded batch of a frame, by edge and number.
        batch_size: images in a step.
        seed: of the run.
        frames: edge → how many frames of it are used, from the first one on; None: all that are there.
        threads: that read, decode and copy ahead, for a GPU; ``read`` is then called in them. 0: nothing is done ahead.
            The batches are the same.
        passed: gets each frame that was read, in order, before it is used.

    Attributes:
        threads: see above.
    """

    def __init__(
        self,
        logs: Mapping[str, FeatureReader],
        read: Callable[[FrameKey], FeatureBatch],
        *,
        batch_size: int,
        seed: int,
        frames: Mapping[str, int] | None = None,
        threads: int = 0,
        passed: Callable[[FrameKey, FeatureBatch], None] | None = None,
    ) -> None:
        self.threads = threads
        self._passed = passed
        self._logs = logs
        self._read = read
        self._batch_size = batch_size
        self._seed = seed
        self._keys: dict[SplitName, list[FrameKey]] = {"train": [], "val": [], "test": []}
        self._images: dict[SplitName, Counter[str]] = {"train": Counter(), "val": Counter(), "test": Counter()}
        self._sizes: dict[FrameKey, int] = {}  # images of each frame
        for edge, log in sorted(logs.items()):
            for seq in range(log.next_seq if frames is None else frames[edge]):
                if log.came(seq):
                    split = log.header_of(seq).split
                    key = (edge, seq)
                    self._keys[split].append(key)
                    self._sizes[key] = log.images(seq)
                    self._images[split][edge] += self._sizes[key]
        self.steps = max(1, self._images["train"].total() // batch_size)

    def images(self, split: SplitName) -> Counter[str]:
        """Edge → how many images of a split it sent, in the order of :meth:`split`."""
        return self._images[split]

    def labels(self) -> Iterator[tuple[str, Labels, int]]:
        """Edge, labels and outputs K of every training frame; only the frames' heads are read."""
        for edge, seq in self._keys["train"]:
            log = self._logs[edge]
            yield edge, log.labels(seq), log.header_of(seq).outputs

    def split(self, name: SplitName) -> Iterator[FeatureBatch]:
        """The batches of a split as they were sent."""
        return self._decoded(self._keys[name])

    def epoch(self, number: int) -> Generator[FeatureBatch, None, None]:
        """``steps`` batches of the training images, each image at most once; a few frames are decoded at a time."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "log", number))
        order = self._order(generator)
        drawn = _mixed(self._decoded(order), len(order), _SHUFFLE_FRAMES, self._batch_size, self.steps, generator)
        return in_order(self._gathered, self._ahead(drawn), self.threads)

    def sharded_epoch(self, number: int, *, shards: int, own: range) -> Generator[ShardedBatch, None, None]:
        """The same steps for a worker that computes some of the shards of each step.

        The frames are put in the order of the epoch. The first shard of every step takes its images from the first
        part of them, and so on. So a worker reads and decodes the frames of its own shards only.
        """
        order = self._order(torch.Generator().manual_seed(derive_seed(self._seed, "log", number)))
        images = min(self._batch_size, sum(self._sizes[key] for key in order))
        sizes = shard_sizes(images, shards)
        parts: dict[int, Iterator[_Drawn]] = {}
        for shard in own:
            begin, end = (self.steps * sum(sizes[:until]) for until in (shard, shard + 1))
            if begin < end:
                generator = torch.Generator().manual_seed(derive_seed(self._seed, "log", number, shard))
                pieces = list(self._pieces(order, begin, end))
                decoded = self._decoded([key for key, _ in pieces])
                frames = (take(frame, piece) for frame, (_, piece) in zip(decoded, pieces, strict=True))
                pool = max(1, _SHUFFLE_FRAMES // shards)
                parts[shard] = _mixed(frames, len(pieces), pool, sizes[shard], self.steps, generator)
        drawn = ({shard: next(part) for shard, part in parts.items()} for _ in range(self.steps))

        def gathered(step: Mapping[int, _Drawn]) -> ShardedBatch:
            return ShardedBatch({shard: self._gathered(each) for shard, each in step.items()}, images)

        return in_order(gathered, self._ahead(drawn), self.threads)

    def _decoded(self, keys: Sequence[FrameKey]) -> Generator[FeatureBatch, None, None]:
        """Frames in this order."""
        for key, frame in zip(keys, in_order(self._read, iter(keys), self.threads), strict=True):
            if self._passed is not None:
                self._passed(key, frame)
            yield frame

    def _ahead(self, steps: Iterator[_Step]) -> Iterator[_Step]:
        """The same steps; a pool of frames is decoded while the one before is used."""
        return ahead(steps, _SHUFFLE_FRAMES) if self.threads else steps

    def _gathered(self, drawn: _Drawn) -> FeatureBatch:
        return gather(drawn.frames, drawn.index, pinned=self.threads > 0 and torch.cuda.is_available())

    def _order(self, generator: torch.Generator) -> list[FrameKey]:
        """The training frames in the order of an epoch."""
        keys = self._keys["train"]
        return [keys[index] for index in torch.randperm(len(keys), generator=generator).tolist()]

    def _pieces(self, order: list[FrameKey], begin: int, end: int) -> Iterator[tuple[FrameKey, slice]]:
        """The frames that hold the images ``begin`` to ``end`` - 1 of all, and which images of each."""
        passed = 0
        for key in order:
            first, last = max(begin - passed, 0), min(end - passed, self._sizes[key])
            if first < last:
                yield key, slice(first, last)
            passed += self._sizes[key]


def _mixed(
    frames: Iterator[FeatureBatch], count: int, pool: int, size: int, steps: int, generator: torch.Generator
) -> Generator[_Drawn, None, None]:
    """Batches of ``size`` images of ``count`` frames; ``pool`` frames are decoded and shuffled at a time."""
    held: list[FeatureBatch] = []
    given = 0
    for place, frame in enumerate(frames, start=1):
        held.append(frame)
        last = place == count
        if place % pool and not last:
            continue
        mixed = torch.randperm(sum(len(each.ids) for each in held), generator=generator).numpy()
        whole = len(mixed) // size
        for part in range(max(1, whole) if last else whole):
            if given < steps:
                given += 1
                yield _Drawn(held, mixed[part * size : (part + 1) * size])
        held = [gather(held, mixed[whole * size :])]
