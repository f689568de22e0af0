"""Frames as messages of the link: one message for each frame, or several where its payload does not fit in one.

A message that carries a frame is the same from either side: field 2 of ``Up`` and of ``Down`` (``link.proto``). It is
written and read here without protobuf's library, which copies a payload several times. A message whose fields have
another order or that has others is left to the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from smartedge.errors import FrameError
from smartedge.types import Bytes, StreamHeader
from smartedge.wire.frame import Message, max_head_bytes, max_payload_bytes
from smartedge.wire.link_pb2 import Up

__all__ = ["MESSAGE_BYTES", "MIN_PART_BYTES", "Joiner", "Part", "read_part", "split"]

MESSAGE_BYTES = 2 * 2**20  # no message of the link is longer
MIN_PART_BYTES = 64 * 1024  # of the payload in a message that another one continues: so that parts are few

_PART_BYTES = 2**20  # so that a head fits too (MAX_HEAD_BYTES)

# Protobuf's keys: 8 * number of the field + 2 for bytes or a message, + 0 for an integer.
_FRAME, _HEAD, _PAYLOAD, _MORE = b"\x12", b"\x0a", b"\x12", b"\x18\x01"


class Part(NamedTuple):
    """What one message of the link carries of a frame."""

    head: bytes
    payload: Bytes
    more: bool  # the next message continues the payload


def split(message: Message) -> Iterator[bytes]:
    """The messages of the link that carry a frame."""
    head, payload = message.head, memoryview(message.payload)
    last = max(0, len(payload) - 1) // _PART_BYTES
    for number in range(last + 1):
        part = payload[number * _PART_BYTES : (number + 1) * _PART_BYTES]
        fields: list[Bytes] = [_HEAD, _varint(len(head)), head] if head else []
        fields += [_PAYLOAD, _varint(len(part)), part] if part else []
        fields += [_MORE] if number < last else []
        yield b"".join([_FRAME, _varint(sum(map(len, fields))), *fields])
        head = b""


def read_part(data: bytes) -> Part:
    """What a message of the link carries of a frame. The payload is a view of the message.

    Raises:
        DecodeError: it is not a message of ``link.proto``.
    """
    view, head, payload = memoryview(data), b"", memoryview(b"")
    if data[:1] == _FRAME:
        try:
            size, at = _read_varint(data, 1)
            whole = at + size == len(data)
            if data[at : at + 1] == _HEAD:
                size, at = _read_varint(data, at + 1)
                head, at = data[at : at + size], at + size
            if data[at : at + 1] == _PAYLOAD:
                size, at = _read_varint(data, at + 1)
                payload, at = view[at : at + size], at + size
            more = data[at : at + 2] == _MORE
            if whole and at + 2 * more == len(data):
                return Part(head, payload, more)
        except IndexError:
            pass
    frame = Up.FromString(data).frame
    return Part(frame.head, frame.payload, frame.more)


def _varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits in a byte, the lowest first; the highest bit says that more come."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends; what is longer than five bytes is not read to its end."""
    number = 0
    for place in range(5):
        number |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return number, at + place + 1
    raise IndexError


class Joiner:
    """Puts the frames of a stream together again. It never holds more than the stream's header allows."""

    def __init__(self, header: StreamHeader) -> None:
        self._most_head = max_head_bytes(header)
        self._most_payload = max_payload_bytes(header)
        self._head: bytes  # of the frame whose payload has begun
        self._payloads: list[Bytes] = []
        self._bytes = 0

    def add(self, data: bytes) -> Message | None:
        """The frame, where this message of the link completes one.

        Raises:
            FrameError: it cannot be a part of a frame of this stream.
            DecodeError: it is not a message of ``link.proto``.
        """
        head, payload, more = read_part(data)
        if self._payloads:
            if head:
                raise FrameError("frame: a message that continues a payload must have no head")
            head = self._head
        self._bytes += len(payload)
        if len(head) > self._most_head or self._bytes > self._most_payload:
            raise FrameError(
                f"frame: a head of {len(head)} bytes, or a payload of at least {self._bytes} bytes; up to "
                f"{self._most_head} and {self._most_payload} are possible here"
            )
        if not more:
            whole = b"".join((*self._payloads, payload)) if self._payloads else payload
            self._payloads, self._bytes = [], 0
            return Message(head, whole)
        if len(payload) < MIN_PART_BYTES:
            raise FrameError(f"frame: a part of {len(payload)} bytes is continued; such parts have {MIN_PART_BYTES}")
        self._head = head
        self._payloads.append(payload)
        return None
