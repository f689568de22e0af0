"""A log that is opened for writing: locked, checked, and without what a crash left above the watermark."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from smartedge.errors import LogError
from smartedge.files import disk_error, private_folder, sync_folder
from smartedge.framelog.mark import MARK, InUse, Mark, MarkFile
from smartedge.framelog.reader import STREAMS, STREAMS_NUMBER, LogReader, segment_name, segments_of
from smartedge.framelog.records import FILE_HEADER_BYTES, LogFile

__all__ = ["OpenLog"]

_log = logging.getLogger(__name__)


class OpenLog(LogReader):
    """The base of :class:`~smartedge.framelog.log.FrameLog`: the files that it appends to.

    Args:
        folder: made where it is missing; an existing log is opened, checked, and continued.
        edge: whose frames these are; errors name it.

    Raises:
        LogError: another process writes the log; something that was confirmed is missing or damaged; or the folder
            cannot be used.
    """

    def __init__(self, folder: Path, edge: str) -> None:
        self.folder, self.edge = folder, edge
        self._syncing = threading.RLock()  # taken before _lock
        self._failure: str | None = None
        self._file: LogFile | None = None  # the segment that is written to
        self._streams_file: LogFile | None = None
        self._ended: list[LogFile] = []  # earlier segments that are not yet durable
        self._new_files = False  # their names are not yet durable
        self._size = 0
        self._mark_file: MarkFile | None = self._locked()
        try:
            super().__init__(folder, edge)
            with self._guarded("opened"):
                self._recover()
                self._size = sum(path.stat().st_size for path in segments_of(folder).values())
        except BaseException:
            self.close()
            raise

    @property
    def total_bytes(self) -> int:
        """Size of all files of frames."""
        return self._size

    @property
    def failed(self) -> bool:
        """Whether it takes nothing more: the disk has failed it, or it was closed."""
        return self._failure is not None

    def close(self) -> None:
        """Close the files and release the lock. What was not synced may be lost."""
        for file in (self._file, self._streams_file, *self._ended):
            if file is not None:
                file.close()
        self._file = self._streams_file = None
        self._ended = []
        self._failure = "the log was closed"
        if self._mark_file is not None:
            self._mark_file.close()
            self._mark_file = None

    # -- opening

    def _locked(self) -> MarkFile:
        """The mark, locked. A new log gets its first one, before any other file."""
        with self._guarded("opened"):
            private_folder(self.folder)
            if self._files() and not (self.folder / MARK).exists():
                raise self._mark_is_gone()
            try:
                file = MarkFile(self.folder)
            except InUse as error:
                raise LogError(
                    f"{self.folder}: edge {self.edge!r}: process {error.process or 'of another user'} writes this log; "
                    "stop it first, or choose another run_dir"
                ) from error
            try:
                if file.mark is None:
                    if self._files():
                        raise self._no_mark()
                    file.write(Mark(secrets.token_bytes(16), 0, 0, 0, 0, 0, 0, 0))
                    sync_folder(self.folder)
            except BaseException:
                file.close()
                raise
        return file

    def _recover(self) -> None:
        """Take what lies above the watermark as far as it is sound, and cut off the rest."""
        mark = self.mark
        self._remove_segments(lambda number: number < mark.first_segment)  # a crash came between mark and removal
        cut = self._recover_streams() + self._recover_frames()
        if cut:
            _log.warning(
                "%s: edge %r: cut off %d bytes after frame %d that were never confirmed",
                self.folder,
                self.edge,
                cut,
                self.next_seq - 1,
            )

    def _recover_streams(self) -> int:
        file = self._reopened(self.folder / STREAMS, STREAMS_NUMBER, None)
        if file is None:
            return self._remove(self.folder / STREAMS)
        self._streams_file = file
        self._read_streams_to(file.size, file.descriptor, file.header)
        return file.cut_off(self._streams_position)

    def _recover_frames(self) -> int:
        number, cut = self._segment, 0
        while not cut:
            known = self._position > 0 and self._file is None  # the segment in which the durable part ends
            file = self._reopened(self.folder / segment_name(number), number, None if known else self.next_seq)
            if file is None:
                break
            self._go_on_in(file)
            while self._next_frame(file.descriptor, file.header, file.size, check=True):
                pass
            cut = file.cut_off(self._position)
            number += 1
        last = self._segment if self._file is not None else -1
        return cut + self._remove_segments(lambda number: number > last)

    def _reopened(self, path: Path, number: int, first_seq: int | None) -> LogFile | None:
        """A file of this log, open for writing; None where it is not there or not sound."""
        file = LogFile.open(path)
        if file and file.header != (
            self.mark.log,
            number,
            file.header.first_seq if first_seq is None else first_seq,
        ):
            file.close()
            return None
        return file

    # -- for the class that appends

    def _go_on_in(self, file: LogFile) -> None:
        """Write to a segment from now on."""
        if self._file is not None:
            self._ended.append(self._file)
        if file.header.number != self._segment or self._position == 0:
            self._segment, self._position = file.header.number, FILE_HEADER_BYTES
        self._starts[self._segment] = file.header.first_seq
        self._file = file

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        if self._failure:
            raise LogError(f"{self.folder}: edge {self.edge!r}, {what}: cannot be written, since {self._failure}")
        try:
            yield
        except OSError as error:
            if any(file is not None and file.broken for file in (self._file, self._streams_file)):
                self._failure = f"an earlier write failed: {disk_error(error)}"
            raise LogError(
                f"{self.folder}: edge {self.edge!r}, {what}: cannot be written: {disk_error(error)}"
            ) from error

    def _remove_segments(self, which: Callable[[int], bool]) -> int:
        removed = 0
        for number, path in segments_of(self.folder).items():
            if which(number):
                self._starts.pop(number, None)
                removed += self._remove(path)
        self._size -= removed
        return removed

    @staticmethod
    def _remove(path: Path) -> int:
        """Remove a file, where it is there; returns its size."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return 0
        path.unlink()
        return size
