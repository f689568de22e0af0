"""A handler that keeps what comes, and a link that loses what a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from smartedge.errors import RunError
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import ReceivedFrame


class Kept:
    """A handler. ``events`` are what it was told, in order; ``settled`` is set at every end of a stream."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.payloads: dict[tuple[str, int], bytes] = {}
        self.refuses: set[str] = set()  # names of runs
        self.ended = threading.Semaphore(0)

    def accept(self, edge: str, header: StreamHeader) -> int:
        if header.run in self.refuses:
            self.events.append(("refuse", edge))
            self.ended.release()
            raise RunError("not of this run")
        self.events.append(("accept", edge, header.first_seq))
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        self.events.append(("frame", edge, frame.seq))
        self.payloads[edge, frame.seq] = frame.batch.payload

    def lost(self, edge: str, header: StreamHeader, end: int) -> None:
        self.events.append(("lost", edge, end))

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.events.append(("finish", edge))
        self.ended.release()

    def abort(self, edge: str, header: StreamHeader) -> None:
        self.events.append(("abort", edge))
        self.ended.release()


class LossyProxy:
    """Passes datagrams on to a port, but for those that ``drops(number, datagram)`` names. Counts what comes back."""

    def __init__(self, port: int, drops: Callable[[int, bytes], bool]) -> None:
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
        self._in.bind(("127.0.0.1", 0))
        self._in.settimeout(0.05)
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.connect(("127.0.0.1", port))
        self._out.setblocking(False)
        self.port: int = self._in.getsockname()[1]
        self.passed: list[bytes] = []
        self.dropped = 0
        self.came_back = 0
        self._drops = drops
        self._came = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                datagram = self._in.recv(2**16)
            except TimeoutError:
                self._listen_back()
                continue
            if self._drops(number, datagram):
                self.dropped += 1
            else:
                self._out.send(datagram)
                self.passed.append(datagram)
            number += 1
            self._came += len(datagram)

    def _listen_back(self) -> None:
        try:
            self._out.recv(2**16)
            self.came_back += 1
        except BlockingIOError:
            pass

    def wait_for(self, sent: int) -> None:
        """Return when so many bytes came in; fail after a while."""
        deadline = time.monotonic() + 20
        while self._came < sent:
            assert time.monotonic() < deadline, f"{self._came} of {sent} bytes came"
        assert self._came == sent

    def send(self, datagram: bytes) -> None:
        """Send a datagram of the test's own."""
        self._out.send(datagram)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._in.close()
        self._out.close()


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


def frame_of(seq: int, size: int = 5000) -> Frame:
    """A frame of four images with a payload of ``size`` bytes that depends on ``seq``."""
    payload = np.random.default_rng(seq).integers(0, 256, size, dtype=np.uint8).tobytes()
    return Frame(seq, EncodedBatch(np.arange(4), np.array([0, 1, 1, 0]), payload, b""))
