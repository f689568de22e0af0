"""The edge's end of the link over Arrow Flight (gRPC), with TLS and a token.

The other end is :mod:`smartedge.wire.flight_receiver`.

A stream is one DoPut call, or one DoExchange call where frames are answered. Its descriptor's command is the stream
header. The receiver confirms the header by a message of metadata: the number of the frame that it wants next. The final
status of the call confirms that every frame is durable, or carries the receiver's error.

:mod:`smartedge.wire.flight_errors` turns every error of Arrow into one of smartedge. An error of the receiver's handler
crosses the link with its code, and the sender raises it as the same class.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import LinkError
from smartedge.types import Frame, StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.flight_errors import ARROW_ERRORS, from_flight_error
from smartedge.wire.frame import JOINED_BYTES, SCHEMA, Message, header_to_json, serialise, to_arrow
from smartedge.wire.link import check_answer, check_kind
from smartedge.wire.sockets import ByteCount, SocketMeter, is_loopback

__all__ = ["TOKEN_HEADER", "WANTED", "FlightLink", "bearer", "split_location", "uri"]

_log = logging.getLogger(__name__)

TOKEN_HEADER = "authorization"
WANTED = struct.Struct("<Q")  # the receiver's reply to a header: the number of the frame that it wants next
_RETRY_S = 0.1
_NOTHING = Credentials()


class FlightLink:
    """A :class:`~smartedge.wire.link.FrameSender` to a :class:`~smartedge.wire.flight_receiver.FlightReceiver`.

    A link holds one connection, made at the first :meth:`open` and again after an error. The end of the
    receiver's process is noticed at once; a lost machine (power, cable) within ``PEER_TIMEOUT_S`` seconds.

    Args:
        location: ``host:port`` of the receiver.
        credentials: what this side shows, and how it checks the receiver. Certificates turn TLS on.
        connect_timeout_s: how long :meth:`open` tries, in seconds, while the receiver is not there or not free.
        insecure: allow a receiver beyond this machine without TLS.

    Raises:
        LinkError: when the location has another form, or ``insecure`` would be needed.
    """

    def __init__(
        self,
        location: str,
        credentials: Credentials = _NOTHING,
        *,
        connect_timeout_s: float = 30.0,
        insecure: bool = False,
    ) -> None:
        host, port = split_location(location)
        if not credentials.tls and not is_loopback(host):
            if not insecure:
                raise LinkError(
                    f"refusing to send to {host}, beyond this machine, without TLS: use a bundle of the cloud's fleet, "
                    "set link.tls_ca, or set link.insecure to accept it"
                )
            _log.warning("sending to %s in clear: anybody on the way can read and change what is sent", host)
        self._where = f"link to {location}"
        self._uri = uri(host, port, tls=credentials.tls)
        self._options = flight.FlightCallOptions(
            headers=[] if credentials.token is None else [(TOKEN_HEADER.encode(), bearer(credentials.token))]
        )
        self._client_arguments = {
            "tls_root_certs": credentials.ca,
            "cert_chain": credentials.certificate,
            "private_key": credentials.key,
            "override_hostname": credentials.server_name,
            "generic_options": [
                ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, so that its bytes can be counted
                ("grpc.enable_http_proxy", 0),
                ("grpc.min_reconnect_backoff_ms", int(1000 * connect_timeout_s)),  # also ends a connection attempt
            ],
        }
        self._connect_timeout_s = connect_timeout_s
        self._meter = SocketMeter(port)
        self._lock = threading.Lock()  # of the meter
        self._calling = threading.Lock()  # held by the thread that uses the connection
        self._disconnected = threading.Event()
        self._client: Any = None
        self._header: StreamHeader | None = None
        self._joined: list[Message] = []  # to be sent as one message
        self._joined_bytes = 0
        self._writer: Any = None
        self._reader: Any = None
        self._confirmed = 0
        self._counted_up = 0
        self._counted_down = 0

    def open(self, header: StreamHeader) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`. Tries for ``connect_timeout_s`` to reach a free receiver."""
        if self._writer is not None:
            raise LinkError(f"{self._where}: a stream is open already; close it before opening another")
        self._disconnected.clear()
        deadline = time.monotonic() + self._connect_timeout_s
        tries = 0
        while True:
            with self._call():
                try:
                    return self._open(header)
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
            header = self._stream()
            self._flush()
            self._writer.close()  # ends the stream and waits for the call's final status
            self._writer = self._reader = None
            self._confirmed = header.end_seq

    def confirmed(self) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        return self._confirmed

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

    def _open(self, header: StreamHeader) -> int:
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
                reply = self._reader.read_chunk().app_metadata if self._reader.schema.equals(SCHEMA) else None
            else:
                self._writer, self._reader = self._client.do_put(descriptor, SCHEMA, self._options)
                reply = self._reader.read()
        finally:
            with self._lock:
                self._meter.attach()
        if reply is None or len(reply) != WANTED.size:
            self._writer.close()  # raises the receiver's reason
            raise LinkError(f"{self._where}: what answers there is not a smartedge cloud")
        self._header = header
        self._counted_up += len(command) + SCHEMA.serialize().size
        (self._confirmed,) = WANTED.unpack(reply)
        return self._confirmed

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


def bearer(token: str) -> bytes:
    """The value of the header that shows the token."""
    return f"Bearer {token}".encode()


def uri(host: str, port: int, *, tls: bool) -> str:
    """The address of a receiver as Flight takes it."""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'grpc+tls' if tls else 'grpc'}://{host}:{port}"


def split_location(location: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        LinkError: it has another form.
    """
    host, _, port = location.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise LinkError(f"the cloud's location must be HOST:PORT, as in 192.168.0.7:8815, got {location!r}")
    return host, int(port)
