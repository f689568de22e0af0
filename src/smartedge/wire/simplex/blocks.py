"""Blocks of frames, and the datagrams from which a block is put together although some are lost.

A block holds the stream's header and the next frames of the stream; so one block can be used alone, whatever was
lost before. It is divided into symbols of one datagram each, and RaptorQ (RFC 6330) adds repair symbols: any set of as
many symbols as the block has, and a few more, gives the block back. How many repair symbols are sent follows from the
share of datagrams that the link is expected to lose.

    content of a datagram   uint64 number of the block, uint32 length of the block in bytes, one RaptorQ packet
    block                   byte 1 (frames follow) or 2 (end of the stream), uint32 length of the header, the header as
                            JSON, then for each frame: uint32 and uint32 length of head and payload, head, payload

Numbers are big-endian.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from smartedge.errors import FrameError, LinkError
from smartedge.types import Bytes, StreamHeader
from smartedge.wire.frame import Message, header_from_json, header_to_json

__all__ = [
    "CONTENT_BYTES",
    "MAX_BLOCK_BYTES",
    "Assembler",
    "Block",
    "datagrams_for",
    "pack_block",
    "split_block",
    "unpack_block",
]

MAX_BLOCK_BYTES = 8 * 2**20
_SYMBOL_BYTES = 1176  # with all that is around it 1 273 bytes: every path of IPv6 passes 1 280 whole
_FAILURE = 1e-6  # a block is lost with at most this probability, where datagrams are lost independently
_SPARE = 2  # symbols beyond the block's own with which RaptorQ fails in less than one of a million blocks (RFC 6330)
_OPEN_BYTES = 4 * MAX_BLOCK_BYTES  # of one edge's blocks that are not complete; and of those that wait for them
_OPEN_BLOCKS = 64

_CONTENT = struct.Struct(">QI")
_PACKET_HEAD = 4  # bytes of RaptorQ: a number that is 0 in blocks of this size, and the symbol's
CONTENT_BYTES = _CONTENT.size + _PACKET_HEAD + _SYMBOL_BYTES  # of every datagram
_START = struct.Struct(">BI")
_LENGTHS = struct.Struct(">II")
_FRAMES, _END = 1, 2


class Block(NamedTuple):
    """What one block holds."""

    header: StreamHeader
    messages: tuple[Message, ...]
    ends: bool  # whether the stream ends here


def pack_block(block: Block) -> bytes:
    """The block as bytes."""
    header = header_to_json(block.header)
    parts: list[Bytes] = [_START.pack(_END if block.ends else _FRAMES, len(header)), header]
    for message in block.messages:
        parts += [_LENGTHS.pack(len(message.head), len(message.payload)), message.head, message.payload]
    return b"".join(parts)


def unpack_block(data: bytes) -> Block:
    """The block of these bytes, which may come from anybody who has the key.

    Raises:
        FrameError: they are no block, or its header is not acceptable.
    """
    if len(data) < _START.size:
        raise FrameError("block: shorter than its start")
    kind, length = _START.unpack_from(data)
    place = _START.size + length
    if kind not in (_FRAMES, _END) or place > len(data):
        raise FrameError("block: it has no stream header where one must be")
    header = header_from_json(data[_START.size : place])
    messages = []
    while place < len(data):
        if place + _LENGTHS.size > len(data):
            raise FrameError("block: a frame is cut off")
        head, payload = _LENGTHS.unpack_from(data, place)
        place += _LENGTHS.size
        if place + head + payload > len(data):
            raise FrameError("block: a frame is cut off")
        messages.append(Message(data[place : place + head], data[place + head : place + head + payload]))
        place += head + payload
    return Block(header, tuple(messages), kind == _END)


def split_block(data: bytes, number: int, loss: float) -> list[bytes]:
    """The contents of the datagrams that carry a block.

    Args:
        data: the block, at most ``MAX_BLOCK_BYTES``.
        number: of the block; later blocks have larger ones.
        loss: share of datagrams that is expected to be lost, at least 0 and below 1.

    Raises:
        LinkError: the block is too long.
    """
    from raptorq import Encoder

    if len(data) > MAX_BLOCK_BYTES:
        raise LinkError(
            f"a frame of {len(data)} bytes is too long for the one-way link, which takes {MAX_BLOCK_BYTES}: "
            "lower train.batch_size, or send less per image"
        )
    symbols = math.ceil(len(data) / _SYMBOL_BYTES)
    packets = Encoder.with_defaults(data, _SYMBOL_BYTES).get_encoded_packets(datagrams_for(symbols, loss) - symbols)
    start = _CONTENT.pack(number, len(data))
    return [start + packet for packet in packets]


@lru_cache(maxsize=1024)
def datagrams_for(symbols: int, loss: float) -> int:
    """How many datagrams to send for a block of so many symbols.

    The fewest n for which, of n datagrams that are lost independently with probability ``loss``, fewer than ``symbols``
    + 2 arrive with a probability of at most 1e-6.
    """
    if not 0 <= loss < 1:
        raise LinkError(f"link.simplex_loss: must be at least 0 and below 1, got {loss}")
    need = symbols + _SPARE
    low, high = need, need
    while _fewer_arrive(need, high, loss) > _FAILURE:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fewer_arrive(need, middle, loss) <= _FAILURE else (middle + 1, high)
    return low


def _fewer_arrive(need: int, sent: int, loss: float) -> float:
    """The probability that fewer than ``need`` of ``sent`` datagrams arrive (a binomial tail)."""
    if loss == 0:
        return 0.0
    total = 0.0
    for arrived in range(need - 1, -1, -1):  # the largest terms first
        term = math.exp(
            math.lgamma(sent + 1)
            - math.lgamma(arrived + 1)
            - math.lgamma(sent - arrived + 1)
            + arrived * math.log1p(-loss)
            + (sent - arrived) * math.log(loss)
        )
        total += term
        if term < 1e-12 * total or total > _FAILURE:
            break
    return total


class Assembler:
    """Puts the blocks of one edge together. Its memory is bounded: the oldest blocks that are not complete give way.

    Blocks are given out in their order. A complete block waits for older ones that have begun to come, for at most
    ``patience_s`` seconds after their latest datagram, and not where too many bytes wait.

    Args:
        patience_s: see above.
        now: the time in seconds.
    """

    def __init__(self, patience_s: float = 2.0, now: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._now = now
        self._open: dict[int, _Open] = {}
        self._complete: dict[int, bytes] = {}
        self._given = -1  # number of the newest block that was given out or given up

    @property
    def waits(self) -> bool:
        """Whether a complete block waits for an older one."""
        return bool(self._complete)

    def add(self, content: bytes) -> list[bytes]:
        """Take the content of a datagram; returns the blocks that can be given out now, in their order."""
        from raptorq import Decoder

        if len(content) != CONTENT_BYTES or content[_CONTENT.size] != 0:  # the library panics at another number
            return []
        number, length = _CONTENT.unpack_from(content)
        if number <= self._given or number in self._complete or not 0 < length <= MAX_BLOCK_BYTES:
            return self.due()
        found = self._open.get(number)
        if found is None:
            found = self._open[number] = _Open(length, Decoder.with_defaults(length, _SYMBOL_BYTES))
            self._make_room()
        if found.length != length:
            return self.due()
        found.latest = self._now()
        if (data := found.decoder.decode(content[_CONTENT.size :])) is not None:
            self._open.pop(number, None)
            self._complete[number] = bytes(data)
        return self.due()

    def due(self) -> list[bytes]:
        """The complete blocks for which nothing older is worth waiting for any longer, in their order."""
        given = []
        for number in sorted(self._complete):
            older = [each for each in self._open if each < number]
            patient = sum(map(len, self._complete.values())) <= _OPEN_BYTES
            if patient and any(self._open[each].latest + self._patience_s > self._now() for each in older):
                break
            for each in older:
                del self._open[each]
            given.append(self._complete.pop(number))
            self._given = number
        return given

    def _make_room(self) -> None:
        while len(self._open) > _OPEN_BLOCKS or sum(each.length for each in self._open.values()) > _OPEN_BYTES:
            del self._open[min(self._open)]


class _Decoder(Protocol):
    """What is used of ``raptorq.Decoder``, which has no types."""

    def decode(self, packet: bytes, /) -> bytes | None: ...


@dataclass
class _Open:
    """A block that is not complete."""

    length: int  # bytes
    decoder: _Decoder
    latest: float = 0.0  # when its latest datagram came
