"""The file that ``watch`` reads: what it holds, when it is written, and that it stops nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from kept_updates import Kept

from smartedge.artifacts.progress import SideProgress
from smartedge.errors import LinkError
from smartedge.runs import progress_file
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.progress_file import PROGRESS, ProgressFile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    times = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 5000.0 + clock.now)
    monkeypatch.setattr(progress_file, "time", times)
    return clock


def read(folder: Path, side: str = "edge") -> SideProgress:
    return SideProgress.read(folder / side / PROGRESS)


def test_work_and_news_are_passed_on_and_kept_every_two_seconds(tmp_path: Path, clock: SimpleNamespace) -> None:
    (tmp_path / "edge").mkdir()
    kept = Kept()
    monitor: Monitor = ProgressFile(kept, tmp_path)
    sent = [
        Update("edge", "train", 1, 10, "loss 1"),
        Update("edge", "data", text="a note"),
        Update("edge", "train", 2, 10, "loss 2"),
        Update("edge", "link", text="the cloud is away"),
        Update("edge", "network"),
        Update("cloud", "train", 1, 10),
    ]
    for update in sent[:2]:
        monitor.update(update)
    first = read(tmp_path)
    assert [(work.phase, work.done, work.total, work.text) for work in first.works] == [("train", 1, 10, "loss 1")]
    assert first.news == () and (first.side, first.updated, first.ended) == ("edge", 5100.0, False)
    clock.now += 2.0
    for update in sent[2:]:
        monitor.update(update)
    assert kept.updates == sent
    second = read(tmp_path)
    assert [(work.done, work.text) for work in second.works] == [(2, "loss 2")]
    assert [(news.text, news.warning, news.phase) for news in second.news] == [("a note", False, "data")]
    monitor.update(Update("edge", "train", 10, 10, "done"))  # the last step is told at once
    assert read(tmp_path).works[0].done == 10
    assert [(news.text, news.warning, news.at) for news in read(tmp_path).news][1:] == [
        ("the cloud is away", True, 5102.0)
    ]
    monitor.close()
    assert kept.closed and read(tmp_path).ended
    assert (tmp_path / "edge" / PROGRESS).stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.rglob("*")] == ["edge", PROGRESS], "no folder is made for a side"


def test_why_a_side_ends_is_kept_and_not_passed_on(tmp_path: Path, clock: SimpleNamespace) -> None:
    (tmp_path / "edge").mkdir()
    kept = Kept()
    file = ProgressFile(kept, tmp_path)
    file.note_failure("edge", LinkError("lost"))
    file.note_failure("edge", ValueError("a bug"))
    file.close()
    told = [(news.text, news.warning) for news in read(tmp_path).news]
    assert told == [(f"error [{LinkError.code}]: lost", True), ("ValueError: a bug", True)] and kept.updates == []


def test_news_of_an_earlier_session_stay_and_the_oldest_go(tmp_path: Path, clock: SimpleNamespace) -> None:
    (tmp_path / "edge").mkdir()
    for texts in (["first"], [f"news {number}" for number in range(199)], ["last"]):
        file = ProgressFile(Kept(), tmp_path)
        for text in texts:
            file.update(Update("edge", "data", text=text))
        file.close()
    told = [news.text for news in read(tmp_path).news]
    assert (len(told), told[0], told[-1]) == (200, "news 0", "last")
    (tmp_path / "edge" / PROGRESS).write_text("{")
    file = ProgressFile(Kept(), tmp_path)
    file.update(Update("edge", "data", text="again"))
    file.close()
    assert [news.text for news in read(tmp_path).news] == ["again"]


def test_a_disk_that_takes_no_file_stops_nothing(tmp_path: Path, clock: SimpleNamespace) -> None:
    (tmp_path / "edge" / PROGRESS).mkdir(parents=True)
    kept = Kept()
    file = ProgressFile(kept, tmp_path)
    file.update(Update("edge", "data", text="a note"))
    file.close()
    assert kept.closed
