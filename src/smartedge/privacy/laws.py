"""The probability laws of releases, for many images at once: draws, densities, exact tables.

A mechanism randomises the features of one image. An attacker knows the mechanism and asks: how likely is this release
for each of these images? A :class:`ReleaseLaw` gives the answer. With ``releases`` it is the law of all releases of one
image together; their noise is independent.

Additive noise is treated as continuous. The real release lies on a grid: it is the continuous release, rounded. So no
attacker reads more from it.

Letters: N inputs, M draws, F the feature shape, D numbers of a map, K codewords, O outcomes, R releases of an image.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import PrivacyError
from smartedge.privacy.mechanisms import Additive, Discrete, Gaussian, Laplace, Mechanism
from smartedge.types import Floats

__all__ = ["CodewordLaw", "GaussianLaw", "GridLaw", "LaplaceLaw", "ReleaseLaw", "release_law"]


_MOST_OUTCOMES = 20_000  # in a table
_MOST_NUMBERS = 2**14  # of several Laplace releases of one image: a density is a sum over all of them
_MOST_RELEASES = 2**40  # their bound is that of any number then, and counts still fit into float64


class ReleaseLaw(ABC):
    """The law of all releases of one image, given its bounded features."""

    distance: float  # total variation between the laws of the two inputs that differ most; at most 1
    sampling_bias: float  # total variation between this law and the sampler's

    @abstractmethod
    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """Bounded features (N, *F) in the form that the other methods take: float64 (N, D)."""

    @abstractmethod
    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """A sufficient statistic of R releases of each of N images, (R, N, *F): float64 (N, E)."""

    @abstractmethod
    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """One draw of :meth:`statistic` for each of M images: float64 (M, E)."""

    @abstractmethod
    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """The logarithm of the density at each release for each input, float64 (M, N).

        It lacks a term that depends on the release alone, so only differences within a row have a meaning.
        """

    def table(self, inputs_ND: Floats) -> Floats | None:
        """Probability of every outcome for each input, float64 (N, O); None where there are too many outcomes."""
        return None


@dataclass(frozen=True)
class GaussianLaw(ReleaseLaw):
    """Independent Gaussian noise on each number. The mean of R releases is sufficient; its noise is σ/√R."""

    mechanism: Gaussian
    sigma: float  # of the mean of all releases
    distance: float
    sampling_bias: float

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """The numbers of each map, on the grid."""
        return _on_grid(self.mechanism, bounded_NF)

    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """The mean of an image's releases."""
        return _flat(np.asarray(released_RNF, dtype=np.float64).mean(axis=0))

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """Inputs plus noise."""
        return inputs_MD + self.sigma * rng.standard_normal(inputs_MD.shape)

    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """−‖z − x‖²/2σ², without the term in z alone."""
        scores_MN = statistic_ME @ inputs_ND.T
        scores_MN -= (inputs_ND**2).sum(axis=1) / 2
        scores_MN /= self.sigma**2
        return scores_MN


@dataclass(frozen=True)
class LaplaceLaw(ReleaseLaw):
    """Independent Laplace noise on each number. R releases count as one release of the map repeated R times."""

    mechanism: Laplace
    releases: int  # R
    distance: float
    sampling_bias: float

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """The numbers of each map, on the grid, once for each release."""
        return np.tile(_on_grid(self.mechanism, bounded_NF), (1, self.releases))

    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """The releases of an image, one after the other."""
        return np.concatenate([_flat(part_NF) for part_NF in released_RNF], axis=1)

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """Inputs plus noise."""
        return inputs_MD + rng.laplace(scale=self.mechanism.scale, size=inputs_MD.shape)

    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """−‖z − x‖₁/b."""
        total_MN = np.zeros((len(statistic_ME), len(inputs_ND)))
        for seen_M, inputs_N in zip(statistic_ME.T, inputs_ND.T, strict=True):
            total_MN -= np.abs(seen_M[:, None] - inputs_N)
        total_MN /= self.mechanism.scale
        return total_MN


@dataclass(frozen=True)
class GridLaw(ReleaseLaw):
    """One release of one number, with the sampler's exact table of whole grid steps."""

    law: ReleaseLaw  # the same law with continuous noise, for draws and densities
    step: float
    masses: Floats  # of the sampler: see smartedge.privacy.mechanisms.grid.Grid
    distance: float
    sampling_bias: float = 0.0

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """The number, on the grid."""
        return self.law.inputs(bounded_NF)

    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """The number that was released."""
        return self.law.statistic(released_RNF)

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """Inputs plus continuous noise."""
        return self.law.sample(inputs_MD, rng)

    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """The log-density of the continuous noise."""
        return self.law.log_density(statistic_ME, inputs_ND)

    def table(self, inputs_ND: Floats) -> Floats:
        """P(grid step released) for each input."""
        noise = self.masses
        steps_N = np.rint(inputs_ND[:, 0] / self.step).astype(np.int64)
        steps_N -= steps_N.min()
        table_NO = np.zeros((len(steps_N), len(noise) + int(steps_N.max())))
        np.put_along_axis(table_NO, steps_N[:, None] + np.arange(len(noise)), noise, axis=1)
        return table_NO


@dataclass(frozen=True)
class CodewordLaw(ReleaseLaw):
    """One of K codewords through a channel, R times. The number of releases that hold each codeword is sufficient."""

    channel_KO: Floats = field(repr=False)
    outcomes_OK: Floats = field(repr=False)
    log_odds: float  # log-odds of an outcome: a codeword in it against one that is not
    releases: int
    distance: float
    sampling_bias: float

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """The number of the codeword, (N, 1)."""
        codeword_N1: Floats = np.asarray(bounded_NF).argmax(axis=1)[:, None].astype(np.float64)
        return codeword_N1

    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """How many of an image's releases hold each codeword, (N, K)."""
        counts_NK: Floats = np.rint(np.asarray(released_RNF, dtype=np.float64)).sum(axis=0)
        return counts_NK

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """Counts (M, K)."""
        drawn_MO = rng.multinomial(self.releases, self.channel_KO[inputs_MD[:, 0].astype(np.int64)])
        return np.asarray(drawn_MO @ self.outcomes_OK)

    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """Log-odds times the count of the input's codeword: a release has one of two probabilities."""
        return np.asarray(self.log_odds * statistic_ME[:, inputs_ND[:, 0].astype(np.int64)])

    def table(self, inputs_ND: Floats) -> Floats | None:
        """P(multiset of outcomes) for each input."""
        outcomes = self.channel_KO.shape[1]
        if math.comb(outcomes + self.releases - 1, self.releases) > _MOST_OUTCOMES:
            return None
        counts_SO = _multisets(outcomes, self.releases)
        orders_S = _log_factorials(np.array(self.releases)) - _log_factorials(counts_SO).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 · −∞: an outcome that is impossible, and did not come
            terms_KSO = counts_SO * np.log(self.channel_KO)[:, None]
        log_table_KS = np.where(counts_SO > 0, terms_KSO, 0.0).sum(axis=2) + orders_S
        table_KS = np.exp(log_table_KS)
        table_KS /= table_KS.sum(axis=1, keepdims=True)
        return np.asarray(table_KS[inputs_ND[:, 0].astype(np.int64)])


def release_law(mechanism: Mechanism, releases: int = 1) -> ReleaseLaw:
    """The law of all ``releases`` of one image.

    Raises:
        PrivacyError: the mechanism adds no noise, so a release has no law; or there are too many releases.
        ValueError: ``releases`` is below 1.
    """
    if releases < 1:
        raise ValueError(f"releases: at least 1 is needed, not {releases}")
    if releases > _MOST_RELEASES:
        raise PrivacyError(f"more than {_MOST_RELEASES} releases of one image are too many to compute with")
    if math.isinf(mechanism.epsilon):
        raise PrivacyError("without noise a release is the features themselves: there is no law to compute with")
    apart = -math.expm1(releases * math.log1p(-min(mechanism.distance, 1 - 1e-16)))  # 1 − (1 − distance)^R
    bias = releases * mechanism.sampling_bias
    if isinstance(mechanism, Discrete):
        outcomes_OK = np.asarray(mechanism.outcomes(), dtype=np.float64)
        # From the log-odds, as the mechanism's own table is in single precision.
        weights_KO = np.exp(mechanism.log_odds * (outcomes_OK.T - 1))
        channel_KO = weights_KO / weights_KO.sum(axis=1, keepdims=True)
        return CodewordLaw(channel_KO, outcomes_OK, mechanism.log_odds, releases, apart, bias)
    assert isinstance(mechanism, Additive)
    law: ReleaseLaw
    if isinstance(mechanism, Gaussian):
        apart = math.erf(math.sqrt(releases) * mechanism.clip / mechanism.scale / math.sqrt(2))
        law = GaussianLaw(mechanism, mechanism.scale / math.sqrt(releases), apart, bias)
    else:
        assert isinstance(mechanism, Laplace)
        if releases > 1 and releases * math.prod(mechanism.feature_shape) > _MOST_NUMBERS:
            raise PrivacyError(
                f"{releases} releases with Laplace noise: all their numbers count, and at most {_MOST_NUMBERS} can be "
                "computed with. What fewer releases tell, more of them tell as well"
            )
        law = LaplaceLaw(mechanism, releases, apart, bias)
    step, masses = mechanism.grid.step, mechanism.grid.masses()
    # Whether there is a table depends on the mechanism alone, not on the images: a certificate's α rests on that.
    if math.prod(mechanism.feature_shape) == releases == 1 and 2 * mechanism.clip / step + len(masses) < _MOST_OUTCOMES:
        return GridLaw(law, step, masses, law.distance)
    return law


def _flat(array_NF: NDArray[np.floating]) -> Floats:
    return np.asarray(array_NF, dtype=np.float64).reshape(len(array_NF), -1)


def _on_grid(mechanism: Additive, bounded_NF: NDArray[np.floating]) -> Floats:
    """The map on the grid, by the sampler's own rounding."""
    return np.asarray(mechanism.steps(np.asarray(bounded_NF)) * mechanism.grid.step)


def _multisets(outcomes: int, releases: int) -> NDArray[np.int64]:
    """How often each outcome comes in so many releases, for every possibility: int64 (S, O).

    Each is a way to put O − 1 bars between R balls.
    """
    places = itertools.combinations(range(releases + outcomes - 1), outcomes - 1)
    bars_SX = np.array(list(places), dtype=np.int64).reshape(-1, outcomes - 1)
    ends = np.full((len(bars_SX), 1), releases + outcomes - 1)
    counts_SO: NDArray[np.int64] = np.diff(np.concatenate([ends * 0 - 1, bars_SX, ends], axis=1), axis=1) - 1
    return counts_SO[::-1]  # for one release: the outcomes in their order


_log_factorials = np.vectorize(lambda count: math.lgamma(count + 1.0), otypes=[np.float64])
