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
