"""How often a piece of work is timed."""

from __future__ import annotations

import itertools

import pytest

from smartedge.lab.plan import timing


@pytest.mark.parametrize(("seconds", "repeats", "calls"), [(0.01, 7, 9), (0.6, 7, 5), (0.6, 2, 4)])
def test_what_takes_long_is_timed_three_times(
    seconds: float, repeats: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, done = itertools.count(), list[int]()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: seconds * next(clock))
    found = timing.timed(done.append, images=4, repeats=repeats)
    assert done == list(range(calls)), "two before those that count"
    assert found.seconds == pytest.approx(seconds / 4)


def test_pauses_come_before_each_call_and_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], list[str]()

    def pass_time(seconds: float) -> None:
        clock[0] += seconds
        order.append(f"pause {seconds:g}")

    def work(number: int) -> None:
        clock[0] += 0.25
        order.append(f"call {number}")

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing.time, "sleep", pass_time)
    found = timing.timed(work, images=1, repeats=1, pause_s=2.0)
    assert order == ["pause 2", "call 0", "pause 2", "call 1", "pause 2", "call 2"]
    assert found.seconds == pytest.approx(0.25)
