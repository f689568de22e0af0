"""The edge's durable outbox. What was released is on the edge's disk before it counts; the link sends it from there.

:class:`~smartedge.edge.sender.Sender` writes, :class:`~smartedge.edge.shipper.Shipper` reads. Frames are numbered as in
the run. Those that the cloud has confirmed are dropped, by whole files.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from smartedge.errors import LogError
from smartedge.framelog.log import FrameLog
from smartedge.types import StreamHeader
from smartedge.wire.frame import Message, header_from_json, header_to_json
from smartedge.wire.link import UNNAMED_EDGE

__all__ = ["Spool"]

_SEGMENT_BYTES = 16 * 2**20
_SYNC_BYTES = 8 * 2**20  # no more than this, and nothing older than this, is appended without being durable
_SYNC_SECONDS = 0.5
_NOTED_S = 60.0  # how often is noted when a frame was written


class Spool:
    """Frames on the edge's disk that the cloud may not have yet. Methods may be called from any thread.

    Args:
        folder: made where it is missing; an existing spool is continued.
        max_bytes: it takes no more than this; None: what the disk holds.
        when_full: what then happens. "block": the edge waits; "stop": an error.
        waiting: called once where a full spool makes the edge wait, with the reason and what to do.

    Raises:
        LogError: another process uses it, or something that was durable is missing or damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int | None = None,
        when_full: Literal["block", "stop"] = "block",
        waiting: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._when_full = when_full
        self._waiting = waiting
        self._changed = threading.Condition()
        self._stopped = False
        segment_bytes = _SEGMENT_BYTES if max_bytes is None else min(_SEGMENT_BYTES, max_bytes // 8)
        self._log = FrameLog(folder, UNNAMED_EDGE, segment_bytes=segment_bytes, max_bytes=max_bytes)
        self.streams = [header_from_json(stream.header) for stream in self._log.stream_headers]
        self._confirmed = self._log.first_seq
        self.full = False  # somebody waits for room
        # Number of a frame, and when it was written: about one in a minute. What was there before counts from now on.
        self._written = deque([(self._confirmed, time.monotonic())])
        self._unsynced_bytes, self._synced_at = 0, time.monotonic()

    @property
    def next_seq(self) -> int:
        """Number of the next frame to come."""
        return self._log.next_seq

    @property
    def first_seq(self) -> int:
        """Number of the oldest frame that is kept; the cloud may have confirmed it."""
        return self._log.first_seq

    @property
    def total_bytes(self) -> int:
        """Size of its files."""
        return self._log.total_bytes

    def age(self) -> float:
        """Seconds since the oldest frame that waits was written, to a minute; 0 where none waits."""
        if not self.waiting_frames:
            return 0.0
        with self._changed:
            return time.monotonic() - self._written[0][1]

    @property
    def waiting_frames(self) -> int:
        """Frames that the cloud has not confirmed."""
        return max(0, self._log.next_seq - self._confirmed)

    # -- the sender's side

    def begin(self, next_seq: int, *, spooled: bool) -> None:
        """Check that all frames before ``next_seq`` are there, where the edge goes on.

        Args:
            next_seq: the number of the next frame.
            spooled: they must be in the spool. False: the cloud has confirmed them, and they need not be.

        Raises:
            LogError: they are not there.
        """
        if self.next_seq < next_seq:
            if spooled:
                raise LogError(
                    f"{self.folder}: frames before {next_seq} were put there, and it holds those before "
                    f"{self.next_seq}; restore the edge's folder from a copy, all of it, or start a new run"
                )
            self._log.mark_gap(next_seq)
            self._log.sync()
            self.confirm(next_seq)

    def open(self, header: StreamHeader) -> int:
        """Begin a stream, or go on with one that the spool holds. Returns the frame that is to be written first.

        Where the spool is full, this waits or raises as :meth:`write` does.
        """
        if header not in self.streams:
            data = header_to_json(header)
            self._make_room(f"header of the stream that begins with frame {header.first_seq}", len(data))
            self._log.add_stream(data, header.first_seq)
            with self._changed:
                self.streams.append(header)
                self._changed.notify_all()
        return header.first_seq

    def write(self, message: Message) -> None:
        """Append a frame. It is durable soon, and when :meth:`sync` returns; the link sends it only then.

        Where the spool is full, this waits until the cloud has confirmed enough, or raises (``spool.when_full``).

        Raises:
            FrameError: the spool holds another frame of that number.
            LogError: the spool is full, or the disk does not take it.
        """
        seq, size = message.seq, len(message.head) + len(message.payload)
        if seq >= self.next_seq:
            self._make_room(f"frame {seq}", size)
        if not self._log.append(seq, *message):
            return
        self._unsynced_bytes += size
        if time.monotonic() - self._written[-1][1] >= _NOTED_S:
            with self._changed:
                self._written.append((seq, time.monotonic()))
        if self._unsynced_bytes >= _SYNC_BYTES or time.monotonic() - self._synced_at >= _SYNC_SECONDS:
            self.sync()
        with self._changed:
            self._changed.notify_all()

    def sync(self) -> None:
        """Return when every frame that was written is durable.

        Raises:
            LogError: the disk does not take it.
        """
        self._unsynced_bytes = 0
        self._log.sync()
        self._synced_at = time.monotonic()

    def _make_room(self, what: str, size: int) -> None:
        told = False
        while (reason := self._log.full_for(size)) is not None:
            if self._when_full == "stop":
                raise LogError(
                    f"{self.folder}: {what}: the spool is full ({reason}), and the cloud has not confirmed "
                    f"{self.waiting_frames} frames in it. Make room, or let the edge wait (spool.when_full: block); "
                    "continue with --resume"
                )
            if not self.waiting_frames:
                raise LogError(
                    f"{self.folder}: {what}: there is no room for its {size} bytes, although the cloud has confirmed "
                    f"all frames ({reason})"
                )
            self.sync()  # what is not durable is not sent, and so never confirmed
            if not told:
                told = self.full = True
                self._waiting(reason)
            with self._changed:
                if self._stopped:
                    raise LogError(f"{self.folder}: {what}: the run was stopped while the spool was full")
                self._changed.wait(timeout=0.5)
        self.full = False

    # -- the shipper's side

    def stream_at(self, seq: int) -> StreamHeader | None:
        """The stream that frame ``seq`` belongs to, or else the first later one; None where it has not begun."""
        return next((header for header in self.streams if header.end_seq > seq), None)

    def message(self, seq: int) -> Message:
        """Read a frame.

        Raises:
            LogError: it is not there any more, or damaged.
        """
        return Message(*self._log.read(seq))

    def holds(self, seq: int) -> bool:
        """Whether frame ``seq`` is there and durable. Makes durable what was written, where that would help."""
        if self._log.durable <= seq < self._log.next_seq:
            self.sync()
        return seq < self._log.durable

    def wait(self, seconds: float) -> None:
        """Wait until something changes, but not longer than ``seconds``."""
        with self._changed:
            if not self._stopped:
                self._changed.wait(timeout=seconds)

    def confirm(self, seq: int) -> None:
        """The cloud holds every frame before ``seq`` durably.

        Raises:
            LogError: the disk does not allow to drop them.
        """
        if seq > self._confirmed:
            self._log.forget_before(min(seq, self._log.durable))
            with self._changed:
                self._confirmed = seq
                while len(self._written) > 1 and self._written[1][0] <= seq:
                    self._written.popleft()
                self._changed.notify_all()

    def go_back(self, seq: int) -> None:
        """The cloud does not hold frame ``seq`` and later ones any more, which are kept here."""
        with self._changed:
            self._confirmed = min(self._confirmed, seq)

    @property
    def confirmed(self) -> int:
        """The cloud holds every frame before this number, as far as this process knows."""
        return self._confirmed

    def wake(self) -> None:
        """Let threads that wait for a change look again."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Let threads that wait here go on. A full spool raises from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Make durable what was written, and release the folder.

        Raises:
            LogError: the disk does not take it.
        """
        try:
            self._log.sync()
        finally:
            self._log.close()
