"""Takes frames in: decodes each one once, and appends it to the log of its edge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.cloud.handover import Decoded, Handover, disk_is_of_the_log
from smartedge.cloud.ingest.refusals import Refusals
from smartedge.cloud.ingest.values import largest_value
from smartedge.cloud.intake import Intake
from smartedge.cloud.store.feature_log import edges_of
from smartedge.cloud.store.lock import Lock
from smartedge.codec import get_codec, unpack
from smartedge.config import Config
from smartedge.errors import RunError, SmartEdgeError
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.progress import Monitor, Update
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import ReceivedFrame
from smartedge.wire.link import UNNAMED_EDGE

if TYPE_CHECKING:
    from smartedge.cloud.ingest.group import SharedStore

__all__ = ["Ingest"]


class Ingest:
    """The cloud's end of the link (a :class:`smartedge.wire.link.FrameHandler`), for any number of edges at a time.

    Everything is validated before anything is changed. The link has checked a frame against its stream header. Only
    decoding can check the payload. So a frame is decoded, and its values are checked, before it is appended: the log
    never holds a payload that cannot be decoded or learned from, and its sender gets an error. A stream is recorded
    with its first frame.

    Training takes the decoded batch from :class:`Handover`. So a frame is decoded once where training keeps up with
    the link. With schedule ``freeze-and-log`` decoded batches stay in memory for all epochs; those for which there is
    no room are decoded again in each epoch, from the disk.

    Args:
        config: the run's settings, equal to the edges' in all that both must agree on.
        folder: the cloud's folder of the run.
        shapes: cut → shape F of what an edge with that cut sends.
        handover: shared with the thread that trains.
        monitor: takes progress updates.
        begin: called with the edge and the header when a stream of a known edge begins, and before the first frame of a
            new edge is taken; it may refuse it.
        learn: trains on the frames that have come, in the same thread. None: another thread trains when it is notified.
        shared: the store, where other processes write logs of it, too. None: this one writes all.

    Raises:
        RunError: another cloud uses the run.
        LogError: a log is damaged.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        handover: Handover,
        monitor: Monitor,
        *,
        begin: Callable[[str, StreamHeader], None],
        learn: Callable[[], None] | None,
        shared: SharedStore | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._shared = shared
        self._handover = handover
        self._monitor = monitor
        self._begin = begin
        self._learn = learn
        self._method, self._schedule = get_method(config.method), get_schedule(config.schedule)
        self._refusals = Refusals(config, shapes, handover)
        self._lock: Lock | None = None
        if shared is not None:
            shared.refresh()
        else:
            self._open_logs()
        self._strangers: dict[str, Intake] = {}  # edges of which no frame has come yet
        self._one_way: set[str] = set()  # edges that send over a link without a way back

    def _open_logs(self) -> None:
        self._lock = Lock(
            self._folder / "cloud.lock", "another cloud uses this run; stop it first, or choose another run_dir"
        )
        try:
            for edge in edges_of(self._folder):
                self._handover.intakes[edge] = Intake(self._folder, edge, max_bytes=self._config.store.max_bytes)
        except BaseException:
            self.close()
            raise

    @property
    def handover(self) -> Handover:
        """What the threads share."""
        return self._handover

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Accept a stream, or refuse one that does not belong to this run. A refusal changes nothing.

        Raises:
            RunError: settings differ between the sides, the log belongs to another run, or the run has no place for
                this edge.
            FrameError: the header contradicts the settings, or frames are missing before this stream.
        """
        self._one_way.discard(edge)
        return self._accept(edge, header)

    def accept_one_way(self, edge: str, header: StreamHeader) -> int:
        """As :meth:`accept`, for a link without a way back.

        Where each image is sent once, whole streams may have been lost before this one.
        """
        self._one_way.add(edge)
        return self._accept(edge, header)

    @disk_is_of_the_log()
    def _accept(self, edge: str, header: StreamHeader) -> int:
        with self._handover.changed:
            if self._shared is not None:
                self._shared.refresh()
            intake = self._intake(edge)
            intake.mend_log()
            if self._shared is not None and intake.streams:
                intake.open_log()  # another process may have written it until now
            with self._counting(intake):
                self._refusals.settings(header)
                self._refusals.place(intake)
                self._refusals.run(intake, header)
                self._refusals.order(intake, header, one_way=edge in self._one_way)
                if intake.streams:
                    self._begin(edge, header)
            intake.stream = header
            self._handover.answers.clear()  # of frames that were sent again
            self._handover.changed.notify_all()
        if header.answered:
            return header.first_seq  # the edge goes back to a checkpoint, and wants every answer again
        durable = 0 if intake.log is None else intake.log.durable
        return min(max(header.first_seq, durable), header.end_seq)

    @disk_is_of_the_log()
    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> Frame | None:
        """Append a frame. Where frames are answered, wait for the answer; else wait where training is too far behind.

        On a one-way link nobody would notice that it waits, so it does not.

        Raises:
            CodecError: its payload cannot be decoded.
            FrameError: its values cannot be those of this run.
            RunError: the run is complete.
        """
        begun = time.perf_counter()
        handover = self._handover
        intake = self._intake(edge)
        with self._counting(intake):
            largest = largest_value(self._config, get_codec(header.codec))
            batch = unpack(frame.batch, header, largest=largest)
        if self._shared is not None:
            self._shared.enter(edge)
        with handover.changed:
            handover.raise_failure()
            if handover.complete and frame.seq >= intake.next_seq:
                raise RunError("the run is complete; nothing more is taken in")
            if edge in handover.quarantined:
                self._refusals.place(intake)
            self._record_stream(intake, header)
            log = intake.open_log()
            if log.append(frame.seq, frame.head, frame.batch.payload):
                intake.images += len(batch.ids)
            if frame.seq >= handover.learned.get(edge, 0):
                handover.keep((edge, frame.seq), Decoded(batch, time.perf_counter() - begun))
            del batch  # many edges may wait here
            self._tell()
            if header.answered:
                return handover.wait(lambda: handover.answers.pop(frame.seq, None))
            if handover.trains_here and not self._schedule.once and edge not in self._one_way:
                most = self._config.link.max_lead_frames
                handover.wait(lambda: handover.complete or log.next_seq - handover.learned.get(edge, 0) <= most)
        return None

    @disk_is_of_the_log()
    def lost(self, edge: str, header: StreamHeader, end: int) -> None:
        """Mark the frames from the next one up to ``end`` (not included) as a gap: they will never come."""
        intake = self._intake(edge)
        with self._handover.changed:
            self._record_stream(intake, header)
            intake.open_log().mark_gap(end)
            self._tell()

    @disk_is_of_the_log()
    def sync(self, edge: str, header: StreamHeader) -> int:
        """Make the frames that came durable."""
        durable = self._intake(edge).open_log().sync()
        if self._shared is not None:
            self._shared.leave(edge)
        return durable

    @disk_is_of_the_log()
    def finish(self, edge: str, header: StreamHeader) -> None:
        """All frames of the stream are in: make them durable. In split learning, wait until they are learned from."""
        handover = self._handover
        intake = self._intake(edge)
        self.sync(edge, header)
        with handover.changed:
            if self._method.answered:
                handover.wait(lambda: handover.learned.get(edge, 0) >= header.end_seq)
            intake.stream = None
            if header.split == "test":
                intake.close()
        self._tell()  # not under the lock: this one may learn now, and threads that read ahead for it need the lock

    @disk_is_of_the_log()
    def abort(self, edge: str, header: StreamHeader) -> None:
        """The stream broke off. The appended frames stay, and the edge may come back."""
        with self._handover.changed:
            intake = self._intake(edge)
            intake.stream = None
            self._handover.changed.notify_all()
        if self._shared is not None:
            with suppress(SmartEdgeError):  # what cannot be made durable comes again
                if intake.writes:
                    intake.open_log().sync()
            self._shared.leave(edge)
            return
        who = "the edge" if edge == UNNAMED_EDGE else f"edge {edge}"
        self._monitor.update(Update("cloud", "link", text=f"{who} went away; waiting for it to come back"))

    def sync_everything(self) -> None:
        """Make durable what came of all edges. Hold ``handover.changed``.

        Raises:
            LogError: the disk does not take it.
        """
        for intake in self._handover.intakes.values():
            intake.mend_log()
            intake.open_log().sync()

    def forget_everything(self) -> None:
        """Drop the frames of all edges (``store.keep: unconsumed``)."""
        for intake in self._handover.intakes.values():
            log = intake.open_log()
            log.forget_before(log.next_seq)

    def release(self, edge: str) -> None:
        """Another process may take the frames of this edge from now on."""
        with self._handover.changed:
            stranger = self._strangers.pop(edge, None)
            if stranger is not None:
                stranger.close_log()
            if (known := self._handover.intakes.get(edge)) is not None:
                known.release()

    def unaware(self) -> list[str]:
        """Edges that sent everything, and may not know that it arrived. Hold ``handover.changed``."""
        return [
            edge
            for edge, intake in self._handover.intakes.items()
            if intake.sent_all
            and not intake.closed
            and edge not in self._one_way
            and edge not in self._handover.quarantined
        ]

    def close(self) -> None:
        """Close the logs; another process may use the run from now on."""
        for intake in self._handover.intakes.values():
            intake.close_log()
        if self._lock is not None:
            self._lock.close()

    def _record_stream(self, intake: Intake, header: StreamHeader) -> None:
        """Note the stream in the log, with its first frame. A one-way link may have lost whole streams before it."""
        if header in intake.streams:
            return
        edge = intake.edge
        with nullcontext() if self._shared is None else self._shared.one_at_a_time():
            if not intake.streams and self._shared is not None:
                self._shared.refresh()
            with self._counting(intake):  # another sender may have sent its first frame in between
                self._refusals.run(intake, header)
                self._refusals.order(intake, header, one_way=edge in self._one_way)
                if not intake.streams:
                    self._refusals.place(intake)
                    self._begin(edge, header)
            log = intake.open_log()
            log.mark_gap(header.first_seq)
            log.begin(header)
            if self._shared is not None:
                log.sync()  # so that the other processes see the edge
        self._handover.intakes[edge] = intake
        self._strangers.pop(edge, None)

    def _intake(self, edge: str) -> Intake:
        with self._handover.changed:
            known = self._handover.intakes.get(edge) or self._strangers.get(edge)
            if known is None:
                known = self._strangers[edge] = Intake(self._folder, edge, max_bytes=self._config.store.max_bytes)
            return known

    @contextmanager
    def _counting(self, intake: Intake) -> Iterator[None]:
        """Count what is refused inside."""
        try:
            yield
        except SmartEdgeError:
            intake.refused += 1
            raise

    def _tell(self) -> None:
        if self._learn is not None:
            self._learn()
            return
        with self._handover.changed:
            self._handover.changed.notify_all()
