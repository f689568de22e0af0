"""Upper bounds of a mean, from a sample. ``docs/certificate.md`` has the proofs.

The mean is the balanced accuracy of one fixed test: the share of images that it gets right, averaged over the classes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

import numpy as np

from smartedge.types import Floats

__all__ = ["Counts", "binomial_bound", "bounded_differences", "empirical_bernstein", "lower_tail"]


_FINENESS = 1 / 40  # tolerance of the search, as a share of the width of Hoeffding's bound
_CELLS = 16  # number of cells at the start of the search


def bounded_differences(units: Sequence[int], miss: float, distance: float = 1.0) -> float:
    """By how much the balanced accuracy can exceed what was seen, for any number of classes (Hoeffding 1963).

    Args:
        units: independent units (persons or images) of each class.
        miss: probability with which the bound may fail.
        distance: total variation of the noise between the two inputs that differ most.
    """
    return distance * math.sqrt(sum(1 / n for n in units) * math.log(1 / miss) / 2) / len(units)


def empirical_bernstein(values_M: Floats, *, low: float, miss: float) -> float:
    """By how much the mean can exceed that of independent draws of one law (Maurer & Pontil 2009, theorem 4).

    Args:
        values_M: the draws, in [low, 1].
        low: lowest possible value.
        miss: probability with which the bound may fail.
    """
    draws, log = len(values_M), math.log(2 / miss)
    return float(values_M.std(ddof=1)) * math.sqrt(2 * log / draws) + 7 * (1 - low) * log / (3 * (draws - 1))


def binomial_bound(seen: float, units: tuple[int, int], miss: float) -> float:
    """Upper bound of the balanced accuracy of a test for two classes, from exact binomial laws.

    A test is right on an image with some probability. Of all laws of that probability with a given mean, the widest in
    the convex order is certainty: 0 or 1. A pair of true rates (p₀, p₁) is therefore refuted where ``seen`` is below
    :func:`lower_tail` of binomial counts. The bound is the highest mean of a pair that is not refuted.

    The tail grows with each rate, so a cell of pairs is refuted together with its lowest corner. The search halves
    cells of p₀ and rounds upwards: the result is not below the exact value.

    Args:
        seen: balanced accuracy of the test on the sample, in [0, 1].
        units: independent units of each of the two classes.
        miss: probability with which the bound may fail.
    """
    first, second = (Counts(n) for n in units)
    width = bounded_differences(units, miss)
    ceiling = min(1.0, seen + width)  # the binomial distributions refute whatever exponential tails refute
    tolerance = max(_FINENESS * width, 5e-4)

    def highest(low: float, high: float) -> float:
        """Bound of the mean of the pairs with p₀ in [low, high] that are not refuted."""
        kept, refuted = max(0.0, 2 * seen - low), min(1.0, 2 * ceiling - low)
        if refuted == 1.0 and lower_tail(first, second, (low, 1.0), miss) <= seen:
            return (high + 1) / 2
        while refuted - kept > tolerance / 4:
            middle = (kept + refuted) / 2
            if lower_tail(first, second, (low, middle), miss) > seen:
                refuted = middle
            else:
                kept = middle
        return (high + refuted) / 2

    edges = [index / _CELLS for index in range(_CELLS + 1)]
    cells = [(-highest(low, high), low, high) for low, high in itertools.pairwise(edges)]
    heapq.heapify(cells)
    while cells[0][2] - cells[0][1] > tolerance:
        _, low, high = heapq.heappop(cells)
        middle = (low + high) / 2
        for part in ((low, middle), (middle, high)):
            heapq.heappush(cells, (-highest(*part), *part))
    return float(min(ceiling, -cells[0][0]))


class Counts:
    """The number of successes in ``n`` trials."""

    def __init__(self, n: int) -> None:
        self.n = n

    @cached_property
    def _log_ways(self) -> Floats:
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, self.n + 1)))])
        return np.asarray(logs[-1] - logs - logs[::-1])

    def law(self, rate: float) -> tuple[Floats, Floats]:
        """The contribution of each count to the balanced accuracy, and its probability.

        Counts far from the mean are left out. By Hoeffding's inequality their total probability is below 1e-21.
        """
        reach = 5 * math.sqrt(self.n) + 1
        counts = np.arange(max(0, int(self.n * rate - reach)), min(self.n, int(self.n * rate + reach)) + 1)
        share = counts / (2 * self.n)
        if rate in (0.0, 1.0):
            return share, np.asarray((counts == rate * self.n).astype(np.float64))
        logs = self._log_ways[counts] + counts * math.log(rate) + (self.n - counts) * math.log1p(-rate)
        return share, np.asarray(np.exp(logs))


def lower_tail(first: Counts, second: Counts, rates: tuple[float, float], miss: float) -> float:
    """A value below which the balanced accuracy on the sample lies with probability at most ``miss``.

    With B the mean of the two binomial shares and any s, (s − E(s − B)₊/miss) is such a value (Markov's inequality for
    (s − x)₊, which is convex). The s near the lower quantile of B makes it nearly as large as it can be.

    Args:
        first: counts of the first class.
        second: counts of the second class.
        rates: the true rates (p₀, p₁) of the two classes.
        miss: the probability.
    """
    (first_share, first_law), (second_share, second_law) = (
        counts.law(rate) for counts, rate in zip((first, second), rates, strict=True)
    )
    spread = math.sqrt(sum(p * (1 - p) / n for p, n in zip(rates, (first.n, second.n), strict=True))) / 2
    threshold = sum(rates) / 2 + NormalDist().inv_cdf(miss) * spread
    left = threshold - second_share  # what is left for the first class
    below = np.searchsorted(first_share, left, side="right")
    mass = np.concatenate([[0.0], np.cumsum(first_law)])[below]
    moment = np.concatenate([[0.0], np.cumsum(first_law * first_share)])[below]
    shortfall = float(second_law @ (left * mass - moment))
    return threshold - shortfall / miss
