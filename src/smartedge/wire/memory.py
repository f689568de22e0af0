"""The link within one process: for ``--single-process``, and as the public test double of a link."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from smartedge.types import StreamHeader
from smartedge.wire.frame import Message, ReceivedFrame, header_from_json, header_to_json
from smartedge.wire.link import (
    UNNAMED_EDGE,
    FrameHandler,
    StreamReceiver,
    check_answer,
    check_kind,
    must_be_closed,
    must_be_open,
)
from smartedge.wire.sockets import ByteCount

__all__ = ["MemoryLink"]


class MemoryLink:
    """A :class:`~smartedge.wire.link.FrameSender` whose frames reach the handler in the same call.

    They pass through the same bytes and checks as over a network.

    Args:
        handler: takes the frames.
        edge: the name of the sender.
    """

    def __init__(self, handler: FrameHandler, edge: str = UNNAMED_EDGE) -> None:
        self._handler = handler
        self._edge = edge
        self._header: StreamHeader | None = None
        self._receiver: StreamReceiver | None = None
        self._confirmed = 0
        self._up = 0
        self._down = 0

    def open(self, header: StreamHeader) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        must_be_closed(self._receiver, "link")
        data = header_to_json(header)
        self._up += len(data)
        self._header = header_from_json(data)
        self._receiver = StreamReceiver(self._handler, self._edge, self._header)
        self._confirmed = self._receiver.next_seq
        return self._confirmed

    def write(self, message: Message) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream(answered=False) as (_, receiver):
            self._up += len(message.head) + len(message.payload)
            receiver.take([message])

    def exchange(self, message: Message) -> ReceivedFrame:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream(answered=True) as (header, receiver):
            self._up += len(message.head) + len(message.payload)
            (answer,) = receiver.take([message])
            self._down += len(answer.head) + len(answer.payload)
            return check_answer(answer, message, header)

    def flush(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream(answered=False) as (header, receiver):
            if self._confirmed < header.end_seq:
                self._confirmed = receiver.sync()

    def close(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream() as (header, receiver):
            self._receiver = None
            receiver.finish()
            self._confirmed = header.end_seq

    def confirmed(self) -> int:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        return self._confirmed

    def assume_confirmed(self, seq: int) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`: the receiver knows better."""

    def counters(self) -> ByteCount:
        """Bytes of the frames and stream headers; there is no socket here."""
        return ByteCount(self._up, self._down, "payload")

    def disconnect(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.abort()

    @contextlib.contextmanager
    def _stream(self, *, answered: bool | None = None) -> Iterator[tuple[StreamHeader, StreamReceiver]]:
        """Header and receiver of the open stream. With any error inside, the stream is lost."""
        header, receiver = must_be_open(self._header, "link"), must_be_open(self._receiver, "link")
        if answered is not None:
            check_kind(header, answered=answered)
        try:
            yield header, receiver
        except BaseException:
            self.disconnect()
            raise
