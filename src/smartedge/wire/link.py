"""What a link is: the interface of the sender, that of the handler behind the receiver, and the order of a stream."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from smartedge.errors import FrameError
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import batch_to_frame, frame_to_batch, reply_header
from smartedge.wire.meter import ByteCount

__all__ = ["FrameHandler", "FrameSender", "StreamReceiver", "check_kind", "check_reply", "exchanges"]


class FrameSender(Protocol):
    """The edge's end of a link. One stream at a time; any method may raise :class:`~smartedge.errors.LinkError`.

    After an error the stream is lost; :meth:`open` begins a new one, over a new connection.
    """

    def open(self, header: StreamHeader) -> None:
        """Begin a stream, and return when the receiver has accepted the header.

        Raises:
            FrameError, RunError: when the receiver refuses it.
        """
        ...

    def write(self, frame: Frame) -> None:
        """Send a frame, or keep it until the next ones to send them as one message (``wire.frame.most_joined``).

        Nothing comes back, so an error of the receiver may surface a few frames later. Blocks while the receiver takes
        nothing more.
        """
        ...

    def exchange(self, frame: Frame) -> Frame:
        """Send a frame and wait for the reply to it, for split learning: the gradient at the cut, in float32."""
        ...

    def close(self) -> None:
        """Send what was kept, end the stream, and return when the receiver holds every frame durably."""
        ...

    def counters(self) -> ByteCount:
        """Bytes up and down since the link was made."""
        ...

    def disconnect(self) -> None:
        """Let go of the connection; a stream still open is broken off. May be called from any thread, at any time."""
        ...


class FrameHandler(Protocol):
    """What the cloud does with a stream. After ``accept`` has returned, one of ``finish`` and ``abort`` follows, once.

    Methods are called from the receiver's threads, but never two at a time for one receiver.
    """

    def accept(self, header: StreamHeader, *, exchange: bool) -> None:
        """A stream begins; the header's form is checked, whether it is welcome is not.

        Args:
            header: what the sender says about the stream.
            exchange: whether every frame of it is to be answered.

        Raises:
            FrameError, RunError: to refuse it.
        """
        ...

    def ingest(self, header: StreamHeader, frame: Frame) -> Frame | None:
        """Take the next frame, checked against the header and in order. May block: that is the sender's backpressure.

        Returns:
            On an exchanging stream the reply, of the same ``seq`` and ids; on any other None.
        """
        ...

    def finish(self, header: StreamHeader) -> None:
        """All frames are in: make them durable. The sender's ``close`` returns after this."""
        ...

    def abort(self, header: StreamHeader) -> None:
        """The stream broke off, or a frame of it was not acceptable."""
        ...


def exchanges(header: StreamHeader) -> bool:
    """Whether every frame of the stream is answered: split learning's training, and inference. Others are one-way."""
    return header.method == "infer" or (header.method == "split" and header.split == "train")


def check_kind(header: StreamHeader, *, exchange: bool) -> None:
    """Raise a :class:`~smartedge.errors.FrameError` where a stream is used as the other kind."""
    if exchange != exchanges(header):
        kind, call = ("one-way", "write") if exchange else ("exchanging", "exchange")
        raise FrameError(f"stream: {header.split} of method {header.method} is {kind}; send its frames by {call}()")


class StreamReceiver:
    """One stream at the receiver's end, whatever link it came over: checks every frame, and the order of them.

    Raises:
        FrameError, RunError: from the constructor, when the handler refuses the stream.
    """

    def __init__(self, handler: FrameHandler, header: StreamHeader) -> None:
        self._handler = handler
        self._header = header
        self._next_seq = header.first_seq
        handler.accept(header, exchange=exchanges(header))

    def take(self, message: pa.RecordBatch) -> pa.RecordBatch | None:
        """Check the next frames and hand them on. Returns the reply, on an exchanging stream."""
        rows = message.num_rows
        if rows == 0 or (rows > 1 and exchanges(self._header)):
            raise FrameError(f"frame: a message of a {self._header.split} stream of this method has {rows} rows")
        for row in range(rows):
            reply = self._take(message.slice(row, 1))
        return reply

    def _take(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        frame = batch_to_frame(batch, self._header)
        if frame.seq != self._next_seq:
            raise FrameError(f"frame {frame.seq}: out of order, {self._next_seq} is next in this stream")
        self._next_seq += 1
        reply = self._handler.ingest(self._header, frame)
        if (reply is not None) != exchanges(self._header):
            must = "must be" if reply is None else "must not be"
            raise FrameError(f"frame {frame.seq}: a {self._header.split} frame of this stream {must} replied to")
        return None if reply is None else frame_to_batch(reply, reply_header(self._header))

    def finish(self) -> None:
        """The sender ended the stream: check that it was whole, and let the handler make it durable."""
        received = self._next_seq - self._header.first_seq
        if received != self._header.frames:
            self.abort()
            raise FrameError(f"stream: ended after {received} of {self._header.frames} frames; send it again")
        self._handler.finish(self._header)

    def abort(self) -> None:
        """The stream broke off."""
        self._handler.abort(self._header)


def check_reply(batch: pa.RecordBatch, frame: Frame, header: StreamHeader) -> Frame:
    """The reply to ``frame`` in a record batch, checked.

    Raises:
        FrameError: when it is no acceptable frame, or answers another one.
    """
    reply = batch_to_frame(batch, reply_header(header))
    if reply.seq != frame.seq or reply.batch.ids.tolist() != frame.batch.ids.tolist():
        raise FrameError(f"frame {frame.seq}: the reply is to frame {reply.seq}, or of other images")
    return reply
