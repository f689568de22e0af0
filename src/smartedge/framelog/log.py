"""Writes a log. What :meth:`FrameLog.sync` has confirmed is never lost in silence.

Frames are appended without waiting for the disk. One :meth:`FrameLog.sync` makes all of them durable, and then moves
the durable watermark (:mod:`smartedge.framelog.mark`). When a log is opened, everything below the watermark must be
there. Only what lies above it may be cut off, since nobody was told that it was kept.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from bisect import bisect_right
from operator import attrgetter
from pathlib import Path

from smartedge.errors import FrameError, LogError
from smartedge.files import disk_error, sync_file, sync_folder, try_folder
from smartedge.framelog.mark import Mark
from smartedge.framelog.opened import OpenLog
from smartedge.framelog.reader import STREAMS, STREAMS_NUMBER, Stream, segment_name, segments_of
from smartedge.framelog.records import (
    FILE_HEADER_BYTES,
    FRAME,
    GAP,
    RECORD_HEADER_BYTES,
    STREAM,
    Bytes,
    FileHeader,
    LogFile,
)

__all__ = ["FrameLog", "check_disk"]

_first_seq = attrgetter("first_seq")

_SEGMENT_BYTES = 64 * 2**20
_SPARE_BYTES = 64 * 2**20  # left free on the disk: for checkpoints, and so that other programs go on


class FrameLog(OpenLog):
    """The log in one folder, open for writing by this object alone.

    One thread appends. Others may read, and call :meth:`sync`, at the same time.

    Args:
        folder: made where it is missing; an existing log is opened, checked, and continued.
        edge: whose frames these are; errors name it.
        segment_bytes: a file of this size is followed by a new one.
        max_bytes: the log takes no more than this; None: as much as the disk holds.

    Raises:
        LogError: another process writes the log; something that was confirmed is missing or damaged; or the folder
            cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        edge: str,
        *,
        segment_bytes: int = _SEGMENT_BYTES,
        max_bytes: int | None = None,
    ) -> None:
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        super().__init__(folder, edge)
        try:
            if (self.next_seq, len(self.stream_headers)) != (self.mark.frames, self.mark.streams):
                self._sync()
        except BaseException:
            self.close()
            raise

    # -- appending

    def add_stream(self, header: bytes, first_seq: int) -> None:
        """Add the header of the stream that begins with frame ``first_seq``. Durable with the next :meth:`sync`.

        Raises:
            LogError: the disk does not take it.
        """
        number = len(self.stream_headers)
        with self._lock, self._writing(f"stream header {number}"):
            self._check_room(len(header), f"stream header {number}")
            if self._streams_file is None:
                self._streams_file = self._new_file(self.folder / STREAMS, STREAMS_NUMBER, 0)
            self._streams_file.append(STREAM, number, first_seq, header)
            self._streams_position = self._streams_file.end
            self.stream_headers.append(Stream(header, first_seq, len(header)))

    def append(self, seq: int, head: Bytes, payload: Bytes) -> bool:
        """Append frame ``seq`` as it came, to the last stream that begins with it or before. Durable with :meth:`sync`.

        Args:
            seq: must be :attr:`next_seq`, or the number of a frame that the log holds.
            head: kept as it is.
            payload: kept as it is.

        Returns:
            False where the log holds that frame already, equal in every byte; or where it dropped the frame after use,
            or had given it up as missing.

        Raises:
            FrameError: frames are missing before it, the log holds a different frame of that number, or no stream
                begins with it or before.
            LogError: the disk does not take it, or the log is full.
        """
        with self._lock:
            if seq < self.next_seq:
                self._check_equal(seq, (len(head), len(payload), zlib.crc32(payload, zlib.crc32(head))))
                return False
            with self._writing(f"frame {seq}"):  # a log that the disk has failed takes none, whatever its number
                if seq > self.next_seq:
                    raise FrameError(
                        f"frame {seq} arrived, but frame {self.next_seq} is missing; resume the edge's run"
                    )
                stream = bisect_right(self.stream_headers, seq, key=_first_seq) - 1
                if stream < 0:
                    raise FrameError(f"frame {seq}: the log has no header of its stream")
                file = self._file_for(seq, len(head) + len(payload))
                at = file.end + RECORD_HEADER_BYTES
                record = file.append(FRAME, stream, seq, head, payload)
                self._wrote(file)
            self._index.add(self._segment, at, record)
        return True

    def mark_gap(self, end: int) -> None:
        """Note that the frames from :attr:`next_seq` to ``end`` - 1 will never come. Frame ``end`` is next then.

        Raises:
            LogError: the disk does not take it, or the log is full.
        """
        with self._lock:
            if end > self.next_seq:
                body = end.to_bytes(8, "little")
                with self._writing(f"frame {self.next_seq}"):
                    file = self._file_for(self.next_seq, len(body))
                    file.append(GAP, 0, self.next_seq, body)
                    self._wrote(file)
                self._index.add_gap(end)

    def full_for(self, body: int) -> str | None:
        """Why a frame whose head and payload have so many bytes together has no room, and what to do; None: it has."""
        count = FILE_HEADER_BYTES + RECORD_HEADER_BYTES + body  # it may begin a file
        if self.max_bytes is not None and self._size + count > self.max_bytes:
            used = f"{self._size} bytes of {self.max_bytes} are used"
            return f"{used}: raise store.max_bytes (in the cloud) or spool.max_bytes (on the edge)"
        with self._guarded("written"):
            return _lacks_room(self.folder, count)

    def sync(self) -> int:
        """Return when everything appended before the call is durable, with the watermark moved. Returns the watermark.

        Calls from several threads at a time share one wait for the disk.

        Raises:
            LogError: the disk does not take it. The log is of no more use then; open it again.
        """
        target = (self.next_seq, len(self.stream_headers))
        with self._syncing:
            assert self._mark is not None
            if (self._mark.frames, self._mark.streams) < target or self._failure:
                self._sync()
            return self._mark.frames

    def truncate(self, next_seq: int) -> None:
        """Forget frame ``next_seq`` and all later ones, and the streams that began there or later.

        Raises:
            LogError: the disk does not take it.
        """
        with self._syncing, self._lock:
            if self.first_seq <= next_seq < self.next_seq:
                self._sync()
                self._cut(next_seq)

    def forget_before(self, seq: int) -> None:
        """Drop files all of whose frames come before ``seq``: they were used and are not needed again.

        Raises:
            LogError: the disk does not take it.
        """
        with self._syncing, self._lock, self._writing("the removal of used frames"):
            mark = self.mark
            kept = [number for number, start in self._starts.items() if start <= seq and number <= mark.segment]
            first = max(kept, default=0)
            if seq <= mark.frames and first > mark.first_segment:
                self._set_mark(mark._replace(first_segment=first))
                self._index.drop(self._starts[first])
                self._remove_segments(lambda number: number < first)

    # -- writing

    def _set_mark(self, mark: Mark) -> None:
        """Put a mark in place of the present one; it is durable when this returns."""
        assert self._mark_file is not None
        mark = mark._replace(generation=self.mark.generation + 1)
        self._mark_file.write(mark)
        self._mark = mark

    def _sync(self) -> None:
        with self._syncing:
            with self._lock, self._writing("what was appended"):
                mark = self.mark._replace(
                    frames=self.next_seq,
                    segment=self._segment,
                    position=self._position,
                    streams=len(self.stream_headers),
                    streams_position=self._streams_position,
                )
                ended, self._ended = self._ended, []
                new_files, self._new_files = self._new_files, False
                files = [*ended, self._file, self._streams_file if mark.streams != self.mark.streams else None]
            try:
                for file in files:
                    if file is not None:
                        sync_file(file.descriptor)
                if new_files:
                    sync_folder(self.folder)
            except OSError as error:
                given_up = self._give_up(error)
                self._cut_off_what_is_not_durable()
                raise given_up from error
            finally:
                for each in ended:
                    each.close()
            try:
                self._set_mark(mark)
            except OSError as error:
                # The frames are durable, and the next opening may find the new mark. So they must stay.
                raise self._give_up(error) from error

    def _give_up(self, error: OSError) -> LogError:
        self._failure = f"the disk did not take what was appended: {disk_error(error)}"
        return LogError(
            f"{self.folder}: edge {self.edge!r}: {self._failure}; frames before {self.mark.frames} are safe; "
            "continue with --resume"
        )

    def _cut_off_what_is_not_durable(self) -> None:
        """After a failed sync the system may forget what it did not write, and not say so again.

        So neither readers nor the next opening must take for sound what is only in memory.
        """
        durable = self.mark
        with self._lock:
            self._index.cut(durable.frames)
            del self.stream_headers[durable.streams :]
        ends = {STREAMS: durable.streams_position, segment_name(durable.segment): durable.position}
        ends |= {segment_name(number): 0 for number in segments_of(self.folder) if number > durable.segment}
        for name, end in ends.items():
            with contextlib.suppress(OSError):
                os.truncate(self.folder / name, end)

    def _check_equal(self, seq: int, facts: tuple[int, int, int]) -> None:
        """Refuse a frame that came before and was another one then."""
        if seq >= self.first_seq and (place := self._index.place(seq)) and place[3:] != facts:
            raise FrameError(
                f"frame {seq} differs from the one that the log holds: the edge did not resume from the state it had; "
                "start a new run"
            )

    def _file_for(self, seq: int, body: int) -> LogFile:
        """The segment that frame ``seq`` goes to, with room for a body of so many bytes; a new one after a full one."""
        self._check_room(body, f"frame {seq}")
        if self._file is None or self._file.end >= self.segment_bytes:
            number = self._segment if self._file is None else self._segment + 1
            self._go_on_in(self._new_file(self.folder / segment_name(number), number, seq))
            self._size += FILE_HEADER_BYTES
        assert self._file is not None
        return self._file

    def _wrote(self, file: LogFile) -> None:
        self._size += file.end - self._position
        self._position = file.end

    def _new_file(self, path: Path, number: int, first_seq: int) -> LogFile:
        self._new_files = True
        return LogFile.new(path, FileHeader(self.mark.log, number, first_seq))

    def _check_room(self, body: int, what: str) -> None:
        """Refuse before the disk is full, or the log's limit is exceeded."""
        if (reason := self.full_for(body)) is not None:
            raise LogError(
                f"{self.folder}: edge {self.edge!r}, {what}: {reason}. Then the run goes on; where it has ended, "
                "continue it with --resume"
            )

    # -- cutting

    def _cut(self, next_seq: int) -> None:
        place = self._index.place(next_seq)
        if place is None:
            raise LogError(f"{self.folder}: edge {self.edge!r}: cannot be cut at frame {next_seq}, which never came")
        streams = [stream for stream in self.stream_headers if stream.first_seq < next_seq]
        streams_end = FILE_HEADER_BYTES + sum(RECORD_HEADER_BYTES + stream.size for stream in streams)
        end = place.position - RECORD_HEADER_BYTES
        with self._writing("the removal of later frames"):
            # The mark first: after a crash in between, what lies above it may stay or go.
            self._set_mark(
                self.mark._replace(
                    frames=next_seq,
                    segment=place.segment,
                    position=end,
                    streams=len(streams),
                    streams_position=streams_end,
                )
            )
            if place.segment != self._segment:
                assert self._file is not None
                self._file.close()
                self._file = LogFile.open(self.folder / segment_name(place.segment))
                self._segment = place.segment
                self._remove_segments(lambda number: number > place.segment)
            assert self._file is not None and self._streams_file is not None
            self._size -= self._file.cut_off(end)
            self._streams_file.cut_off(streams_end)
            self._position, self._streams_position = end, streams_end
        self._index.cut(next_seq)
        self.stream_headers = streams


def check_disk(folder: Path) -> None:
    """Refuse the folder of a log, which need not be there yet, if the log could not be written there now.

    Raises:
        LogError: the disk is nearly full, or cannot be written.
    """
    try:
        reason = _lacks_room(try_folder(folder), 0)
    except OSError as error:
        reason = disk_error(error)
    if reason is not None:
        raise LogError(f"{folder}: no frames can be written there: {reason}")


def _lacks_room(folder: Path, count: int) -> str | None:
    """Why the disk of a folder has no room for so many bytes, and what to do; None: it has."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free >= count + _SPARE_BYTES:
        return None
    return f"{free} bytes are free on the disk, and {_SPARE_BYTES} must stay free: free space on it"
