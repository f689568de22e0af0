"""Appending, the watermark, recovery above it, one writer, gaps, retention, and what the disk may refuse."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from framelogs import EDGE, content, fill, head, opened, payload, written

from smartedge.errors import FrameError, LogError
from smartedge.framelog import log as log_module
from smartedge.framelog import mark as mark_module
from smartedge.framelog.log import FrameLog
from smartedge.framelog.mark import read_mark
from smartedge.framelog.reader import LogReader


@pytest.mark.parametrize("segment_bytes", [1, 150, 2**20])
def test_what_was_appended_is_read_back_after_reopening(tmp_path, segment_bytes):
    written(tmp_path, 5, segment_bytes=segment_bytes)
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        assert (log.first_seq, log.next_seq, log.durable) == (0, 5, 5)
        assert [stream.first_seq for stream in log.stream_headers] == [0, 3]
        fill(log, 5, 8)
        found = content(log)
        log.sync()
    assert content(LogReader(tmp_path, EDGE)) == found
    assert found[3:] == [(seq, seq // 3, (head(seq), payload(seq))) for seq in range(8)]


def test_a_repetition_changes_nothing_and_another_frame_of_that_number_is_refused(tmp_path):
    written(tmp_path, 3)
    with opened(tmp_path) as log:
        size = log.total_bytes
        assert not log.append(1, head(1), payload(1))
        for other in ((head(2), payload(1)), (head(1), payload(1) + b"x"), (head(1), payload(1)[:-1] + b"x")):
            with pytest.raises(FrameError, match="frame 1 differs"):
                log.append(1, *other)
        assert (log.next_seq, log.total_bytes) == (3, size)


def test_a_frame_too_early_or_of_no_stream_is_refused(tmp_path):
    with opened(tmp_path) as log:
        with pytest.raises(FrameError, match="frame 0: the log has no header of its stream"):
            log.append(0, b"", b"x")
        fill(log, 0, 3)
        with pytest.raises(FrameError, match="frame 3 is missing"):
            log.append(4, b"", b"x")


def test_a_frame_that_is_not_there(tmp_path):
    written(tmp_path, 2)
    for seq in (2, 2**40):
        with pytest.raises(LogError, match=f"there is no frame {seq}; the log holds 2"):
            LogReader(tmp_path, EDGE).read(seq)


# -- the watermark


def test_sync_moves_the_watermark_and_a_reader_sees_no_more_than_it(tmp_path):
    with opened(tmp_path) as log:
        fill(log, 0, 2)
        assert log.durable == 0
        assert log.sync() == 2
        reader = LogReader(tmp_path, EDGE)
        fill(log, 2, 5)
        reader.refresh()
        assert (reader.next_seq, log.next_seq, log.durable) == (2, 5, 2)
        log.sync()
        reader.refresh()
        assert content(reader) == content(log)


def test_one_wait_for_the_disk_makes_all_earlier_frames_durable(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(os, "fdatasync", waits.append)
    with opened(tmp_path, segment_bytes=2**20) as log:
        fill(log, 0, 100)
        del waits[:]
        log.sync()
        assert len(waits) == 3, "the streams, the segment, the mark"
        log.sync()
        assert len(waits) == 3, "there was nothing new"
        log.append(100, b"", b"x")
        log.sync()
        assert len(waits) == 5, "the segment, the mark"


def test_the_mark_is_written_after_what_it_speaks_of(tmp_path, monkeypatch):
    """Whenever the mark on the disk says n, the files on the disk already hold n frames."""
    names = []
    monkeypatch.setattr(os, "fdatasync", lambda file: names.append(Path(os.readlink(f"/proc/self/fd/{file}")).name))
    with opened(tmp_path, segment_bytes=150) as log:
        fill(log, 0, 5)
        del names[:]
        log.sync()
    assert names == ["000000.frames", "000001.frames", "streams", "mark"]


def test_threads_that_sync_at_a_time_share_the_wait(tmp_path, monkeypatch):
    waits, begun, go_on = [], threading.Event(), threading.Event()

    def slow(file: int) -> None:
        waits.append(file)
        begun.set()
        assert go_on.wait(timeout=30)

    with opened(tmp_path, segment_bytes=2**20) as log:
        fill(log, 0, 1)
        log.sync()
        fill(log, 1, 2)
        monkeypatch.setattr(os, "fdatasync", slow)
        threads = [threading.Thread(target=log.sync)]
        threads[0].start()
        assert begun.wait(timeout=30)
        fill(log, 2, 3)  # appending does not wait for the disk
        threads += [threading.Thread(target=log.sync) for _ in range(8)]
        for thread in threads[1:]:
            thread.start()
        go_on.set()
        for thread in threads:
            thread.join(timeout=30)
        assert log.durable == 3
        assert len(waits) == 4, "the first thread's segment and mark, and once more for the eight others"


# -- recovery


@pytest.mark.parametrize("segment_bytes", [150, 2**20])
def test_every_torn_end_above_the_watermark_is_cut_off_and_said(tmp_path, segment_bytes, caplog):
    whole = tmp_path / "whole"
    written(whole, 4, segment_bytes=segment_bytes)
    with opened(whole, segment_bytes=segment_bytes) as log:
        fill(log, 4, 7)
        expected = content(log)
    last = max(whole.glob("*.frames"))
    size = last.stat().st_size
    mark = read_mark(whole)
    durable = mark.position if last.name == f"{mark.segment:06d}.frames" else 0
    whole_records = whole_ends(last, durable)
    near = {end + step for end in whole_records for step in (-1, 0, 1)} | {size - 1}
    for end in sorted({*range(durable, size, 4), *near} & {*range(durable, size)}):
        folder = tmp_path / f"cut-{end}"
        shutil.copytree(whole, folder)
        os.truncate(folder / last.name, end)
        caplog.clear()
        with caplog.at_level(logging.WARNING), opened(folder, segment_bytes=segment_bytes) as log:
            assert log.next_seq >= 4
            assert content(log)[len(log.stream_headers) :] == expected[3 : 3 + log.next_seq], "what is left is right"
            fill_rest(log)
            assert content(log) == expected
            log.sync()
        assert content(LogReader(folder, EDGE)) == expected
        said = [record for record in caplog.records if "never confirmed" in record.message]
        assert bool(said) == (end not in whole_records), end
        shutil.rmtree(folder)


def whole_ends(path: Path, durable: int) -> list[int]:
    """Positions at which a record of frames 4, 5 or 6 ends, so that nothing is torn."""
    ends, position = [], path.stat().st_size
    for seq in (6, 5, 4):
        position -= 32 + len(head(seq)) + len(payload(seq))
        if position >= durable:
            ends.append(position)
    return ends


def fill_rest(log: FrameLog) -> None:
    for seq in range(log.next_seq, 7):
        if seq % 3 == 0 and not any(stream.first_seq == seq for stream in log.stream_headers):
            log.add_stream(f"stream from {seq}".encode(), seq)
        log.append(seq, head(seq), payload(seq))


def test_what_the_file_system_left_behind_the_end_is_cut_off(tmp_path, caplog):
    """Zeros (the size was kept and the data lost), or old blocks that hold sound records of another log."""
    other = tmp_path / "other"
    written(other, 7, segment_bytes=2**20)
    for rest in (bytes(4096), (other / "000000.frames").read_bytes()[48:]):
        folder = tmp_path / "log"
        written(folder, 3, segment_bytes=2**20)
        file = folder / "000000.frames"
        whole = file.read_bytes()
        file.write_bytes(whole + rest)
        with caplog.at_level(logging.WARNING), opened(folder) as log:
            assert log.next_seq == 3
        assert f"cut off {len(rest)} bytes after frame 2 that were never confirmed" in caplog.text
        assert file.read_bytes() == whole
        shutil.rmtree(folder)


def test_frames_that_came_before_a_crash_are_kept_and_made_durable(tmp_path):
    with opened(tmp_path, segment_bytes=150) as log:
        fill(log, 0, 7)
    with opened(tmp_path) as log:
        assert (log.next_seq, log.durable, len(log.stream_headers)) == (7, 7, 3)
    assert LogReader(tmp_path, EDGE).next_seq == 7


def test_a_process_that_is_killed_while_it_appends_loses_nothing_that_was_confirmed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from smartedge.framelog.log import FrameLog\n"
        "log = FrameLog(Path(sys.argv[1]), 'camera-7', segment_bytes=20_000)\n"
        "seq = log.next_seq\n"
        "while True:\n"
        "    if seq % 10 == 0: log.add_stream(b'h%d' % seq, seq)\n"
        "    log.append(seq, b'%d' % seq, b'%d' % seq * 100)\n"
        "    seq += 1\n"
        "    if seq % 7 == 0: print(log.sync(), flush=True)\n"
    )
    confirmed = 0
    for kill_after in (1, 2, 5, 30):
        command = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(kill_after):
                confirmed = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        confirmed = max([confirmed, *map(int, rest[:-1])])  # the last line may be cut short
        with opened(tmp_path) as log:
            assert log.next_seq >= confirmed > 0
            for seq in range(log.next_seq):
                assert log.read(seq) == (b"%d" % seq, b"%d" % seq * 100)
                assert log.stream_headers[log.stream_of(seq)].first_seq <= seq


# -- one writer


def test_a_second_writer_is_refused_and_told_who_is_first(tmp_path):
    program = (
        "import sys; from pathlib import Path; from smartedge.framelog.log import FrameLog\n"
        "log = FrameLog(Path(sys.argv[1]), 'camera-7'); print('open', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(LogError, match=f"edge 'camera-7': process {process.pid} writes this log"):
            FrameLog(tmp_path, EDGE)
        LogReader(tmp_path, EDGE)
        process.stdin.close()
    with opened(tmp_path), pytest.raises(LogError, match=f"process {os.getpid()} writes this log"):
        FrameLog(tmp_path, EDGE)


def test_an_error_while_opening_releases_the_lock(tmp_path):
    written(tmp_path, 3)
    whole = (tmp_path / "streams").read_bytes()
    (tmp_path / "streams").write_bytes(whole[:-1])
    for _ in range(2):
        with pytest.raises(LogError, match="stream header 0: damaged or missing"):
            FrameLog(tmp_path, EDGE)
    (tmp_path / "streams").write_bytes(whole)
    with opened(tmp_path) as log:
        assert log.next_seq == 3


def test_only_the_owner_can_read_the_files(tmp_path):
    written(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "log").iterdir()} == {0o600}


# -- gaps, cuts, retention


@pytest.mark.parametrize("segment_bytes", [1, 2**20])
def test_gaps_are_marked_and_kept(tmp_path, segment_bytes):
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        fill(log, 0, 3)
        log.mark_gap(5)
        log.mark_gap(4)  # less than there is: nothing to mark
        log.mark_gap(6)
        fill(log, 6, 8)
        log.sync()
        assert not log.append(4, head(4), payload(4)), "it comes too late"
        assert log.gaps == [(3, 6)]
        with pytest.raises(LogError, match="no frame 4; it never came, and is marked as missing"):
            log.read(4)
    with opened(tmp_path) as log:
        assert (log.gaps, log.next_seq) == ([(3, 6)], 8)
        assert [seq for seq in range(8) if log.came(seq)] == [0, 1, 2, 6, 7]
        assert list(log.damages()) == []


@pytest.mark.parametrize("segment_bytes", [1, 150, 2**20])
@pytest.mark.parametrize("next_seq", range(7))
def test_a_cut_forgets_frames_and_the_streams_that_began_later(tmp_path, segment_bytes, next_seq):
    written(tmp_path, 7, segment_bytes=segment_bytes)
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        reader = LogReader(tmp_path, EDGE)
        log.truncate(next_seq)
        assert [stream.first_seq for stream in log.stream_headers] == [seq for seq in (0, 3, 6) if seq < next_seq]
        reader.refresh()
        assert reader.next_seq == log.next_seq == log.durable == next_seq
        log.add_stream(b"again", next_seq)
        log.append(next_seq, b"another", b"frame")
        log.sync()
        found = content(log)
        reader.refresh()
        assert content(reader) == found
    with opened(tmp_path) as log:
        assert content(log) == found


@pytest.mark.parametrize("used", range(8))
def test_used_frames_are_dropped_by_whole_files(tmp_path, used):
    written(tmp_path, 7, segment_bytes=150)
    with opened(tmp_path, segment_bytes=150) as log:
        reader, size = LogReader(tmp_path, EDGE), log.total_bytes
        log.forget_before(used)
        assert log.first_seq <= used
        starts = sorted(log._starts.values())
        assert log.first_seq == max(start for start in (0, *starts) if start <= used)
        assert (log.total_bytes < size) == (log.first_seq > 0)
        assert log.total_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.frames"))
        reader.refresh()
        assert content(reader) == content(log)
        if log.first_seq:
            with pytest.raises(LogError, match="dropped after use"):
                log.read(0)
            assert not log.append(0, b"any", b"thing")
        fill(log, 7, 9)
        log.sync()
        found, first = content(log), log.first_seq
    with opened(tmp_path) as log:
        assert (content(log), log.first_seq) == (found, first)


def test_files_left_by_a_crash_while_dropping_are_removed(tmp_path):
    written(tmp_path, 7, segment_bytes=150)
    first = (tmp_path / "000000.frames").read_bytes()
    with opened(tmp_path) as log:
        log.forget_before(7)
    (tmp_path / "000000.frames").write_bytes(first)
    with opened(tmp_path) as log:
        assert log.first_seq == 6
    assert not (tmp_path / "000000.frames").exists()


# -- what the disk refuses


@pytest.mark.parametrize("room", [0, 5, 31, 32, 40])
@pytest.mark.parametrize("segment_bytes", [1, 2**20])
def test_a_full_disk_leaves_the_log_whole_and_the_log_goes_on_when_there_is_room(
    tmp_path, monkeypatch, room, segment_bytes
):
    """The disk takes a part of a record and then no more; later there is room again."""
    written(tmp_path, 2, segment_bytes=segment_bytes)
    left, real = [room], os.pwrite

    def pwrite(file: int, data: bytes, position: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(file, memoryview(data)[: left[0]], position)
        left[0] -= count
        return count

    def pwritev(file: int, parts: list[memoryview], position: int) -> int:
        return pwrite(file, b"".join(parts), position)

    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "pwritev", pwritev)
        with pytest.raises(LogError, match="edge 'camera-7', frame 2: cannot be written: the disk is full: free space"):
            log.append(2, head(2), payload(2))
        with pytest.raises(LogError, match="stream header 1: cannot be written: the disk is full"):
            log.add_stream(b"another", 2)
        left[0] = 10**6
        fill(log, 2, 5)
        found = content(log)
        log.sync()
    with opened(tmp_path) as log:
        assert content(log) == found


def test_a_disk_that_is_nearly_full_is_refused_before(tmp_path, monkeypatch):
    written(tmp_path, 2)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr("smartedge.framelog.log._SPARE_BYTES", 2 * free)
    with opened(tmp_path) as log:
        with pytest.raises(
            LogError, match=r"frame 2: \d+ bytes are free on the disk, and \d+ must stay free: free space"
        ):
            log.append(2, head(2), payload(2))
        assert log.next_seq == 2


def test_the_limit_of_the_log_is_kept(tmp_path):
    written(tmp_path, 2, segment_bytes=2**20)
    size = (tmp_path / "000000.frames").stat().st_size
    limit = size + 48 + 32 + len(head(2)) + len(payload(2))
    with opened(tmp_path, max_bytes=limit) as log:
        assert log.full_for(len(head(2)) + len(payload(2)) + 1)
        assert log.full_for(len(head(2)) + len(payload(2))) is None
        fill(log, 2, 3)
        assert log.full_for(0)
        with pytest.raises(LogError, match=rf"frame 3: \d+ bytes of {limit} are used: raise store.max_bytes"):
            log.append(3, head(3), payload(3))


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EIO, "the disk reports a fault"), (errno.EROFS, "can only be read"), (errno.ENOSPC, "the disk is full")],
)
def test_after_a_failed_sync_nothing_is_confirmed_any_more(tmp_path, monkeypatch, number, advice):
    written(tmp_path, 3, segment_bytes=2**20)

    def fail(file: int) -> None:
        raise OSError(number, "failed")

    with opened(tmp_path, segment_bytes=2**20) as log:
        fill(log, 3, 5)
        monkeypatch.setattr(log_module, "sync_file", fail)
        with pytest.raises(LogError, match=f"{advice}.*frames before 3 are safe"):
            log.sync()
        monkeypatch.undo()
        for act in (log.sync, lambda: fill(log, 5, 6)):
            with pytest.raises(LogError, match="cannot be written, since the disk did not take what was appended"):
                act()
        assert log.durable == 3
    with opened(tmp_path) as log:
        assert log.next_seq == 3, "what may be in memory alone is not taken for stored"


@pytest.mark.parametrize("durable", [0, 3, 4])
@pytest.mark.parametrize("segment_bytes", [1, 2**20])
def test_what_a_failed_sync_left_in_memory_is_in_no_file_of_the_log(tmp_path, monkeypatch, durable, segment_bytes):
    """Neither in later files of frames, nor in that of the stream headers, nor where nothing was durable before."""

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "failed")

    if durable:
        written(tmp_path, durable, segment_bytes=segment_bytes)
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        streams = len(log.stream_headers)
        fill(log, durable, durable + 2)  # frame 4 begins no stream
        monkeypatch.setattr(log_module, "sync_file", fail)
        with pytest.raises(LogError, match=f"frames before {durable} are safe"):
            log.sync()
        monkeypatch.undo()
    with opened(tmp_path, segment_bytes=segment_bytes) as log:
        assert (log.next_seq, len(log.stream_headers)) == (durable, streams)


@pytest.mark.parametrize("fails", ["sync", "second slot"])
def test_frames_that_are_durable_stay_where_the_mark_cannot_be_written(tmp_path, monkeypatch, fails):
    """The new mark may be in the file, or be found there. What lies below it must be there, too."""
    written(tmp_path, 3, segment_bytes=2**20)
    real, written_slots = os.pwrite, []

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "failed")

    def first_slot_only(file: int, data: bytes, position: int) -> int:
        written_slots.append(position)
        return real(file, data, position) if len(written_slots) == 1 else fail()

    with opened(tmp_path, segment_bytes=2**20) as log:
        fill(log, 3, 5)
        found = content(log)
        if fails == "sync":
            monkeypatch.setattr(mark_module, "sync_file", fail)
        else:
            monkeypatch.setattr(os, "pwrite", first_slot_only)
        with pytest.raises(LogError, match=r"the disk reports a fault.*frames before 3 are safe"):
            log.sync()
        monkeypatch.undo()
        with pytest.raises(LogError, match="cannot be written"):
            fill(log, 5, 6)
    with opened(tmp_path, segment_bytes=2**20) as log:
        assert content(log) == found and log.durable == 5


def test_what_cannot_be_opened_is_an_error_of_the_log(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="edge 'camera-7': the log cannot be opened"):
        FrameLog(tmp_path / "file" / "log", EDGE)
    with pytest.raises(LogError, match="there is no log"):
        LogReader(tmp_path / "none", EDGE)


def write_and_sync(log: FrameLog) -> None:
    fill(log, 3, 5)
    log.sync()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
@pytest.mark.parametrize("removed", ["the folder", "the folder, and made again", "a file", "the mark"])
def test_nothing_is_confirmed_that_nobody_will_find(tmp_path, removed):
    """Who cleans up removes what is written at this moment. The open files still take it, and it is lost then."""
    folder = tmp_path / "log"
    with opened(folder) as log:
        fill(log, 0, 3)
        assert log.sync() == 3
        if removed.startswith("the folder"):
            shutil.rmtree(folder)
        else:
            (folder / ("mark" if removed == "the mark" else "000000.frames")).unlink()
        if "again" in removed:
            folder.mkdir()
        with pytest.raises(LogError, match=r"was removed while it was written|No such file"):
            write_and_sync(log)
        assert log.durable == 3


def test_a_folder_that_is_gone_is_an_error_of_the_log(tmp_path):
    folder = tmp_path / "log"
    with opened(folder) as log:
        fill(log, 0, 1)
        log.sync()
        shutil.rmtree(folder)
        with pytest.raises(LogError, match=r"the log cannot be written: .*No such file"):
            log.full_for(100)
