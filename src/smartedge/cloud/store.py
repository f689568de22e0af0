"""The feature log: the cloud's durable, append-only store of accepted frames.

A log is a folder of segment files and ``streams.jsonl`` (one accepted stream header a line). A segment is a sequence of
records. A record begins with the length of the head, the length of the payload, and the CRC-32 of both (uint32,
little-endian). Head and payload follow as they came over the link (:mod:`smartedge.wire.frame`). Frame number ``seq``
is record number ``seq`` over all segments.

A frame was checked when it arrived. When it is read back, its CRC is the check. A half-written last record, left by a
crash, is cut off when the log is opened.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from smartedge.errors import FrameError, LogError
from smartedge.files import private_folder, sync_folder
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import Message, ReceivedFrame, header_from_json, header_to_json, image_count, parse

__all__ = ["FeatureLog", "StoreHandler"]

_PREFIX = struct.Struct("<III")
_SEGMENT_BYTES = 64 * 2**20


class _Record(NamedTuple):
    """The place of a frame in the files."""

    segment: int
    offset: int  # of the head, in bytes
    head: int  # bytes
    payload: int
    checksum: int


class FeatureLog:
    """The feature log in one folder. One process writes; the training thread may read what has been appended.

    Args:
        folder: created if missing; an existing log is opened, checked record by record, and continued.

    Raises:
        LogError: a record before the last one is damaged, or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.streams: list[StreamHeader] = []  # in the order of their frames
        self._records: list[_Record] = []
        self._file: FileIO
        try:
            private_folder(folder)
            self._open_streams()
            self._open_segments()
        except OSError as error:
            raise LogError(f"{folder}: the feature log cannot be opened ({error})") from error

    @property
    def next_seq(self) -> int:
        """Sequence number of the next frame to append; also how many frames there are."""
        return len(self._records)

    def add_stream(self, header: StreamHeader) -> None:
        """Record the header under which the following frames are accepted."""
        if header not in self.streams:
            try:
                with FileIO(self.folder / "streams.jsonl", "ab") as file:
                    _write_whole(file, header_to_json(header) + b"\n")
                    os.fsync(file.fileno())
            except OSError as error:
                raise LogError(f"{self.folder}: a stream's header cannot be written ({error})") from error
            self.streams.append(header)

    def append(self, frame: ReceivedFrame) -> bool:
        """Append the bytes of ``frame`` as they came; returns False where the log holds that frame already.

        Raises:
            FrameError: frames are missing before it, or the log holds a different frame of that number.
            LogError: the disk does not take it.
        """
        head, payload = frame.head, frame.batch.payload
        checksum = zlib.crc32(payload, zlib.crc32(head))
        if frame.seq > self.next_seq:
            raise FrameError(f"frame {frame.seq} arrived, but frame {self.next_seq} is missing; resume the edge's run")
        if frame.seq < self.next_seq:
            if (len(head), len(payload), checksum) != self._records[frame.seq][2:]:
                raise FrameError(
                    f"frame {frame.seq} differs from the one that the log holds: the edge did not resume from the "
                    "state it had; start a new run"
                )
            return False
        try:
            segment = len(self._segments) - 1
            if self._file.tell() >= self.segment_bytes:
                os.fsync(self._file.fileno())
                self._file.close()
                segment += 1
                self._start_segment(segment)
            offset = self._file.tell() + _PREFIX.size
            _write_whole(self._file, _PREFIX.pack(len(head), len(payload), checksum), head, payload)
        except (OSError, ValueError) as error:  # ValueError: the file is closed after a failed write
            raise LogError(f"{self.folder}: frame {frame.seq} cannot be written ({error})") from error
        self._records.append(_Record(segment, offset, len(head), len(payload), checksum))
        return True

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        os.fsync(self._file.fileno())
        sync_folder(self.folder)

    def frame(self, seq: int) -> Frame:
        """Read one frame.

        Raises:
            LogError: there is no such frame, or the disk does not give back what was written.
        """
        if not 0 <= seq < self.next_seq:
            raise LogError(f"{self.folder}: there is no frame {seq}; the log holds {self.next_seq}")
        record, header = self._records[seq], self.header_of(seq)
        try:
            with self._segments[record.segment].open("rb") as file:
                file.seek(record.offset)
                message = Message(file.read(record.head), file.read(record.payload))
            if zlib.crc32(message.payload, zlib.crc32(message.head)) != record.checksum:
                raise LogError(f"{self.folder}: frame {seq} is damaged; restore the log from a copy")
            return parse(message, header)
        except (OSError, FrameError) as error:
            raise LogError(f"{self.folder}: frame {seq} cannot be read ({error})") from error

    def images(self, seq: int) -> int:
        """How many images frame ``seq`` holds; reads its head alone."""
        record = self._records[seq]
        with self._segments[record.segment].open("rb") as file:
            file.seek(record.offset)
            return image_count(file.read(record.head))

    def frames(self) -> Iterator[Frame]:
        """All frames, in order."""
        for seq in range(self.next_seq):
            yield self.frame(seq)

    def header_of(self, seq: int) -> StreamHeader:
        """The stream header under which frame ``seq`` was accepted."""
        place = bisect_right(self.streams, seq, key=lambda header: header.first_seq) - 1
        if place < 0:
            raise LogError(f"{self.folder}: no stream header covers frame {seq}; streams.jsonl is damaged")
        return self.streams[place]

    def truncate(self, next_seq: int) -> None:
        """Forget frame ``next_seq`` and all later ones (split learning goes back to a checkpoint)."""
        if next_seq >= self.next_seq:
            return
        segment, offset = self._records[next_seq][:2]
        self._file.close()
        for later in self._segments[segment + 1 :]:
            later.unlink()
        with self._segments[segment].open("rb+") as file:
            file.truncate(offset - _PREFIX.size)
        del self._records[next_seq:]
        del self._segments[segment + 1 :]
        self.streams = [header for header in self.streams if header.first_seq < next_seq]
        temporary = self.folder / ".streams.jsonl"
        with FileIO(temporary, "wb") as headers:
            _write_whole(headers, b"".join(header_to_json(header) + b"\n" for header in self.streams))
            os.fsync(headers.fileno())
        os.replace(temporary, self.folder / "streams.jsonl")
        sync_folder(self.folder)
        self._file = _append_to(self._segments[segment])

    def close(self) -> None:
        """Close the file that is written to."""
        self._file.close()

    def _start_segment(self, number: int) -> None:
        path = self.folder / f"{number:06d}.frames"
        self._segments.append(path)
        self._file = _append_to(path)

    def _open_streams(self) -> None:
        path = self.folder / "streams.jsonl"
        if path.exists():
            good = 0
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    self.streams.append(header_from_json(line[:-1]))
                except FrameError as error:
                    raise LogError(f"{path}: line {len(self.streams) + 1} is no stream header ({error})") from error
                good += len(line)
            os.truncate(path, good)  # a torn last line: the stream will be accepted again

    def _open_segments(self) -> None:
        self._segments = sorted(self.folder.glob("*.frames"))
        for number, path in enumerate(self._segments):
            good = self._scan(number, path)
            if good < path.stat().st_size:
                if number != len(self._segments) - 1:
                    raise LogError(f"{path}: damaged at byte {good}, and later segments exist; restore it from a copy")
                os.truncate(path, good)
        if not self._segments:
            self._start_segment(0)
        else:
            self._file = _append_to(self._segments[-1])

    def _scan(self, segment: int, path: Path) -> int:
        """Index the records of one segment; returns the byte after the last whole one.

        Raises:
            LogError: a record before the last one is damaged; the records after it would be lost.
        """
        good, size = 0, path.stat().st_size
        with path.open("rb") as file:
            while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
                head, payload, checksum = _PREFIX.unpack(prefix)
                length = head + payload
                message = file.read(min(length, size))
                if not length or len(message) != length or zlib.crc32(message) != checksum:
                    # The last record may be incomplete, or zeros: a file system may keep the size and lose the data.
                    torn = good + _PREFIX.size + length >= size or not any(prefix + message + file.read())
                    if not torn:
                        raise LogError(
                            f"{path}: damaged at byte {good}, and later frames exist; restore it from a copy"
                        )
                    break
                self._records.append(_Record(segment, good + _PREFIX.size, head, payload, checksum))
                good += _PREFIX.size + length
        return good


def _append_to(path: Path) -> FileIO:
    """Open a file for appending, unbuffered: bytes whose write failed must not be written later."""
    file = FileIO(path, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _write_whole(file: FileIO, *parts: bytes) -> None:
    """Write all of it at the end, or nothing."""
    start = file.seek(0, os.SEEK_END)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError:
        try:
            file.truncate(start)
            file.seek(start)
        except OSError:
            file.close()
        raise


class StoreHandler:
    """A :class:`~smartedge.wire.link.FrameHandler` that appends frames to a log and trains nothing."""

    def __init__(self, log: FeatureLog) -> None:
        self.log = log

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Note the stream."""
        self.log.add_stream(header)
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        """Append the frame."""
        self.log.append(frame)

    def finish(self, edge: str, header: StreamHeader) -> None:
        """Make it durable."""
        self.log.sync()

    def abort(self, edge: str, header: StreamHeader) -> None:
        """Keep what came."""
