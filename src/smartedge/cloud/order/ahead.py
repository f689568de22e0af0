"""Work that is done ahead in other threads, and comes in order: a GPU must not wait for decoding."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_THREADS", "ahead", "in_order", "reading_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
_END: Final = object()


def reading_threads(device: torch.device) -> int:
    """How many threads read and decode for a training on this device; 0: the training itself does it.

    A processor that trains has no time to spare, so only a GPU gets threads. MPS was not tried.
    """
    return min(MOST_THREADS, os.cpu_count() or 1) if device.type == "cuda" else 0


def in_order(work: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Generator[Result, None, None]:
    """``work`` of each item, in the order of the items; so many at a time, and no more than that wait.

    Args:
        work: may be called in several threads at once. What it raises is raised here.
        items: asked in the caller's thread.
        threads: 0: the caller's own, when it asks.
    """
    if threads == 0:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque[Future[Result]]()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def ahead(items: Iterator[Item], most: int) -> Generator[Item, None, None]:
    """The same items, made by a thread of their own. It is never more than ``most`` items ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(next, items, _END) for _ in range(most))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, items, _END))
                yield item
        finally:
            for each in waiting:
                each.cancel()
