"""Every single-bit error and every truncation of every file: the same frames, or an error that says what is damaged.

But for the mark's bytes behind its slots, which nothing reads: there one bit of each byte is wrong, and not all eight.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from framelogs import EDGE, FRAMES, content, fill, opened, written

from smartedge.errors import LogError
from smartedge.framelog.log import FrameLog
from smartedge.framelog.mark import Mark
from smartedge.framelog.reader import STREAMS, LogReader
from smartedge.framelog.records import FILE_HEADER_BYTES, FRAME, RECORD_HEADER_BYTES, FileHeader, Record, sound_records


@pytest.fixture
def tmp_path(tmp_path) -> Iterator[Path]:
    """A folder in memory, where there is one: these tests write files tens of thousands of times."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "log"
    written(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000.frames",
        "000001.frames",
        "000002.frames",
        "mark",
        "streams",
    ]
    return folder


@pytest.fixture(scope="module")
def expected(original) -> list[object]:
    return content(LogReader(original, EDGE))


SLOT_BYTES = len(Mark(bytes(16), 1, 0, 0, 0, 0, 0, 0).pack())  # one at the beginning of each of two sectors
FILES = ["mark", "streams", "000000.frames", "000001.frames", "000002.frames"]


def bit_errors(data: bytes, name: str) -> Iterator[bytes]:
    for place in range(len(data)):
        unread = name == "mark" and place % 512 >= SLOT_BYTES
        for bit in [place % 8] if unread else range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            yield bytes(damaged)


def truncations(data: bytes, name: str) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]


def tried(folder: Path, expected: list[object], reader: type[LogReader]) -> str:
    """ "same", or the words of the error. Anything else fails the test."""
    log = None
    try:
        log = reader(folder, EDGE)
        found = content(log)
    except LogError as error:
        return str(error)
    finally:
        if isinstance(log, FrameLog):
            log.close()
    assert found == expected, "frames are missing, or others, in silence"
    return "same"


def put(path: Path, data: bytes) -> None:
    """Write a file in its place: many times faster than to make it anew."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


@pytest.mark.parametrize("damages", [bit_errors, truncations])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", [LogReader, FrameLog])
def test_no_damage_loses_a_frame_in_silence(original, expected, tmp_path, monkeypatch, name, damages, reader):
    monkeypatch.setattr(os, "fdatasync", lambda file: None)  # there are thirty thousand cases
    whole = {each: (original / each).read_bytes() for each in FILES}
    folder = tmp_path / "log"
    shutil.copytree(original, folder)
    errors, cases = [], 0
    for damaged in damages(whole[name], name):
        put(folder / name, damaged)
        outcome, cases = tried(folder, expected, reader), cases + 1
        if outcome == "same" and reader is FrameLog:  # it may have mended the file, and written its process number
            for each in FILES:
                if (folder / each).read_bytes() != whole[each]:
                    put(folder / each, whole[each])
        elif outcome != "same":
            assert str(folder) in outcome and EDGE in outcome
            errors.append(outcome)
    if name == "mark":
        assert len(errors) < cases / 2, "there are two slots, so one damaged slot does no harm"
        assert (damages is truncations) == bool(errors)
    else:
        assert len(errors) == cases, "every byte of this file counts"
        what = "stream header" if name == "streams" else "frame "
        assert all(what in error for error in errors), "the error names what is damaged"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", [LogReader, FrameLog])
def test_a_deleted_file_is_an_error(original, expected, tmp_path, name, reader):
    folder = tmp_path / "log"
    shutil.copytree(original, folder)
    (folder / name).unlink()
    assert "is gone" in tried(folder, expected, reader)
    assert not (folder / name).exists(), "nothing is made anew in its place"


@pytest.mark.parametrize("one", FILES)
@pytest.mark.parametrize("other", FILES)
@pytest.mark.parametrize("reader", [LogReader, FrameLog])
def test_swapped_files_are_an_error(original, expected, tmp_path, one, other, reader):
    folder = tmp_path / "log"
    shutil.copytree(original, folder)
    shutil.copyfile(original / one, folder / other)
    shutil.copyfile(original / other, folder / one)
    assert (tried(folder, expected, reader) == "same") == (one == other)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", [LogReader, FrameLog])
def test_a_file_of_another_log_is_an_error(original, expected, tmp_path, name, reader):
    folder, other = tmp_path / "log", tmp_path / "other"
    shutil.copytree(original, folder)
    written(other)
    shutil.copyfile(other / name, folder / name)
    assert tried(folder, expected, reader) != "same"


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("frames")])
def test_an_older_copy_of_a_segment_is_an_error(tmp_path, name):
    folder, older = tmp_path / "log", tmp_path / "older"
    written(folder, 5)
    shutil.copytree(folder, older)
    with opened(folder, segment_bytes=150) as log:
        fill(log, 5, FRAMES)
        log.sync()
        expected = content(log)
    if (older / name).exists():
        shutil.copyfile(older / name, folder / name)
    else:
        (folder / name).unlink()
    outcome = tried(folder, expected, FrameLog)
    grew = name != "000000.frames"
    assert ("frame 4" in outcome or "frame 5" in outcome or "frame 6" in outcome) if grew else outcome == "same"


def test_what_was_damaged_after_opening_is_noticed_when_it_is_read(tmp_path):
    written(tmp_path / "log")
    log = LogReader(tmp_path / "log", EDGE)
    file = tmp_path / "log" / "000000.frames"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = list(log.damages())
    assert len(damaged) == 1 and f"edge {EDGE!r}, frame 2: damaged" in str(damaged[0])


def test_a_body_fits_by_its_length_and_by_its_checksum() -> None:
    record = Record(FRAME, 0, 0, 1, 2, zlib.crc32(b"abc"))
    assert record.fits(b"abc") and not record.fits(b"abd")
    assert not record._replace(payload=3).fits(b"abc"), "it is cut short, by chance where the checksum is right"


@pytest.mark.parametrize(
    "changed",
    [{"stream": 1}, {"stream": 2}, {"kind": FRAME}, {"checksum": 0}, {"head": 1}],
    ids=str,
)
def test_a_stream_header_that_is_sound_but_not_the_next_one_is_an_error(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    written(tmp_path, 5)
    file = tmp_path / STREAMS
    data = file.read_bytes()
    header = FileHeader.unpack(data)
    assert header is not None
    first, _ = next(sound_records(data[FILE_HEADER_BYTES:], header.seed))
    assert [record.stream for record, _ in sound_records(data[FILE_HEADER_BYTES:], header.seed)] == [0, 1]
    rest = data[FILE_HEADER_BYTES + RECORD_HEADER_BYTES :]
    file.write_bytes(data[:FILE_HEADER_BYTES] + first._replace(**changed).pack(header.seed) + rest)
    with pytest.raises(LogError, match=f"stream header 0: damaged or missing at byte {FILE_HEADER_BYTES},"):
        LogReader(tmp_path, EDGE)
