"""The feature log: headers and frames on top of the log of bytes (tests/unit/framelog)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.intake import Intake
from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader, StoreHandler, edges_of, has_begun, log_folder
from smartedge.errors import FrameError, LogError, RunError
from smartedge.framelog.log import FrameLog
from smartedge.types import PROTOCOL, EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import ReceivedFrame, header_to_json, receive, serialise

HEADER = stream_header(batch_size=3, frames=8, train_steps=8)
LATER = dataclasses.replace(HEADER, first_seq=8, epoch=1)


def frame(seq: int, fill: int = 0, header: StreamHeader = HEADER) -> ReceivedFrame:
    ids, labels = np.arange(3) + 3 * seq, np.array([0, 1, 0])
    payload = np.full((3, 2, 2, 2), seq + fill, np.float32).tobytes()
    return receive(serialise(Frame(seq, EncodedBatch(ids, labels, payload, b"")), header), header)


def put(log: FeatureLog, frame: ReceivedFrame) -> bool:
    return log.append(frame.seq, frame.head, frame.batch.payload)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[FeatureLog]:
    with contextlib.closing(FeatureLog(folder)) as log:
        yield log


def written(folder: Path, count: int) -> None:
    with opened(folder) as log:
        log.begin(HEADER)
        for seq in range(count):
            assert put(log, frame(seq))
        log.sync()


def assert_equal(one: Frame, other: Frame) -> None:
    assert (one.seq, one.batch.side) == (other.seq, other.batch.side)
    assert one.batch.payload == other.batch.payload
    assert np.array_equal(one.batch.ids, other.batch.ids)
    assert np.array_equal(one.batch.labels, other.batch.labels)


def test_what_was_appended_is_read_back_after_reopening(tmp_path):
    written(tmp_path, 5)
    with opened(tmp_path) as log:
        assert (log.next_seq, log.durable) == (5, 5)
        for seq, found in enumerate(log.frames()):
            assert_equal(found, frame(seq))
        assert log.header_of(3) == HEADER and log.images(3) == 3
        log.begin(HEADER)
        assert log.streams == [HEADER], "known already"
        assert put(log, frame(5))
        assert_equal(log.frame(5), frame(5))


def test_a_repetition_changes_nothing_and_another_frame_is_refused(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log:
        assert not put(log, frame(1))
        with pytest.raises(FrameError, match="frame 1 differs"):
            put(log, frame(1, fill=1))
        with pytest.raises(FrameError, match="frame 3 is missing"):
            put(log, frame(4))
        assert log.next_seq == 3


def test_each_frame_has_the_header_that_it_came_by_and_a_cut_forgets_later_ones(tmp_path):
    written(tmp_path, 8)
    with opened(tmp_path) as log:
        log.begin(LATER)
        put(log, frame(8, header=LATER))
        assert (log.header_of(7), log.header_of(8)) == (HEADER, LATER)
        log.truncate(4)
        assert (log.next_seq, log.streams) == (4, [HEADER])
        assert put(log, frame(4, fill=9))
        log.sync()
        reader = FeatureReader(tmp_path)
        assert_equal(reader.frame(4), frame(4, fill=9))


def test_a_reader_follows_the_writer(tmp_path):
    written(tmp_path, 8)
    with opened(tmp_path) as log:
        reader = FeatureReader(tmp_path)
        log.begin(LATER)
        put(log, frame(8, header=LATER))
        log.sync()
        assert reader.next_seq == 8
        reader.refresh()
        assert reader.streams == [HEADER, LATER]
        assert [found.seq for found in reader.frames()] == list(range(9))


def test_gaps_are_left_out(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log:
        log.mark_gap(5)
        put(log, frame(5))
        assert [found.seq for found in log.frames()] == [0, 1, 2, 5]
        assert log.gaps == [(3, 5)]


def test_a_header_or_frame_that_this_version_cannot_read_is_an_error(tmp_path):
    older = header_to_json(HEADER).replace(b'"protocol":%d' % PROTOCOL, b'"protocol":2')
    assert older != header_to_json(HEADER)
    for header, error in ((older, "stream header 0: .*speaks protocol 2"), (header_to_json(HEADER), "frame 0: ")):
        folder = tmp_path / error[:5]
        with contextlib.closing(FrameLog(folder, "edge")) as log:
            log.add_stream(header, 0)
            log.append(0, b"no head", b"x")
            log.sync()
        with pytest.raises(LogError, match=error):
            FeatureReader(folder).frame(0)


def test_a_record_holds_the_bytes_that_came(tmp_path):
    written(tmp_path, 2)
    data = (tmp_path / "000000.frames").read_bytes()
    came = [frame(seq).head + frame(seq).batch.payload for seq in range(2)]
    assert len(data) == 48 + 2 * 32 + sum(map(len, came))
    assert all(each in data for each in came)


def test_a_stream_goes_on_where_the_log_is_durable(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log:
        handler = StoreHandler(log)
        assert handler.accept("edge", HEADER) == 3
        put(log, frame(3))
        assert handler.accept("edge", HEADER) == 3, "frame 3 may still be lost"
        handler.ingest("edge", HEADER, frame(4))
        handler.finish("edge", HEADER)
        assert handler.accept("edge", HEADER) == 5
        assert handler.accept("edge", LATER) == 8


def test_where_logs_lie(tmp_path):
    assert log_folder(tmp_path) == tmp_path / "store" / "edge"
    assert not has_begun(tmp_path) and edges_of(tmp_path) == []
    for edge in ("camera-7", "a_b"):
        written(log_folder(tmp_path, edge), 1)
    (tmp_path / "store" / "lost+found").mkdir()
    (tmp_path / "store" / "elsewhere").symlink_to(tmp_path / "a disk that is not mounted")
    assert has_begun(tmp_path) and edges_of(tmp_path) == ["a_b", "camera-7", "elsewhere"]
    with pytest.raises(LogError, match="elsewhere"):
        Intake(tmp_path, "elsewhere")
    assert len(os.listdir(tmp_path / "store")) == 4
    for name in ("", ".", "..", "a/b", "/a", "a" * 64, "a\n", ".hidden", "ä", "a.b", "Door"):
        with pytest.raises(RunError, match="a name has"):
            log_folder(tmp_path, name)


def test_a_log_of_an_earlier_version_is_a_clear_error(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "streams.jsonl").write_text("{}\n")
    assert has_begun(tmp_path)
    for act in (log_folder, edges_of):
        with pytest.raises(LogError, match="of an earlier version"):
            act(tmp_path)
