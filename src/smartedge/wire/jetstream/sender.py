"""The edge's end of the link over a broker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple

from smartedge.errors import FrameError, LinkError
from smartedge.types import StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import Message, ReceivedFrame, header_from_json, header_to_json
from smartedge.wire.jetstream.client import connect, from_nats_error, refuse_in_clear
from smartedge.wire.jetstream.messages import Address, header_message, message_id, pieces_of, subject_of
from smartedge.wire.link import UNNAMED_EDGE, check_kind, must_be_closed, must_be_open
from smartedge.wire.loop import Loop
from smartedge.wire.sockets import ByteCount, SocketMeter

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["JetStreamLink"]

_NOTHING = Credentials()
_AHEAD_BYTES = 8 * 2**20  # that may be published and not be confirmed
_ROOM_FOR_HEADERS = 1024  # of a message, which count as its size


class _Waiting(NamedTuple):
    """A message whose confirmation has not come."""

    end: int  # when it is confirmed, every frame before this number is
    size: int
    answer: asyncio.Future[Any]


class JetStreamLink:
    """A :class:`~smartedge.wire.link.FrameSender` that publishes to a broker, whether ingest is running or not.

    A frame is confirmed when the broker has answered that it has it. What ingest finds wrong with a frame later does
    not reach this side. A link holds one connection, made at the first :meth:`open` and again after an error.

    Args:
        address: of the broker.
        edge: who sends; the broker must allow that name to publish to its subject.
        credentials: what this side shows, and how it checks the broker. Certificates turn TLS on.
        timeout_s: how long a connection, and the confirmation of a message, may take, in seconds.
        insecure: allow a broker beyond this machine without TLS.

    Raises:
        LinkError: ``insecure`` would be needed.
    """

    def __init__(
        self,
        address: Address,
        edge: str = UNNAMED_EDGE,
        credentials: Credentials = _NOTHING,
        *,
        timeout_s: float = 30.0,
        insecure: bool = False,
    ) -> None:
        refuse_in_clear(address, credentials, insecure=insecure)
        self._address, self._edge, self._credentials, self._timeout_s = address, edge, credentials, timeout_s
        self._where = f"broker {address.location}"
        self._meter = SocketMeter(address.host, address.port)
        self._lock = threading.Lock()  # of the meter
        self._calling = threading.Lock()  # held by the thread that uses the connection
        self._loop: Loop | None = None
        self._connecting: Future[_Connection] | None = None
        self._connection: _Connection | None = None
        self._header: StreamHeader | None = None
        self._next_seq = 0
        self._known = 0  # confirmed over earlier connections

    def assume_confirmed(self, seq: int) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. The broker itself cannot be asked."""
        self._known = max(self._known, seq)

    def open(self, header: StreamHeader) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`. Tries once to connect; goes on after what was confirmed.

        Raises:
            FrameError: the header means nothing, or its frames are to be answered.
            LinkError: the broker cannot be reached, or does not take it.
        """
        must_be_closed(self._header, self._where)
        if header.answered:
            raise FrameError(
                f"{self._where}: this method needs an answer to each frame before it goes on, and nothing goes back "
                "over a broker; connect to 'smartedge cloud' itself (HOST:PORT)"
            )
        header_from_json(header_to_json(header))
        with self._call() as loop:
            connection = self._connection
            if connection is None:
                with self._lock:
                    self._meter.snapshot()
                self._connecting = loop.start(self._connect())
                self._connection = connection = self._connected(self._connecting)
                with self._lock:
                    self._meter.attach()
            loop.run(connection.publish([header_message(header)], end=header.first_seq, unique=False))
            loop.run(connection.settle())
        self._header = header
        self._next_seq = min(max(header.first_seq, self.confirmed()), header.end_seq)
        return self._next_seq

    def write(self, message: Message) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. Waits where too much is not confirmed."""
        with self._call() as loop:
            header, connection = self._opened()
            check_kind(header, answered=False)
            if message.seq != self._next_seq:
                raise FrameError(f"frame {message.seq}: out of order, {self._next_seq} is next in this stream")
            pieces = list(pieces_of(message, connection.most))
            loop.run(connection.publish(pieces, end=message.seq + 1, unique=True, run=header.run))
            self._next_seq += 1

    def exchange(self, message: Message) -> ReceivedFrame:
        """Not possible over a broker."""
        with self._call():
            check_kind(self._opened()[0], answered=True)
        raise FrameError(f"{self._where}: frames cannot be answered over a broker")

    def flush(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. Returns when the broker has confirmed every frame."""
        with self._call() as loop:
            loop.run(self._opened()[1].settle())

    def close(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. The broker hears nothing of a stream's end."""
        with self._call() as loop:
            header, connection = self._opened()
            if self._next_seq != header.end_seq:
                sent = header.frames - (header.end_seq - self._next_seq)
                raise FrameError(f"stream: ended after {sent} of {header.frames} frames; send it again")
            loop.run(connection.settle())
            self._known = max(self._known, header.end_seq)
            self._header = None

    def confirmed(self) -> int:
        """Every frame before this number is on the broker's disk, as far as this side has heard."""
        connection = self._connection
        return self._known if connection is None else max(self._known, connection.confirmed)

    def counters(self) -> ByteCount:
        """Bytes at the socket where the kernel counts them (Linux); else nothing is counted."""
        with self._lock:
            counts = self._meter.counts()
        return ByteCount(0, 0, "payload") if counts is None else ByteCount(*counts, "kernel tcp_info")

    def disconnect(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        connection, connecting = self._connection, self._connecting
        if connecting is not None:
            connecting.cancel()  # does nothing where it has connected
        if connection is not None:
            connection.fail(LinkError(f"{self._where}: disconnected"))  # a thread that waits drops the connection
        if self._calling.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._calling.release()

    async def _connect(self) -> _Connection:
        lost: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()
        client = await connect(self._address, self._credentials, name=self._edge, timeout_s=self._timeout_s, lost=lost)
        return _Connection(client, self._address, self._edge, self._timeout_s, lost)

    def _connected(self, connecting: Future[_Connection]) -> _Connection:
        try:
            return connecting.result()
        except CancelledError as error:
            raise LinkError(f"{self._where}: disconnected while connecting") from error

    def _opened(self) -> tuple[StreamHeader, _Connection]:
        return must_be_open(self._header, self._where), must_be_open(self._connection, self._where)

    @contextlib.contextmanager
    def _call(self) -> Iterator[Loop]:
        """Guards calls that may wait for the broker. An error inside ends stream and connection."""
        with self._calling:
            try:
                if self._loop is None:
                    self._loop = Loop("broker")
                yield self._loop
            except BaseException:
                self._drop()
                raise

    def _drop(self) -> None:
        """Close stream and connection; called by the thread that holds ``_calling``."""
        self._known = self.confirmed()
        connection, self._connection, self._header = self._connection, None, None
        loop, self._loop = self._loop, None
        if loop is not None:
            if connection is not None:
                loop.run(connection.close())
            loop.close()
        with self._lock:
            self._meter.shutdown()
            self._meter.release()


class _Connection:
    """What is published over one connection, and confirmed. Its coroutines run on the link's loop."""

    def __init__(
        self, client: Client, address: Address, edge: str, timeout_s: float, lost: asyncio.Future[LinkError]
    ) -> None:
        self._client, self._edge, self._timeout_s, self._lost = client, edge, timeout_s, lost
        self._stream = address.stream_of(edge)
        self._subject = subject_of(self._stream, edge)
        self._where = f"broker {address.location}, subject {self._subject}"
        self._loop = asyncio.get_running_loop()
        self._jetstream = client.jetstream(timeout=timeout_s)
        self._waiting: deque[_Waiting] = deque()
        self._size = 0  # of all that waits
        self.most = client.max_payload - _ROOM_FOR_HEADERS
        self.confirmed = 0

    def fail(self, error: LinkError) -> None:
        """End every wait with an error. May be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(lambda: None if self._lost.done() else self._lost.set_result(error))

    async def publish(self, pieces: list[bytes], *, end: int, unique: bool, run: str = "") -> None:
        """Publish the messages of one frame. Wait first where too much is not confirmed."""
        for number, piece in enumerate(pieces):
            while self._size + len(piece) > _AHEAD_BYTES and self._waiting:
                await self._first()
            headers = {"Nats-Msg-Id": message_id(self._edge, run, piece)} if unique else None
            try:
                answer = await self._jetstream.publish_async(self._subject, piece, stream=self._stream, headers=headers)
            except Exception as error:
                raise self._failure(error) from error
            last = number == len(pieces) - 1
            self._waiting.append(_Waiting(end if last else end - 1, len(piece), answer))
            self._size += len(piece)
        while self._waiting and self._waiting[0].answer.done():
            await self._first()
        if self._lost.done():
            raise self._lost.result()

    async def settle(self) -> None:
        """Wait until everything that was published is confirmed."""
        while self._waiting:
            await self._first()

    async def close(self) -> None:
        """Close the connection."""
        for waiting in self._waiting:
            waiting.answer.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), 2.0)

    async def _first(self) -> None:
        """Wait for the oldest confirmation. The broker confirms in the order in which it was sent to."""
        waiting = self._waiting[0]
        await asyncio.wait({waiting.answer, self._lost}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.answer.done():
            raise self._failure(self._lost.result() if self._lost.done() else TimeoutError())
        try:
            waiting.answer.result()
        except Exception as error:
            raise self._failure(error) from error
        self._waiting.popleft()
        self._size -= waiting.size
        self.confirmed = max(self.confirmed, waiting.end)

    def _failure(self, error: Exception) -> LinkError:
        return from_nats_error(error, self._where)
