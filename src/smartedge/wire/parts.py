"""Frames as messages of the link: one message for each frame, or several where its payload does not fit in one."""

from __future__ import annotations

from collections.abc import Iterator

from smartedge.errors import FrameError
from smartedge.types import StreamHeader
from smartedge.wire import link_pb2
from smartedge.wire.frame import Message, max_head_bytes, max_payload_bytes

__all__ = ["MESSAGE_BYTES", "MIN_PART_BYTES", "Joiner", "split"]

MESSAGE_BYTES = 2 * 2**20  # no message of the link is longer
MIN_PART_BYTES = 64 * 1024  # of the payload in a message that another one continues: so that parts are few

_PART_BYTES = 2**20  # so that a head fits too (MAX_HEAD_BYTES)


def split(message: Message) -> Iterator[link_pb2.Frame]:
    """The messages of the link that carry a frame."""
    head, payload = message
    last = max(0, len(payload) - 1) // _PART_BYTES
    for part in range(last):
        start = part * _PART_BYTES
        yield link_pb2.Frame(head=head, payload=payload[start : start + _PART_BYTES], more=True)
        head = b""
    yield link_pb2.Frame(head=head, payload=payload[last * _PART_BYTES :] if last else payload)


class Joiner:
    """Puts the frames of a stream together again. It never holds more than the stream's header allows."""

    def __init__(self, header: StreamHeader) -> None:
        self._most_head = max_head_bytes(header)
        self._most_payload = max_payload_bytes(header)
        self._head = b""
        self._payloads: list[bytes] = []
        self._bytes = 0

    def add(self, part: link_pb2.Frame) -> Message | None:
        """The frame, where ``part`` completes one.

        Raises:
            FrameError: it cannot be a part of a frame of this stream.
        """
        head, payload = part.head, part.payload
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
        if not part.more:
            whole = b"".join((*self._payloads, payload)) if self._payloads else payload
            self._head, self._payloads, self._bytes = b"", [], 0
            return Message(head, whole)
        if len(payload) < MIN_PART_BYTES:
            raise FrameError(f"frame: a part of {len(payload)} bytes is continued; such parts have {MIN_PART_BYTES}")
        self._head = head
        self._payloads.append(payload)
        return None
