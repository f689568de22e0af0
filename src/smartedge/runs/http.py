"""A small HTTP server for whoever watches a process: it answers GET alone, and a few requests at a time."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from smartedge.errors import LinkError
from smartedge.wire.addresses import location_of

__all__ = ["Listening", "RequestHandler"]

_TOGETHER = 8  # requests that are answered at the same time
_TIMEOUT_S = 5.0  # for a request to come and its answer to go


class Listening:
    """The server. It runs on threads of its own until :meth:`close`.

    Args:
        address: host and port; port 0: any free one.
        handler: a class that answers a request.
        option: of the command line, for messages.

    Raises:
        LinkError: it cannot listen there.
    """

    def __init__(self, address: tuple[str, int], handler: type[RequestHandler], option: str) -> None:
        host, port = address
        server = _Server6 if ":" in host else _Server
        try:
            self._server = server(address, handler)
        except OSError as error:
            raise LinkError(
                f"{option}: cannot listen on {location_of(host, port)}: {error.strerror or error}"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name=option.strip("-"), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one request. A subclass has ``do_GET``."""

    timeout = _TIMEOUT_S
    server_version = "smartedge"
    sys_version = ""

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""

    def answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def asked_for_this_machine(self) -> bool:
        """Whether the request names this machine by an address, as ``localhost``, or by its own name.

        A page of somebody else that lets a name of its own lead to this machine (DNS rebinding) does not.
        """
        host = self.headers.get("Host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in ("localhost", socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


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
