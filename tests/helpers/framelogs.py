"""Small logs of known frames, and how to read one back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from smartedge.framelog.log import FrameLog
from smartedge.framelog.reader import LogReader

EDGE = "camera-7"
FRAMES = 7


def head(seq: int) -> bytes:
    return f"head {seq}".encode()


def payload(seq: int) -> bytes:
    return bytes([seq]) * (5 + seq)


@contextlib.contextmanager
def opened(folder: Path, **arguments: int) -> Iterator[FrameLog]:
    with contextlib.closing(FrameLog(folder, EDGE, **arguments)) as log:
        yield log


def fill(log: FrameLog, first: int, end: int) -> None:
    """Append frames. Every third one begins a stream."""
    for seq in range(first, end):
        if seq % 3 == 0:
            log.add_stream(f"stream from {seq}".encode(), seq)
        assert log.append(seq, head(seq), payload(seq))


def written(folder: Path, frames: int = FRAMES, *, segment_bytes: int = 150) -> None:
    """A log of several segments, all of it durable."""
    with opened(folder, segment_bytes=segment_bytes) as log:
        fill(log, 0, frames)
        assert log.sync() == frames


def content(log: LogReader) -> list[object]:
    """All that a log holds."""
    found: list[object] = [*log.stream_headers]
    for seq in range(log.first_seq, log.next_seq):
        found.append((seq, log.stream_of(seq), log.read(seq)) if log.came(seq) else (seq, "gap"))
    return found
