"""Supplies a training from logs with batches that are ready to be learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial

from smartedge.cloud.inputs import Inputs, Ready
from smartedge.cloud.order.ahead import in_order
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.workers.group import Group
from smartedge.cloud.workers.shared_step import ShardedBatch
from smartedge.types import FeatureBatch

__all__ = ["Supply"]


class Supply:
    """The batches of each epoch. Where frames are read ahead, their inputs are made ahead too.

    Args:
        frames: the logs.
        inputs: makes what the back computes on.
        shards: parts of a step.
        group: the workers that share them.

    Attributes:
        waited: seconds in which the next batch was asked for, and was not there yet.
    """

    def __init__(self, frames: Shuffled, inputs: Inputs, shards: int, group: Group) -> None:
        self.waited = 0.0
        self._frames = frames
        self._inputs = inputs
        self._batches: Callable[[int], Generator[FeatureBatch | ShardedBatch, None, None]] = frames.epoch
        if shards > 1:
            self._batches = partial(frames.sharded_epoch, shards=shards, own=group.own(shards))

    def epoch(self, number: int) -> Generator[Ready, None, None]:
        """The batches of an epoch, counted from 0."""
        with closing(self._ready(number)) as batches:
            while True:
                begun = time.perf_counter()
                ready = next(batches, None)
                self.waited += time.perf_counter() - begun
                if ready is None:
                    return
                yield ready

    def _ready(self, epoch: int) -> Generator[Ready, None, None]:
        batches, threads = self._batches(epoch), self._frames.threads
        if threads == 0:
            return (Ready(batch) for batch in batches)
        numbered = enumerate(batches, epoch * self._frames.steps)
        return in_order(lambda each: self._inputs.ready(*each), numbered, threads)
