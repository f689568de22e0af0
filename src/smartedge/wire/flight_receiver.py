"""The cloud's end of the link over Arrow Flight (gRPC), with TLS and a token; see :mod:`smartedge.wire.flight`."""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import FrameError, LinkError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.flight import TOKEN_HEADER, WANTED, bearer, read_file, uri
from smartedge.wire.flight_errors import ARROW_ERRORS, busy, to_flight_error
from smartedge.wire.frame import SCHEMA, header_from_json
from smartedge.wire.link import UNNAMED_EDGE, FrameHandler, StreamReceiver, check_kind
from smartedge.wire.sockets import is_loopback, own_sockets, watch_peer

__all__ = ["FlightReceiver"]

_log = logging.getLogger(__name__)


class FlightReceiver:
    """Listens, and hands the frames of one stream at a time to a handler.

    It is bound when made, and takes streams from :meth:`start` to :meth:`close`. A sender that does
    something wrong gets an error; the receiver keeps serving.

    Args:
        handler: gets the frames, in threads of the receiver.
        host: address to listen on.
        port: 0 for any free one.
        token: senders must send it; None accepts every sender.
        tls_cert: this side's certificate (PEM); with ``tls_key`` it turns TLS on.
        tls_key: its private key (PEM).
        tls_ca: certificates (PEM) that check a sender's certificate (mTLS); None: a sender needs none.
        insecure: allow an address beyond this machine without TLS, or without both token and ``tls_ca``.

    Raises:
        LinkError: when it cannot listen there, a certificate cannot be read, or ``insecure`` would be needed.
    """

    def __init__(
        self,
        handler: FrameHandler,
        host: str,
        port: int = 0,
        *,
        token: str | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        tls_ca: Path | None = None,
        insecure: bool = False,
    ) -> None:
        if not is_loopback(host):
            protected = tls_cert is not None and (token is not None or tls_ca is not None)
            if not protected and not insecure:
                raise LinkError(
                    f"refusing to listen on {host}, beyond this machine, without TLS and a token (or client "
                    "certificates): set link.tls_cert, link.tls_key and link.token_file, or link.insecure to accept it"
                )
            if not protected:
                _log.warning("listening on %s without TLS and token: anybody there can read and send frames", host)
        self._handler = handler
        self._started = threading.Event()
        self._one_stream = threading.Lock()
        arguments = {
            "tls_certificates": [(read_file(tls_cert), read_file(tls_key))] if tls_cert and tls_key else None,
            "verify_client": tls_ca is not None,
            "root_certificates": read_file(tls_ca) if tls_ca else None,
            "middleware": {"token": _TokenCheck(token)} if token is not None else None,
        }
        try:
            self._server = _Server(self._serve, uri(host, port, tls=tls_cert is not None), **arguments)
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

    def close(self) -> None:
        """Break off an open stream, and stop listening. A handler that blocks must be released before."""
        self._started.clear()
        for connection in own_sockets(local_port=self.port):
            with connection, contextlib.suppress(OSError):  # the peer may be faster
                connection.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()

    def _serve(self, context: Any, descriptor: Any, reader: Any, writer: Any, answered: bool) -> None:
        """Serve one call. Errors are raised as Flight errors that carry the code of smartedge's error."""
        try:
            header = header_from_json(descriptor.command or b"")
            check_kind(header, answered=answered)
            if not self._started.is_set():
                raise busy("the receiver is not ready yet")
            if not self._one_stream.acquire(blocking=False):
                raise busy("the receiver has an open stream, and takes one at a time; is another edge running?")
            try:
                self._stream(header, context, reader, writer)
            finally:
                self._one_stream.release()
        except flight.FlightUnavailableError:
            raise
        except SmartEdgeError as error:
            _log.warning("stream from %s: [%s] %s", context.peer(), error.code, error)
            raise to_flight_error(error) from error
        except Exception as error:
            _log.exception("stream from %s: unexpected error", context.peer())
            raise to_flight_error(SmartEdgeError("the receiver failed unexpectedly; see its log")) from error

    def _stream(self, header: StreamHeader, context: Any, reader: Any, writer: Any) -> None:
        for connection in own_sockets(local_port=self.port):
            with connection:
                watch_peer(connection)
        if not reader.schema.equals(SCHEMA):
            raise FrameError(f"stream: Arrow schema must be {SCHEMA.to_string()!r}, got {str(reader.schema)[:200]!r}")
        stream = StreamReceiver(self._handler, UNNAMED_EDGE, header)
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
