"""The edge's end of the link over gRPC, with TLS and a token.

The other end is :mod:`smartedge.wire.grpc_receiver`. ``link.proto`` has the messages, ``docs/wire-protocol.md`` the
rules.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc

from smartedge.errors import FleetError, LinkError, RunError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.addresses import is_loopback, location_of, split_location
from smartedge.wire.credentials import TOKEN_HEADER, Credentials, bearer
from smartedge.wire.frame import Message, ReceivedFrame
from smartedge.wire.grpc_errors import carried_by, from_rpc_error, passes
from smartedge.wire.grpc_stream import SILENCE_S, Stream
from smartedge.wire.handshake import LOOK_S, greet
from smartedge.wire.link import check_answer, check_kind, must_be_closed, must_be_open
from smartedge.wire.link_pb2 import Ask
from smartedge.wire.parts import MESSAGE_BYTES, split
from smartedge.wire.sockets import ByteCount, SocketMeter

__all__ = ["COLLECT", "METHOD", "GrpcLink"]

_log = logging.getLogger(__name__)

METHOD = "/smartedge.link.v1.Link/Send"
COLLECT = "/smartedge.link.v1.Link/Collect"
_Result = TypeVar("_Result")

_NOTHING = Credentials()
_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0  # twice as long each time: a cloud that cannot keep up must not get more to do
_GREET_S = 5.0  # how long may be asked why there is no connection
_LOOK_S = 0.2  # how often a thread that waits looks whether the call still lives


class GrpcLink:
    """A :class:`~smartedge.wire.link.FrameSender` to a :class:`~smartedge.wire.grpc_receiver.GrpcReceiver`.

    A link holds one connection, made at the first :meth:`open` and again after an error. The end of the
    receiver's process is noticed at once; a lost machine (power, cable) within ``PEER_TIMEOUT_S`` seconds; a receiver
    that hangs, with its sockets open, within
    :data:`~smartedge.wire.grpc_stream.SILENCE_S` seconds.

    Args:
        location: ``host:port`` of the receiver.
        credentials: what this side shows, and how it checks the receiver. Certificates turn TLS on.
        connect_timeout_s: how long :meth:`open` tries, in seconds, while the receiver is not there or not free.
        patient: False: :meth:`open` tries once, and an attempt to connect takes no longer than that.
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
        patient: bool = True,
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
        self._location, self._shown = location, credentials
        self._where = f"link to {location}"
        self._target = location_of(host, port)
        self._credentials = None
        if credentials.tls:
            self._credentials = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
        self._metadata = [] if credentials.token is None else [(TOKEN_HEADER, bearer(credentials.token))]
        name = credentials.server_name
        self._options = [
            *([] if name is None else [("grpc.ssl_target_name_override", name)]),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, so that its bytes can be counted
            ("grpc.enable_http_proxy", 0),
            ("grpc.min_reconnect_backoff_ms", int(1000 * connect_timeout_s)),  # also ends a connection attempt
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ]
        self._connect_timeout_s = connect_timeout_s
        self._patient = patient
        self._meter = SocketMeter(host, port)
        self._lock = threading.Lock()  # of the meter
        self._calling = threading.Lock()  # held by the thread that uses the connection
        self._disconnected = threading.Event()
        self._channel: Any = None
        self._stream: Stream | None = None
        self._confirmed = 0
        self._counted_up = 0
        self._counted_down = 0

    def open(self, header: StreamHeader) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`. May try for ``connect_timeout_s``."""
        must_be_closed(self._stream, self._where)
        return self._patiently(lambda: self._open(header))

    def ask(self, question: bytes) -> bytes:
        """Ask what ``Collect`` of ``link.proto`` answers, outside of streams. May try for ``connect_timeout_s``.

        Raises:
            SmartEdgeError: there is no answer.
        """
        must_be_closed(self._stream, self._where)
        return self._patiently(lambda: self._asked(question))

    def check_admitted(self, settings: str, begun: str | None = None) -> None:
        """Ask the receiver once whether it lets this side in. One that does not answer now says so in a stream.

        Args:
            settings: of this side, as a stream header has them.
            begun: the run that this side goes on with; empty: it begins a new one. None: that is not asked.

        Raises:
            FleetError: it does not.
            RunError: its run has other settings, or it holds frames of another run of this side.
        """
        must_be_closed(self._stream, self._where)
        with self._calling:
            try:
                self._asked(Ask(settings=settings, begun=begun).SerializeToString(), timeout_s=LOOK_S)
            except grpc.RpcError as error:
                if isinstance(refusal := carried_by(error), (FleetError, RunError)):
                    raise refusal from error
            finally:
                self._drop()  # it may take hours until there is something to send

    def _patiently(self, call: Callable[[], _Result]) -> _Result:
        """Call again while the receiver is not there or not free."""
        self._disconnected.clear()
        deadline, pause = time.monotonic() + self._connect_timeout_s, _RETRY_S
        while True:
            with self._call():
                try:
                    return call()
                except grpc.RpcError as error:
                    self._drop()
                    if not passes(error):
                        raise
                    if not self._patient or time.monotonic() >= deadline:
                        raise self._unavailable(error) from error
            if self._disconnected.wait(pause * random.uniform(0.5, 1.5)):
                raise LinkError(f"{self._where}: disconnected while opening a stream")
            pause = min(2 * pause, _LONGEST_RETRY_S)

    def write(self, message: Message) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            self._opened(answered=False).send(split(message))

    def exchange(self, message: Message) -> ReceivedFrame:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            stream = self._opened(answered=True)
            stream.send(split(message))
            answer = stream.answer()
            if answer is None:
                raise LinkError(f"{self._where}: the receiver ended the stream instead of replying")
            return check_answer(answer, message, stream.header)

    def flush(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            self._opened(answered=False).flush()

    def close(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._call():
            stream = self._opened()
            stream.finish()
            self._end_stream()
            if self._confirmed != stream.header.end_seq:
                raise LinkError(f"{self._where}: the receiver has not confirmed the last frames")

    def confirmed(self) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        stream = self._stream
        if stream is not None and stream.broke_off:
            with self._call():  # nobody else may notice, where this side waits for a confirmation before it goes on
                stream.check_confirmed()
        return self._confirmed if stream is None else stream.confirmed

    def assume_confirmed(self, seq: int) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`: the receiver knows better."""

    def counters(self) -> ByteCount:
        """Bytes at the socket where the kernel counts them (Linux), else bytes of the messages.

        After :meth:`close` has returned, everything that was sent is counted.
        """
        with self._lock:
            counts = self._meter.counts()
        if counts is None:
            stream = self._stream
            up, down = (stream.up, stream.down) if stream is not None else (0, 0)
            return ByteCount(self._counted_up + up, self._counted_down + down, "payload")
        return ByteCount(*counts, "kernel tcp_info")

    def disconnect(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        self._disconnected.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()  # a thread that waits for the receiver gets an error, and drops the connection
        if self._calling.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._calling.release()

    def _unavailable(self, error: grpc.RpcError) -> SmartEdgeError:
        """Why no stream could be opened. gRPC does not say so of TLS; a greeting of our own does."""
        try:
            greet(self._location, self._shown, _GREET_S)
        except LinkError as found:
            return found
        reason = from_rpc_error(error, self._where)
        return LinkError(f"{reason}; tried for {self._connect_timeout_s:g} s") if self._patient else reason

    def _asked(self, question: bytes, timeout_s: float = SILENCE_S) -> bytes:
        call = self._connected().unary_unary(COLLECT)
        answer: bytes = call(question, metadata=self._metadata, timeout=timeout_s)
        return answer

    def _connected(self) -> Any:
        """The connection; it is made where there is none."""
        if self._channel is None:
            with self._lock:
                self._meter.snapshot()
            self._channel = (
                grpc.insecure_channel(self._target, self._options)
                if self._credentials is None
                else grpc.secure_channel(self._target, self._credentials, self._options)
            )
        return self._channel

    def _open(self, header: StreamHeader) -> int:
        call = self._connected().stream_stream(METHOD)
        stream = self._stream = Stream(header, call, self._metadata)
        try:
            while not stream.heard.wait(_LOOK_S):
                with self._lock:
                    self._meter.attach()  # a peer that is lost now is noticed, too
        finally:
            with self._lock:
                self._meter.attach()
        if self._disconnected.is_set():
            raise LinkError(f"{self._where}: disconnected while opening a stream")
        stream.raise_failure()
        if stream.confirmed < 0:
            raise LinkError(f"{self._where}: what answers there is not a smartedge cloud")
        return stream.confirmed

    def _opened(self, *, answered: bool | None = None) -> Stream:
        stream = must_be_open(self._stream, self._where)
        if answered is not None:
            check_kind(stream.header, answered=answered)
        return stream

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Guards calls that may wait for the receiver. An error inside ends stream and connection."""
        with self._calling:
            try:
                yield
            except grpc.RpcError as error:
                self._drop()
                raise from_rpc_error(error, self._where) from error
            except BaseException:
                self._drop()
                raise
        if self._disconnected.is_set():  # by another thread, which could not drop the connection
            self.disconnect()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._confirmed = max(stream.confirmed, 0)
            self._counted_up += stream.up
            self._counted_down += stream.down

    def _drop(self) -> None:
        """Close stream and connection; called by the thread that holds ``_calling``."""
        channel, self._channel = self._channel, None
        if self._stream is not None:
            self._stream.cancel()
        self._end_stream()
        with self._lock:
            self._meter.shutdown()
            self._meter.release()
        if channel is not None:
            channel.close()
