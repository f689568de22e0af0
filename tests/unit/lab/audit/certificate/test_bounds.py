"""Bounds against laws whose tails are known exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from smartedge.lab.audit.certificate.bounds import (
    Counts,
    binomial_bound,
    bounded_differences,
    empirical_bernstein,
    lower_tail,
)

SIZES = [(40, 70), (12, 200), (150, 150)]


def _law_of_mean(units: tuple[int, int], rates: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of (B₀/n₀ + B₁/n₁)/2, the slow and obvious way."""
    parts = []
    for n, rate in zip(units, rates, strict=True):
        counts = np.arange(n + 1)
        ways = np.array([math.comb(n, int(count)) for count in counts], dtype=float)
        parts.append((counts / n, ways * rate**counts * (1 - rate) ** (n - counts)))
    values = (parts[0][0][:, None] + parts[1][0][None]).ravel() / 2
    return values, np.outer(parts[0][1], parts[1][1]).ravel()


@pytest.mark.parametrize("units", SIZES)
@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.4), (0.02, 0.99), (1.0, 0.3)])
@pytest.mark.parametrize("miss", [0.05, 0.001])
def test_the_lower_tail_is_reached_as_rarely_as_stated(units, rates, miss) -> None:  # type: ignore[no-untyped-def]
    values, law = _law_of_mean(units, rates)
    tail = lower_tail(Counts(units[0]), Counts(units[1]), rates, miss)
    assert law[values <= tail + 1e-12].sum() <= miss
    # And what it rests on, with the best s, which is a value of B.
    possible = np.unique(values[values < values @ law + 0.01].round(12))
    best = max(s - (np.maximum(s - values, 0) @ law) / miss for s in possible)
    assert tail <= best + 1e-9
    if miss == 0.05:  # far out the normal quantile is a poor guess of the best s: valid, not tight
        assert best - tail < 0.1 * bounded_differences(units, miss)


@pytest.mark.parametrize("units", SIZES)
def test_no_pair_of_rates_above_the_bound_could_have_given_what_was_seen(units: tuple[int, int]) -> None:
    seen, miss = 0.62, 0.05
    bound = binomial_bound(seen, units, miss)
    width = bounded_differences(units, miss)
    assert seen < bound < seen + width
    first, second = (Counts(n) for n in units)
    rates = np.linspace(0, 1, 101)
    kept = [(p + q) / 2 for p, q in itertools.product(rates, rates) if lower_tail(first, second, (p, q), miss) < seen]
    assert max(kept) <= bound <= max(kept) + 0.01 + 0.02 * width  # the grid of rates, and the search's fineness


def test_the_binomial_bound_is_a_sixth_below_hoeffdings() -> None:
    units, miss = (573, 1566), 0.05
    assert (binomial_bound(0.5, units, miss) - 0.5) / bounded_differences(units, miss) < 0.87
    assert binomial_bound(1.0, units, miss) == 1.0


def test_hoeffding_for_several_classes_and_weak_noise() -> None:
    assert bounded_differences([100, 100], 0.05) == pytest.approx(math.sqrt(2 / 100 * math.log(20) / 2) / 2)
    assert bounded_differences([50, 60, 70], 0.05, 0.3) == pytest.approx(
        0.3 * math.sqrt((1 / 50 + 1 / 60 + 1 / 70) * math.log(20) / 2) / 3
    )


def test_empirical_bernstein_misses_as_rarely_as_stated() -> None:
    """Values are 0.5 or 1: the law that is hardest. Binomial: more than 8 misses of 200 at 1 % come once in 70 000."""
    rng = np.random.default_rng(5)
    for mean in (0.52, 0.75, 0.97):
        values = 0.5 + 0.5 * (rng.random((200, 500)) < 2 * mean - 1)
        missed = sum(row.mean() + empirical_bernstein(row, low=0.5, miss=0.01) < mean for row in values)
        assert missed <= 8
    assert empirical_bernstein(np.full(500, 0.7), low=0.5, miss=0.01) == pytest.approx(
        7 * 0.5 * math.log(200) / (3 * 499)
    )
