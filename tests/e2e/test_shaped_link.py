"""The benchmarks' shaped link is as slow as asked, and its processors are as weak: else their figures mean nothing."""

from __future__ import annotations

import pytest
from shaping import Lab, why_not

from smartedge.lab.plan.links import parse_link

REASON = why_not()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_rate_and_cap_are_what_was_asked_for() -> None:
    with Lab.open(parse_link("2/4"), edge_cap=0.5) as lab:
        found = lab.facts()
    # Of 1514 bytes on the wire 1448 are payload; tbf's bucket lets a little more through at first.
    assert 0.9 * 2 < found["measured"]["up_mbits"] < 2
    assert 0.9 * 4 < found["measured"]["down_mbits"] < 4
    assert found["cap"] == {"edge": 0.5, "cloud": 1.0}
    assert found["qdisc"]["edge"][0] == {"kind": "tbf", "rate": 250_000}
    # A busy machine gives less than the cap, never more (but for one period).
    assert found["measured"]["processor_share"]["edge"] < 0.55


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_side_that_was_let_go_is_capped_again() -> None:
    with Lab.open(parse_link("local"), edge_cap=0.05) as lab:
        lab.lift("edge")
        free = lab.throttled()["edge"]
        assert lab._processor_share("edge") > 2 * 0.05
        # A whole core may be used up for moments, by a second thread; at its share it would stand still for seconds.
        assert lab.throttled()["edge"]["seconds"] <= free["seconds"] + 0.2
        lab.cap()
        # One period may begin with what was left of the last.
        assert lab._processor_share("edge") < 0.12
        assert lab.throttled()["edge"]["seconds"] > 0.5
