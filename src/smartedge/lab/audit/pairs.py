"""Pairs of images of a crowd, and how scores that shall tell the pairs of one person are judged.

Letters: N images, M pairs, P persons.
"""

from __future__ import annotations

import numpy as np

from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.crowd import Crowd, person_numbers
from smartedge.types import Floats, Ints

__all__ = ["RESAMPLES", "Pairs"]

RESAMPLES = 100  # of persons, for an interval
_LEVELS = 4000  # scores that are closer count as equal; that moves an AUROC by less than 0.001


class Pairs:
    """The pairs of a crowd, and how scores of them are judged.

    Attributes:
        first: int64 (M,), the place of one image of each pair.
        second: int64 (M,), the place of the other.
        same: bool (M,), whether both are of one person.
        weight_M: so that every person counts once.
        persons: how many persons there are.
        linked: how many of them have two or more images.
    """

    def __init__(self, crowd: Crowd) -> None:
        number_N, images_P = person_numbers(crowd)
        self.first, self.second = np.triu_indices(len(number_N), k=1)
        self._one, self._other = number_N[self.first], number_N[self.second]
        self.same = self._one == self._other
        n, m = images_P[self._one], images_P[self._other]
        self.weight_M = np.where(self.same, 2.0 / np.maximum(n * (n - 1), 1), 1.0 / (n * m))
        self.persons, self.linked = len(images_P), int((images_P > 1).sum())

    def of(self, scores_NN: Floats) -> Floats:
        """The scores of the pairs, (M,)."""
        return np.asarray(scores_NN[self.first, self.second])

    def auroc(self, scores_NN: Floats) -> float:
        """AUROC of the scores."""
        return float(self._figures(*self._levels(scores_NN), self.weight_M)[0])

    def figures(
        self, scores_NN: Floats, *, resamples: int = RESAMPLES, seed: int = 0, clock: Clock
    ) -> tuple[Floats, Floats]:
        """(AUROC, equal-error rate), and the same for resampled persons, float64 (resamples, 2).

        Raises:
            OutOfTime: the time is over.
        """
        level_M, levels = self._levels(scores_NN)
        rng = np.random.default_rng(seed)
        drawn_R2 = np.empty((resamples, 2))
        for r in range(resamples):
            clock.check()
            count_P = rng.multinomial(self.persons, np.full(self.persons, 1 / self.persons)).astype(np.float64)
            # A person that is drawn twice is no stranger to itself, so it gives its own pairs only.
            times_M = count_P[self._one] * np.where(self.same, 1.0, count_P[self._other])
            drawn_R2[r] = self._figures(level_M, levels, self.weight_M * times_M)
        return self._figures(level_M, levels, self.weight_M), drawn_R2

    def _levels(self, scores_NN: Floats) -> tuple[Ints, int]:
        """The level of each pair's score, 0 for the highest, and how many levels there are."""
        scores_M = -self.of(scores_NN)
        edges = np.unique(np.quantile(scores_M[:: max(1, len(scores_M) // 100_000)], np.linspace(0, 1, _LEVELS)))
        return np.searchsorted(edges, scores_M), len(edges) + 1

    def _figures(self, level_M: Ints, levels: int, weight_M: Floats) -> Floats:
        mass_L2 = np.bincount(2 * level_M + self.same, weight_M, minlength=2 * levels).reshape(-1, 2)
        alarm, hit = np.concatenate([np.zeros((1, 2)), np.cumsum(mass_L2, axis=0)]).T / mass_L2.sum(axis=0)[:, None]
        area = float((np.diff(alarm) * (hit[1:] + hit[:-1])).sum() / 2)
        # Along the curve the missed pairs become fewer and the false alarms more. They cross within one step.
        gap = (1 - hit) - alarm
        place = int(np.flatnonzero(gap <= 0)[0])
        share = gap[place - 1] / (gap[place - 1] - gap[place])
        return np.array([area, alarm[place - 1] + share * (alarm[place] - alarm[place - 1])])
