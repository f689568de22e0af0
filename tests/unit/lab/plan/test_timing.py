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


def test_the_middle_the_spread_and_what_the_first_call_took_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two calls take 0.09 and 0.07 seconds, the others 0.02 to 0.06, of which a processor has half."""
    wall = [0.0, 9.0, 0.0, 7.0, 0.0, 2.0, 0.0, 4.0, 0.0, 3.0, 0.0, 6.0, 0.0, 5.0]
    shown, used = iter(wall), iter(wall)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(shown) / 100)
    monkeypatch.setattr(timing.time, "process_time", lambda: next(used) / 200)
    found = timing.timed(lambda _: None, images=2, repeats=5)
    assert found.seconds == pytest.approx(0.04 / 2) and found.cpu_seconds == pytest.approx(0.02 / 2)
    assert found.spread == pytest.approx((0.5 - 0.3) / 0.4) and found.first_seconds == pytest.approx(0.09 - 0.04)


def test_a_first_call_that_was_faster_and_work_that_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter([0.0, 0.1, 0.0, 0.1, 0.0, 0.2])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(wall))
    assert timing.timed(lambda _: None, images=1, repeats=1).first_seconds == 0.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.0)
    found = timing.timed(lambda _: None, images=1, repeats=1)
    assert (found.seconds, found.spread, found.first_seconds) == (0.0, 0.0, 0.0)
