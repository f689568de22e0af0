"""What the edge does while the cloud cannot be reached, where it waits for answers."""

from __future__ import annotations

import threading
from typing import Any
from unittest.mock import create_autospec

import pytest

from smartedge.edge import outage
from smartedge.edge.outage import run_again_after_outages, tell_of_the_end
from smartedge.edge.runner import EdgeRunner
from smartedge.edge.sender import Traffic
from smartedge.edge.state import Counts, EdgeState
from smartedge.errors import FrameError, LinkError, LogError


class Runs:
    """Makes runners that end as ``ends`` says: an error is raised, anything else is returned.

    Those named in ``hear`` hear of the cloud before.
    """

    def __init__(self, *ends: Any, hear: tuple[int, ...] = ()) -> None:
        self.ends, self.hear = list(ends), hear
        self.resumed: list[bool] = []

    def begin(self, resume: bool) -> Any:
        number = len(self.resumed)
        self.resumed.append(resume)
        runner = create_autospec(EdgeRunner, instance=True)
        runner.state = create_autospec(EdgeState, instance=True, counts=Counts(traffic=Traffic(link_seconds=1.0)))

        def run(stop: threading.Event) -> bool:
            runner.state.counts.traffic.link_seconds += number in self.hear
            if isinstance(self.ends[number], Exception):
                raise self.ends[number]
            return bool(self.ends[number])

        runner.run.side_effect = run
        return runner


class Stop(threading.Event):
    """Notes how long it is waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return False


BROKEN = LinkError("the cable was pulled")


def test_an_edge_that_waits_for_answers_goes_back_to_its_checkpoint_as_often_as_the_link_breaks():
    runs, stop, told = Runs(BROKEN, BROKEN, BROKEN, True), Stop(), []
    assert run_again_after_outages(runs.begin, stop, told.append, resume=False)
    assert runs.resumed == [False, True, True, True]
    assert all(0.5 * usual <= wait <= 1.5 * usual for wait, usual in zip(stop.waits, (0.5, 1, 2), strict=True))
    assert told[0].startswith("cloud unreachable for 0 s") and "the cable was pulled" in told[0]


def test_an_edge_that_waits_for_answers_waits_for_a_cloud_whose_disk_is_full():
    runs, stop, told = Runs(LogError("the disk is full: free space on it"), True), Stop(), []
    assert run_again_after_outages(runs.begin, stop, told.append, resume=False)
    assert runs.resumed == [False, True] and "the disk is full: free space on it" in told[0]


def test_waits_begin_anew_where_the_cloud_has_answered_in_between():
    runs, stop = Runs(BROKEN, BROKEN, BROKEN, True, hear=(2,)), Stop()
    assert run_again_after_outages(runs.begin, stop, [].append, resume=True)
    assert runs.resumed == [True, True, True, True]
    assert all(0.5 * usual <= wait <= 1.5 * usual for wait, usual in zip(stop.waits, (0.5, 1, 0.5), strict=True))


def test_other_errors_end_the_run_and_a_stop_is_heard():
    runs = Runs(FrameError("not acceptable"))
    with pytest.raises(FrameError):
        run_again_after_outages(runs.begin, Stop(), [].append, resume=False)
    stop = Stop()
    stop.set()
    assert not run_again_after_outages(Runs(BROKEN).begin, stop, [].append, resume=False)
    assert stop.waits == []


def test_an_outage_that_is_over_is_told_and_the_next_one_counts_anew(monkeypatch):
    stop, told, now = Stop(), [], 100.0
    monkeypatch.setattr(outage.time, "monotonic", lambda: now)
    away = outage.Outage(told.append)
    away.over()
    assert (away.seconds, told) == (0.0, []), "there was none"
    for _ in range(2):
        away.wait("4 frames are on disk", stop)
        now += 7.0
    assert (away.count, away.seconds) == (1, 14.0)
    away.over()
    assert (away.count, away.seconds) == (1, 0.0)
    away.wait("5 frames are on disk", stop)
    assert (away.count, away.seconds) == (2, 0.0)
    assert told == [
        "cloud unreachable for 0 s; 4 frames are on disk",
        "cloud unreachable for 7 s; 4 frames are on disk",
        "the cloud is there again, after 14 s",
        "cloud unreachable for 0 s; 5 frames are on disk",
    ]
    assert all(0.5 * usual <= wait <= 1.5 * usual for wait, usual in zip(stop.waits, (0.5, 1, 0.5), strict=True))


def test_a_run_that_is_stopped_tells_the_cloud_nothing():
    stop = Stop()
    stop.set()
    tell_of_the_end(lambda: pytest.fail("it was stopped"), stop, pytest.fail)


def test_no_wait_is_longer_than_a_minute_and_a_half():
    stop, away = Stop(), outage.Outage([].append)
    for _ in range(12):
        away.wait("", stop)
    assert max(stop.waits) <= 90 and min(stop.waits[-3:]) >= 30


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([True], None),
        ([BROKEN, BROKEN, True], None),
        ([BROKEN] * 10, "the cloud has confirmed everything, and is not there any more"),
        (
            [BROKEN, FrameError("no such stream")],
            "the cloud has confirmed everything before; now it says: no such stream",
        ),
    ],
)
def test_the_cloud_is_told_of_the_end_for_half_a_minute_and_no_longer(monkeypatch, ends, said):
    class Clock(Stop):
        def wait(self, timeout: float | None = None) -> bool:
            monkeypatch.setattr(outage.time, "monotonic", lambda: sum(self.waits) * 10)
            return super().wait(timeout)

    monkeypatch.setattr(outage.time, "monotonic", lambda: 0.0)
    left, stop, told = list(ends), Clock(), []

    def end() -> None:
        if isinstance(now := left.pop(0), Exception):
            raise now

    tell_of_the_end(end, stop, told.append)
    assert told == ([] if said is None else [said])
    assert len(stop.waits) == min(6, len(ends) - 1), "a wait takes 5 s here"
