"""Answers ``/metrics`` (Prometheus) and ``/healthz`` over HTTP, for whoever watches a process.

The figures are computed when they are asked for, from the state that the process has anyway. So nothing is counted
twice, and a process that nobody asks does nothing.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from smartedge.errors import ConfigError, LinkError

__all__ = ["Figure", "Watched", "Watching", "watching"]

_TOGETHER = 8  # requests that are answered at the same time
_TIMEOUT_S = 5.0  # for a request to come and its answer to go


@dataclass(frozen=True)
class Figure:
    """One metric. It has one value, or one for each value of one label.

    The values of a label are names that this side knows: of authenticated edges, of splits. No text of a peer.
    """

    name: str  # without the prefix smartedge_, and without _total
    help: str
    kind: Literal["gauge", "counter"]
    value: float | Mapping[str, float] | None  # None: not known yet
    label: str = "edge"


@dataclass(frozen=True)
class Watched:
    """What a process tells of itself."""

    figures: Callable[[], Iterable[Figure]]
    trouble: Callable[[], list[str]]  # what is not as it should be


class Watching:
    """The server. It runs on threads of its own until :meth:`close`.

    Args:
        address: host and port; port 0: any free one.
        watched: is asked at each request.

    Raises:
        ConfigError: prometheus_client is not installed.
        LinkError: it cannot listen there.
    """

    def __init__(self, address: tuple[str, int], watched: Watched) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            raise ConfigError("--metrics: needs a package: pip install 'smartedge[metrics]'") from error

        class Handler(_Handler):
            what = watched

        host, port = address
        server = _Server6 if ":" in host else _Server
        try:
            self._server = server(address, Handler)
        except OSError as error:
            raise LinkError(f"--metrics: cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def watching(address: tuple[str, int] | None, watched: Watched, tell: Callable[[str], None]) -> Iterator[None]:
    """Answer inside the block, where an address is given, and tell which one it is."""
    if address is None:
        yield
        return
    server = Watching(address, watched)
    tell(f"metrics at http://{address[0]}:{server.port}/metrics")
    try:
        yield
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    """Answers a few requests at a time. Further connections wait, and cost no thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: object) -> None:
        self._places = threading.BoundedSemaphore(_TOGETHER)
        super().__init__(*args)  # type: ignore[arg-type]

    def process_request(self, request: object, client_address: object) -> None:
        """Begin a thread, where there is a place for it."""
        if not self._places.acquire(timeout=_TIMEOUT_S):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Answer, and free the place."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server_version = "smartedge"
    sys_version = ""
    what: Watched

    def do_GET(self) -> None:
        """``/metrics`` or ``/healthz``; everything else is not there."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", _exposition(self.what.figures()))
        elif path == "/healthz":
            trouble = self.what.trouble()
            said = {"status": "degraded", "reasons": trouble} if trouble else {"status": "ok"}
            self._answer(503 if trouble else 200, "application/json", json.dumps(said).encode() + b"\n")
        else:
            self._answer(404, "text/plain", b"/metrics and /healthz are here\n")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _exposition(figures: Iterable[Figure]) -> bytes:
    """The figures in the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Now(Collector):
        def collect(self) -> Iterator[Metric]:
            for figure in figures:
                if figure.value is None:
                    continue
                make = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
                if isinstance(figure.value, Mapping):
                    family = make(f"smartedge_{figure.name}", figure.help, labels=[figure.label])
                    for name, value in figure.value.items():
                        family.add_metric([name], value)
                else:
                    family = make(f"smartedge_{figure.name}", figure.help, value=figure.value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Now())
    return generate_latest(registry)
