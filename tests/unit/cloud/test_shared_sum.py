"""Workers that add in shared memory get the sum of one worker, bit for bit. Here they are threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartedge.cloud.workers.group import ALONE
from smartedge.cloud.workers.shared_sum import SharedSum

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory to share is Linux's")
SHAPES = [(300, 401), (7,)]  # more numbers than are added at a time


class Meeting:
    """``gather`` among threads."""

    def __init__(self, size: int) -> None:
        self._barrier, self._data = threading.Barrier(size, timeout=30), [b""] * size

    def gather(self, rank: int) -> Callable[[bytes], list[bytes]]:
        def gather(data: bytes) -> list[bytes]:
            self._data[rank] = data
            self._barrier.wait()
            found = list(self._data)
            self._barrier.wait()
            return found

        return gather


def terms_of(count: int, step: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(step)
    scale = 10.0 ** torch.randint(-4, 5, (count,), generator=generator)
    return [[torch.randn(shape, generator=generator) * scale[term] for shape in SHAPES] for term in range(count)]


def added(shares: list[list[int]]) -> list[list[Tensor | None]]:
    """Steps in which each worker has so many terms: step → the sum that each worker gets."""
    size, meeting = len(shares[0]), Meeting(len(shares[0]))
    found: list[list[Tensor | None]] = [[None] * size for _ in shares]

    def work(rank: int) -> None:
        shared = SharedSum(rank, meeting.gather(rank))
        for step, counts in enumerate(shares):
            first, terms = sum(counts[:rank]), terms_of(sum(counts), step)
            told, total = shared.add_up(b"%d" % rank, terms[first : first + counts[rank]], terms[0])
            assert told == [b"%d" % each for each in range(size)]
            found[step][rank] = None if total is None else total.clone()  # it is valid until the next call

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


def test_all_get_the_sum_of_one_worker_in_its_order():
    shares = [[1, 2, 2], [1, 1, 0], [1, 2, 2], [1, 3, 3]]  # a short step, and one that needs more memory
    for step, (counts, totals) in enumerate(zip(shares, added(shares), strict=True)):
        terms = terms_of(sum(counts), step)
        expected = torch.cat([tensor.reshape(-1) for tensor in ALONE.add_up(b"", terms, terms[0])[1]])
        backwards = terms_of(sum(counts), step)[::-1]
        other_order = torch.cat([tensor.reshape(-1) for tensor in ALONE.add_up(b"", backwards, [])[1]])
        assert sum(counts) < 3 or not torch.equal(expected, other_order)
        assert all(total is not None and torch.equal(total, expected) for total in totals)


def test_where_there_is_no_memory_to_share_all_are_told(monkeypatch: pytest.MonkeyPatch):
    open_file = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: open_file(b"/nowhere" if b"/fd/" in path else path, *rest))
    assert added([[1, 1]]) == [[None, None]]
    monkeypatch.delattr(os, "memfd_create")
    assert added([[1, 1]]) == [[None, None]]


def memory_to_share() -> list[str]:
    """Descriptors of this process; other threads may open and close files and sockets meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [place for place in found if place.startswith("/memfd:")]


def test_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch):
    opened, create = [], os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda *given: opened.append(given) or create(*given))
    before = memory_to_share()
    added([[1, 1], [1, 3]])
    assert opened and memory_to_share() == before
