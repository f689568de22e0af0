"""Which edges are outliers, by their losses and their features."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.cloud.order.influence import Influence

EDGES = np.array([f"edge{number}" for number in range(8)])


def after(influence: Influence, bad: float, *, windows: int = 40, seed: int = 0) -> tuple[str, ...]:
    """Eight edges with losses about 1, of which the last one is ``bad`` times as large."""
    rng = np.random.default_rng(seed)
    for _ in range(windows):
        losses = rng.normal(1.0, 0.3, size=(8, 16))
        losses[7] *= bad
        influence.note(np.repeat(EDGES, 16), losses.ravel())
        influence.judge()
    return influence.capped


@pytest.mark.parametrize("seed", range(20))
def test_an_edge_whose_labels_are_wrong_is_found_and_no_other(seed: int) -> None:
    assert after(Influence(0.0), 3.0, seed=seed) == ("edge7",)
    assert after(Influence(0.0), 1.0, seed=seed) == ()


def test_nothing_is_capped_unless_it_is_asked_for_or_too_early_or_among_few() -> None:
    assert after(Influence(None), 3.0) == ()
    assert after(Influence(0.0), 3.0, windows=19) == ()
    few = Influence(0.0)
    for _ in range(40):
        few.note(EDGES[[0, 1, 7]], np.array([1.0, 1.0, 9.0]))
        few.judge()
    assert few.capped == ()


def test_who_recovers_is_let_go_but_not_where_nothing_of_it_is_used() -> None:
    partly, fully = Influence(0.5), Influence(0.0)
    for influence, end in ((partly, ()), (fully, ("edge7",))):
        assert after(influence, 3.0) == ("edge7",)
        assert after(influence, 1.0, windows=60) == end
    assert partly.kept(9) == 4 and fully.kept(9) == 0 and Influence(None).kept(9) == 9


def test_features_that_lie_apart_are_reported() -> None:
    rng, influence = np.random.default_rng(1), Influence(None)
    for _ in range(30):
        for edge in EDGES.tolist():
            shift = 2.0 if edge == "edge7" else 0.0
            influence.see(edge, rng.normal(shift, 1.0, size=(16, 4, 3)).astype(np.float32))
    distances = influence.distances()
    assert distances["edge7"] > 5 and max(distances[edge] for edge in EDGES[:7].tolist()) < 3
    few = Influence(None)
    few.see("a", np.zeros((2, 3), np.float32))
    assert few.distances() == {} and few.loss("a") is None


def test_drift_is_from_the_mean_of_the_first_ten_frames_in_units_of_the_median_edges() -> None:
    influence = Influence(None)
    for edge, step in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        for frame in range(12):
            influence.see(edge, np.full((4, 3), step * frame, np.float32))
    mean, first = 0.0, 4.5  # of a: frames 0 to 11, the later ones with a tenth of the weight; the mean of 0 to 9
    for frame in range(1, 12):
        mean += 0.1 * (frame - mean)
    assert influence.drifts() == pytest.approx({"a": 0.5, "b": 1.0, "c": 3.0})
    assert np.linalg.norm(influence._means["a"] - influence._first["a"]) == pytest.approx(abs(mean - first) * 3**0.5)


def test_a_spread_counts_as_a_twentieth_of_the_median_at_least_and_shares_are_rounded() -> None:
    """All losses are alike: five times a twentieth above them is the limit, and no less than 0.25 nats."""
    for middle, limit in ((8.0, 2.0), (0.5, 0.25)):
        for above, capped in ((0.95, ()), (1.05, ("edge7",))):
            influence = Influence(0.3)
            losses = np.full(8, middle)
            losses[7] += above * limit
            for _ in range(20):
                influence.note(EDGES, losses)
            influence.judge()
            assert influence.capped == capped
    assert influence.kept(9) == 3, "2.7"


def test_far_is_five_standard_deviations_as_the_median_deviation_tells_them() -> None:
    """The median of 7, 8, … 13 and a large loss is 10.5, the median deviation 2."""
    limit = 10.5 + 5 * 1.4826 * 2
    for last, capped in ((limit - 0.1, ()), (limit + 0.1, ("edge7",))):
        influence = Influence(0.0)
        for _ in range(20):
            influence.note(EDGES, np.array([*range(7, 14), last]))
        influence.judge()
        assert influence.capped == capped
