from __future__ import annotations

import numpy as np
from headers import stream_header

from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import header_to_json, serialise
from smartedge.wire.memory import MemoryLink

HEADER = stream_header(answer_shape=(2, 2, 2))


class Handler:
    """Answers each frame with itself, without labels and side."""

    def accept(self, edge: str, header: StreamHeader) -> int:
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame | None:
        return frame

    def sync(self, edge: str, header: StreamHeader) -> int:
        return header.end_seq

    def finish(self, edge: str, header: StreamHeader) -> None:
        pass

    def abort(self, edge: str, header: StreamHeader) -> None:
        pass


def test_counters_are_the_bytes_of_the_messages_and_say_so() -> None:
    link = MemoryLink(Handler())
    link.open(HEADER)
    frame = Frame(0, EncodedBatch(np.arange(4), np.zeros(4, np.int64), bytes(100), b""))
    link.exchange(serialise(frame, HEADER))
    link.close()
    opening = len(header_to_json(HEADER))
    message = sum(map(len, serialise(frame, HEADER)))
    found = link.counters()
    assert (found.up, found.source) == (opening + message, "payload")
    assert 100 < found.down <= message
