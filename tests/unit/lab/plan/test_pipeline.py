"""The recurrence against a discrete-event simulation, and the rules of thumb against the recurrence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import Line

from smartedge.lab.plan.pipeline import coarsen, departures

times = st.floats(0.0, 5.0, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def lines(draw: st.DrawFn) -> tuple[list[list[float]], list[int | None]]:
    stages, frames = draw(st.integers(1, 5)), draw(st.integers(1, 25))
    work = draw(st.lists(st.lists(times, min_size=stages, max_size=stages), min_size=frames, max_size=frames))
    rooms = draw(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=stages, max_size=stages))
    return work, rooms


@given(lines())
def test_every_frame_leaves_every_stage_when_the_simulation_says(
    line: tuple[list[list[float]], list[int | None]],
) -> None:
    work, rooms = line
    assert departures(np.array(work), rooms) == pytest.approx(np.array(Line(work, rooms).run()), rel=1e-12, abs=1e-9)


def test_equal_frames_take_the_fill_and_then_the_slowest_stage_each() -> None:
    left = departures(np.tile([1.0, 3.0, 2.0], (10, 1)), [None, 4, 4])
    assert left[-1, -1] == pytest.approx(1 + 10 * 3 + 2, abs=1e-12)
    assert np.diff(left[:, -1]) == pytest.approx(np.full(9, 3.0), abs=1e-12)


def test_a_full_room_holds_the_edge_back() -> None:
    work = np.array([[1.0, 10.0]] * 6)
    free, tied = departures(work, [None, None]), departures(work, [None, 1])
    assert free[-1, 0] == pytest.approx(6.0, abs=1e-12)
    # One is worked on, one waits: frame 5 is let go when frame 3 has left the link.
    assert tied[-1, 0] == pytest.approx(tied[3, 1], abs=1e-12)
    assert tied[-1, 1] == pytest.approx(free[-1, 1], abs=1e-12)


def test_a_stage_that_is_not_ready_delays_what_comes_after() -> None:
    left = departures(np.ones((2, 2)), [None, None], [0.0, 5.0])
    assert left.tolist() == [[1.0, 6.0], [2.0, 7.0]]


def test_larger_frames_stand_for_many() -> None:
    assert coarsen(30, 100) == (30, 1.0)
    assert coarsen(0, 100) == (0, 1.0)
    count, each = coarsen(1000, 100)
    assert (count, each) == (100, 10.0)
    fine = departures(np.tile([1.0, 2.0], (1000, 1)), [None, 8])[-1, -1]
    coarse = departures(np.tile([each, 2 * each], (count, 1)), [None, 1])[-1, -1]
    assert coarse == pytest.approx(fine, rel=0.01)
