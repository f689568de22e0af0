"""Mechanisms that protect nothing: ε = ∞."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartedge.privacy.mechanisms.base import Mechanism
from smartedge.privacy.mechanisms.discrete import Discrete
from smartedge.types import Features, ReleaseEvent

__all__ = ["Unprotected", "UnprotectedCodeword"]


@dataclass(frozen=True)
class Unprotected(Mechanism):
    """Nothing is clipped, nothing is added: ε = ∞. Any dtype passes as it is."""

    name = "none"
    clip = None
    feature_shape: tuple[int, ...]

    @property
    def event(self) -> ReleaseEvent:
        """ε = ∞."""
        return ReleaseEvent("none", math.inf)

    @property
    def words_per_image(self) -> int:
        """No words: nothing is drawn."""
        return 0

    def bound(self, features_BF: Features) -> Features:
        """The features themselves."""
        return features_BF

    def randomise(self, bounded_BF: Features, words: NDArray[np.uint64]) -> Features:
        """The features themselves."""
        return bounded_BF

    def log_likelihood(self, released_NF: Features, bounded_MF: Features) -> NDArray[np.float64]:
        """0 where the release is the map, −∞ elsewhere."""
        released_N1D = released_NF.reshape(len(released_NF), 1, -1)
        same_NM = (released_N1D == bounded_MF.reshape(1, len(bounded_MF), -1)).all(axis=2)
        return np.where(same_NM, 0.0, -np.inf)


@dataclass(frozen=True)
class UnprotectedCodeword(Discrete):
    """The codeword itself is released: ε = ∞."""

    name = "none"
    codewords: int

    @property
    def event(self) -> ReleaseEvent:
        """ε = ∞."""
        return ReleaseEvent("none", math.inf, codewords=self.codewords)

    @property
    def words_per_image(self) -> int:
        """No words: nothing is drawn."""
        return 0

    def channel(self) -> NDArray[np.float32]:
        """The identity (K, K)."""
        return np.eye(self.codewords, dtype=np.float32)

    def outcomes(self) -> NDArray[np.float32]:
        """The identity (K, K)."""
        return np.eye(self.codewords, dtype=np.float32)

    @property
    def log_odds(self) -> float:
        """Infinite."""
        return math.inf

    def randomise(self, bounded_BF: Features, words: NDArray[np.uint64]) -> Features:
        """The codeword itself."""
        return bounded_BF
