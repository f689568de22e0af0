"""Adds up what the workers of one machine have computed, in memory that all of them see.

Each worker writes its terms there, and adds all terms for one part of the numbers. So no number crosses a socket, and
every sum has the order of the terms, whoever computed it.
"""

from __future__ import annotations

import contextlib
import mmap
import operator
import os
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["SharedSum"]

_COUNT_BYTES = 4
_PIECE = 2**16  # numbers that are added at a time, so that they stay in the processor's cache


class SharedSum:
    """Terms are vectors of one length and dtype. All workers must call the methods, in the same order.

    Args:
        rank: number of this worker.
        gather: gives the data of all workers, in their order, when all have called it.
    """

    def __init__(self, rank: int, gather: Callable[[bytes], list[bytes]]) -> None:
        self._rank, self._gather = rank, gather
        self._room: list[int] = []  # worker -> how many terms of it there is room for
        self._rows = torch.empty(0, 0)  # a row for each of these terms, and the sum as the last one

    def add_up(
        self, data: bytes, terms: Sequence[Sequence[Tensor]], like: Sequence[Tensor]
    ) -> tuple[list[bytes], Tensor | None]:
        """The data of all workers; and the sum of their terms, in their order. None: no memory can be shared here.

        All workers get the same memory. It must not be changed, and is valid until the next call.

        Args:
            data: what this worker tells the others.
            terms: those of this worker, in order: each a list of tensors of one dtype, on the CPU. May be empty.
            like: tensors of the shapes and the dtype of a term.
        """
        length = sum(tensor.numel() for tensor in like)
        if self._rows.shape[1] == length and len(terms) <= self._room[self._rank]:
            self._write(terms)  # the others have their last sum, so they do not read these rows any more
        told = self._gather(len(terms).to_bytes(_COUNT_BYTES, "little") + data)
        counts = [int.from_bytes(each[:_COUNT_BYTES], "little") for each in told]
        found = [each[_COUNT_BYTES:] for each in told]
        if self._rows.shape[1] != length or any(map(operator.gt, counts, self._room)):  # every worker sees this
            rows = self._shared(sum(counts) + 1, length, like[0].dtype)
            if rows is None:
                return found, None
            self._rows, self._room = rows, counts
            self._write(terms)
            self._gather(b"")  # all terms are there
        begins = accumulate(self._room, initial=0)
        self._add([begin + term for begin, count in zip(begins, counts, strict=False) for term in range(count)])
        self._gather(b"")  # all parts of the sum are there
        return found, self._rows[-1]

    def _write(self, terms: Sequence[Sequence[Tensor]]) -> None:
        for row, term in enumerate(terms, start=sum(self._room[: self._rank])):
            torch.cat([tensor.reshape(-1) for tensor in term], out=self._rows[row])

    def _add(self, rows: Sequence[int]) -> None:
        """This worker's part of the sum of some rows, in their order."""
        length = self._rows.shape[1]
        each = -(-length // len(self._room))
        for begin in range(self._rank * each, min((self._rank + 1) * each, length), _PIECE):
            end = min(begin + _PIECE, (self._rank + 1) * each, length)
            total, *others = (self._rows[row, begin:end] for row in rows)
            for other in others:
                total = torch.add(total, other, out=self._rows[-1, begin:end])
            if not others:
                self._rows[-1, begin:end] = total

    def _shared(self, rows: int, length: int, dtype: torch.dtype) -> Tensor | None:
        """Memory of the first worker, which the others open. The system frees it when no worker has it any more."""
        size, file, place = rows * length * dtype.itemsize, -1, b""
        if self._rank == 0:
            with contextlib.suppress(AttributeError, OSError):  # not Linux, or out of memory
                file = os.memfd_create("smartedge")
                os.ftruncate(file, size)
                place = f"/proc/{os.getpid()}/fd/{file}".encode()
        place = self._gather(place)[0]
        if self._rank > 0 and place:
            with contextlib.suppress(OSError):  # the first worker is in another container
                file = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not place or b"" in self._gather(b"" if file < 0 else b"opened"):
                return None
            return torch.frombuffer(mmap.mmap(file, size), dtype=dtype).view(rows, length)
        finally:
            if file >= 0:
                os.close(file)
