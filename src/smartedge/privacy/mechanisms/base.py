"""The interface of all mechanisms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from smartedge.files import finite_or_none
from smartedge.metrics import attribute_bound
from smartedge.types import Features, ReleaseEvent

__all__ = ["Description", "Mechanism"]


@dataclass(frozen=True)
class Description:
    """The facts of a mechanism for reports and summaries. None means that a value is ∞ or does not apply.

    Attributes:
        mechanism: its name.
        granularity: ``vector``, or ``element`` where ``epsilon`` covers one number alone.
        epsilon: ε of one release of one image.
        delta: δ of one release of one image; 0 for pure ε.
        vector_epsilon: ε of one release of the whole feature map.
        clip: norm to which maps are clipped, in the features' unit.
        sigma: standard deviation of the noise on each number, in the features' unit.
        codewords: K.
        subset: codewords in one release.
        attribute_bound: see :attr:`Mechanism.attribute_bound`.
        tight_attribute_bound: see :attr:`Mechanism.tight_attribute_bound`.
        sampling_delta: see :attr:`Mechanism.sampling_delta`.
    """

    mechanism: str
    granularity: str
    epsilon: float | None
    delta: float
    vector_epsilon: float | None
    clip: float | None
    sigma: float | None
    codewords: int | None
    subset: int | None
    attribute_bound: float
    tight_attribute_bound: float
    sampling_delta: float | None


class Mechanism(ABC):
    """A random map from an image's features to its release.

    Attributes:
        name: as in the setting ``dp.mechanism``.
        noise_norm: the density of the noise falls with the p-th power of the p-norm; 1 for Laplace, 2 otherwise.
        feature_shape: F.
        clip: C, norm to which maps are clipped; None where they are not.
    """

    name: ClassVar[Literal["none", "gaussian", "laplace", "randomised-response", "subset-selection"]]
    noise_norm: ClassVar[Literal[1, 2]] = 2
    feature_shape: tuple[int, ...]
    clip: float | None

    @property
    def sigma(self) -> float | None:
        """Standard deviation of the noise on each number; None where none is added."""
        return None

    @property
    @abstractmethod
    def event(self) -> ReleaseEvent:
        """The cost of one release of one image."""

    @property
    @abstractmethod
    def words_per_image(self) -> int:
        """64-bit words that :meth:`randomise` uses for each image."""

    @abstractmethod
    def bound(self, features_BF: Features) -> Features:
        """Clip each image's features (B, *F). Features that are clipped already stay as they are."""

    @abstractmethod
    def randomise(self, bounded_BF: Features, words: NDArray[np.uint64]) -> Features:
        """The release, float32 (B, *F).

        Args:
            bounded_BF: the result of :meth:`bound`.
            words: uint64 (B · words_per_image,), independent and uniform: see :class:`smartedge.privacy.noise.Noise`.
        """

    @abstractmethod
    def log_likelihood(self, released_NF: Features, bounded_MF: Features) -> NDArray[np.float64]:
        """Logarithm of the probability of each release for each bounded map, under the law of :meth:`randomise`.

        Args:
            released_NF: (N, *F), results of :meth:`randomise`; other numbers count as the nearest possible release.
            bounded_MF: (M, *F), results of :meth:`bound`.

        Returns:
            float64 (N, M); −∞ where the release is impossible.
        """

    def channel(self) -> NDArray[np.float32] | None:
        """For discrete mechanisms: the probability of each outcome given the codeword, (K, O); rows sum to 1."""
        return None

    def outcomes(self) -> NDArray[np.float32] | None:
        """For discrete mechanisms: the codewords in each outcome, (O, K) in {0, 1}."""
        return None

    @property
    def epsilon(self) -> float:
        """ε of one release of one image, at :attr:`delta`."""
        return self.event.epsilon

    @property
    def delta(self) -> float:
        """δ of one release of one image; 0 for pure ε."""
        return self.event.delta

    @property
    def vector_epsilon(self) -> float:
        """ε of one release of the whole feature map. :attr:`epsilon` is smaller where it covers one number alone."""
        numbers = math.prod(self.feature_shape) if self.event.granularity == "element" else 1
        return numbers * self.epsilon

    @property
    def sampling_bias(self) -> float:
        """Upper bound on the total variation between the stated law and the law of :meth:`randomise`, per image."""
        return 0.0

    @property
    def sampling_delta(self) -> float:
        """Increase of δ by the finite precision of :meth:`randomise`, for one release of a whole map."""
        return 0.0

    @property
    def attribute_bound(self) -> float:
        """The highest balanced accuracy with which an attacker can read any yes/no attribute from one release.

        See :func:`smartedge.metrics.attribute_bound`, with the ε of the whole feature map.
        """
        return attribute_bound(self.vector_epsilon, self.delta)

    @property
    def distance(self) -> float:
        """Total variation between the releases of the two inputs that differ most; 1 where nothing protects."""
        return 1.0

    @property
    def tight_attribute_bound(self) -> float:
        """As :attr:`attribute_bound`, but from the law of :meth:`randomise` itself: (1 + distance)/2."""
        return min(self.attribute_bound, (1 + self.distance) / 2 + self.sampling_bias)

    def policy(self) -> dict[str, object]:
        """The facts that the ledger fixes for a run, as JSON values: the law of its releases."""
        return {
            "mechanism": self.name,
            "granularity": self.event.granularity,
            "feature_shape": list(self.feature_shape),
            "clip": self.clip,
            "sigma": self.sigma,
            "codewords": self.event.codewords,
            "epsilon_each": finite_or_none(self.epsilon),
        }

    def describe(self) -> Description:
        """The facts for reports and summaries."""
        return Description(
            mechanism=self.name,
            granularity=self.event.granularity,
            epsilon=finite_or_none(self.epsilon),
            delta=self.delta,
            vector_epsilon=finite_or_none(self.vector_epsilon),
            clip=self.clip,
            sigma=self.sigma,
            codewords=self.event.codewords,
            subset=self.event.subset,
            attribute_bound=self.attribute_bound,
            tight_attribute_bound=self.tight_attribute_bound,
            sampling_delta=finite_or_none(self.sampling_delta),
        )
