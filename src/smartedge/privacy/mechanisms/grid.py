"""The grid of releases with additive noise, and the integer law of their noise."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smartedge.privacy.accountant import log_normal_cdf, log_normal_tails

__all__ = ["SEED_WORDS", "WORDS", "Grid", "grid_of"]

WORDS = 2**64  # values of a word
SEED_WORDS = 4  # words of an image for noise beyond the table: 256 bits
_STEPS = 128  # grid steps per power of two below the noise's scale
_BEYOND = 2.0**-20  # the probability that noise lies beyond the table, on each side, is below this
_MOST_CELLS = 2**22  # of log_mass, on each side
_FAR = 15.0  # standard deviations, from where a series gives the tails of many numbers at once

Law = Literal["gaussian", "laplace"]


@dataclass(frozen=True, eq=False)
class Grid:
    """Noise rounded to whole steps: an integer law with unlimited range.

    ``thresholds[i]`` is 2⁶⁴ times the probability of at most ``i − len/2`` steps, rounded down below the middle and up
    above it. So a word w stands for ``(number of thresholds ≤ w) − len/2`` steps. The first and the last of these
    numbers mean "so many steps or more". From there the sampler goes on step by step. At each step it stops with the
    probability of this step, given that the noise is this step or more.
    """

    law: Law
    scale: float  # σ of a Gaussian, the scale of a Laplace law
    step: float  # a power of two
    thresholds: NDArray[np.uint64]

    @property
    def half(self) -> int:
        """The first number of steps, up or down, that is beyond the table."""
        return len(self.thresholds) // 2

    @property
    def precision(self) -> float:
        """The largest relative error of the probability of any number of steps."""
        ends = [0, *map(int, self.thresholds), WORDS]
        return 2 / min(high - low for low, high in itertools.pairwise(ends))

    def draw(self, words_BD: NDArray[np.uint64], seeds_BS: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A number of steps for each word, int64 (B, D).

        Args:
            words_BD: uint64, one for each number.
            seeds_BS: uint64 (B, SEED_WORDS), one seed for each image, for noise beyond the table.
        """
        steps_BD = np.searchsorted(self.thresholds, words_BD, side="right") - self.half
        for image, place in np.argwhere(np.abs(steps_BD) == self.half):
            stream = _words_of(seeds_BS[image].astype("<u8").tobytes() + int(place).to_bytes(8, "little"))
            further = next(k for k in itertools.count(self.half) if next(stream) < _hazard(self.law, self.scale, k))
            steps_BD[image, place] = math.copysign(further, steps_BD[image, place])
        return steps_BD

    def log_mass(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logarithm of the probability of so many steps."""
        sizes = np.abs(steps)
        cells = min(_MOST_CELLS, 2 ** int(sizes.max(initial=0)).bit_length())
        found: NDArray[np.float64] = _log_masses(self.law, self.scale, cells)[np.minimum(sizes, cells - 1)]
        return np.where(sizes < cells, found, -np.inf)

    def masses(self) -> NDArray[np.float64]:
        """Probabilities of −n to n steps. The two ends stand for n steps or more: less than 2⁻⁶⁴ on each side."""
        far = next(k for k in itertools.count(self.half) if _log_tail(self.law, self.scale, k) < -64 * math.log(2))
        masses = np.exp(self.log_mass(np.arange(-far, far + 1)))
        masses[[0, -1]] /= _hazard(self.law, self.scale, far) / WORDS
        return masses


@lru_cache(maxsize=16)
def grid_of(law: Law, scale: float) -> Grid:
    """The grid for a law (``gaussian``: scale is σ; ``laplace``: its scale): 128 to 256 steps per scale."""
    tails = []
    for steps in itertools.count():
        tail = int(math.exp(_log_tail(law, scale, steps + 1)) * WORDS)  # P(more than so many steps), rounded down
        tails.append(tail)
        if tail < _BEYOND * WORDS:
            break
    thresholds = [*reversed(tails), *(WORDS - tail for tail in tails)]
    return Grid(law, scale, _step(scale), np.array(thresholds, dtype=np.uint64))


def _step(scale: float) -> float:
    return 2.0 ** math.floor(math.log2(scale)) / _STEPS


def _log_tail(law: Law, scale: float, steps: int) -> float:
    """Log P(noise is so many steps or more), ``steps`` ≥ 1."""
    ratio = (steps - 0.5) * _step(scale) / scale
    return log_normal_cdf(-ratio) if law == "gaussian" else -ratio - math.log(2)


def _log_tails(law: Law, scale: float, steps_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """As :func:`_log_tail`, for millions of ascending steps."""
    ratios_N = (steps_N.astype(np.float64) - 0.5) * (_step(scale) / scale)
    if law == "laplace":
        return -ratios_N - math.log(2)
    near = int(np.searchsorted(ratios_N, _FAR))
    tails_N = np.array([log_normal_cdf(-float(ratio)) for ratio in ratios_N[:near]])
    return np.concatenate([tails_N, log_normal_tails(ratios_N[near:])])


@lru_cache(maxsize=4096)
def _hazard(law: Law, scale: float, steps: int) -> int:
    """2⁶⁴ · P(noise is so many steps, given that it is so many or more), rounded down; ``steps`` ≥ 1."""
    return int(-math.expm1(_log_tail(law, scale, steps + 1) - _log_tail(law, scale, steps)) * WORDS)


@lru_cache(maxsize=8)
def _log_masses(law: Law, scale: float, cells: int) -> NDArray[np.float64]:
    """Logarithm of the probability of 0 to ``cells − 1`` steps up, by the words of table and hazards."""
    grid = grid_of(law, scale)
    ends = [*map(int, grid.thresholds[grid.half - 1 :]), WORDS]
    table = [math.log(high - low) - math.log(WORDS) for low, high in itertools.pairwise(ends)]
    beyond = table.pop()  # so many steps or more
    shares = -np.expm1(np.diff(_log_tails(law, scale, np.arange(grid.half, cells + 1))))  # as _hazard
    with np.errstate(divide="ignore"):  # so far out that the sampler always stops, nothing survives
        survived = np.concatenate([[0.0], np.cumsum(np.log1p(-shares))[:-1]])
    return np.concatenate([table, beyond + survived + np.log(shares)])


def _words_of(seed: bytes) -> Iterator[int]:
    """An endless stream of words, by SHAKE-256."""
    done, count = 0, 64
    while True:
        yield from np.frombuffer(hashlib.shake_256(seed).digest(8 * count), "<u8")[done:].tolist()
        done, count = count, 4 * count
