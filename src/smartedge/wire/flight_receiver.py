"""The cloud's end of the link over Arrow Flight (gRPC), with TLS and a token; see :mod:`smartedge.wire.flight`."""

from __future__ import annotations

import contextlib
import hmac
import logging
import re
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import FleetError, FrameError, LinkError, SmartEdgeError
from smartedge.types import EDGE_NAME, StreamHeader
from smartedge.wire.credentials import Credentials, Guard
from smartedge.wire.flight import TOKEN_HEADER, WANTED, bearer, uri
from smartedge.wire.flight_errors import ARROW_ERRORS, busy, to_flight_error
from smartedge.wire.frame import SCHEMA, header_from_json
from smartedge.wire.link import UNNAMED_EDGE, FrameHandler, StreamReceiver, check_kind
from smartedge.wire.sockets import is_loopback, own_sockets, watch_peer

__all__ = ["FlightReceiver"]

_log = logging.getLogger(__name__)

_CHECK = "check"  # the middleware's name
_WATCH_S = 5.0  # how often open streams are looked at
_NOTHING = Credentials()


class FlightReceiver:
    """Listens, and hands the frames of one stream at a time to a handler.

    It is bound when made, and takes streams from :meth:`start` to :meth:`close`. A sender that does
    something wrong gets an error; the receiver keeps serving.

    Args:
        handler: gets the frames, in threads of the receiver.
        host: address to listen on.
        port: 0 for any free one.
        credentials: what this side shows, and how it checks senders. A certificate turns TLS on. With ``ca`` a sender
            must show a certificate, and is the edge of that name. With ``token`` a sender must show the same token.
        guard: says which edges may send; open streams of an edge that no longer may are broken off within seconds.
            Without TLS, every edge must show a token of its own: for a proxy on this machine that ends TLS.
        insecure: allow an address beyond this machine without TLS, or with TLS and neither token nor ``ca``.

    Raises:
        LinkError: when it cannot listen there, a certificate cannot be read, or ``insecure`` would be needed.
    """

    def __init__(
        self,
        handler: FrameHandler,
        host: str,
        port: int = 0,
        *,
        credentials: Credentials = _NOTHING,
        guard: Guard | None = None,
        insecure: bool = False,
    ) -> None:
        tls = credentials.certificate is not None
        if not is_loopback(host):
            protected = tls and (credentials.token is not None or credentials.ca is not None)
            if not protected and not insecure:
                raise LinkError(
                    f"refusing to listen on {host}, beyond this machine, without TLS and a token (or client "
                    "certificates): give --fleet, or set link.tls_cert, link.tls_key and link.token_file, or "
                    "link.insecure to accept it"
                )
            if not protected:
                _log.warning("listening on %s without TLS and token: anybody there can read and send frames", host)
        self._handler = handler
        self._started = threading.Event()
        self._one_stream = threading.Lock()
        self._guard = guard
        self._named = credentials.ca is not None  # senders' certificates say who they are
        self._streams: dict[str, str] = {}  # address of the peer -> edge, of open streams
        self._closed = threading.Event()
        check: _TokenCheck | _EdgeTokens | None = None
        if guard is not None and not self._named:
            check = _EdgeTokens(guard)
        elif credentials.token is not None:
            check = _TokenCheck(credentials.token)
        arguments = {
            "tls_certificates": [(credentials.certificate, credentials.key)] if tls else None,
            "verify_client": self._named,
            "root_certificates": credentials.ca,
            "middleware": None if check is None else {_CHECK: check},
        }
        try:
            self._server = _Server(self._serve, uri(host, port, tls=tls), **arguments)
        except ARROW_ERRORS as error:
            raise LinkError(
                f"cannot listen on {host}:{port} ({error}); is the port taken, the address this machine's, "
                "and the certificate valid?"
            ) from error

    @property
    def port(self) -> int:
        """The port listened on."""
        port: int = self._server.port
        return port

    def start(self) -> None:
        """Take streams from now on; returns at once. Senders that came earlier are waiting."""
        self._started.set()
        if self._guard is not None:
            threading.Thread(target=self._watch, args=(self._guard,), name="guard", daemon=True).start()

    def close(self) -> None:
        """Break off an open stream, and stop listening. A handler that blocks must be released before."""
        self._started.clear()
        self._closed.set()
        self._break_off(lambda peer: True)
        self._server.shutdown()

    def _break_off(self, chosen: Callable[[str], bool]) -> None:
        """Break the connections to the peers that are chosen by their address."""
        for connection in own_sockets(local_port=self.port):
            with connection, contextlib.suppress(OSError):  # the peer may be faster
                if chosen(_address(connection.getpeername())):
                    connection.shutdown(socket.SHUT_RDWR)

    def _watch(self, guard: Guard) -> None:
        """Break off open streams, also idle ones, whose edge may not send any more."""
        while not self._closed.wait(_WATCH_S):
            refused = {peer: edge for peer, edge in dict(self._streams).items() if guard.refusal(edge)}
            if refused:
                for edge in refused.values():
                    _log.warning("edge %s may not send any more; its stream is broken off", edge)
                self._break_off(refused.__contains__)

    def _edge_of(self, context: Any) -> str:
        """The name of the edge that called.

        Raises:
            FleetError: its certificate names no edge, or it may not send.
        """
        if self._named:
            edge = bytes(context.peer_identity()).decode("utf-8", "replace")
            if not re.fullmatch(EDGE_NAME, edge):
                if self._guard is None:
                    return UNNAMED_EDGE
                raise FleetError(
                    "the certificate's common name is no name of an edge; use a bundle of the cloud's fleet"
                )
        elif self._guard is not None:
            edge = context.get_middleware(_CHECK).edge
        else:
            return UNNAMED_EDGE
        if self._guard is not None and (refusal := self._guard.refusal(edge)):
            raise FleetError(refusal)
        return edge

    def _serve(self, context: Any, descriptor: Any, reader: Any, writer: Any, answered: bool) -> None:
        """Serve one call. Errors are raised as Flight errors that carry the code of smartedge's error."""
        try:
            header = header_from_json(descriptor.command or b"")
            check_kind(header, answered=answered)
            edge = self._edge_of(context)
            if not self._started.is_set():
                raise busy("the receiver is not ready yet")
            if not self._one_stream.acquire(blocking=False):
                raise busy("the receiver has an open stream, and takes one at a time; is another edge running?")
            try:
                self._streams[_address_of(context)] = edge
                self._stream(edge, header, context, reader, writer)
            finally:
                self._streams.pop(_address_of(context), None)
                self._one_stream.release()
        except flight.FlightUnavailableError:
            raise
        except SmartEdgeError as error:
            _log.warning("stream from %s: [%s] %s", context.peer(), error.code, error)
            raise to_flight_error(error) from error
        except Exception as error:
            _log.exception("stream from %s: unexpected error", context.peer())
            raise to_flight_error(SmartEdgeError("the receiver failed unexpectedly; see its log")) from error

    def _stream(self, edge: str, header: StreamHeader, context: Any, reader: Any, writer: Any) -> None:
        for connection in own_sockets(local_port=self.port):
            with connection:
                watch_peer(connection)
        if not reader.schema.equals(SCHEMA):
            raise FrameError(f"stream: Arrow schema must be {SCHEMA.to_string()!r}, got {str(reader.schema)[:200]!r}")
        stream = StreamReceiver(self._handler, edge, header)
        try:
            wanted = pa.py_buffer(WANTED.pack(stream.next_seq))
            if header.answered:
                writer.begin(SCHEMA)
                writer.write_metadata(wanted)
            else:
                writer.write(wanted)
            while (batch := _next_batch(reader, context)) is not None:
                answer = stream.take(batch)
                if answer is not None:
                    writer.write_batch(answer)
            if context.is_cancelled():
                raise LinkError("the sender went away within the stream")
        except BaseException:
            stream.abort()
            raise
        stream.finish()


class _Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Flight's server. It passes both kinds of stream to one function."""

    def __init__(self, serve: Callable[[Any, Any, Any, Any, bool], None], location: str, **arguments: Any) -> None:
        self._serve_stream = serve
        super().__init__(location, **arguments)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._serve_stream(context, descriptor, reader, writer, False)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._serve_stream(context, descriptor, reader, writer, True)


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Refuses calls without the token before it reads them."""

    def __init__(self, token: str) -> None:
        self._expected = bearer(token)

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:
        shown = headers.get(TOKEN_HEADER, [])
        if len(shown) != 1 or not hmac.compare_digest(shown[0].encode(), self._expected):
            message = "the token is missing or wrong; set link.token_file to the same secret on both sides"
            raise to_flight_error(LinkError(message), flight.FlightUnauthenticatedError)


class _EdgeTokens(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Refuses calls without a token of an edge that may send, before it reads them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _Edge:
        shown = headers.get(TOKEN_HEADER, [])
        edge = self._guard.edge_of(shown[0].removeprefix("Bearer ")) if len(shown) == 1 else None
        if edge is None:
            message = "the edge's token is missing, wrong, expired or revoked; renew its bundle"
            raise to_flight_error(FleetError(message), flight.FlightUnauthenticatedError)
        return _Edge(edge)


class _Edge(flight.ServerMiddleware):  # type: ignore[misc]  # pyarrow has no types
    """Carries the name of the edge that called to the call."""

    def __init__(self, edge: str) -> None:
        self.edge = edge


def _address(peer: tuple[Any, ...]) -> str:
    """An address of a socket, ``host:port``, as :func:`_address_of` writes it."""
    host, port = peer[:2]
    return f"{str(host).removeprefix('::ffff:')}:{port}"


def _address_of(context: Any) -> str:
    """The address of the peer of a call. gRPC writes ``ipv4:1.2.3.4:5`` or ``ipv6:[::1]:5``, percent-encoded."""
    _, _, place = unquote(context.peer()).partition(":")
    host, _, port = place.rpartition(":")
    return _address((host.strip("[]"), port))


def _next_batch(reader: Any, context: Any) -> pa.RecordBatch | None:
    """The next record batch of a stream at the receiver, None at its end."""
    try:
        batch = reader.read_chunk().data
    except StopIteration:
        return None
    except ARROW_ERRORS as error:
        if context.is_cancelled():
            raise LinkError("the sender went away within the stream") from error
        raise FrameError(f"stream: what arrived is not readable as Arrow ({str(error)[:200]})") from error
    if batch is None:
        raise FrameError("stream: a message without a record batch arrived")
    return batch
