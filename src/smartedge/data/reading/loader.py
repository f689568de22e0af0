"""Batches of a split, read ahead by a thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Generator
from dataclasses import replace
from queue import Empty, Queue
from types import TracebackType

import numpy as np
import torch

from smartedge.data.dataset import Split
from smartedge.errors import DataError
from smartedge.images.augment import AugmentKind, augment
from smartedge.types import ImageBatch

__all__ = ["Batches", "batches"]

_AHEAD = 3  # batches that wait to be taken
_ORDER, _AUGMENT = 0, 1  # streams of random numbers


class Batches:
    """One pass over a split, and the time it took. Made by :func:`batches`.

    Iterating starts the thread; leaving the loop in any way, or the ``with`` block, ends it.

    Attributes:
        busy_seconds: time that the thread spent reading and augmenting.
        wait_seconds: time that the consumer waited for the thread. If it is near zero, data is not the slowest stage.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        augment: AugmentKind,
        drop_last: bool,
    ) -> None:
        order = np.arange(len(split))
        if shuffle:
            order = split.shuffled(np.random.Generator(np.random.PCG64(_sequence(seed, epoch, _ORDER))))
        self._count = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        self._split = split
        self._batch_size = batch_size
        self._order = order
        self._seed = seed
        self._epoch = epoch
        self._augment = augment
        self._running: weakref.ref[Generator[ImageBatch, None, None]] | None = None
        self.busy_seconds = 0.0
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Generator[ImageBatch, None, None]:
        self.close()
        iterator = self._batches()
        self._running = weakref.ref(iterator)  # weak: leaving the loop early must end the iterator
        return iterator

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, if it runs. Safe to call at any time, any number of times."""
        if self._running is not None and (iterator := self._running()):
            iterator.close()

    def _batches(self) -> Generator[ImageBatch, None, None]:
        queue: Queue[ImageBatch | BaseException] = Queue(_AHEAD)
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(queue, stop), name="smartedge-data", daemon=True)
        thread.start()
        try:
            for _ in range(self._count):
                started = time.perf_counter()
                batch = queue.get()
                self.wait_seconds += time.perf_counter() - started
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            stop.set()
            try:
                while True:  # the thread may be waiting for room; it looks at ``stop`` before each batch
                    queue.get_nowait()
            except Empty:
                thread.join()

    def _produce(self, queue: Queue[ImageBatch | BaseException], stop: threading.Event) -> None:
        try:
            for number in range(self._count):
                if stop.is_set():
                    return
                started = time.perf_counter()
                batch = self._split.read(self._order[number * self._batch_size : (number + 1) * self._batch_size])
                if self._augment != "none":
                    seed = int(_sequence(self._seed, self._epoch, _AUGMENT, number).generate_state(1, np.uint64)[0])
                    generator = torch.Generator().manual_seed(seed)
                    images_BCHW = augment(batch.images_BCHW, generator=generator, kind=self._augment)
                    batch = replace(batch, images_BCHW=images_BCHW)
                self.busy_seconds += time.perf_counter() - started
                queue.put(batch)
        except BaseException as error:
            queue.put(error)


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    augment: AugmentKind = "none",
    drop_last: bool = False,
) -> Batches:
    """One pass over a split.

    The order is a function of ``(seed, epoch)``; how an image is augmented, of ``(seed, epoch)``, the batch's number
    and the image's place in it.

    Args:
        split: what to read.
        batch_size: images in a batch; the last one may be smaller.
        seed: of the run; not negative.
        epoch: counted from 0.
        shuffle: whether to change the order; otherwise it is the split's.
        augment: see :func:`smartedge.images.augment.augment`; done in the thread that reads ahead.
        drop_last: leave out a last batch that is smaller.

    Raises:
        DataError: ``batch_size`` is not positive, or there are too few images for one batch.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; it must be at least 1")
    if drop_last and len(split) < batch_size:
        raise DataError(
            f"the split has {len(split)} images, fewer than one batch of {batch_size}, and incomplete batches are left "
            "out; make the batch smaller or the split larger"
        )
    return Batches(split, batch_size, seed=seed, epoch=epoch, shuffle=shuffle, augment=augment, drop_last=drop_last)


def _sequence(*entropy: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(entropy)
