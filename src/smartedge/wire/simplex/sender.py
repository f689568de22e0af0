"""The edge's end of the one-way link: sends datagrams, and never receives one."""

from __future__ import annotations

import socket
import sys
import threading
import time

from smartedge.errors import FrameError, LinkError
from smartedge.types import StreamHeader
from smartedge.wire.addresses import split_location
from smartedge.wire.frame import Message, ReceivedFrame
from smartedge.wire.link import check_kind, must_be_closed, must_be_open
from smartedge.wire.simplex.blocks import Block, pack_block, split_block
from smartedge.wire.simplex.seal import Sealer
from smartedge.wire.sockets import ByteCount

__all__ = ["SimplexLink"]

_BLOCK_BYTES = 64 * 1024  # frames are gathered to this size: longer blocks need fewer repair symbols
_END_ROUNDS = 3  # the end of a stream is sent again after a pause: a burst of losses may swallow it
_END_PAUSE_S = 0.1
_IP_MTU_DISCOVER, _ROUTERS_MAY_DIVIDE = 10, 0  # of Linux; Python has no names for them
_UDP_IP_BYTES = 28  # of headers around a datagram (IPv4), which the link's rate includes


class SimplexLink:
    """A :class:`~smartedge.wire.link.FrameSender` over UDP that nothing comes back to.

    What was sent counts as confirmed, since no news can come. So :meth:`confirmed` and :meth:`close` promise that the
    datagrams have left this machine, and no more.

    Args:
        location: ``host:port`` of the receiver.
        sealer: encrypts for this edge.
        rate_bits_s: bits per second that the link carries; datagrams are spaced out to keep to it.
        loss: share of datagrams that the link is expected to lose, at least 0 and below 1.

    Raises:
        LinkError: the location has another form.
    """

    def __init__(self, location: str, sealer: Sealer, *, rate_bits_s: float, loss: float) -> None:
        self._address = split_location(location)
        self._where = f"one-way link to {location}"
        self._socket: socket.socket | None = None
        self._sealer = sealer
        self._rate_bits_s = rate_bits_s
        self._loss = loss
        self._header: StreamHeader | None = None
        self._messages: list[Message] = []
        self._gathered = 0  # bytes of these messages
        self._sent_seq = 0
        self._up = 0
        self._free_at = 0.0  # when the link has carried what was sent
        self._stopped = threading.Event()

    def open(self, header: StreamHeader) -> int:
        """Begin a stream. Nobody answers, so it goes on after what was sent.

        Raises:
            LinkError: a stream is open already, or the cloud's name cannot be resolved.
            FrameError: its frames are to be answered.
        """
        must_be_closed(self._header, self._where)
        if header.answered:
            raise FrameError(f"{self._where}: frames cannot be answered here; this needs a link with a way back")
        self._socket = self._connect(self._socket)
        self._header = header
        self._stopped.clear()
        return min(max(header.first_seq, self._sent_seq), header.end_seq)

    def write(self, message: Message) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`. Waits where the link's rate is reached."""
        header = self._stream()
        check_kind(header, answered=False)
        self._messages.append(message)
        self._gathered += len(message.head) + len(message.payload)
        if self._gathered >= _BLOCK_BYTES or len(self._messages) >= header.joined_frames:
            self._flush(message.seq + 1)

    def exchange(self, message: Message) -> ReceivedFrame:
        """Not possible on a link without a way back."""
        raise FrameError(f"{self._where}: frames cannot be answered here; this needs a link with a way back")

    def flush(self) -> None:
        """Send what was kept."""
        self._flush(self._stream().end_seq)

    def close(self) -> None:
        """Send what was kept and the end of the stream; returns when the link has carried it."""
        header = self._stream()
        self._flush(header.end_seq)
        for round_ in range(_END_ROUNDS):
            if round_:
                self._pause(_END_PAUSE_S)
            self._send(Block(header, (), ends=True))
        self._header = None

    def confirmed(self) -> int:
        """Every frame before this number has been sent. Whether it arrived cannot be known here."""
        return self._sent_seq

    def assume_confirmed(self, seq: int) -> None:
        """Every frame before this number was sent by an earlier process. It is not sent again."""
        self._sent_seq = max(self._sent_seq, seq)

    def counters(self) -> ByteCount:
        """Bytes of all datagrams; none ever comes down."""
        return ByteCount(self._up, 0, "udp datagrams")

    def disconnect(self) -> None:
        """Break off: what was gathered is dropped, and a thread that waits for the link's rate gets an error."""
        self._stopped.set()
        self._header, self._messages, self._gathered = None, [], 0
        found, self._socket = self._socket, None
        if found is not None:
            found.close()

    def _connect(self, before: socket.socket | None) -> socket.socket:
        """A socket to the cloud. Its name is looked up for each stream: nobody tells that its address has changed."""
        try:
            family, _, _, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            if before is not None and before.getpeername() == address:
                return before
            made = socket.socket(family, socket.SOCK_DGRAM)
            if sys.platform == "linux" and family == socket.AF_INET:
                # Else a router whose link takes only smaller datagrams drops them, and its word about it may not come.
                made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _ROUTERS_MAY_DIVIDE)
            made.connect(address)  # sends nothing: it sets the address, once
        except OSError as error:
            if before is not None:
                return before  # the address of before may still be right
            raise LinkError(f"{self._where}: {error.strerror or error}") from error
        if before is not None:
            before.close()
        return made

    def _stream(self) -> StreamHeader:
        return must_be_open(self._header, self._where)

    def _flush(self, sent_seq: int) -> None:
        if self._messages:
            messages, self._messages, self._gathered = tuple(self._messages), [], 0
            self._send(Block(self._stream(), messages, ends=False))
        self._sent_seq = max(self._sent_seq, sent_seq)

    def _send(self, block: Block) -> None:
        try:
            # The counter of its first datagram numbers a block: it grows for ever, over restarts too.
            for content in split_block(pack_block(block), self._sealer.counter, self._loss):
                self._send_datagram(self._sealer.seal(content))
        except LinkError:
            self.disconnect()  # the stream is lost, and can be opened again
            raise

    def _send_datagram(self, datagram: bytes) -> None:
        self._pause(self._free_at - time.monotonic())
        try:
            if (connected := self._socket) is not None:  # another thread may disconnect meanwhile
                connected.send(datagram)
        except ConnectionRefusedError:
            pass  # a message from the other machine's kernel: nobody listens there now. This link does not listen
        except OSError as error:
            self._pause(0.0)  # it was closed on purpose
            raise LinkError(f"{self._where}: {error.strerror or error}") from error
        self._up += len(datagram)
        took = 8 * (len(datagram) + _UDP_IP_BYTES) / self._rate_bits_s
        self._free_at = max(self._free_at, time.monotonic() - took) + took

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise LinkError(f"{self._where}: disconnected")
