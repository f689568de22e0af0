"""What lies in the broker: addresses, subjects, and the messages of one edge.

The frames of edge ``door`` in the stream ``frames`` are messages on the subject ``smartedge.frames.door``. The broker
writes a stream's messages one after the other. So there may be several streams, ``frames``, ``frames+2``, ``frames+3``
and so on, and the name of an edge says which of them is its own.

A message is eight bytes and a body. Numbers are little-endian::

    uint32 sequence number of the frame, uint16 number of the part, uint16 parts of the frame - 1, body

A frame as bytes is ``uint32 length of the head, head, payload`` (:mod:`smartedge.wire.frame`). It is cut into parts,
since a broker limits the size of a message. The message of a stream's header has part number 65535, and its body is the
header. It comes before the first frame of the stream, and again whenever the edge connects.

What arrives may be wrong or hostile: everything is checked here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import urlsplit

from smartedge.errors import FrameError, LinkError
from smartedge.types import EDGE_NAME, Bytes, StreamHeader
from smartedge.wire.addresses import location_of
from smartedge.wire.frame import Message, header_to_json, max_head_bytes, max_payload_bytes

__all__ = [
    "MIN_PART_BYTES",
    "NATS",
    "Address",
    "Assembler",
    "Piece",
    "edge_of",
    "header_message",
    "message_id",
    "pieces_of",
    "read_piece",
    "subject_of",
]

NATS = "nats://"  # before the address of a broker
MIN_PART_BYTES = 64 * 1024  # of a frame in each message but its last: so that parts are few
# The name of a stream is as that of an edge.
_PATH = re.compile(rf"/?|/(?P<stream>{EDGE_NAME})(/(?P<streams>[1-9][0-9]?))?/?")
_USUAL_STREAM = "frames"
_USUAL_PORT = 4222

_PIECE = struct.Struct("<IHH")
_HEADER = 0xFFFF
_LENGTH = struct.Struct("<I")
_HEAD_BYTES = 6  # that are in every head
_HASHED_BYTES = 2**16  # of a message, for its id
_SUMS = struct.Struct("<II")


class Address(NamedTuple):
    """Where a broker is, and the streams in it."""

    host: str
    port: int
    stream: str  # the first one; the names of the others begin with it
    n_streams: int = 1

    @classmethod
    def parse(cls, location: str) -> Address:
        """``nats://HOST[:PORT][/STREAM[/COUNT]]``; without them the port is 4222, the stream ``frames``, the count 1.

        Raises:
            LinkError: it has another form.
        """
        try:
            parts = urlsplit(location)
            host, port, path = parts.hostname, parts.port or _USUAL_PORT, _PATH.fullmatch(parts.path)
            plain = parts.scheme == "nats" and not (parts.query or parts.fragment or "@" in parts.netloc)
        except ValueError:
            plain, host, port, path = False, None, 0, None
        if not plain or not host or path is None:
            raise LinkError(
                f"{location}: the broker's address must be nats://HOST:PORT, nats://HOST:PORT/STREAM or "
                "nats://HOST:PORT/STREAM/COUNT, as in nats://broker.example:4222/frames; a stream's name has small "
                "letters, digits, '-' and '_', and there are 1 to 99 streams. User and password cannot stand in it: "
                "use --bundle, link.tls_* or link.token_file"
            )
        return cls(host, port, path["stream"] or _USUAL_STREAM, int(path["streams"] or 1))

    @property
    def location(self) -> str:
        """``host:port``."""
        return location_of(self.host, self.port)

    @property
    def streams(self) -> list[str]:
        """Names of all streams. No address can name one with a '+' as its first."""
        return [self.stream, *(f"{self.stream}+{number}" for number in range(2, self.n_streams + 1))]

    def stream_of(self, edge: str) -> str:
        """The stream of one edge. With one stream more, few edges change theirs (rendezvous hashing)."""
        return max(self.streams, key=lambda stream: blake2b(f"{edge}/{stream}".encode(), digest_size=8).digest())


def subject_of(stream: str, edge: str) -> str:
    """The subject of an edge in a stream; of all edges for ``*``."""
    return f"smartedge.{stream}.{edge}"


def edge_of(stream: str, subject: str) -> str | None:
    """The edge that a subject of a stream belongs to; None: of no edge."""
    name = subject.removeprefix(subject_of(stream, ""))
    return name if name != subject and re.fullmatch(EDGE_NAME, name) else None


class Piece(NamedTuple):
    """What one message carries: a part of a frame, or a stream's header."""

    seq: int
    part: int
    parts: int
    body: memoryview

    @property
    def is_header(self) -> bool:
        """Whether it is a stream's header."""
        return self.part == _HEADER


def header_message(header: StreamHeader) -> bytes:
    """The message that begins a stream."""
    return _PIECE.pack(header.first_seq, _HEADER, 0) + header_to_json(header)


def pieces_of(message: Message, most: int) -> Iterator[bytes]:
    """The messages that carry a frame, of ``most`` bytes at most.

    Raises:
        LinkError: the broker takes only very small messages, or the frame has too many parts.
    """
    size = most - _PIECE.size
    if size < MIN_PART_BYTES:
        raise LinkError(
            f"the broker takes messages of {most} bytes at most; set max_payload to 1MB or more in its settings"
        )
    head, payload = message.head, memoryview(message.payload)
    begin = _LENGTH.pack(len(head)) + head
    total = len(begin) + len(payload)
    count = -(-total // size)
    if count > _HEADER:
        raise LinkError(f"frame {message.seq}: {total} bytes have more than {_HEADER} parts; raise the max_payload")
    for part in range(count):
        start, end = part * size, min((part + 1) * size, total)
        first = begin[start:end]
        rest = payload[max(0, start - len(begin)) : max(0, end - len(begin))]
        yield b"".join((_PIECE.pack(message.seq, part, count - 1), first, rest))


def read_piece(data: bytes) -> Piece:
    """The parts of a message.

    Raises:
        FrameError: it is too short.
    """
    if len(data) < _PIECE.size:
        raise FrameError(f"message: {len(data)} bytes are shorter than the {_PIECE.size} that are always there")
    seq, part, last = _PIECE.unpack_from(data)
    return Piece(seq, part, last + 1, memoryview(data)[_PIECE.size :])


def message_id(edge: str, run: str, piece: bytes) -> str:
    """What the broker knows a message by, so that it keeps it once (``Nats-Msg-Id``): edge, run, frame and part.

    The content belongs to it: the broker compares ids over all edges, and nobody else can know this one beforehand. For
    that the first bytes are enough. A checksum stands for the others, since to hash a MB takes an edge 0.8 ms.
    """
    digest = blake2b(digest_size=16, key=blake2b(f"{edge}/{run}".encode(), digest_size=32).digest())
    digest.update(memoryview(piece)[:_HASHED_BYTES])
    digest.update(_SUMS.pack(len(piece), zlib.crc32(piece)))
    return digest.hexdigest()


class Assembler:
    """Puts the parts of one frame together, in any order; it never holds more than the stream's header allows."""

    def __init__(self, header: StreamHeader) -> None:
        self._most = _LENGTH.size + max_head_bytes(header) + max_payload_bytes(header)
        self._parts: dict[int, Bytes] = {}
        self._count = 0
        self._size = 0

    def add(self, piece: Piece) -> Message | None:
        """The frame, where this is its last missing part. A part that is there already takes the place of the old one.

        Raises:
            FrameError: it cannot be a part of this frame, or the frame is not sound.
        """
        if piece.part >= piece.parts:
            raise FrameError(f"frame {piece.seq}: part {piece.part} of {piece.parts} cannot be")
        if piece.part < piece.parts - 1 and len(piece.body) < MIN_PART_BYTES:
            raise FrameError(f"frame {piece.seq}: a part has {len(piece.body)} bytes, not {MIN_PART_BYTES} or more")
        if self._count != piece.parts:  # sent again, after the broker's limit was changed
            self._parts, self._size, self._count = {}, 0, piece.parts
        self._size += len(piece.body) - len(self._parts.get(piece.part, b""))
        if self._size > self._most:
            raise FrameError(f"frame {piece.seq}: more than the {self._most} bytes that are possible here")
        self._parts[piece.part] = piece.body
        if len(self._parts) < self._count:
            return None
        return _unpacked(piece.seq, [self._parts[part] for part in range(self._count)])


def _unpacked(seq: int, parts: list[Bytes]) -> Message:
    whole = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
    length = int(_LENGTH.unpack_from(whole)[0]) if len(whole) >= _LENGTH.size else len(whole)
    start = _LENGTH.size + length
    if start > len(whole):
        raise FrameError(f"frame {seq}: its head is longer than the frame")
    message = Message(bytes(whole[_LENGTH.size : start]), whole[start:])
    if length < _HEAD_BYTES or message.seq != seq:
        raise FrameError(f"frame {seq}: its head is that of another frame, or none")
    return message
