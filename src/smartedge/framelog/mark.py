"""The durable watermark of a log: what was confirmed, and so must be there.

The file ``mark`` has two slots, each in a sector of its own. A new mark goes into one of them; where that write is
torn, the other one still holds the mark before it. When the new mark is durable it is copied into the other slot, so
that neither a torn nor a damaged slot hides it. The process that writes holds a lock on the file. Its process number
stands behind the slots, for the error that a second process gets.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from smartedge.files import sync_file
from smartedge.framelog.records import pack_checked, unpack_checked
from smartedge.locks import lock_at_once, open_lock

__all__ = ["MARK", "InUse", "Mark", "MarkFile", "read_mark"]

MARK = "mark"

_MAGIC = b"smartedge-mark1\n"
_SLOT = struct.Struct("<16s16sQQIQIIQ")
_SECTOR = 512


class Mark(NamedTuple):
    """How far a log is durable. What lies before it must be readable; what lies after it was never confirmed."""

    log: bytes  # id of the log
    generation: int  # grows with every mark
    frames: int  # every frame before this number is durable
    segment: int  # the segment that the durable part ends in
    position: int  # and the byte of it; 0: nothing was written yet
    first_segment: int  # the oldest segment that is kept
    streams: int  # stream headers that are durable
    streams_position: int  # bytes of them

    def pack(self) -> bytes:
        """One slot as bytes."""
        return pack_checked(_SLOT, (_MAGIC, *self))

    @classmethod
    def unpack(cls, data: bytes) -> Mark | None:
        """The mark in a slot; None where it is damaged."""
        magic, *fields = unpack_checked(_SLOT, data) or (None,)
        return cls(*fields) if magic == _MAGIC else None


class InUse(Exception):
    """Another process holds the lock.

    Args:
        process: its number, or 0 where it is not known.
    """

    def __init__(self, process: int) -> None:
        super().__init__(process)
        self.process = process


def read_mark(folder: Path) -> Mark | None:
    """The newest sound mark of a log; None where there is none. Needs no lock.

    Raises:
        OSError: the file cannot be read, or is not there.
    """
    return _newest((folder / MARK).read_bytes())


class MarkFile:
    """The mark of a log that this process writes. It is locked until :meth:`close`.

    Raises:
        InUse: another process, or another object of this one, writes the log.
        OSError: the file cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._file = open_lock(folder / MARK)
        try:
            if not lock_at_once(self._file):
                said = os.pread(self._file, 32, 2 * _SECTOR).split(b"\n")[0]
                raise InUse(int(said) if said.isdigit() else 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode().ljust(32, b"\n"), 2 * _SECTOR)
            self.mark = _newest(os.pread(self._file, 2 * _SECTOR, 0))
        except BaseException:
            os.close(self._file)
            raise

    def write(self, mark: Mark) -> None:
        """Write a mark, of the generation after the present one; it is durable when this returns.

        Raises:
            OSError: the disk does not take it.
        """
        new, other = (_SECTOR * ((mark.generation + slot) % 2) for slot in (0, 1))
        os.pwrite(self._file, mark.pack(), new)
        sync_file(self._file)
        os.pwrite(self._file, mark.pack(), other)
        self.mark = mark

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)


def _newest(data: bytes) -> Mark | None:
    slots = [Mark.unpack(data[start : start + _SECTOR]) for start in (0, _SECTOR)]
    return max((slot for slot in slots if slot), key=lambda mark: mark.generation, default=None)
