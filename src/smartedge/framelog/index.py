"""Where each frame of a log lies in its files. Thirty bytes of memory for a frame."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from smartedge.framelog.records import Record

__all__ = ["Index", "Place"]

_NOWHERE = 2**32 - 1  # the segment of a frame that never came


class Place(NamedTuple):
    """Where a frame lies."""

    segment: int
    position: int  # of its head, in bytes
    stream: int
    head: int  # bytes
    payload: int
    checksum: int


class Index:
    """The places of the frames from :attr:`first` on, by number."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self._segment = array("L")
        self._position = array("Q")
        self._stream = array("L")
        self._head = array("L")
        self._payload = array("L")
        self._checksum = array("L")

    @property
    def end(self) -> int:
        """The number of the next frame to come."""
        return self.first + len(self._checksum)

    def add(self, segment: int, position: int, record: Record) -> None:
        """Add the next frame; ``position`` is that of its head."""
        self._extend(segment, position, record.stream, record.head, record.payload, record.checksum)

    def add_gap(self, end: int) -> None:
        """Note that the frames before ``end`` never came."""
        while self.end < end:
            self._extend(_NOWHERE, 0, 0, 0, 0, 0)

    def place(self, seq: int) -> Place | None:
        """Where frame ``seq`` lies, which must be one of this index; None where it never came."""
        at = seq - self.first
        if self._segment[at] == _NOWHERE:
            return None
        return Place(*(column[at] for column in self._columns))

    def gaps(self) -> list[tuple[int, int]]:
        """Runs of frames that never came: the first one, and the one after the last."""
        found: list[tuple[int, int]] = []
        for at, segment in enumerate(self._segment):
            if segment == _NOWHERE:
                seq = self.first + at
                if found and found[-1][1] == seq:
                    found[-1] = (found[-1][0], seq + 1)
                else:
                    found.append((seq, seq + 1))
        return found

    def cut(self, end: int) -> None:
        """Forget frame ``end`` and all later ones."""
        for column in self._columns:
            del column[max(0, end - self.first) :]

    def drop(self, first: int) -> None:
        """Forget the frames before ``first``."""
        for column in self._columns:
            del column[: first - self.first]
        self.first = first

    @property
    def _columns(self) -> tuple[array[int], ...]:
        return self._segment, self._position, self._stream, self._head, self._payload, self._checksum

    def _extend(self, *values: int) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
