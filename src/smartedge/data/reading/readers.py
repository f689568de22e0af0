"""Readers give the images of a source by their indices, so that nothing decoded has to be kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from smartedge.errors import DataError
from smartedge.images.decode import Item
from smartedge.types import Ints

__all__ = ["Anywhere", "Block", "InBlocks", "Reader"]

WINDOW_BYTES = 2**25  # images so large together are shuffled with each other
_SLICE_BYTES = WINDOW_BYTES // 4  # a longer block is read in slices
HELD_BYTES = 2 * (WINDOW_BYTES + _SLICE_BYTES)  # two windows, since a batch may need images of both
_MOST_OPEN = 2  # blocks that are read in part: where a window ends in one and begins in another


class Reader(Protocol):
    """Gives the images of a source by their indices, without reading all of them."""

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """Positions in ``indices``, int64 (N,), in a random order in which the images can be read without delay."""

    def items(self, indices: Ints) -> list[Item]:
        """The images of these indices. Any thread may call it.

        Raises:
            DataError: a file cannot be read, or was changed since it was opened.
        """


class Anywhere:
    """Files, and parts of files: each image can be read by itself, so any order will do.

    Args:
        item: gives the image of an index.
    """

    def __init__(self, item: Callable[[int], Item]) -> None:
        self._item = item

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """As :class:`Reader` says."""
        return random.permutation(len(indices))

    def items(self, indices: Ints) -> list[Item]:
        """As :class:`Reader` says."""
        return [self._item(index) for index in indices.tolist()]


@dataclass(frozen=True)
class Block:
    """Images that can only be read from the first to the last, as a row group of a Parquet file."""

    count: int
    items: Callable[[], Iterator[Item]]
    bytes: int  # about how large they are together


class InBlocks:
    """Images in blocks. Blocks come in a random order, and images are shuffled within windows of some blocks.

    A window holds images of 32 MiB together. A block that is larger is read in several windows, without going back.

    Args:
        blocks: all images of the source, in order.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._held: OrderedDict[int, list[Item]] = OrderedDict()  # slice → its images, the last used last
        self._held_bytes = 0
        # block → next slice, images from there
        self._open: OrderedDict[int, tuple[int, Iterator[Item]]] = OrderedDict()
        counts, numbers, sizes = [], [], []
        for number, block in enumerate(blocks):
            each = max(1, block.count * _SLICE_BYTES // max(1, block.bytes))
            for first in range(0, block.count, each):
                counts.append(min(each, block.count - first))
                numbers.append(number)
                sizes.append(block.bytes * counts[-1] // block.count)
        self._start_S, self._block_S, self._bytes_S = np.cumsum([0, *counts]), np.array(numbers), np.array(sizes)

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """As :class:`Reader` says."""
        rank = random.permutation(len(self._blocks))
        order_S = np.argsort(rank[self._block_S], kind="stable")  # slices of a block stay in order
        window_S = np.empty(len(order_S), np.int64)
        window_S[order_S] = np.cumsum(self._bytes_S[order_S]) // WINDOW_BYTES
        shuffled = random.permutation(len(indices))
        window = window_S[np.searchsorted(self._start_S, indices[shuffled], side="right") - 1]
        return shuffled[np.argsort(window, kind="stable")]

    def items(self, indices: Ints) -> list[Item]:
        """As :class:`Reader` says."""
        slice_B = np.searchsorted(self._start_S, indices, side="right") - 1
        found: list[Item] = [None] * len(indices)
        with self._lock:
            for number in np.unique(slice_B).tolist():
                images = self._slice(number)
                for place in np.flatnonzero(slice_B == number).tolist():
                    found[place] = images[int(indices[place] - self._start_S[number])]
        return found

    def _slice(self, number: int) -> list[Item]:
        """The images of a slice. Those of its block that lie before it are held too: they are needed next, or soon."""
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        block = int(self._block_S[number])
        following, rest = self._open.pop(block, (number + 1, iter(())))
        if following > number:
            following, rest = int(np.searchsorted(self._block_S, block)), self._blocks[block].items()
        while following <= number:
            count = int(self._start_S[following + 1] - self._start_S[following])
            images = list(islice(rest, count))
            if len(images) < count:
                raise DataError(
                    "a file holds fewer images than when the data set was opened; restore it, and go on with --resume"
                )
            self._hold(following, images)
            following += 1
        if following < len(self._block_S) and self._block_S[following] == block:
            self._open[block] = (following, rest)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return self._held[number]

    def _hold(self, number: int, images: list[Item]) -> None:
        while self._held and self._held_bytes + self._bytes_S[number] > HELD_BYTES:
            oldest, _ = self._held.popitem(last=False)
            self._held_bytes -= int(self._bytes_S[oldest])
        self._held[number] = images
        self._held_bytes += int(self._bytes_S[number])
