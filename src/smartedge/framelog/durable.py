"""The durable records of a log as bytes, checked: what a copy of the log is made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from smartedge.framelog.reader import STREAMS, LogReader, segment_name
from smartedge.framelog.records import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, read_at

__all__ = ["DurableLog", "DurableSegment"]


class DurableSegment(NamedTuple):
    """A segment as far as it is durable."""

    number: int
    first_seq: int
    size: int  # bytes


class DurableLog(LogReader):
    """The files of a log up to its watermark, as it was when the log was opened or refreshed."""

    def segments(self) -> list[DurableSegment]:
        """The segments, oldest first.

        Raises:
            LogError: one is gone.
        """
        mark, found = self.mark, []
        if mark.position:
            for number in range(mark.first_segment, mark.segment + 1):
                with self._guarded("read"), self._opened(self.folder / segment_name(number), "a segment") as file:
                    size = mark.position if number == mark.segment else os.fstat(file).st_size
                found.append(DurableSegment(number, self._starts[number], size))
        return found

    def headers(self) -> bytes:
        """The file of the stream headers; empty where there is none."""
        if not self.mark.streams:
            return b""
        with self._guarded("read"), self._opened(self.folder / STREAMS, "its stream headers") as file:
            return read_at(file, 0, self.mark.streams_position)

    def records(self, segment: DurableSegment) -> Iterator[tuple[bytes, bytes]]:
        """The file header of a segment, then its records: what stands before a payload, and the payload.

        Raises:
            LogError: a record is damaged. The message names its frame.
        """
        path = self.folder / segment_name(segment.number)
        with self._guarded("read"), self._opened(path, f"frame {segment.first_seq}") as file:
            header = self._file_header(file, path, self.mark, segment.number, f"frame {segment.first_seq}")
            yield header.pack(), b""
            position, seq = FILE_HEADER_BYTES, segment.first_seq
            while position < segment.size:
                record = self._record(file, header, position, segment.size)
                if record is None:
                    raise self._damaged(seq, segment.number, position)
                data = read_at(file, position, RECORD_HEADER_BYTES + record.body)
                begin, seq = RECORD_HEADER_BYTES + record.head, record.seq
                if not record.fits(data[RECORD_HEADER_BYTES:]):
                    raise self._damaged(seq, segment.number, position)
                yield data[:begin], data[begin:]
                position += len(data)
