"""A link that loses what a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

__all__ = ["LossyProxy"]


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
                with contextlib.suppress(ConnectionRefusedError):  # nobody listens any more
                    self._out.send(datagram)
                self.passed.append(datagram)
            number += 1
            self._came += len(datagram)

    def _listen_back(self) -> None:
        try:
            self._out.recv(2**16)
            self.came_back += 1
        except (BlockingIOError, ConnectionRefusedError):
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
