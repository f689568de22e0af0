"""Where releases with additive noise lie, and the integer law of their noise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORDS", "Grid", "grid_of"]

WORDS = 2**64  # values of a word
_STEPS = 128  # grid steps per power of two below the noise's scale


@dataclass(frozen=True, eq=False)
class Grid:
    """Noise rounded to whole steps, as an integer law.

    ``thresholds[i]`` is 2⁶⁴ times the probability of at most ``i − len/2`` steps, rounded down below the middle and up
    above it; so a word w stands for ``(number of thresholds ≤ w) − len/2`` steps.
    """

    step: float  # a power of two
    thresholds: NDArray[np.uint64]

    def draw(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A number of steps for each word."""
        return np.searchsorted(self.thresholds, words, side="right") - len(self.thresholds) // 2

    def log_mass(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logarithm of the probability of so many steps; −∞ beyond the table."""
        half = len(self.thresholds) // 2
        inside = np.abs(steps) <= half
        return np.where(inside, self._log_masses[np.clip(steps + half, 0, 2 * half)], -np.inf)

    @cached_property
    def _log_masses(self) -> NDArray[np.float64]:
        """Of −len/2 to len/2 steps."""
        ends = [0, *map(int, self.thresholds), WORDS]
        masses = np.array([high - low for low, high in itertools.pairwise(ends)], dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.log(masses) - math.log(WORDS)


@lru_cache(maxsize=16)
def grid_of(law: str, scale: float) -> Grid:
    """The grid for a law (``gaussian``: scale is σ; ``laplace``: its scale): 128 to 256 steps per scale."""
    step = 2.0 ** math.floor(math.log2(scale)) / _STEPS

    def upper_tail(value: float) -> int:
        """2⁶⁴ · P(noise > value), rounded down."""
        ratio = value / scale
        return int(math.erfc(ratio / math.sqrt(2)) * 2.0**63 if law == "gaussian" else math.exp(-ratio) * 2.0**63)

    tails = list(itertools.takewhile(bool, (upper_tail((steps + 0.5) * step) for steps in itertools.count())))
    thresholds = [*reversed(tails), *(WORDS - tail for tail in tails)]
    return Grid(step, np.array(thresholds, dtype=np.uint64))
