"""The messages of one edge become calls of a handler, and it is decided which of them the broker may forget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from smartedge.errors import CodecError, FrameError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.frame import header_from_json
from smartedge.wire.jetstream.messages import Assembler, Piece, read_piece
from smartedge.wire.link import FrameHandler, StreamReceiver

__all__ = ["EdgeIntake", "Settled"]

_Ticket = TypeVar("_Ticket")


@dataclass
class Settled(Generic[_Ticket]):
    """What became of some messages, by their tickets. Those that are named nowhere stay with the broker."""

    done: list[_Ticket] = field(default_factory=list)  # durable in the store, or needed by nobody
    bad: list[_Ticket] = field(default_factory=list)  # not sound: no run can take them
    why: SmartEdgeError | None = None  # of ``bad``
    refusal: SmartEdgeError | None = None  # the handler takes nothing more of this edge for now


class _Bad(Exception):
    """A message is not sound, or the whole next frame is not: the open stream cannot go on without it."""

    def __init__(self, reason: SmartEdgeError, *, frame: bool = False) -> None:
        self.reason, self.frame = reason, frame


class EdgeIntake(Generic[_Ticket]):
    """Takes the messages of one edge in their order, and hands frames to a handler.

    The message of a stream's header is done when the whole stream is. So another process that goes on with this edge
    gets it first, and then the frames that are not done.

    A message that is not sound in itself is bad, and the sender has lost its frame. What is sound and refused stays
    with the broker: the fault may be one of this side, as other settings, a full disk, or a frame that is missing.

    Args:
        handler: takes the frames.
        edge: whose they are.
        stored: how many of its frames are durable in the store. A broker that was killed may have lost that they are
            done, and not that their header is.
    """

    def __init__(self, handler: FrameHandler, edge: str, stored: int = 0) -> None:
        self._handler = handler
        self._edge = edge
        self._header: StreamHeader | None = None  # of the stream that came last
        self._receiver: StreamReceiver | None = None  # of the stream that is open
        self._next_seq = stored
        self._assembler: Assembler | None = None
        self._begun: list[_Ticket] = []  # of the open stream's header
        self._parts: list[_Ticket] = []  # of the frame that is not whole yet
        self._taken: list[_Ticket] = []  # of frames that are not durable yet

    def take(self, messages: Iterable[tuple[_Ticket, bytes]]) -> Settled[_Ticket]:
        """Take further messages, and make their frames durable.

        After a refusal this object is of no more use: :meth:`abort` it, and begin with the broker's oldest message.
        """
        settled: Settled[_Ticket] = Settled()
        try:
            for ticket, data in messages:
                try:
                    self._take(ticket, data, settled)
                except _Bad as bad:
                    settled.bad += self._parts if bad.frame else [ticket]
                    settled.why = bad.reason
                    if bad.frame:
                        raise bad.reason from bad
            self._sync(settled)
        except SmartEdgeError as error:
            settled.refusal = error
        return settled

    def abort(self) -> None:
        """Nothing more is taken: break the open stream off."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.abort()

    def _take(self, ticket: _Ticket, data: bytes, settled: Settled[_Ticket]) -> None:
        try:
            piece = read_piece(data)
            header = header_from_json(bytes(piece.body)) if piece.is_header else None
            if header is not None and header.answered:
                raise FrameError("stream: its frames are to be answered, and nothing goes back over a broker")
        except FrameError as error:
            raise _Bad(error) from error
        if header is None:
            self._add(piece, ticket, settled)
        elif self._receiver is not None and header == self._header:  # the edge has connected again
            settled.done.append(ticket)
        else:
            self._begin(header, ticket, settled)

    def _begin(self, header: StreamHeader, ticket: _Ticket, settled: Settled[_Ticket]) -> None:
        self._sync(settled)
        self.abort()  # the edge has given an unfinished stream up
        settled.done += [*self._begun, *self._parts]
        self._begun, self._parts, self._assembler = [], [], None
        self._receiver = StreamReceiver(self._handler, self._edge, header)
        self._header, self._next_seq = header, self._receiver.next_seq
        self._begun = [ticket]
        self._finish_where_whole(settled)

    def _add(self, piece: Piece, ticket: _Ticket, settled: Settled[_Ticket]) -> None:
        header, receiver = self._header, self._receiver
        if piece.seq < self._next_seq:  # sent again
            settled.done.append(ticket)
            return
        if header is None or receiver is None:
            raise _Bad(FrameError(f"frame {piece.seq}: no stream that it could belong to was begun"))
        if not piece.seq < header.end_seq:
            raise _Bad(FrameError(f"frame {piece.seq}: the open stream ends with frame {header.end_seq - 1}"))
        if piece.seq > self._next_seq:
            raise FrameError(
                f"frame {piece.seq} came over the broker, but frame {self._next_seq} did not: it was not sound, or the "
                "broker has lost it (was it set up with sync_interval: always?)"
            )
        self._assembler = self._assembler or Assembler(header)
        self._parts.append(ticket)
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
        self._finish_where_whole(settled)

    def _finish_where_whole(self, settled: Settled[_Ticket]) -> None:
        if self._header is not None and self._receiver is not None and self._next_seq == self._header.end_seq:
            receiver, self._receiver = self._receiver, None
            receiver.finish()
            settled.done += [*self._taken, *self._begun]
            self._taken, self._begun = [], []

    def _sync(self, settled: Settled[_Ticket]) -> None:
        if self._taken and self._receiver is not None:
            self._receiver.sync()
            settled.done += self._taken
            self._taken = []
