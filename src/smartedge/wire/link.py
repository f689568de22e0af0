"""The interfaces of a link: the sender, the receiver's handler, and the order of frames in a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from smartedge.errors import FrameError, LinkError
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import Message, ReceivedFrame, answer_header, parse, receive, serialise
from smartedge.wire.sockets import ByteCount

__all__ = [
    "UNNAMED_EDGE",
    "FrameHandler",
    "FrameSender",
    "StreamReceiver",
    "check_answer",
    "check_kind",
    "must_be_closed",
    "must_be_open",
]


UNNAMED_EDGE = "edge"  # the name of a sender on a link that authenticates nobody


class FrameSender(Protocol):
    """The edge's end of a link. One stream at a time; any method may raise :class:`~smartedge.errors.LinkError`.

    After an error the stream is lost; :meth:`open` begins a new one, over a new connection.
    """

    def open(self, header: StreamHeader) -> int:
        """Begin a stream, and return when the receiver has accepted the header.

        Returns:
            The sequence number of the frame that the receiver wants next; it holds all earlier ones durably. The next
            frame sent must be this one. It is ``header.first_seq`` where the receiver holds none of the stream, and
            ``header.end_seq`` where it holds all.

        Raises:
            FrameError, RunError: when the receiver refuses it.
        """

    def write(self, message: Message) -> None:
        """Send a frame, as :func:`~smartedge.wire.frame.serialise` makes it.

        Nothing comes back, so an error of the receiver may be raised a few frames later. Blocks while the receiver is
        full.
        """

    def exchange(self, message: Message) -> ReceivedFrame:
        """Send a frame and wait for the answer to it (``StreamHeader.answer_shape``)."""

    def flush(self) -> None:
        """Send what was kept, and return when the receiver holds every frame of the stream durably.

        All frames were written, and frames of this stream are not answered. The stream stays open. The receiver's
        program may end once it has heard of the end of the last stream, and not before.
        """

    def close(self) -> None:
        """Send what was kept, end the stream, and return when the receiver holds every frame durably.

        Raises:
            LinkError: the receiver may not have heard of the end, also where :meth:`confirmed` says that it holds
                every frame. It may wait for that; the stream can be opened and ended again.
        """

    def confirmed(self) -> int:
        """The receiver holds every frame before this number durably, as far as this side has heard.

        Streams that were opened later, or by another link, may have gone back behind it (split learning).
        """

    def assume_confirmed(self, seq: int) -> None:
        """Every frame before this number was confirmed to an earlier process.

        A link whose receiver says in :meth:`open` what it wants does not need to know.
        """

    def counters(self) -> ByteCount:
        """Bytes up and down since the link was made."""

    def disconnect(self) -> None:
        """Close the connection; an open stream is broken off. May be called from any thread, at any time."""


class FrameHandler(Protocol):
    """Takes streams in the cloud. After ``accept`` has returned, ``finish`` or ``abort`` follows once.

    Methods are called from the receiver's threads. For one edge only ``sync`` may be called while another one works:
    frames are made durable while further ones come. ``edge`` is the authenticated
    name of the sender, or :data:`UNNAMED_EDGE` where the link authenticates nobody.
    """

    def accept(self, edge: str, header: StreamHeader) -> int:
        """A stream begins. Its header has the right form; the handler decides whether to accept it.

        Args:
            edge: who sends.
            header: what the sender says about the stream.

        Returns:
            The sequence number of the frame that is wanted next, from ``header.first_seq`` to ``header.end_seq``. All
            earlier frames of the stream are durable.

        Raises:
            FrameError, RunError: to refuse it.
        """

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> Frame | None:
        """Take the next frame, checked against the header and in order. May block; the sender then waits.

        Where it waits for other edges it calls :func:`smartedge.wire.slots.about_to_wait` before.

        Returns:
            The answer, with the same ``seq`` and ids, where the header asks for answers; else None.
        """

    def sync(self, edge: str, header: StreamHeader) -> int:
        """Make every frame that was ingested durable. Called now and then within a stream, not after every frame.

        Returns:
            The number before which every frame of the edge is durable. The sender may forget these frames.
        """

    def finish(self, edge: str, header: StreamHeader) -> None:
        """All frames are in: make them durable. The sender's ``close`` returns after this."""

    def abort(self, edge: str, header: StreamHeader) -> None:
        """The stream broke off, or a frame of it was not acceptable."""


_Stream = TypeVar("_Stream")


def must_be_open(stream: _Stream | None, where: str) -> _Stream:
    """The open stream of a link.

    Raises:
        LinkError: none is open.
    """
    if stream is None:
        raise LinkError(f"{where}: no stream is open; call open(header) first")
    return stream


def must_be_closed(stream: object | None, where: str) -> None:
    """Refuse to open a second stream.

    Raises:
        LinkError: one is open.
    """
    if stream is not None:
        raise LinkError(f"{where}: a stream is open already; close it before opening another")


def check_kind(header: StreamHeader, *, answered: bool) -> None:
    """Raise a :class:`~smartedge.errors.FrameError` where a stream is used as the other kind."""
    if answered != header.answered:
        kind, call = ("answered", "exchange") if header.answered else ("not answered", "write")
        raise FrameError(f"stream: frames of this stream are {kind}; send them by {call}()")


class StreamReceiver:
    """One stream at the receiver's end of any link. It checks every frame and their order.

    ``next_seq`` is the frame that must come next.

    Raises:
        FrameError, RunError: from the constructor, when the handler refuses the stream.
    """

    def __init__(self, handler: FrameHandler, edge: str, header: StreamHeader) -> None:
        self._handler = handler
        self._edge = edge
        self._header = header
        self._open = True
        self.next_seq = handler.accept(edge, header)

    def take(self, messages: Iterable[Message]) -> list[Message]:
        """Check the next frames, each before it is handed on. Returns the answers, where frames are answered."""
        header, answers = self._header, []
        for message in messages:
            frame = receive(message, header)
            if frame.seq != self.next_seq:
                raise FrameError(f"frame {frame.seq}: out of order, {self.next_seq} is next in this stream")
            self.next_seq += 1
            answer = self._handler.ingest(self._edge, header, frame)
            if (answer is not None) != header.answered:
                must = "must be" if answer is None else "must not be"
                raise FrameError(f"frame {frame.seq}: a {header.split} frame of this stream {must} replied to")
            if answer is not None:
                answers.append(serialise(answer, answer_header(header)))
        return answers

    def sync(self) -> int:
        """Make the frames that were taken durable. Returns the number before which every frame is."""
        return self._handler.sync(self._edge, self._header)

    def finish(self) -> None:
        """The sender ended the stream: check that no frame is missing, and let the handler make it durable."""
        if self.next_seq != self._header.end_seq:
            self.abort()
            frames = self._header.frames
            received = frames - (self._header.end_seq - self.next_seq)
            raise FrameError(f"stream: ended after {received} of {frames} frames; send it again")
        self._open = False
        self._handler.finish(self._edge, self._header)

    def abort(self) -> None:
        """The stream broke off. Nothing happens where it has ended already."""
        if self._open:
            self._open = False
            self._handler.abort(self._edge, self._header)


def check_answer(answer: Message, sent: Message, header: StreamHeader) -> ReceivedFrame:
    """The answer to a frame that was sent, checked.

    Raises:
        FrameError: when it is no acceptable frame, or answers another one.
    """
    frame = receive(answer, answer_header(header))
    if frame.seq != sent.seq or frame.batch.ids.tolist() != parse(sent, header).batch.ids.tolist():
        raise FrameError(f"frame {sent.seq}: the reply is to frame {frame.seq}, or of other images")
    return frame
