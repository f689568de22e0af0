from __future__ import annotations

import math

import pytest

from smartedge.lab.audit.clock import Clock, OutOfTime


def test_a_clock_counts_down_and_shares_out() -> None:
    now = [100.0]
    clock = Clock(60.0, lambda: now[0])
    assert clock.remaining() == 60.0 and clock.share(3) == 20.0
    part = clock.part(10.0)
    now[0] += 15
    assert part.remaining() == 0.0 and clock.remaining() == 45.0
    assert clock.part(1000.0).remaining() == 45.0
    now[0] += 100
    assert clock.remaining() == clock.share(2) == 0.0


def test_without_a_budget_there_is_always_time() -> None:
    clock = Clock(None)
    assert math.isinf(clock.remaining()) and math.isinf(clock.share(5)) and math.isinf(clock.part(math.inf).remaining())
    assert clock.part(5.0).remaining() <= 5.0


def test_work_may_have_time_of_its_own_after_the_end() -> None:
    now = [5.0]
    clock = Clock(1.0, lambda: now[0])
    clock.check()
    now[0] += 1
    with pytest.raises(OutOfTime, match=r"^no time was left$"):
        clock.check()
    own = clock.extended(3.0)
    now[0] += 2
    assert (clock.elapsed(), own.elapsed(), own.remaining(), clock.remaining()) == (3.0, 2.0, 1.0, 0.0)
    assert clock.share(0) == 0.0 and Clock(6.0, lambda: 0.0).share(0) == 6.0
