"""Reads a log, also while another process writes it. No lock is needed, since only what is durable is read."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from smartedge.errors import LogError
from smartedge.files import disk_error
from smartedge.framelog.index import Index, Place
from smartedge.framelog.mark import MARK, Mark, read_mark
from smartedge.framelog.records import (
    FILE_HEADER_BYTES,
    FRAME,
    GAP,
    RECORD_HEADER_BYTES,
    STREAM,
    FileHeader,
    Record,
    read_at,
    sound_records,
)

__all__ = ["STREAMS", "STREAMS_NUMBER", "LogReader", "Stream", "segment_name", "segments_of"]

STREAMS = "streams"
STREAMS_NUMBER = 2**32 - 1  # in the place of a segment's number


class Stream(NamedTuple):
    """A stream header as it came, the number of its first frame, and the header's size in bytes.

    A reader that has made something of the header may let go of its bytes.
    """

    header: bytes
    first_seq: int
    size: int


def segment_name(number: int) -> str:
    """The name of a segment's file."""
    return f"{number:06d}.frames"


def segments_of(folder: Path) -> dict[int, Path]:
    """The segments that lie in a folder, by number."""
    return {int(path.stem): path for path in folder.glob("*.frames") if path.stem.isdecimal()}


class LogReader:
    """The durable frames of a log. :meth:`refresh` finds those that became durable since.

    Methods may be called from any thread.

    Args:
        folder: of the log.
        edge: whose frames these are; errors name it.

    Raises:
        LogError: there is no log, a file of it is missing, or a record that was confirmed is damaged.
    """

    def __init__(self, folder: Path, edge: str) -> None:
        self.folder = folder
        self.edge = edge
        self.stream_headers: list[Stream] = []  # in the order of their frames
        self._lock = threading.RLock()
        self._index = Index()
        self._mark: Mark | None = None
        self._segment = 0  # where the index ends
        self._position = 0
        self._streams_position = 0
        self._starts: dict[int, int] = {}  # segment -> its first frame
        self.refresh()

    # -- what there is

    @property
    def mark(self) -> Mark:
        """The watermark. A copy of a log has none."""
        assert self._mark is not None  # the constructor reads it
        return self._mark

    @property
    def where(self) -> str:
        """Where the log lies; errors name it."""
        return str(self.folder)

    @property
    def next_seq(self) -> int:
        """Number of the next frame to come."""
        return self._index.end

    @property
    def first_seq(self) -> int:
        """Number of the oldest frame that is kept; larger than 0 where earlier ones were dropped after use."""
        return self._index.first

    @property
    def durable(self) -> int:
        """The watermark: every frame before this number is on the disk for good."""
        return self._mark.frames if self._mark else 0

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Runs of frames that never came: the first one, and the one after the last."""
        with self._lock:
            return self._index.gaps()

    @property
    def total_bytes(self) -> int:
        """Size of all files of frames."""
        return sum(path.stat().st_size for path in segments_of(self.folder).values())

    def read(self, seq: int) -> tuple[bytes, bytes]:
        """Head and payload of frame ``seq``, as they came.

        Raises:
            LogError: there is no such frame, or the disk does not give back what was written.
        """
        place = self._place(seq)
        body = self._bytes(place, seq, place.head + place.payload)
        if len(body) != place.head + place.payload or zlib.crc32(body) != place.checksum:
            raise self._damaged(seq, place.segment, place.position)
        return body[: place.head], body[place.head :]

    def head(self, seq: int) -> bytes:
        """The head of frame ``seq``. It is not checked.

        Raises:
            LogError: there is no such frame, or the disk does not give it back.
        """
        place = self._place(seq)
        return self._bytes(place, seq, place.head)

    def size(self, seq: int) -> int:
        """Bytes of head and payload of frame ``seq``."""
        place = self._place(seq)
        return place.head + place.payload

    def came(self, seq: int) -> bool:
        """Whether frame ``seq`` is in the log: not before it, after it, or in a gap."""
        with self._lock:
            return self.first_seq <= seq < self.next_seq and self._index.place(seq) is not None

    def stream_of(self, seq: int) -> int:
        """The number of the stream by which frame ``seq`` came."""
        return self._place(seq).stream

    def damages(self) -> Iterator[LogError]:
        """Read every frame; yields an error for each one that is damaged."""
        for seq in range(self.first_seq, self.next_seq):
            try:
                if self.came(seq):
                    self.read(seq)
            except LogError as error:
                yield error

    def refresh(self) -> None:
        """Find what became durable since the log was opened or refreshed.

        Raises:
            LogError: as from the constructor.
        """
        with self._lock, self._guarded("read"):
            mark = self._newest_mark()
            known = self._mark
            if mark == known:
                return
            if known is None or mark.frames < self.next_seq or mark.first_segment != known.first_segment:
                self._start_over(mark)  # also after a part was cut off or dropped
            self._read_streams(mark)
            self._read_segments(mark)
            self._mark = mark

    # -- for the writer, which goes on where these end

    def _newest_mark(self) -> Mark:
        try:
            mark = read_mark(self.folder)
        except FileNotFoundError as error:
            if self._files():
                raise self._mark_is_gone() from error
            raise LogError(f"{self.folder}: edge {self.edge!r}: there is no log") from error
        if mark is None:
            raise self._no_mark()
        return mark

    def _no_mark(self) -> LogError:
        return LogError(
            f"{self.folder / MARK}: edge {self.edge!r}: the durable watermark is damaged, so it is not known which "
            "frames must be there; restore the log from a copy"
        )

    def _mark_is_gone(self) -> LogError:
        return LogError(
            f"{self.folder}: edge {self.edge!r}: the file 'mark' is gone, which says what must be there; restore the "
            "log from a copy"
        )

    def _files(self) -> bool:
        return bool(segments_of(self.folder)) or (self.folder / STREAMS).exists()

    def _start_over(self, mark: Mark) -> None:
        self._index = Index()
        self._segment, self._position, self._starts = mark.first_segment, 0, {}
        self.stream_headers, self._streams_position = [], 0

    def _read_streams(self, mark: Mark) -> None:
        """Read the durable stream headers that are not known yet."""
        path = self.folder / STREAMS
        if mark.streams == len(self.stream_headers):
            return
        with self._opened(path, "its stream headers") as file:
            header = self._file_header(file, path, mark, STREAMS_NUMBER, "its stream headers")
            self._read_streams_to(mark.streams_position, file, header)
        if (len(self.stream_headers), self._streams_position) != (mark.streams, mark.streams_position):
            raise LogError(
                f"{path}: edge {self.edge!r}, stream header {len(self.stream_headers)}: damaged or missing at byte "
                f"{self._streams_position}, although it was confirmed; restore the log from a copy"
            )

    def _read_streams_to(self, end: int, file: int, header: FileHeader) -> None:
        """Read the stream headers that are not known yet, up to byte ``end`` of their file, or to a damaged one."""
        self._streams_position = self._streams_position or FILE_HEADER_BYTES
        data = read_at(file, self._streams_position, max(0, end - self._streams_position))
        self._streams_position += self._add_streams(data, header)

    def _add_streams(self, data: bytes, header: FileHeader) -> int:
        """Add the stream headers in ``data``, up to one that is damaged. Returns how many bytes they take."""
        taken = 0
        for record, body in sound_records(data, header.seed):
            if record.kind != STREAM or record.stream != len(self.stream_headers):
                break
            self.stream_headers.append(Stream(body, record.seq, record.body))
            taken += RECORD_HEADER_BYTES + record.body
        return taken

    def _read_segments(self, mark: Mark) -> None:
        """Find the durable frames that are not known yet. The bodies are checked when they are read."""
        while (self._segment, self._position) < (mark.segment, mark.position):
            path = self.folder / segment_name(self._segment)
            with self._opened(path, f"frame {self.next_seq}") as file:
                last = self._segment == mark.segment
                end = mark.position if last else os.fstat(file).st_size
                header = self._file_header(file, path, mark, self._segment, f"frame {self.next_seq}")
                if self._position == 0:
                    self._begin_segment(header, path, mark)
                while self._position < end:
                    if not self._next_frame(file, header, end, check=False):
                        raise self._damaged(self.next_seq, self._segment, self._position)
                if os.fstat(file).st_size < end:
                    raise self._damaged(self.next_seq, self._segment, self._position)
            if last:
                break
            self._segment, self._position = self._segment + 1, 0
        if self.next_seq != mark.frames:
            raise self._damaged(self.next_seq, self._segment, self._position)

    def _begin_segment(self, header: FileHeader, path: Path, mark: Mark) -> None:
        if self._segment == mark.first_segment:
            self._index = Index(header.first_seq)  # earlier frames were dropped after use
        if header.first_seq != self.next_seq:
            raise LogError(
                f"{path}: edge {self.edge!r}, frame {self.next_seq}: missing, although it was confirmed; this file "
                f"begins with frame {header.first_seq}; restore the log from a copy"
            )
        self._position = FILE_HEADER_BYTES
        self._starts[self._segment] = self.next_seq

    def _next_frame(self, file: int, header: FileHeader, limit: int, *, check: bool) -> bool:
        """Add the record at the end of the index to it. False where it is not sound, or reaches beyond ``limit``.

        Args:
            file: the segment.
            header: the segment's.
            limit: bytes of the file that count.
            check: whether to check the bodies of frames too.
        """
        record = self._record(file, header, self._position, limit)
        if record is None or record.seq != self.next_seq or record.kind not in (FRAME, GAP):
            return False
        at = self._position + RECORD_HEADER_BYTES
        if check or record.kind == GAP:
            body = read_at(file, at, record.body)
            if not record.fits(body):
                return False
        if record.kind == GAP:
            self._index.add_gap(int.from_bytes(body, "little"))
        elif record.stream >= len(self.stream_headers):
            return False
        else:
            self._index.add(self._segment, at, record)
        self._position = at + record.body
        return True

    @staticmethod
    def _record(file: int, header: FileHeader, position: int, limit: int) -> Record | None:
        record = Record.unpack(read_at(file, position, RECORD_HEADER_BYTES), header.seed)
        if record is None or position + RECORD_HEADER_BYTES + record.body > limit:
            return None
        return record

    def _file_header(self, file: int, path: Path, mark: Mark, number: int, what: str) -> FileHeader:
        header = FileHeader.unpack(read_at(file, 0, FILE_HEADER_BYTES))
        if header is None or (header.log, header.number) != (mark.log, number):
            state = "damaged" if header is None else "of another file, or of another log"
            raise LogError(
                f"{path}: edge {self.edge!r}, {what}: the header of the file is {state}; restore the log from a copy"
            )
        return header

    @contextmanager
    def _opened(self, path: Path, what: str) -> Iterator[int]:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LogError(
                f"{path}: edge {self.edge!r}, {what}: the file is gone, although it was confirmed; restore the log "
                "from a copy"
            ) from error
        try:
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Turn errors of the disk into those of the log."""
        try:
            yield
        except OSError as error:
            raise LogError(
                f"{self.folder}: edge {self.edge!r}: the log cannot be {doing}: {disk_error(error)}"
            ) from error

    def _place(self, seq: int) -> Place:
        with self._lock:
            if self.first_seq <= seq < self.next_seq:
                if (place := self._index.place(seq)) is not None:
                    return place
                why = "it never came, and is marked as missing"
            elif 0 <= seq < self.first_seq:
                why = "it was dropped after use (store.keep)"
            else:
                why = f"the log holds {self.next_seq}"
        raise LogError(f"{self.where}: edge {self.edge!r}: there is no frame {seq}; {why}")

    def _bytes(self, place: Place, seq: int, count: int) -> bytes:
        path = self.folder / segment_name(place.segment)
        with self._guarded("read"), self._opened(path, f"frame {seq}") as file:
            return read_at(file, place.position, count)

    def _damaged(self, seq: int, segment: int, position: int) -> LogError:
        return LogError(
            f"{self.folder / segment_name(segment)}: edge {self.edge!r}, frame {seq}: damaged or missing at byte "
            f"{position}, although it was confirmed; restore the log from a copy"
        )
