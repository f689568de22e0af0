"""The edge's outbox: durable before it counts, bounded, and equal after a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import stream_header

from smartedge.edge.spool import Spool
from smartedge.errors import FrameError, LogError
from smartedge.framelog.reader import LogReader
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import Message, serialise

HEADER = stream_header(batch_size=3, frames=8, train_steps=8)
LATER = dataclasses.replace(HEADER, split="val", first_seq=8, frames=4)


def frame(seq: int, size: int = 96) -> Message:
    return serialise(
        Frame(seq, EncodedBatch(np.arange(3), np.array([0, 1, 0]), bytes([seq % 256]) * size, b"")), HEADER
    )


@contextlib.contextmanager
def opened(folder: Path, **arguments: Any) -> Iterator[Spool]:
    with contextlib.closing(Spool(folder, **{"waiting": lambda why: None, **arguments})) as spool:
        yield spool


def fill(spool: Spool, first: int, end: int) -> None:
    for seq in range(first, end):
        if seq in (HEADER.first_seq, LATER.first_seq):
            spool.open(HEADER if seq == 0 else LATER)
        spool.write(frame(seq))


def write_large(spool: Spool, count: int) -> None:
    for seq in range(count):
        spool.write(frame(seq, size=1000))


def test_what_was_written_is_there_after_a_restart_and_may_be_written_again(tmp_path):
    with opened(tmp_path) as spool:
        fill(spool, 0, 10)
        spool.sync()
        assert LogReader(tmp_path, "edge").next_seq == 10
    with opened(tmp_path) as spool:
        assert spool.streams == [HEADER, LATER] and spool.next_seq == spool.waiting_frames == 10
        assert spool.open(HEADER) == 0 and spool.streams == [HEADER, LATER]
        fill(spool, 5, 12)  # an edge that goes on at a checkpoint
        with pytest.raises(FrameError, match="frame 5 differs"):
            spool.write(frame(5, size=95))
        assert spool.message(9) == frame(9)
    assert LogReader(tmp_path, "edge").next_seq == 12, "closed, so durable"


def test_frames_become_durable_where_the_reader_wants_them_and_by_themselves(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("smartedge.edge.spool.time.monotonic", lambda: now)
    with opened(tmp_path) as spool:
        fill(spool, 0, 2)
        assert spool.holds(1) and not spool.holds(2)
        assert LogReader(tmp_path, "edge").next_seq == 2
        now = 1000.49
        fill(spool, 2, 3)
        assert LogReader(tmp_path, "edge").next_seq == 2
        now = 1000.5  # nothing that is older than half a second is at risk
        fill(spool, 3, 4)
        assert LogReader(tmp_path, "edge").next_seq == 4
        monkeypatch.setattr("smartedge.edge.spool._SYNC_BYTES", 150)
        fill(spool, 4, 5)
        assert LogReader(tmp_path, "edge").next_seq == 4
        fill(spool, 5, 6)
        assert LogReader(tmp_path, "edge").next_seq == 6


def test_the_age_is_that_of_the_oldest_frame_that_waits_to_a_minute(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("smartedge.edge.spool.time.monotonic", lambda: now)
    with opened(tmp_path) as spool:
        now = 1010.0
        assert spool.age() == 0.0
        fill(spool, 0, 1)
        now = 1030.0
        fill(spool, 1, 2)
        now = 1060.0  # a minute after the spool was opened: it is noted when this one was written
        fill(spool, 2, 3)
        now = 1119.0
        fill(spool, 3, 4)
        assert spool.age() == 119.0
        spool.sync()
        spool.confirm(1)
        assert spool.age() == 119.0
        spool.confirm(2)
        assert spool.age() == 59.0
        spool.confirm(4)
        assert spool.age() == 0.0


def test_the_stream_of_a_frame(tmp_path):
    with opened(tmp_path) as spool:
        assert spool.stream_at(0) is None
        fill(spool, 0, 9)
        assert [spool.stream_at(seq) for seq in (0, 7, 8, 11, 12)] == [HEADER, HEADER, LATER, LATER, None]


def test_what_the_cloud_confirmed_is_dropped(tmp_path):
    with opened(tmp_path, max_bytes=2**16) as spool:  # files of 8 KiB
        spool.open(dataclasses.replace(HEADER, frames=100))
        for seq in range(40):
            spool.write(frame(seq, size=1000))
        spool.sync()
        spool.confirm(30)
        assert spool.waiting_frames == 10 and spool.confirmed == 30
        spool.confirm(20)  # heard earlier
        assert spool.confirmed == 30
        first = LogReader(tmp_path, "edge").first_seq
        assert 20 < first <= 30
        with pytest.raises(LogError, match="dropped after use"):
            spool.message(0)
    with opened(tmp_path, max_bytes=2**16) as spool:
        assert spool.confirmed == first and spool.next_seq == 40
        spool.confirm(50)  # by an earlier process, whose spool lost what came last
        assert spool.waiting_frames == 0 and spool.age() == 0.0


def test_a_full_spool_stops_the_run_with_a_clear_error(tmp_path):
    with opened(tmp_path, max_bytes=2**16, when_full="stop") as spool:
        spool.open(dataclasses.replace(HEADER, frames=100))
        with pytest.raises(
            LogError, match=r"spool is full \(\d+ bytes of 65536 are used: raise .*spool.when_full: block"
        ):
            write_large(spool, 100)
        assert 50 < spool.next_seq < 64
        spool.write(frame(0, size=1000))  # it is there, so it needs no room


def test_a_full_spool_makes_the_edge_wait_until_there_is_room(tmp_path):
    told, reasons = threading.Event(), []

    def wait(why: str) -> None:
        reasons.append(why)
        told.set()

    with opened(tmp_path, max_bytes=2**16, waiting=wait) as spool:
        spool.open(dataclasses.replace(HEADER, frames=100))

        def write() -> None:
            write_large(spool, 100)

        writing = threading.Thread(target=write)
        writing.start()
        assert told.wait(timeout=30)
        full = spool.next_seq
        assert full < 64 and spool.full
        assert LogReader(tmp_path, "edge").next_seq == full, "what waits was made durable, so that it can be sent"
        while writing.is_alive():  # the cloud confirms what there is
            spool.confirm(spool.next_seq)
            writing.join(timeout=0.01)
        assert spool.next_seq == 100 and not spool.full
    assert (
        "bytes of 65536 are used: raise store.max_bytes (in the cloud) or spool.max_bytes (on the edge)" in reasons[0]
    )


def test_a_stream_begins_when_a_full_spool_has_room_again(tmp_path):
    """It ended the run, although the edge was to wait."""
    told = threading.Event()
    with opened(tmp_path, max_bytes=2**16, waiting=lambda why: told.set()) as spool:
        spool.open(dataclasses.replace(HEADER, frames=500))
        seq = 0
        while spool._log.full_for(100) is None:
            spool.write(frame(seq, size=50))
            seq += 1
        opening = threading.Thread(target=spool.open, args=(dataclasses.replace(LATER, first_seq=500),))
        opening.start()
        assert told.wait(timeout=30) and len(spool.streams) == 1
        while opening.is_alive():
            spool.confirm(spool.next_seq)
            opening.join(timeout=0.01)
        assert len(spool.streams) == 2


def test_a_stop_ends_the_waiting_and_so_does_a_frame_that_never_fits(tmp_path):
    with opened(tmp_path / "stopped", max_bytes=2**16) as spool:
        spool.open(dataclasses.replace(HEADER, frames=100))
        spool.stop()
        with pytest.raises(LogError, match="stopped while the spool was full"):
            write_large(spool, 100)
    with opened(tmp_path / "small", max_bytes=2**16) as spool:
        spool.open(HEADER)
        with pytest.raises(LogError, match=r"no room for its \d+ bytes, although"):
            spool.write(frame(0, size=2**16))


def test_where_a_run_goes_on_its_earlier_frames_must_be_there(tmp_path):
    with opened(tmp_path) as spool:
        fill(spool, 0, 8)
        spool.begin(8, spooled=True)
        spool.begin(5, spooled=True)
        with pytest.raises(LogError, match="frames before 9 were put there, and it holds those before 8"):
            spool.begin(9, spooled=True)
        spool.begin(8, spooled=False)
        assert spool.next_seq == 8
    with opened(tmp_path / "new") as spool:  # the run had no spool until now
        spool.begin(8, spooled=False)
        assert (spool.next_seq, spool.waiting_frames) == (8, 0)
        assert LogReader(tmp_path / "new", "edge").next_seq == 8
        fill(spool, 8, 9)
        assert spool.stream_at(spool.confirmed) == LATER
