"""The link over Arrow Flight (gRPC), with TLS and a token.

A stream is one DoPut call, or one DoExchange call where frames are answered. Its descriptor's command is the stream
header. The receiver confirms the header: by an empty message in a DoPut call, by the schema in a DoExchange call. The
final status of the call confirms that every frame is durable, or carries the receiver's error.

:mod:`smartedge.wire.flight_errors` turns every error of Arrow into one of smartedge. An error of the receiver's handler
crosses the link with its code, and the sender raises it as the same class.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import FrameError, LinkError, SmartEdgeError
from smartedge.types import Frame, StreamHeader
from smartedge.wire.flight_errors import ARROW_ERRORS, busy, from_flight_error, to_flight_error
from smartedge.wire.frame import JOINED_BYTES, SCHEMA, Message, header_from_json, header_to_json, serialise, to_arrow
from smartedge.wire.link import FrameHandler, StreamReceiver, check_answer, check_kind
from smartedge.wire.sockets import ByteCount, SocketMeter, is_loopback, own_sockets, watch_peer

__all__ = ["FlightLink", "FlightReceiver"]

_log = logging.getLogger(__name__)

_TOKEN_HEADER = "authorization"
_RETRY_S = 0.1


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
            "tls_certificates": [(_read(tls_cert), _read(tls_key))] if tls_cert and tls_key else None,
            "verify_client": tls_ca is not None,
            "root_certificates": _read(tls_ca) if tls_ca else None,
            "middleware": {"token": _TokenCheck(token)} if token is not None else None,
        }
        try:
            self._server = _Server(self._serve, _uri(host, port, tls=tls_cert is not None), **arguments)
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
        stream = StreamReceiver(self._handler, header)
        try:
            if header.answered:
                writer.begin(SCHEMA)
            else:
                writer.write(pa.py_buffer(b""))
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


class FlightLink:
    """A :class:`~smartedge.wire.link.FrameSender` to a :class:`FlightReceiver`.

    A link holds one connection, made at the first :meth:`open` and again after an error. The end of the
    receiver's process is noticed at once; a lost machine (power, cable) within ``PEER_TIMEOUT_S`` seconds.

    Args:
        location: ``host:port`` of the receiver.
        token: sent to the receiver, in clear: use TLS where the receiver is on another machine.
        tls_ca: certificates (PEM) that check the receiver's certificate; turns TLS on.
        tls_cert: this side's own certificate (PEM) for a receiver that asks for one; turns TLS on.
        tls_key: its private key (PEM).
        connect_timeout_s: how long :meth:`open` tries, in seconds, while the receiver is not there or not free.

    Raises:
        LinkError: when the location has another form, or a certificate cannot be read.
    """

    def __init__(
        self,
        location: str,
        *,
        token: str | None = None,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        connect_timeout_s: float = 30.0,
    ) -> None:
        host, _, port = location.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise LinkError(f"the cloud's location must be HOST:PORT, as in 192.168.0.7:8815, got {location!r}")
        tls = tls_ca or tls_cert
        if token is not None and tls is None and not is_loopback(host):
            _log.warning("the token is sent to %s in clear: set link.tls_ca to encrypt it", host)
        self._where = f"link to {location}"
        self._uri = _uri(host, int(port), tls=tls is not None)
        self._options = flight.FlightCallOptions(
            headers=[(_TOKEN_HEADER.encode(), _bearer(token))] if token is not None else []
        )
        self._client_arguments = {
            "tls_root_certs": _read(tls_ca) if tls_ca else None,
            "cert_chain": _read(tls_cert) if tls_cert else None,
            "private_key": _read(tls_key) if tls_key else None,
            "generic_options": [
                ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, so that its bytes can be counted
                ("grpc.enable_http_proxy", 0),
                ("grpc.min_reconnect_backoff_ms", int(1000 * connect_timeout_s)),  # also ends a connection attempt
            ],
        }
        self._connect_timeout_s = connect_timeout_s
        self._meter = SocketMeter(int(port))
        self._lock = threading.Lock()  # of the meter
        self._calling = threading.Lock()  # held by the thread that uses the connection
        self._disconnected = threading.Event()
        self._client: Any = None
        self._header: StreamHeader | None = None
        self._joined: list[Message] = []  # to be sent as one message
        self._joined_bytes = 0
        self._writer: Any = None
        self._reader: Any = None
        self._counted_up = 0
        self._counted_down = 0

    def open(self, header: StreamHeader) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. Tries for ``connect_timeout_s`` to reach a free receiver."""
        if self._writer is not None:
            raise LinkError(f"{self._where}: a stream is open already; close it before opening another")
        self._disconnected.clear()
        deadline = time.monotonic() + self._connect_timeout_s
        tries = 0
        while True:
            with self._call():
                try:
                    self._open(header)
                    return
                except flight.FlightUnavailableError as error:
                    self._drop()
                    if time.monotonic() >= deadline:
                        reason = from_flight_error(error, self._where)
                        raise LinkError(f"{reason}; tried for {self._connect_timeout_s:g} s") from error
            if tries == 0:
                _log.info("%s: cannot open a stream yet, trying for %g s", self._where, self._connect_timeout_s)
            tries += 1
            if self._disconnected.wait(_RETRY_S):
                raise LinkError(f"{self._where}: disconnected while opening a stream")

    def write(self, frame: Frame) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            header = self._stream(answered=False)
            message = serialise(frame, header)
            self._joined.append(message)
            self._joined_bytes += len(message.head) + len(message.payload)
            if self._joined_bytes >= JOINED_BYTES or len(self._joined) == header.joined_frames:
                self._flush()

    def exchange(self, frame: Frame) -> Frame:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            header = self._stream(answered=True)
            batch = to_arrow([serialise(frame, header)])
            self._writer.write_batch(batch)
            try:
                reply = self._reader.read_chunk().data
            except StopIteration as error:
                raise LinkError(f"{self._where}: the receiver ended the stream instead of replying") from error
            checked = check_answer(reply, frame, header)
            self._counted_up += pa.ipc.get_record_batch_size(batch)
            self._counted_down += pa.ipc.get_record_batch_size(reply)
        return checked

    def close(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            self._stream()
            self._flush()
            self._writer.close()  # ends the stream and waits for the call's final status
            self._writer = self._reader = None

    def counters(self) -> ByteCount:
        """Bytes at the socket where the kernel counts them (Linux), else bytes of the Arrow messages.

        After :meth:`close` has returned, everything that was sent is counted.
        """
        with self._lock:
            counts = self._meter.counts()
        if counts is None:
            return ByteCount(self._counted_up, self._counted_down, "payload")
        return ByteCount(*counts, "kernel tcp_info")

    def disconnect(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        self._disconnected.set()
        with self._lock:
            self._meter.shutdown()  # a thread that waits for the receiver gets an error, and drops the connection
        if self._calling.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._calling.release()

    def _open(self, header: StreamHeader) -> None:
        command = header_to_json(header)
        descriptor = flight.FlightDescriptor.for_command(command)
        if self._client is None:
            with self._lock:
                self._meter.snapshot()
            self._client = flight.FlightClient(self._uri, **self._client_arguments)
        try:  # either way of opening waits for the receiver's answer to the header
            if header.answered:
                self._writer, self._reader = self._client.do_exchange(descriptor, self._options)
                self._writer.begin(SCHEMA)
                accepted = self._reader.schema.equals(SCHEMA)
            else:
                self._writer, self._reader = self._client.do_put(descriptor, SCHEMA, self._options)
                accepted = self._reader.read() is not None
        finally:
            with self._lock:
                self._meter.attach()
        if not accepted:
            self._writer.close()  # raises the receiver's reason
            raise LinkError(f"{self._where}: what answers there is not a smartedge cloud")
        self._header = header
        self._counted_up += len(command) + SCHEMA.serialize().size

    def _flush(self) -> None:
        if self._joined:
            batch = to_arrow(self._joined)
            self._joined, self._joined_bytes = [], 0
            self._writer.write_batch(batch)
            self._counted_up += pa.ipc.get_record_batch_size(batch)

    def _stream(self, *, answered: bool | None = None) -> StreamHeader:
        """Header of the open stream."""
        if self._header is None or self._writer is None:
            raise LinkError(f"{self._where}: no stream is open; call open(header) first")
        if answered is not None:
            check_kind(self._header, answered=answered)
        return self._header

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Guards calls that may wait for the receiver. An error inside ends stream and connection."""
        with self._calling:
            try:
                yield
            except ARROW_ERRORS as error:
                self._drop()
                raise from_flight_error(error, self._where) from error
            except BaseException:
                self._drop()
                raise
        if self._disconnected.is_set():  # by another thread, which could not drop the connection
            self.disconnect()

    def _drop(self) -> None:
        """Close stream and connection; called by the thread that holds ``_calling``."""
        client, writer = self._client, self._writer
        self._client = self._writer = self._reader = None
        self._joined, self._joined_bytes = [], 0
        with self._lock:
            self._meter.shutdown()
            self._meter.release()
        for thing in (writer, client):
            if thing is not None:
                with contextlib.suppress(*ARROW_ERRORS):  # the stream is lost anyway
                    thing.close()


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
        self._expected = _bearer(token)

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:
        shown = headers.get(_TOKEN_HEADER, [])
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


def _bearer(token: str) -> bytes:
    """The value of the header that shows the token."""
    if not token or not token.isascii() or not token.isprintable():
        raise LinkError("link.token_file: the token must be printable ASCII, and not empty")
    return f"Bearer {token}".encode()


def _uri(host: str, port: int, *, tls: bool) -> str:
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'grpc+tls' if tls else 'grpc'}://{host}:{port}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LinkError(f"{path}: cannot be read ({error.strerror})") from error
