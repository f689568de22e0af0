"""Training is shared fairly among edges: by Jain's index, (Σx)² / (n Σx²), which is 1 for equal shares."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from smartedge.cloud.order.share import FairShare, capped


def jain(shares: list[int]) -> float:
    values = np.array(shares, float)
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


EDGES = [f"edge{number}" for number in range(8)]
EQUAL = dict.fromkeys(EDGES, 1.0)
EQUAL_TO_A = {"a": 1.0, "b": 1.0, "c": 1.0}


def test_edges_with_frames_waiting_get_equal_shares_at_any_time() -> None:
    share, taken = FairShare(), Counter[str]()
    for _ in range(50):
        taken.update(share.draw(dict.fromkeys(EDGES, 100), EQUAL, 5))
        assert max(taken[edge] for edge in EDGES) - min(taken[edge] for edge in EDGES) <= 1
    assert jain([taken[edge] for edge in EDGES]) > 0.999


def test_shares_follow_the_weights() -> None:
    share, taken = FairShare(), Counter[str]()
    for _ in range(60):
        taken.update(share.draw({"a": 99, "b": 99, "c": 99}, {"a": 1.0, "b": 2.0, "c": 3.0}, 4))
    assert taken["a"] == 40 and taken["b"] == 80 and taken["c"] == 120


def test_a_flood_takes_nothing_from_those_who_have_something_to_give() -> None:
    """One edge has always 1000 frames ready. The others get five in three rounds, each at random times."""
    rng = np.random.default_rng(3)
    share, taken, waiting = FairShare(), Counter[str](), Counter[str]()
    for _ in range(300):
        for edge in EDGES[1:]:
            waiting[edge] += int(rng.integers(0, 2))
        waiting[EDGES[0]] = 1000
        drawn = Counter(share.draw(waiting, EQUAL, 8))
        others = [edge for edge in EDGES[1:] if waiting[edge]]
        for edge in others:
            assert drawn[edge] >= 1 or drawn[EDGES[0]] == 0, "who waits comes before the second frame of the flood"
        taken.update(drawn)
        waiting -= drawn
    assert all(waiting[edge] <= 2 for edge in EDGES[1:]), "nobody is left behind"


def test_who_was_silent_gets_no_credit_for_that_time() -> None:
    share = FairShare()
    for _ in range(100):
        share.draw(dict.fromkeys(EDGES[1:], 50), EQUAL, 7)
    taken = Counter[str]()
    for _ in range(20):
        taken.update(share.draw(dict.fromkeys(EDGES, 500), EQUAL, 8))
    assert jain([taken[edge] for edge in EDGES]) > 0.99


def test_who_comes_new_begins_where_the_edge_that_is_behind_is() -> None:
    share = FairShare()
    assert share.draw({"a": 9, "b": 9}, EQUAL_TO_A, 1) == ["a"]
    assert share.draw({"a": 9, "b": 9, "c": 9}, EQUAL_TO_A, 2) == ["b", "c"]


def test_no_more_is_drawn_than_there_is() -> None:
    assert sorted(FairShare().draw({"a": 2, "b": 1, "c": 0}, {"a": 1, "b": 1, "c": 1}, 9)) == ["a", "a", "b"]
    assert FairShare().draw({}, {}, 3) == []


@pytest.mark.parametrize(
    ("announced", "weights"),
    [
        ({"a": 10, "b": 12, "c": 100000}, {"a": 10, "b": 12, "c": 48}),
        ({"a": 10, "b": 20}, {"a": 10, "b": 20}),
        ({"a": 5, "b": 1000}, {"a": 5, "b": 20}),
        ({"a": 0, "b": 3}, {"a": 1, "b": 1}),
        ({}, {}),
    ],
)
def test_who_announces_much_gains_little(announced: dict[str, int], weights: dict[str, float]) -> None:
    assert capped(announced) == weights
