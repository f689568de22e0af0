"""The store: the cloud's feature logs, one for each edge, of accepted frames.

The log itself is :mod:`smartedge.framelog`; it knows bytes. Here they are stream headers and frames again. A frame was
checked when it arrived. When it is read back, the checksums of its record are the check.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from smartedge.errors import FrameError, LogError, RunError
from smartedge.framelog.log import FrameLog
from smartedge.framelog.reader import LogReader
from smartedge.types import EDGE_NAME, Frame, Labels, StreamHeader
from smartedge.wire.frame import Message, ReceivedFrame, header_from_json, header_to_json, image_count, parse
from smartedge.wire.link import UNNAMED_EDGE

__all__ = [
    "FeatureLog",
    "FeatureReader",
    "StoreHandler",
    "check_begun",
    "cut_of",
    "edges_of",
    "has_begun",
    "log_folder",
]


_OF_THE_DISK = "lost+found"  # at the top of a file system, where the store has one of its own


def log_folder(cloud: Path, edge: str = UNNAMED_EDGE) -> Path:
    """Where the log of an edge lies in the cloud's folder of a run.

    Raises:
        RunError: the edge's name cannot be a folder's.
        LogError: the run's log was written by an earlier version of smartedge.
    """
    if not re.fullmatch(EDGE_NAME, edge):
        raise RunError(
            f"edge {edge!r}: a name has 1 to 63 small letters, digits, '-' and '_', and begins with a letter or a digit"
        )
    if (cloud / "log" / "streams.jsonl").exists():
        raise LogError(
            f"{cloud / 'log'}: this feature log is of an earlier version of smartedge, and cannot be read; use "
            "that version for this run, or start a new run in another run_dir"
        )
    return cloud / "store" / edge


def edges_of(cloud: Path) -> list[str]:
    """The edges of which the cloud's folder of a run holds a log, in order of their names.

    Also one whose folder is a link to a disk that is not there now: its log is missing, and not unknown.
    """
    log_folder(cloud)
    found = (cloud / "store").glob("*")
    return sorted(each.name for each in found if (each.is_dir() or each.is_symlink()) and each.name != _OF_THE_DISK)


def has_begun(cloud: Path) -> bool:
    """Whether a stream of any edge was recorded."""
    return (cloud / "log").exists() or any((cloud / "store").glob("*/streams"))


def check_begun(cloud: Path, *, resume: bool) -> None:
    """Refuse to begin a run in a folder that holds one, and to go on with one whose store is gone.

    Edges may have dropped the frames of such a store, and would end for good when they are asked for them.

    Raises:
        RunError: the folder holds a run, which is not to be resumed.
        LogError: the run has learned from frames, and there is no log.
    """
    if not resume and has_begun(cloud):
        raise RunError.begun_before(cloud)
    if resume and not edges_of(cloud) and any((cloud / "checkpoints").glob("*")):
        raise LogError(
            f"{cloud / 'store'}: holds no log, although the run has learned from frames. If it has a disk of its "
            "own, mount it; else restore the run directory from a copy, or start a new run"
        )


def cut_of(header: StreamHeader) -> str:
    """The cut of the edge that sent a stream. The stream was accepted, so its settings are in order."""
    cut: str = json.loads(header.agreement)["model"]["cut"]
    return cut


class FeatureReader(LogReader):
    """The durable frames of one edge. :meth:`refresh` finds those that came since; no lock is needed.

    Args:
        folder: of the log (:func:`log_folder`).
        edge: whose frames these are.

    Raises:
        LogError: there is no log, or something that was confirmed is missing or damaged.
    """

    def __init__(self, folder: Path, edge: str = UNNAMED_EDGE) -> None:
        self.streams: list[StreamHeader] = []  # in the order of their frames
        super().__init__(folder, edge)

    def refresh(self) -> None:
        """Find what became durable since. Raises as the constructor."""
        super().refresh()
        self._parse_headers()

    def _parse_headers(self) -> None:
        """Turn the headers that are new into objects, and forget those that the log holds no longer."""
        known = self.stream_headers
        del self.streams[len(known) :]
        for number in range(len(self.streams), len(known)):
            try:
                self.streams.append(header_from_json(known[number].header))
            except FrameError as error:
                raise LogError(
                    f"{self.where}: edge {self.edge!r}, stream header {number}: cannot be used ({error})"
                ) from error
        known[:] = [stream._replace(header=b"") for stream in known]  # the objects hold all of it, in less memory

    def frame(self, seq: int) -> Frame:
        """Read one frame.

        Raises:
            LogError: there is no such frame, or the disk does not give back what was written.
        """
        stored = self.read(seq)
        try:
            return parse(Message(*stored), self.header_of(seq))
        except FrameError as error:
            raise LogError(f"{self.where}: edge {self.edge!r}, frame {seq}: cannot be read ({error})") from error

    def images(self, seq: int) -> int:
        """How many images frame ``seq`` holds; reads its head alone."""
        return image_count(self.head(seq))

    def labels(self, seq: int) -> Labels:
        """The labels of frame ``seq``; reads its head alone."""
        labels: Labels = parse(Message(self.head(seq), b""), self.header_of(seq)).batch.labels
        return labels

    def frames(self) -> Iterator[Frame]:
        """All frames that are there, in order."""
        for seq in range(self.first_seq, self.next_seq):
            if self.came(seq):
                yield self.frame(seq)

    def header_of(self, seq: int) -> StreamHeader:
        """The stream header under which frame ``seq`` was accepted."""
        if not self.came(seq):  # in a gap
            return self.streams[bisect_right(self.streams, seq, key=lambda header: header.first_seq) - 1]
        return self.streams[self.stream_of(seq)]


class FeatureLog(FrameLog, FeatureReader):
    """The log of one edge, open for writing. One process writes it; any may read what is durable.

    Args:
        folder: made if missing; an existing log is opened, checked, and continued.
        edge: whose frames these are.
        segment_bytes: see :class:`~smartedge.framelog.log.FrameLog`.
        max_bytes: see there.

    Raises:
        LogError: another process writes it; something that was confirmed is missing or damaged; or the disk does not
            allow it.
    """

    def __init__(
        self,
        folder: Path,
        edge: str = UNNAMED_EDGE,
        *,
        segment_bytes: int = 64 * 2**20,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(folder, edge, segment_bytes=segment_bytes, max_bytes=max_bytes)
        try:
            self._parse_headers()  # also of what was not durable when the last process ended
        except BaseException:
            self.close()
            raise

    def begin(self, header: StreamHeader) -> None:
        """Record the header under which the following frames are accepted. Durable with the next :meth:`sync`."""
        if header not in self.streams:
            self.add_stream(header_to_json(header), header.first_seq)
            self._parse_headers()

    def _cut_off_what_is_not_durable(self) -> None:
        super()._cut_off_what_is_not_durable()
        self._parse_headers()

    def truncate(self, next_seq: int) -> None:
        """Forget frame ``next_seq`` and all later ones (split learning goes back to a checkpoint)."""
        super().truncate(next_seq)
        self._parse_headers()


class StoreHandler:
    """A :class:`~smartedge.wire.link.FrameHandler` that appends frames to a log and trains nothing."""

    def __init__(self, log: FeatureLog) -> None:
        self.log = log

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Note the stream."""
        self.log.begin(header)
        return min(max(header.first_seq, self.log.durable), header.end_seq)

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        """Append the frame."""
        self.log.append(frame.seq, frame.head, frame.batch.payload)

    def sync(self, edge: str, header: StreamHeader) -> int:
        """Make them durable."""
        return self.log.sync()

    def finish(self, edge: str, header: StreamHeader) -> None:
        """Make it durable."""
        self.log.sync()

    def abort(self, edge: str, header: StreamHeader) -> None:
        """Keep what came."""
