"""The feature log: append-only, exactly once, and whole after a crash."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.store import FeatureLog
from smartedge.errors import FrameError, LogError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import ReceivedFrame, receive, serialise

HEADER = stream_header(batch_size=3, frames=8, train_steps=8)


def frame(seq: int, fill: int = 0, header: StreamHeader = HEADER) -> ReceivedFrame:
    ids, labels = np.arange(3) + 3 * seq, np.array([0, 1, 0])
    payload = np.full((3, 2, 2, 2), seq + fill, np.float32).tobytes()
    return receive(serialise(Frame(seq, EncodedBatch(ids, labels, payload, b"")), header), header)


@contextlib.contextmanager
def opened(folder: Path, **arguments: int) -> Iterator[FeatureLog]:
    with contextlib.closing(FeatureLog(folder, **arguments)) as log:
        yield log


def written(folder: Path, count: int, **arguments: int) -> None:
    with opened(folder, **arguments) as log:
        log.add_stream(HEADER)
        for seq in range(count):
            assert log.append(frame(seq))
        log.sync()


def assert_equal(one: Frame, other: Frame) -> None:
    assert (one.seq, one.batch.side) == (other.seq, other.batch.side)
    assert one.batch.payload == other.batch.payload
    assert np.array_equal(one.batch.ids, other.batch.ids)
    assert np.array_equal(one.batch.labels, other.batch.labels)


@pytest.mark.parametrize("segment_bytes", [1, 600, 2**20])
def test_what_was_appended_is_read_back_after_reopening(tmp_path, segment_bytes):
    written(tmp_path, 5, segment_bytes=segment_bytes)
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        assert log.next_seq == 5
        for seq, found in enumerate(log.frames()):
            assert_equal(found, frame(seq))
        assert log.header_of(3) == HEADER
        assert log.append(frame(5))
        assert_equal(log.frame(5), frame(5))


def test_a_repetition_changes_nothing(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log:
        before = (tmp_path / "000000.frames").stat().st_size
        assert not log.append(frame(1))
        assert (tmp_path / "000000.frames").stat().st_size == before
        assert log.next_seq == 3


def test_another_frame_of_the_same_number_is_refused(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log, pytest.raises(FrameError, match="frame 1 differs"):
        log.append(frame(1, fill=1))


def test_a_gap_is_refused(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log, pytest.raises(FrameError, match="frame 3 is missing"):
        log.append(frame(4))


def test_every_torn_end_is_cut_off_and_the_rest_kept(tmp_path):
    written(tmp_path / "whole", 3)
    data = (tmp_path / "whole" / "000000.frames").read_bytes()
    written(tmp_path / "two", 2)
    two = len((tmp_path / "two" / "000000.frames").read_bytes())
    for end in (two + 1, two + 7, two + 8, two + 100, len(data) - 1):
        folder = tmp_path / str(end)
        written(folder, 3)
        (folder / "000000.frames").write_bytes(data[:end])
        with opened(folder) as log:
            assert log.next_seq == 2
            assert log.append(frame(2))
        assert (folder / "000000.frames").read_bytes() == data


def test_damage_before_the_end_is_an_error_where_later_segments_exist(tmp_path):
    written(tmp_path, 3, segment_bytes=1)
    first = tmp_path / "000000.frames"
    damaged = bytearray(first.read_bytes())
    damaged[40] ^= 1
    first.write_bytes(damaged)
    with pytest.raises(LogError, match=r"000000\.frames: damaged at byte 0"):
        FeatureLog(tmp_path)


@pytest.mark.parametrize("segment_bytes", [1, 2**20])
def test_truncation_forgets_frames_and_the_streams_they_came_by(tmp_path, segment_bytes):
    later = dataclasses.replace(HEADER, first_seq=8, epoch=1)
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        log.add_stream(HEADER)
        for seq in range(8):
            log.append(frame(seq))
        log.add_stream(later)
        log.append(frame(8, header=later))
        log.truncate(4)
        assert log.next_seq == 4
        assert log.streams == [HEADER]
        assert log.append(frame(4, fill=9))
    with opened(tmp_path) as log:
        assert log.next_seq == 5
        assert_equal(log.frame(4), frame(4, fill=9))


def test_a_frame_that_is_not_there(tmp_path):
    written(tmp_path, 2)
    with opened(tmp_path) as log, pytest.raises(LogError, match="no frame 2; the log holds 2"):
        log.frame(2)


def test_damage_before_the_last_record_is_an_error_and_deletes_nothing(tmp_path):
    written(tmp_path, 5)
    file = tmp_path / "000000.frames"
    damaged = bytearray(file.read_bytes())
    damaged[40] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(LogError, match="damaged at byte 0, and later frames exist"):
        FeatureLog(tmp_path)
    assert file.read_bytes() == bytes(damaged)


def test_zeros_at_the_end_are_a_torn_end(tmp_path):
    written(tmp_path, 3)
    file = tmp_path / "000000.frames"
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(4096))
    with opened(tmp_path) as log:
        assert log.next_seq == 3
    assert file.read_bytes() == whole


@pytest.mark.parametrize("room", [0, 5, 40, 100])
def test_what_the_disk_does_not_take_leaves_the_log_whole(tmp_path, monkeypatch, room):
    """The disk takes a part of a record and then no more; later there is room again."""
    written(tmp_path, 2)

    class Full(FileIO):
        left = room

        def write(self, data):
            if not Full.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = super().write(memoryview(data)[: Full.left])
            Full.left -= count
            return count

    with opened(tmp_path) as log:
        monkeypatch.setattr("smartedge.cloud.store.FileIO", Full)
        log._file.close()
        log._file = Full(tmp_path / "000000.frames", "ab")
        with pytest.raises(LogError, match="frame 2 cannot be written"):
            log.append(frame(2))
        with pytest.raises(LogError, match="header cannot be written"):
            log.add_stream(dataclasses.replace(HEADER, first_seq=2, split="val"))
        Full.left = 10**6
        assert log.append(frame(2)) and log.append(frame(3))
        log.add_stream(dataclasses.replace(HEADER, first_seq=4, split="val"))
        assert_equal(log.frame(3), frame(3))
    with opened(tmp_path) as log:
        assert log.next_seq == 4 and len(log.streams) == 2
        for seq in range(4):
            assert_equal(log.frame(seq), frame(seq))


def test_a_torn_header_is_cut_off_before_the_next_one(tmp_path):
    written(tmp_path, 2)
    file = tmp_path / "streams.jsonl"
    file.write_bytes(file.read_bytes() + b'{"protocol": 1, "ru')
    for seq in (2, 3):
        with opened(tmp_path) as log:
            log.add_stream(dataclasses.replace(HEADER, first_seq=seq, split="val"))
    with opened(tmp_path) as log:
        assert [header.first_seq for header in log.streams] == [0, 2, 3]


def test_a_header_that_this_version_cannot_read_is_an_error_and_deletes_nothing(tmp_path):
    written(tmp_path, 2)
    file = tmp_path / "streams.jsonl"
    older = file.read_bytes().replace(b'"protocol":3', b'"protocol":2')
    file.write_bytes(older)
    with pytest.raises(LogError, match=r"streams\.jsonl: line 1 .* speaks protocol 2"):
        FeatureLog(tmp_path)
    assert file.read_bytes() == older


@pytest.mark.parametrize("place", [12, 18, 60])  # in the head, in its ids, in the payload
def test_what_the_disk_changed_after_opening_is_noticed_when_read(tmp_path, place):
    written(tmp_path, 2)
    with opened(tmp_path) as log:
        file = tmp_path / "000000.frames"
        damaged = bytearray(file.read_bytes())
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(LogError, match="frame 0 is damaged"):
            log.frame(0)
        assert_equal(log.frame(1), frame(1))


def test_a_record_holds_the_bytes_that_came(tmp_path):
    written(tmp_path, 2)
    came = [frame(seq).head + frame(seq).batch.payload for seq in range(2)]
    data = (tmp_path / "000000.frames").read_bytes()
    assert len(data) == 2 * 12 + sum(map(len, came))
    assert data[12 : 12 + len(came[0])] == came[0] and data.endswith(came[1])
