"""Mechanisms that clip a map and add independent noise of one law to each number."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smartedge.privacy.accountant import gaussian_epsilon
from smartedge.privacy.mechanisms.base import Mechanism
from smartedge.privacy.mechanisms.distance import laplace_product_distance
from smartedge.privacy.mechanisms.grid import SEED_WORDS, Grid, grid_of
from smartedge.types import Features, ReleaseEvent

__all__ = ["SHRINK", "Additive", "Gaussian", "Laplace"]

SHRINK = 1 - 2.0**-20  # a clipped map stays below the bound, also after rounding to float32
_AT_ONCE = 2**22  # numbers compared at once by log_likelihood: bounds its memory


class Additive(Mechanism):
    """Clip to C, then independent noise of one law on each number."""

    clip: float  # C
    scale: float  # of the noise: σ (Gaussian) or b (Laplace)

    @property
    def sensitivity(self) -> float:
        """How far two clipped maps can be apart in the norm that is clipped: 2C (replace-one)."""
        return 2 * self.clip

    @property
    @abstractmethod
    def sigma(self) -> float:
        """Standard deviation of the noise on each number."""

    @property
    def words_per_image(self) -> int:
        """One per number, and a seed for noise beyond the table."""
        return self._numbers + SEED_WORDS

    @property
    def grid(self) -> Grid:
        """The grid of releases, and the integer law of their noise."""
        return grid_of("laplace" if self.noise_norm == 1 else "gaussian", self.scale)

    @property
    def sampling_bias(self) -> float:
        """Each probability of the sampler is within a share η of the stated one, so one number adds at most η/2."""
        return self._numbers * self.grid.precision / 2

    @property
    def sampling_delta(self) -> float:
        """Increase of δ by the finite precision of :meth:`randomise`, for one release of a whole map.

        The relative error of each probability of the sampler is at most η. So the probabilities of a map of D numbers
        are wrong by a factor of at most e^(Dη), and P(S) ≤ e^(2Dη) (e^ε Q(S) + δ). This exceeds e^ε Q(S) + δ by at most
        e^(2Dη) − 1, for every ε.
        """
        return math.expm1(2 * self._numbers * self.grid.precision)

    @property
    def _numbers(self) -> int:
        """D."""
        return math.prod(self.feature_shape)

    @abstractmethod
    def _norms(self, flat_BD: NDArray[np.float64]) -> NDArray[np.float64]:
        """The norms that must not exceed C: (B, 1), or (B, D) for each number."""

    def bound(self, features_BF: Features) -> Features:
        """Scale each image's features (element: each number) down to C where they exceed it; float32 (B, *F)."""
        flat_BD = features_BF.reshape(len(features_BF), -1).astype(np.float32)
        norms = self._norms(flat_BD.astype(np.float64))
        factor = np.where(norms > self.clip, self.clip * SHRINK / np.maximum(norms, self.clip), 1.0)
        return (flat_BD * factor.astype(np.float32)).reshape(features_BF.shape)

    def randomise(self, bounded_BF: Features, words: NDArray[np.uint64]) -> Features:
        """The clipped map, rounded to the grid towards zero, plus a random whole number of grid steps from a table.

        Since the map lies on the grid, this equals continuous noise that is rounded afterwards: post-processing.
        """
        steps_BD = self.steps(bounded_BF)
        words_BW = words.reshape(len(steps_BD), self.words_per_image)
        noise_BD = self.grid.draw(words_BW[:, :-SEED_WORDS], words_BW[:, -SEED_WORDS:])
        released_BD = (steps_BD + noise_BD).astype(np.float64) * self.grid.step
        return released_BD.astype(np.float32).reshape(bounded_BF.shape)

    def steps(self, bounded_BF: Features) -> NDArray[np.int64]:
        """A bounded map in whole grid steps, towards zero, int64 (B, D)."""
        flat_BD = bounded_BF.reshape(len(bounded_BF), -1).astype(np.float64)
        # Clip again in float64: the sensitivity must not depend on the caller.
        factor = np.minimum(self.clip * (1 - 2.0**-40) / np.maximum(self._norms(flat_BD), 1e-300), 1.0)
        return np.trunc(flat_BD * factor / self.grid.step).astype(np.int64)

    def log_likelihood(self, released_NF: Features, bounded_MF: Features) -> NDArray[np.float64]:
        """See :meth:`Mechanism.log_likelihood`: the sum over numbers of the table's logarithm."""
        released_ND = np.rint(released_NF.reshape(len(released_NF), -1).astype(np.float64) / self.grid.step)
        steps_MD = self.steps(bounded_MF)
        found_NM = np.empty((len(released_ND), len(steps_MD)))
        rows = max(1, _AT_ONCE // max(1, steps_MD.size))
        for start in range(0, len(released_ND), rows):
            noise_NMD = released_ND[start : start + rows, None].astype(np.int64) - steps_MD
            found_NM[start : start + rows] = self.grid.log_mass(noise_NMD).sum(axis=2)
        return found_NM


@dataclass(frozen=True)
class Gaussian(Additive):
    """L2 clip and Gaussian noise (analytic Gaussian mechanism: Balle & Wang 2018, theorem 8).

    ``scale`` is σ, a standard deviation in the unit of the features, not a variance. ε is stated at ``delta_``.
    """

    name = "gaussian"
    feature_shape: tuple[int, ...]
    clip: float
    scale: float
    delta_: float

    @property
    def sigma(self) -> float:
        """The scale itself."""
        return self.scale

    @property
    def event(self) -> ReleaseEvent:
        """(ε, δ) of one release, exactly."""
        multiplier = self.scale / self.sensitivity
        epsilon = gaussian_epsilon(1 / multiplier, self.delta_)
        return ReleaseEvent("gaussian", epsilon, self.delta_, noise_multiplier=multiplier)

    @property
    def distance(self) -> float:
        """2Φ(C/σ) − 1: two normal laws that are the sensitivity apart."""
        return math.erf(self.clip / self.scale / math.sqrt(2))

    def _norms(self, flat_BD: NDArray[np.float64]) -> NDArray[np.float64]:
        norms_B1: NDArray[np.float64] = np.linalg.norm(flat_BD, axis=1, keepdims=True)
        return norms_B1


@dataclass(frozen=True)
class Laplace(Additive):
    """L1 clip (``vector``), or each number in [−C, C] (``element``), and Laplace noise of scale 2C/ε. Pure ε.

    With granularity ``element``, ε protects one number of the map alone; the whole map has D times that ε.
    """

    name = "laplace"
    noise_norm = 1
    feature_shape: tuple[int, ...]
    clip: float
    scale: float
    granularity: Literal["vector", "element"] = "vector"

    @property
    def sigma(self) -> float:
        """√2 times the scale."""
        return math.sqrt(2) * self.scale

    @property
    def event(self) -> ReleaseEvent:
        """ε = 2C ÷ scale."""
        return ReleaseEvent("laplace", self.sensitivity / self.scale, granularity=self.granularity)

    @property
    def distance(self) -> float:
        """Total variation for a whole map: all numbers 2C apart (``element``), or one number 2C apart (``vector``)."""
        numbers = self._numbers if self.granularity == "element" else 1
        return laplace_product_distance(self.epsilon, numbers)

    def _norms(self, flat_BD: NDArray[np.float64]) -> NDArray[np.float64]:
        sizes_BD = np.abs(flat_BD)
        return sizes_BD.sum(axis=1, keepdims=True) if self.granularity == "vector" else sizes_BD
