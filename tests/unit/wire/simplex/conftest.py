"""A handler that keeps what comes, a receiver, and a link that loses what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lossy_proxy import LossyProxy

from smartedge.errors import RunError
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import Message, ReceivedFrame, serialise
from smartedge.wire.simplex.receiver import SimplexReceiver

KEYS = {"cam-1": bytes(range(32)), "cam-2": bytes(range(1, 33))}


class Kept:
    """A handler. ``events`` are what it was told, in order; ``ended`` counts ends of streams, ``frames`` frames.

    What it is told of a stream that it did not accept, or of another edge's, becomes the event ``unknown stream``.
    """

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.payloads: dict[tuple[str, int], bytes] = {}
        self.refuses: set[str] = set()  # names of runs
        self._accepted: set[tuple[str, StreamHeader]] = set()
        self.ended = threading.Semaphore(0)
        self.frames = threading.Semaphore(0)

    def accept(self, edge: str, header: StreamHeader) -> int:
        if header.run in self.refuses:
            self.events.append(("refuse", edge))
            self.ended.release()
            raise RunError("not of this run")
        self.events.append(("accept", edge, header.first_seq))
        self._accepted.add((edge, header))
        return header.first_seq

    def accept_one_way(self, edge: str, header: StreamHeader) -> int:
        return self.accept(edge, header)

    def sync(self, edge: str, header: StreamHeader) -> int:
        raise AssertionError("nobody would hear of it")

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        self._told(edge, header, "frame", frame.seq)
        self.payloads[edge, frame.seq] = frame.batch.payload
        self.frames.release()

    def lost(self, edge: str, header: StreamHeader, end: int) -> None:
        self._told(edge, header, "lost", end)

    def finish(self, edge: str, header: StreamHeader) -> None:
        self._told(edge, header, "finish")
        self.ended.release()

    def abort(self, edge: str, header: StreamHeader) -> None:
        self._told(edge, header, "abort")
        self.ended.release()

    def _told(self, edge: str, header: StreamHeader, event: str, *facts: int) -> None:
        known = (edge, header) in self._accepted
        self.events.append((event, edge, *facts) if known else ("unknown stream", edge, event))


@pytest.fixture
def proxies() -> Iterator[Callable[..., LossyProxy]]:
    """``proxies(port, drops)`` makes a :class:`LossyProxy`, closed at the end."""
    made: list[LossyProxy] = []

    def make(port: int, drops: Callable[[int, bytes], bool] = lambda number, datagram: False) -> LossyProxy:
        made.append(LossyProxy(port, drops))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def kept() -> Kept:
    """An empty :class:`Kept`."""
    return Kept()


def header_of(frames: int, *, first_seq: int = 0, run: str = "r", joined: int = 1) -> StreamHeader:
    """The header of a stream of frames that :func:`frame_of` makes."""
    return StreamHeader.of(
        run=run,
        agreement={},
        task=Task("single", ("x",), ("no", "yes")),
        codec="float32",
        feature_shape=(64, 8, 8),
        batch_size=4,
        split="train",
        frames=frames,
        first_seq=first_seq,
        joined_frames=joined,
        train_steps=frames,
    )


def frame_of(seq: int, size: int = 5000) -> Message:
    """A frame of four images with a payload of ``size`` bytes that depends on ``seq``."""
    payload = np.random.default_rng(seq).integers(0, 256, size, dtype=np.uint8).tobytes()
    return serialise(Frame(seq, EncodedBatch(np.arange(4), np.array([0, 1, 1, 0]), payload, b"")), header_of(1))


@pytest.fixture
def receiver(kept: Kept) -> Iterator[SimplexReceiver]:
    listening = SimplexReceiver(kept, lambda: KEYS, "127.0.0.1", patience_s=0.2)
    listening.start()
    yield listening
    listening.close()
