"""Sends what the spool holds to the cloud, on a thread of its own, and reconnects for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.artifacts.run import Shipped
from smartedge.edge.outage import Outage, tell_of_the_end
from smartedge.edge.spool import Spool
from smartedge.errors import FrameError, LinkError, LogError, RunError
from smartedge.files import disk_error
from smartedge.logs import with_spaces
from smartedge.runs.progress import Monitor, teller
from smartedge.types import StreamHeader
from smartedge.wire.link import FrameSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from smartedge.config import Config
    from smartedge.edge.sender import Traffic
    from smartedge.edge.state import EdgeState

__all__ = ["Shipper", "begin_shipping", "open_spool"]

SPOOL = "spool"  # a folder in the edge's folder of the run

_LOOK_S = 0.5  # how often a thread that waits looks whether it should end


class Shipper:
    """Ships the frames of a spool over a link, in order, from the first one that the cloud has not confirmed.

    Where the link breaks, or the cloud is not there, it waits (:class:`~smartedge.edge.outage.Outage`) and tries again.
    It goes on at the frame that the cloud wants next. A cloud whose store was restored from an older copy wants frames
    that it had confirmed; it gets them again where the spool still holds them.

    When the cloud has confirmed every frame, this is written to ``record``. Only then the cloud hears of the end of the
    last stream, upon which it may end. So an edge that was killed in between knows that it needs the cloud no more: it
    tries to tell it once more, but not for long (:func:`~smartedge.edge.outage.tell_of_the_end`).

    Args:
        spool: where frames come from.
        link: where they go.
        record: a file that keeps how far the cloud has confirmed, and the bytes that were counted.
        traffic: its ``up``, ``down``, ``source`` and ``link_seconds`` are updated in place.
        tell: takes lines for the user.
    """

    def __init__(
        self, spool: Spool, link: FrameSender, record: Path, traffic: Traffic, *, tell: Callable[[str], None]
    ) -> None:
        self.spool = spool
        self.link = link
        self._record = record
        self._traffic = traffic
        self._tell = tell
        self.outage = Outage(tell)
        self._stopping = threading.Event()
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        # The cloud has heard of the end of every stream before these frames: from this process or an earlier one; and
        # from this one. What an earlier one told is lost in a cloud that was restored from an older copy since.
        self._ended = 0
        self._ended_now = 0
        if (shipped := Shipped.read_if_there(record)) is not None:
            spool.confirm(shipped.confirmed)
            traffic.up, traffic.down, traffic.source = dict(shipped.up), dict(shipped.down), shipped.source
            self._ended = shipped.ended
        link.assume_confirmed(spool.confirmed)
        self._thread = threading.Thread(target=self._work, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def raise_failure(self) -> None:
        """Raise where shipping has ended for good: the cloud refuses the stream, or the spool cannot be read."""
        if self._failure is not None:
            raise self._failure

    def finish(self, stop: threading.Event) -> bool:
        """Wait until the cloud has confirmed every frame. False where ``stop`` was set before.

        Raises:
            SmartEdgeError: as :meth:`raise_failure`.
        """
        self._ending.set()
        self.spool.wake()
        while self._thread.is_alive() and not stop.is_set():
            self._thread.join(timeout=0.2)
        self.raise_failure()
        if self._thread.is_alive():
            return False
        self.spool.close()
        self.link.disconnect()
        return True

    def stop(self) -> None:
        """End now. What was not confirmed stays in the spool."""
        self._stopping.set()
        self.spool.stop()
        while self._thread.is_alive():
            self.link.disconnect()
            self._thread.join(timeout=0.1)
        self.link.disconnect()  # the thread may have ended by itself, with an open stream
        self.spool.close()

    def ship_all(self) -> None:
        """Ship what the spool holds, in this thread, without a second try.

        Raises:
            LinkError: the link does not carry it.
        """
        while (header := self.spool.stream_at(self.spool.confirmed)) is not None:
            if header.end_seq > self.spool.next_seq:
                break  # it goes on with a stream that has not ended
            self._ship(header)
        self.spool.close()

    # -- on the thread

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                header = self.spool.stream_at(self.spool.confirmed)
                if header is None and self._ending.is_set():
                    last = self.spool.streams[-1] if self.spool.streams else None
                    if last is not None and last.end_seq > self._ended_now:
                        end, again = partial(self._ship, last), self._ended >= last.end_seq
                        tell_of_the_end(end, self._stopping, self._tell, again=again)
                    if self.spool.stream_at(self.spool.confirmed) is None:  # else the cloud has lost some
                        return
                    continue
                if header is None:
                    self.spool.wait(_LOOK_S)
                    continue
                try:
                    self._ship(header)
                except LinkError as error:
                    self._wait_after(error)
        except BaseException as error:
            self._failure = error
            self.spool.stop()

    def _ship(self, header: StreamHeader) -> None:
        """Ship one stream, and return when it is confirmed or shipping is to stop."""
        self._counted = self.link.counters()
        begun = time.perf_counter()
        waited = 0.0
        try:
            with _cloud_stores():
                header, seq = self._open(header)
            if not self.spool.waiting_frames:  # else a cloud that takes nothing may still take streams
                self.outage.over()
            while seq < header.end_seq:
                if not self.spool.holds(seq):
                    if self._stopping.is_set():
                        return
                    pause = time.perf_counter()
                    self.spool.wait(_LOOK_S)
                    waited += time.perf_counter() - pause
                    self._hear_confirmed(seq)  # the spool may wait for just that room
                    continue
                message = self.spool.message(seq)
                with _cloud_stores():
                    self.link.write(message)
                seq += 1
                self._hear_confirmed(seq)
            with _cloud_stores():
                self.link.flush()
            self._confirm(header.end_seq)
            self._count(header)  # on disk, before the cloud may end
            with _cloud_stores():
                self.link.close()
            self._ended = self._ended_now = header.end_seq
        except LinkError:
            self._hear_confirmed(header.end_seq)
            raise
        finally:
            self._traffic.link_seconds += time.perf_counter() - begun - waited
            self._count(header)

    def _hear_confirmed(self, seq: int) -> None:
        """Drop what the cloud has confirmed of the frames before ``seq``, which were sent."""
        with _cloud_stores():
            confirmed = self.link.confirmed()
        self._confirm(min(confirmed, seq))

    def _confirm(self, seq: int) -> None:
        if seq > self.spool.confirmed:
            self.outage.over()
            self.spool.confirm(seq)

    def _open(self, header: StreamHeader) -> tuple[StreamHeader, int]:
        """Open a stream; gives it, and the frame that the cloud wants. Where frames are missing there, an earlier one.

        Raises:
            SmartEdgeError: the cloud refuses it.
            RunError: the cloud wants a frame that the spool does not hold any more.
        """
        try:
            seq = self.link.open(header)
        except FrameError as refusal:
            header, seq = self._open_earlier(header, refusal)
        spool = self.spool
        if seq < spool.confirmed:
            lost = f"the cloud wants frame {seq}, but had confirmed all before {spool.confirmed}"
            if seq < spool.first_seq:
                raise RunError(
                    f"{lost}, and this edge keeps those before {spool.first_seq} no longer; restore the cloud's run "
                    "directory from its newest copy, or start a new run"
                )
            self._tell(f"{lost}: its run directory is an older copy. The edge sends them again")
            spool.go_back(seq)
        elif seq > spool.next_seq:
            self._tell(
                f"the cloud holds the frames before {seq}, and this edge those before {spool.next_seq}: its folder is "
                "an older copy. It makes them again, and sends what comes after them"
            )
        return header, seq

    def _open_earlier(self, header: StreamHeader, refusal: FrameError) -> tuple[StreamHeader, int]:
        """Open the earlier stream of which the cloud lacks frames. Raises the refusal where it lacks none of them.

        A sender that is refused often has to wait. So this takes few tries: each one halves the streams that it may be.
        """
        streams = self.spool.streams
        first, end = 0, streams.index(header)
        while first < end:
            middle = (first + end) // 2
            try:
                seq = self.link.open(streams[middle])
                if seq < streams[middle].end_seq:
                    return streams[middle], seq
                self.link.close()  # the cloud holds all of it
                first = middle + 1
            except FrameError:  # frames are missing before it
                end = middle
            except LinkError:  # it lacks some, although this edge may have ended: which ones is found later
                self.spool.go_back(header.first_seq - 1)
                raise
        raise refusal

    def _count(self, header: StreamHeader) -> None:
        """Add what the link has carried for a stream since the last call, and keep how far it came."""
        before, now, traffic = self._counted, self.link.counters(), self._traffic
        if now == before and self._ended != header.end_seq:
            return
        self._counted = now
        traffic.add(header.split, before, now)
        shipped = Shipped(
            confirmed=self.spool.confirmed,
            ended=self._ended,
            up=traffic.up,
            down=traffic.down,
            source=traffic.source,
        )
        try:
            shipped.write(self._record)
        except OSError as error:
            raise LogError(f"{self._record}: cannot be written: {disk_error(error)}") from error

    def _wait_after(self, error: LinkError) -> None:
        """The link broke, or the cloud is not there."""
        if not self._stopping.is_set():
            frames = with_spaces(self.spool.waiting_frames)
            self.outage.wait(f"{frames} frames are on disk ({error})", self._stopping)


@contextmanager
def _cloud_stores() -> Iterator[None]:
    """Take a cloud whose disk is full for one that is away: it may have room again."""
    try:
        yield
    except LogError as error:
        raise LinkError(f"the cloud cannot store what is sent: {error}") from error


def open_spool(config: Config, folder: Path, tell: Callable[[str], None]) -> Spool:
    """The spool in the edge's folder of the run. ``tell`` takes lines for the user."""
    return Spool(
        folder / SPOOL,
        max_bytes=config.spool.max_bytes,
        when_full=config.spool.when_full,
        waiting=lambda why: tell(
            f"the spool is full ({why}); the edge waits until the cloud has confirmed what is in it"
        ),
    )


def begin_shipping(
    config: Config,
    folder: Path,
    link: FrameSender,
    state: EdgeState,
    monitor: Monitor,
    *,
    only_what_is_left: bool,
) -> Shipper | None:
    """The spool in the edge's folder of the run, and what sends from it. None where the run sends without a spool.

    Args:
        config: the run's settings.
        folder: the edge's folder of the run.
        link: to the cloud.
        state: says which frame comes next, and whether those before it went through a spool; holds the counts.
        monitor: takes progress updates.
        only_what_is_left: the run sends without a spool from now on (in one process, or where the edge waits for
            answers). It may have gone on in two processes before; then the cloud first gets what is in the spool.
    """
    if only_what_is_left and not (folder / SPOOL).exists():
        return None
    tell = teller(monitor, "edge", "link")
    spool = open_spool(config, folder, tell)
    spool.begin(state.next_seq, spooled=state.spooled)
    shipper = Shipper(spool, link, folder / "shipped.json", state.counts.traffic, tell=tell)
    if not only_what_is_left:
        return shipper
    shipper.ship_all()
    return None
