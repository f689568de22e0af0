"""A link that can be muted and cut: a proxy between an edge and a cloud of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class TcpProxy:
    """Passes bytes between whoever connects and a port of this machine.

    Args:
        target: the port.
        mute_at: asked with all bytes on their way to the target. When it says so, nothing comes back from there on.
    """

    def __init__(self, target: int, mute_at: Callable[[bytes], bool] = lambda data: False) -> None:
        self.target = target
        self._mute_at = mute_at
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._loud = threading.Event()  # bytes from the target are passed on
        self._loud.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection. What was held back is lost; new connections pass everything.

        Their sockets are closed by their own threads, not here: a thread that is about to read from a socket that was
        closed beneath it may find another connection under the same number, and break it.
        """
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open = []
        self._loud.set()

    def close(self) -> None:
        """Take no more connections, and break the open ones."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._pass, args=(far, near), kwargs={"down": True}, daemon=True)
            back.start()
            self._pass(near, far)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, *, down: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if down:
                    self._loud.wait()
                elif self._mute_at(data):
                    self._loud.clear()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
