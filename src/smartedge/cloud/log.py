"""The feature log: the cloud's durable, append-only store of accepted frames.

A folder of segment files and ``streams.jsonl`` (one accepted stream header a line). A segment is a sequence of records:
length and CRC-32 (both uint32, little-endian), then one Arrow record batch message. Frame number ``seq`` is record
number ``seq`` over all segments. A record that a crash left half-written is cut off when the log is opened.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pyarrow as pa

from smartedge.errors import FrameError, LogError
from smartedge.files import sync_folder
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import batch_to_frame, frame_schema, frame_to_batch, header_from_json, header_to_json

__all__ = ["FeatureLog", "LogOnly"]

_PREFIX = struct.Struct("<II")
_SEGMENT_BYTES = 64 * 2**20


class FeatureLog:
    """Append, look up, cut off. One process writes; the thread that trains may read what has been appended.

    Args:
        folder: created if missing; an existing log is opened, checked record by record, and continued.

    Raises:
        LogError: a record before the last one is damaged, or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.streams: list[StreamHeader] = []  # in the order of their frames
        self._records: list[tuple[int, int, int]] = []  # segment, offset of the message, its length
        self._file: FileIO
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open_streams()
            self._open_segments()
        except OSError as error:
            raise LogError(f"{folder}: the feature log cannot be opened ({error})") from error

    @property
    def next_seq(self) -> int:
        """Sequence number of the next frame to append; also how many frames there are."""
        return len(self._records)

    def add_stream(self, header: StreamHeader) -> None:
        """Note the header under which the following frames were accepted."""
        if header not in self.streams:
            try:
                with FileIO(self.folder / "streams.jsonl", "ab") as file:
                    _write_whole(file, header_to_json(header) + b"\n")
                    os.fsync(file.fileno())
            except OSError as error:
                raise LogError(f"{self.folder}: a stream's header cannot be written ({error})") from error
            self.streams.append(header)

    def append(self, frame: Frame, header: StreamHeader) -> bool:
        """Append ``frame``; returns False where it is a repetition of what is there already.

        Raises:
            FrameError: frames are missing before it, or the log holds a different frame of that number.
            LogError: the disk does not take it.
        """
        message = frame_to_batch(frame, header).serialize().to_pybytes()
        checksum = zlib.crc32(message)
        if frame.seq > self.next_seq:
            raise FrameError(f"frame {frame.seq} arrived, but frame {self.next_seq} is missing; resume the edge's run")
        if frame.seq < self.next_seq:
            if zlib.crc32(self._read(frame.seq)) != checksum:
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
            _write_whole(self._file, _PREFIX.pack(len(message), checksum) + message)
        except (OSError, ValueError) as error:  # ValueError: closed, where even going back failed
            raise LogError(f"{self.folder}: frame {frame.seq} cannot be written ({error})") from error
        self._records.append((segment, offset, len(message)))
        return True

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        os.fsync(self._file.fileno())
        sync_folder(self.folder)

    def frame(self, seq: int) -> Frame:
        """Read and check one frame.

        Raises:
            LogError: there is no such frame, or the disk does not give it back.
        """
        if not 0 <= seq < self.next_seq:
            raise LogError(f"{self.folder}: there is no frame {seq}; the log holds {self.next_seq}")
        header = self.header_of(seq)
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(self._read(seq)), frame_schema(header))
            frame = batch_to_frame(batch, header)
            if frame.seq != seq:
                raise FrameError(f"it says that it is frame {frame.seq}")
            return frame
        except (pa.ArrowInvalid, FrameError) as error:
            raise LogError(f"{self.folder}: frame {seq} is damaged ({error})") from error

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
        segment, offset, _ = self._records[next_seq]
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

    def _read(self, seq: int) -> bytes:
        segment, offset, length = self._records[seq]
        with self._segments[segment].open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _start_segment(self, number: int) -> None:
        path = self.folder / f"{number:06d}.frames"
        self._segments.append(path)
        self._file = _append_to(path)

    def _open_streams(self) -> None:
        path = self.folder / "streams.jsonl"
        if path.exists():
            good = 0
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    header = header_from_json(line.removesuffix(b"\n"))
                except FrameError:
                    break
                if not line.endswith(b"\n"):
                    break
                self.streams.append(header)
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
            LogError: a record is damaged that is not the last one: what follows it would be lost with it.
        """
        good, size = 0, path.stat().st_size
        with path.open("rb") as file:
            while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
                length, checksum = _PREFIX.unpack(prefix)
                message = file.read(min(length, size))
                if not length or len(message) != length or zlib.crc32(message) != checksum:
                    # The last record may be torn, or may be zeros that a file system made of a size without data.
                    torn = good + _PREFIX.size + length >= size or not any(prefix + message + file.read())
                    if not torn:
                        raise LogError(
                            f"{path}: damaged at byte {good}, and later frames exist; restore it from a copy"
                        )
                    break
                self._records.append((segment, good + _PREFIX.size, length))
                good += _PREFIX.size + length
        return good


def _append_to(path: Path) -> FileIO:
    """Unbuffered, so that what could not be written does not come later."""
    file = FileIO(path, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _write_whole(file: FileIO, data: bytes) -> None:
    """Write all of it at the end, or nothing."""
    start = file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        try:
            file.truncate(start)
            file.seek(start)
        except OSError:
            file.close()
        raise


class LogOnly:
    """A :class:`~smartedge.wire.link.FrameHandler` that appends what comes to a log, and trains nothing."""

    def __init__(self, log: FeatureLog) -> None:
        self.log = log

    def accept(self, header: StreamHeader, *, exchange: bool) -> None:
        """Note the stream."""
        self.log.add_stream(header)

    def ingest(self, header: StreamHeader, frame: Frame) -> None:
        """Append the frame."""
        self.log.append(frame, header)

    def finish(self, header: StreamHeader) -> None:
        """Make it durable."""
        self.log.sync()

    def abort(self, header: StreamHeader) -> None:
        """Keep what came."""
