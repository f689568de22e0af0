"""The journal keeps its lines, and says so where one is damaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from smartedge.artifacts.fleet_run import OrderLine
from smartedge.cloud.order.journal import Journal
from smartedge.errors import LogError

LINES = [
    OrderLine(check=0, joined="a"),
    OrderLine(check=0, frames=(("a", 0), ("b", 7)), capped=("b",)),
    OrderLine(check=0, evaluated=("a", 1, 4)),
    OrderLine(check=0, closed=True),
]


def plain(lines: list[OrderLine]) -> list[dict[str, object]]:
    return [line.model_dump(exclude={"check"}) for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "order.jsonl")
    for line in LINES:
        journal.append(line)
    journal.close()
    return tmp_path / "order.jsonl"


def test_lines_come_back_and_more_can_be_added(path: Path) -> None:
    journal = Journal(path)
    assert plain(journal.lines) == plain(LINES)
    journal.append(LINES[0])
    journal.close()
    again = Journal(path)
    assert plain(again.lines) == plain([*LINES, LINES[0]])
    again.close()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "order.jsonl")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), fsync(file)))
    journal.append(LINES[0])
    assert synced == [(tmp_path / "order.jsonl").stat().st_size] and synced[0] > 0
    journal.close()


def test_every_truncation_gives_the_lines_before_it(path: Path) -> None:
    data = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        journal = Journal(path)
        whole = sum(end <= size for end in ends)
        assert plain(journal.lines) == plain(LINES[:whole])
        journal.append(LINES[3])
        journal.close()
        again = Journal(path)
        assert plain(again.lines) == plain([*LINES[:whole], LINES[3]])
        again.close()


def test_no_flipped_bit_changes_a_line_in_silence(path: Path) -> None:
    """A flip gives the same lines or an error; or cuts a last line that has lost its end. Three bits of every byte."""
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(place % 3, 8, 3):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                journal = Journal(path)
            except LogError:
                continue
            found = plain(journal.lines)
            journal.close()
            torn = place == len(data) - 1 and found == plain(LINES[:3])
            assert found == plain(LINES) or torn, (place, bit)


@pytest.mark.parametrize("takes_a_part", [False, True])
def test_a_full_disk_is_told_and_leaves_whole_lines(
    takes_a_part: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path)
    write = os.write

    def full(file: int, data: bytes) -> int:
        write(file, data[:5])
        if takes_a_part:
            return 5
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LogError, match="the disk is full"):
        journal.append(LINES[0])
    monkeypatch.undo()
    journal.append(LINES[0])
    journal.close()
    assert len(Journal(path).lines) == 5
