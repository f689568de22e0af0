"""What the cloud holds of one edge."""

from __future__ import annotations

import os
from pathlib import Path

from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader, log_folder
from smartedge.errors import LogError
from smartedge.files import PRIVATE, disk_error, private_folder, sync_folder
from smartedge.types import StreamHeader

__all__ = ["CLOSED", "Intake"]

CLOSED = "closed"  # a folder in the cloud's folder, with a file for each edge whose last stream was confirmed


class Intake:
    """What the cloud holds of one edge: its log, and the stream that is open.

    The log is made with the edge's first acceptable frame. So a stream of which no frame comes leaves nothing behind.

    Args:
        cloud: the cloud's folder of the run.
        edge: name of the edge.
        max_bytes: the log takes no more than this; None: what the disk holds.
        reader: of the log, where another process writes it.

    Raises:
        RunError: the name cannot be a folder's.
        LogError: the log is damaged, or another process writes it.
    """

    def __init__(
        self, cloud: Path, edge: str, *, max_bytes: int | None = None, reader: FeatureReader | None = None
    ) -> None:
        self.edge = edge
        self.folder = log_folder(cloud, edge)
        self._max_bytes = max_bytes
        self._written: FeatureLog | None = None
        self.log = reader
        if reader is None and os.path.lexists(self.folder):
            self.open_log()
        self.stream: StreamHeader | None = None  # the open one
        self._closed = cloud / CLOSED / edge
        self.images = 0  # that came since the start
        self.refused = 0  # streams and frames, since the start

    @property
    def streams(self) -> list[StreamHeader]:
        """Headers of the streams of which a frame came, in order."""
        return [] if self.log is None else self.log.streams

    @property
    def next_seq(self) -> int:
        """Number of the next frame to come."""
        return 0 if self.log is None else self.log.next_seq

    @property
    def sent_all(self) -> bool:
        """Whether the last stream is in, durably."""
        streams, log = self.streams, self.log
        if log is None or not streams:
            return False
        return streams[-1].split == "test" and log.durable >= streams[-1].end_seq

    @property
    def closed(self) -> bool:
        """Whether the last stream is in, and the edge knows it."""
        return self._closed.exists()

    def close(self) -> None:
        """Note that the last stream is in. Durable when this returns.

        Raises:
            LogError: the disk does not take it.
        """
        try:
            private_folder(self._closed.parent)
            self._closed.touch(PRIVATE)
            sync_folder(self._closed.parent)
        except OSError as error:
            raise LogError(f"{self._closed}: edge {self.edge!r}: cannot be written: {disk_error(error)}") from error

    @property
    def writes(self) -> bool:
        """Whether this process writes the log."""
        return self._written is not None

    def open_log(self) -> FeatureLog:
        """The log, to be written; it is made where it is missing."""
        if self._written is None:
            self.log = self._written = FeatureLog(self.folder, self.edge, max_bytes=self._max_bytes)
        return self._written

    def mend_log(self) -> None:
        """Open the log again where the disk has failed it: it holds what was confirmed, and the edge has the rest.

        Raises:
            LogError: the disk fails still.
        """
        if self._written is not None and self._written.failed:
            self._written.close()
            self.log = self._written = FeatureLog(self.folder, self.edge, max_bytes=self._max_bytes)

    def close_log(self) -> None:
        """Close the log that this process writes."""
        if self._written is not None:
            self._written.close()

    def release(self) -> None:
        """Another process may write the log from now on."""
        if self._written is not None:
            self._written.close()
            self._written = None
            self.log = FeatureReader(self.folder, self.edge)
