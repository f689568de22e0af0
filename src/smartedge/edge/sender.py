"""Releases, packs and sends the batches of the edge's training, on a thread of its own.

The queue is bounded: where the link is slower than training, training waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from smartedge.artifacts.results import Distortion
from smartedge.artifacts.summary import TrafficTotals
from smartedge.codec import Codec, decoding_error, pack, unpack
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.errors import LinkError, RunError, SmartEdgeError
from smartedge.privacy.release import Gate
from smartedge.stopping import Interrupted
from smartedge.types import Features, Frame, Labels, StreamHeader
from smartedge.wire.frame import Message, answer_header, serialise
from smartedge.wire.link import FrameSender
from smartedge.wire.sockets import ByteCount

__all__ = ["Sender", "Traffic"]

_LOOK_S = 0.2  # how often is asked whether the run is to stop, while the link waits


@dataclass
class Traffic:
    """Counts of what was sent so far, by split. They grow during a run."""

    up: dict[str, int] = field(default_factory=dict)  # bytes, as counted at the socket
    down: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    source: str = ""
    release_seconds: float = 0.0  # clip, ledger, noise
    encode_seconds: float = 0.0
    link_seconds: float = 0.0
    codec_error: Distortion | None = None  # of the first frame of the latest training stream

    def add(self, split: str, before: ByteCount, now: ByteCount) -> None:
        """Add what a link carried for a split between two counts. Another thread may read the old dictionaries."""
        self.up = {**self.up, split: self.up.get(split, 0) + now.up - before.up}
        self.down = {**self.down, split: self.down.get(split, 0) + now.down - before.down}
        self.source = now.source

    def totals(self) -> TrafficTotals:
        """The counts as they are now."""
        return TrafficTotals.model_validate(asdict(self))

    @classmethod
    def of(cls, totals: TrafficTotals) -> Traffic:
        """Counts that continue from earlier totals."""
        return cls(**{**totals.model_dump(), "codec_error": totals.codec_error})


class Sender:
    """Sends streams of frames over a link.

    Args:
        link: carries the frames.
        shipper: carries them in the place of ``link``, by way of a spool on disk; None: they go over the link at once.
        codec: how features become bytes.
        gate: makes every release; it records each one, and may refuse it.
        next_seq: sequence number of the first frame.
        queue_frames: how many batches may wait.
        threaded: False: everything is done in the caller's thread (a run in one process, and split learning).
        traffic: updated in place.
    """

    def __init__(
        self,
        link: FrameSender,
        codec: Codec,
        gate: Gate,
        *,
        next_seq: int,
        queue_frames: int,
        threaded: bool,
        traffic: Traffic,
        shipper: Shipper | None = None,
    ) -> None:
        self.link = link
        self.shipper = shipper
        self._out: FrameSender | Spool = link if shipper is None else shipper.spool
        self.codec = codec
        self.next_seq = next_seq
        self.gate = gate
        self.traffic = traffic
        self._stop = threading.Event()
        self._header: StreamHeader | None = None
        self._end_is_due = False  # the receiver has not heard yet that the stream has ended
        self._seq = next_seq  # the same, as the sending thread counts
        self._wanted = next_seq  # the receiver holds earlier frames
        self._failure: BaseException | None = None
        self._queue: queue.Queue[Callable[[], None] | None] | None = None
        if threaded:
            self._queue = queue.Queue(maxsize=queue_frames)
            self._thread = threading.Thread(target=self._work, name="sender", daemon=True)
            self._thread.start()

    @property
    def inline_seconds(self) -> float:
        """Seconds that releasing, encoding and the link took in the caller's own thread so far."""
        if self._queue is not None:
            return 0.0
        return self.traffic.release_seconds + self.traffic.encode_seconds + self.traffic.link_seconds

    @contextmanager
    def until(self, stop: threading.Event, *, cut_off: bool) -> Iterator[None]:
        """Once ``stop`` is set, nothing in the block waits here any longer.

        Args:
            stop: may be set by any thread.
            cut_off: the caller's thread waits for answers over the link, so the link is cut off when ``stop`` is set.

        Raises:
            Interrupted: from what waited.
        """
        self._stop, over = stop, threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK_S):
                if stop.is_set():
                    self.link.disconnect()

        watching = threading.Thread(target=watch, name="cut off", daemon=True)
        if cut_off:
            watching.start()
        try:
            yield
        except LinkError:
            if cut_off and stop.is_set():
                raise Interrupted from None
            raise
        finally:
            over.set()

    def open(self, header: StreamHeader) -> None:
        """Begin a stream; ``header.first_seq`` must be :attr:`next_seq`."""
        self._do(lambda: self._open(header))

    def send(self, ids: np.ndarray, features_BF: Features, labels: Labels) -> None:
        """Release a batch and send it as the next frame. Waits where the queue is full.

        Raises:
            SmartEdgeError: an earlier batch failed on the sending thread.
        """
        self.next_seq += 1

        def release_and_write() -> None:
            message = self._message(ids, features_BF, labels)
            begun = time.perf_counter()
            if message.seq >= self._wanted:
                self._out.write(message)
            self._count_link_time(time.perf_counter() - begun)

        self._do(release_and_write)

    def exchange(self, ids: np.ndarray, features_BF: Features, labels: Labels) -> NDArray[np.float32]:
        """Send a batch and wait for the gradient (B, *F) that answers it (split learning)."""
        self.next_seq += 1
        message = self._message(ids, features_BF, labels)
        begun = time.perf_counter()
        reply = self.link.exchange(message)
        self.traffic.link_seconds += time.perf_counter() - begun
        assert self._header is not None
        gradient_BF = unpack(reply.batch, answer_header(self._header)).features_BF
        assert gradient_BF.dtype == np.float32
        return cast("NDArray[np.float32]", gradient_BF)

    def close_stream(self) -> None:
        """Wait until every frame of the stream is durable: in the spool, or else at the receiver.

        The receiver hears of the end of the last stream, that of the test images, by :meth:`finish`. It may be gone
        after that. So the caller can first write to its disk what it needs then.
        """
        self._do(self._close)

    def when_durable(self, job: Callable[[], None]) -> None:
        """Call ``job`` on the sending thread, after all earlier work."""
        self._do(job)

    def finish(self, stop: threading.Event) -> bool:
        """Wait until everything is sent and confirmed, then disconnect. False where ``stop`` was set before.

        Raises:
            LinkError: the cloud may not have heard that the last stream has ended (:meth:`end_again`).
            SmartEdgeError: something failed on the sending thread, or the cloud refuses what is sent.
        """
        if self._queue is not None:
            self._put(None)
            while self._thread.is_alive():
                if stop.is_set():
                    return False
                self._thread.join(timeout=0.2)
        self._raise_failure()
        if self.shipper is not None:
            return self.shipper.finish(stop)
        self._end()
        self.link.disconnect()
        return True

    def end_again(self, header: StreamHeader) -> None:
        """Open and end a stream whose frames the receiver has confirmed: an earlier process may not have ended it.

        Raises:
            RunError: the receiver does not hold them any more.
        """
        self._open(header)
        if self._wanted < header.end_seq:
            self._end_is_due = False
            self.link.disconnect()
            raise RunError(
                f"the cloud wants frame {self._wanted}, but had confirmed all before {header.end_seq}; restore its run "
                "directory, or start a new run"
            )
        self._end()

    def abort(self) -> None:
        """Drop the batches that wait, and disconnect."""
        self._failure = self._failure or SmartEdgeError("the run was stopped")
        if self.shipper is None:
            self.link.disconnect()
        else:
            self.shipper.spool.stop()  # a thread that waits for room in it goes on
        if self._queue is not None:
            while self._thread.is_alive():
                try:
                    self._queue.put_nowait(None)
                except queue.Full:
                    self._queue.get_nowait()
                self._thread.join(timeout=0.05)
        if self.shipper is not None:
            self.shipper.stop()

    # -- on the sending thread

    def _open(self, header: StreamHeader) -> None:
        self._counted = self.link.counters()
        self._header = header
        self._wanted = self._out.open(header)
        self._end_is_due = self.shipper is None

    def _count_link_time(self, seconds: float) -> None:
        """Count the time of the link. The shipper counts its own."""
        if self.shipper is None:
            self.traffic.link_seconds += seconds

    def _message(self, ids: np.ndarray, features_BF: Features, labels: Labels) -> Message:
        """Release a batch, and make the next frame of it."""
        header = self._header
        assert header is not None
        begun = time.perf_counter()
        released = self.gate.release(ids, features_BF, labels, split=header.split, seq=self._seq)
        packing = time.perf_counter()
        encoded = pack(released, self.codec)
        self.traffic.release_seconds += packing - begun
        self.traffic.encode_seconds += time.perf_counter() - packing
        if header.split == "train" and self._seq == header.first_seq:
            error = decoding_error(self.codec, encoded.payload, encoded.side, released.features_BF)
            self.traffic.codec_error = Distortion.model_validate(error)
        message = serialise(Frame(self._seq, encoded), header)
        self._seq += 1
        self.traffic.images[header.split] = self.traffic.images.get(header.split, 0) + len(ids)
        return message

    def _close(self) -> None:
        assert self._header is not None
        begun = time.perf_counter()
        if self.shipper is not None:
            self.shipper.spool.sync()
            return
        if self._header.split != "test":  # a receiver that answers then has its checkpoint, and ours comes after it
            self._end()
            return
        self.link.flush()
        self._count_link_time(time.perf_counter() - begun)
        self._count()

    def _end(self) -> None:
        """Let the receiver know that the stream has ended, where it does not."""
        if self._end_is_due:
            self._end_is_due = False
            begun = time.perf_counter()
            try:
                self.link.close()
            finally:
                self._count_link_time(time.perf_counter() - begun)
                self._count()

    def _count(self) -> None:
        """Add what the link has carried for the stream since the last call."""
        assert self._header is not None
        before, self._counted = self._counted, self.link.counters()
        self.traffic.add(self._header.split, before, self._counted)

    def _work(self) -> None:
        assert self._queue is not None
        while (job := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    job()
                except BaseException as error:
                    self._failure = error

    # -- on the caller's thread

    def _do(self, job: Callable[[], None]) -> None:
        if self._queue is None:
            job()
        else:
            self._put(job)

    def _put(self, job: Callable[[], None] | None) -> None:
        assert self._queue is not None
        while True:
            self._raise_failure()
            if self._stop.is_set():
                raise Interrupted
            try:
                return self._queue.put(job, timeout=0.2)
            except queue.Full:
                continue

    def _raise_failure(self) -> None:
        if self.shipper is not None:
            self.shipper.raise_failure()
        if self._failure is not None:
            raise self._failure
