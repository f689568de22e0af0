"""The messages of one edge become calls of a handler, and it is decided which of them the broker may forget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from smartedge.errors import CodecError, FrameError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.frame import header_from_json
from smartedge.wire.jetstream.messages import Assembler, Piece, read_piece
from smartedge.wire.link import FrameHandler, StreamReceiver

__all__ = ["EdgeIntake", "Settled", "Stored"]


class Stored(NamedTuple):
    """What the store holds of an edge, whichever process took it."""

    frames: int = 0  # that are durable
    header: StreamHeader | None = None  # of the last stream of which a frame is durable


@dataclass
class Settled:
    """What became of some messages."""

    before: dict[str, int] = field(default_factory=dict)  # stream -> nothing before this number is needed any more
    bad: int = 0  # messages that are not sound: no run can take them
    why: SmartEdgeError | None = None  # of ``bad``
    refusal: SmartEdgeError | None = None  # the handler takes nothing more of this edge for now


class _Bad(Exception):
    """A message is not sound, or the whole next frame is not: the open stream cannot go on without it."""

    def __init__(self, reason: SmartEdgeError, *, frame: bool = False) -> None:
        self.reason, self.frame = reason, frame


class _Place(NamedTuple):
    """Where a message lies in the broker."""

    stream: str
    number: int


class EdgeIntake:
    """Takes the messages of one edge in their order, and hands frames to a handler.

    The broker may forget a message when the store has what it says. For a stream's header that is when the first of its
    frames is durable. A process that goes on with this edge is told that header by the store.

    A message that is not sound in itself is bad, and the sender has lost its frame. What is sound and refused stays
    with the broker: the fault may be one of this side, as other settings, a full disk, or a frame that is missing.

    Args:
        handler: takes the frames.
        edge: whose they are.
        stored: what the store holds of the edge. The broker may give some of it again.
    """

    def __init__(self, handler: FrameHandler, edge: str, stored: Stored) -> None:
        self._handler = handler
        self._edge = edge
        self._header = stored.header  # of the stream that came last
        self._receiver: StreamReceiver | None = None  # of the stream that is open
        self._next_seq = stored.frames
        self._assembler: Assembler | None = None
        self._came: dict[str, int] = {}  # stream -> number of the last message that was looked at
        self._begun: list[_Place] = []  # the open stream's header, until one of its frames is durable
        self._parts: list[_Place] = []  # of the frame that is not whole yet
        self._taken: list[_Place] = []  # of frames that are not durable yet

    def take(self, stream: str, messages: Iterable[tuple[int, bytes]]) -> Settled:
        """Take further messages of a stream, each with its number there, and make their frames durable.

        After a refusal this object is of no more use: :meth:`abort` it, and begin with the broker's oldest message.
        """
        settled = Settled()
        try:
            for number, data in messages:
                self._take_one(_Place(stream, number), data, settled)
        except SmartEdgeError as error:
            settled.refusal = error
        try:
            self._sync()
        except SmartEdgeError as error:
            settled.refusal = settled.refusal or error
        needed = [*self._begun, *self._parts, *self._taken]
        for name, last in self._came.items():
            settled.before[name] = min((place.number for place in needed if place.stream == name), default=last + 1)
        return settled

    def abort(self) -> None:
        """Nothing more is taken: break the open stream off."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.abort()

    def _take_one(self, place: _Place, data: bytes, settled: Settled) -> None:
        try:
            self._take(place, data)
        except _Bad as bad:
            settled.bad += len(self._parts) if bad.frame else 1
            settled.why = bad.reason
            self._came[place.stream] = place.number
            if bad.frame:
                self._parts = []
                raise bad.reason from bad
        self._came[place.stream] = place.number

    def _take(self, place: _Place, data: bytes) -> None:
        try:
            piece = read_piece(data)
            header = header_from_json(bytes(piece.body)) if piece.is_header else None
            if header is not None and header.answered:
                raise FrameError("stream: its frames are to be answered, and nothing goes back over a broker")
        except FrameError as error:
            raise _Bad(error) from error
        if header is None:
            self._add(piece, place)
        elif self._receiver is None or header != self._header:  # else the edge has connected again
            self._sync()
            self.abort()  # the edge has given an unfinished stream up
            self._open(header)
            self._begun, self._parts, self._assembler = [place], [], None
            self._finish_where_whole()

    def _open(self, header: StreamHeader) -> None:
        self._receiver = StreamReceiver(self._handler, self._edge, header)
        self._header, self._next_seq = header, self._receiver.next_seq

    def _add(self, piece: Piece, place: _Place) -> None:
        if self._receiver is None and self._header is not None and self._next_seq < self._header.end_seq:
            self._open(self._header)  # the store knows it, and may hold more by now
            self._finish_where_whole()
        header, receiver = self._header, self._receiver
        if piece.seq < self._next_seq:  # sent again
            return
        if header is None or receiver is None:
            raise FrameError(
                f"frame {piece.seq} came over the broker without a stream that it belongs to; the store ends before "
                f"frame {self._next_seq}. Is it the store that took the earlier frames?"
            )
        if not piece.seq < header.end_seq:
            raise _Bad(FrameError(f"frame {piece.seq}: the open stream ends with frame {header.end_seq - 1}"))
        if piece.seq > self._next_seq:
            raise FrameError(
                f"frame {piece.seq} came over the broker, but frame {self._next_seq} did not: it was not sound, or the "
                "broker has lost it (was it set up with sync_interval: always? Was a stream deleted?). Look for the "
                "fault, and start a new run for this edge; fleet.deadline lets the others end without it"
            )
        self._assembler = self._assembler or Assembler(header)
        self._parts.append(place)
        try:
            message = self._assembler.add(piece)
            if message is None:
                return
            receiver.take([message])
        except (FrameError, CodecError) as error:
            raise _Bad(error, frame=True) from error
        self._taken += self._parts
        self._assembler, self._parts = None, []
        self._next_seq = receiver.next_seq
        self._finish_where_whole()

    def _finish_where_whole(self) -> None:
        if self._header is not None and self._receiver is not None and self._next_seq == self._header.end_seq:
            receiver, self._receiver = self._receiver, None
            receiver.finish()
            self._begun, self._taken = [], []

    def _sync(self) -> None:
        if self._taken and self._receiver is not None:
            self._receiver.sync()
            self._begun, self._taken = [], []
