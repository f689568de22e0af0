"""Work that is done ahead: the same items in the same order, whichever thread is faster; errors; no thread is left."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator
from unittest.mock import Mock

import pytest
import torch

from smartedge.cloud.order.ahead import ahead, in_order, reading_threads
from smartedge.cloud.order.supply import Supply
from smartedge.cloud.workers.group import ALONE


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if threads > 1 and item == 0:
            assert second.wait(10), "the first item waits until another thread has done the second"
        if item == 1:
            second.set()
        return item * item

    assert list(in_order(work, iter(range(20)), threads)) == [item * item for item in range(20)]


def test_no_more_is_begun_than_there_are_threads_and_one() -> None:
    asked = itertools.count()
    results = in_order(lambda item: item, asked, 3)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert next(asked) == 5


def test_items_are_made_ahead_but_not_more_than_allowed() -> None:
    made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for item in range(10):
            yield item
            made.release()

    source = ahead(items(), 4)
    assert next(source) == 0
    for _ in range(4):  # while nobody asks: items 1 to 4
        assert made.acquire(timeout=10)
    assert not made.acquire(blocking=False)
    assert list(source) == list(range(1, 10))


def failing(item: int) -> int:
    if item == 4:
        raise ValueError("the fourth")
    return item


Way = Callable[[], Generator[int, None, None]]
WAYS: dict[str, Way] = {
    "in order": lambda: in_order(failing, iter(range(1, 9)), 2),
    "ahead": lambda: ahead(map(failing, range(1, 9)), 2),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_error_comes_at_its_place_and_no_thread_is_left(way: Way) -> None:
    before = set(threading.enumerate())  # those of other tests may end meanwhile
    results = way()
    found = [next(results) for _ in range(3)]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert found == [1, 2, 3] and set(threading.enumerate()) <= before
    results = way()
    assert [next(results), next(results)] == [1, 2]
    results.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("shards", [1, 2])
def test_what_is_made_ahead_knows_the_number_of_its_update_in_the_whole_run(shards: int) -> None:
    """Images are augmented by it: the same images must change otherwise in the next epoch."""
    frames = Mock(threads=2, steps=3)
    frames.epoch = frames.sharded_epoch = lambda epoch, **_: (name for name in "abc")
    inputs = Mock(ready=lambda number, batch: (number, batch))
    supply = Supply(frames, inputs, shards, ALONE)
    for epoch in range(2):
        assert list(supply.epoch(epoch)) == [(3 * epoch, "a"), (3 * epoch + 1, "b"), (3 * epoch + 2, "c")]


def test_only_a_gpu_gets_threads_of_its_own() -> None:
    assert reading_threads(torch.device("cpu")) == 0
    assert 1 <= reading_threads(torch.device("cuda")) <= 8
