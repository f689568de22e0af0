"""Discrete mechanisms: one of K codewords in, one of O outcomes out."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import ConfigError
from smartedge.privacy.mechanisms.base import Mechanism
from smartedge.types import Features, ReleaseEvent

__all__ = ["MAX_OUTCOMES", "Discrete", "RandomisedResponse", "SubsetSelection", "response_weights"]

MAX_OUTCOMES = 4096
_WORDS = 2**64  # values of a word


class Discrete(Mechanism):
    """One of K codewords in, one of O outcomes out. Features are (B, K), F = (K,)."""

    clip = None
    codewords: int  # K

    @property
    def feature_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(K,)."""
        return (self.codewords,)

    @abstractmethod
    def channel(self) -> NDArray[np.float32]:
        """Probability of each outcome given the codeword, (K, O); rows sum to 1."""

    @abstractmethod
    def outcomes(self) -> NDArray[np.float32]:
        """The codewords in each outcome, (O, K) in {0, 1}."""

    @property
    @abstractmethod
    def log_odds(self) -> float:
        """Log P(outcome | a codeword in it) − log P(outcome | a codeword not in it); inf without noise."""

    def bound(self, features_BF: Features) -> Features:
        """The codeword with the largest number, float32 one-hot (B, K)."""
        chosen_BK: NDArray[np.float32] = np.eye(self.codewords, dtype=np.float32)[features_BF.argmax(axis=1)]
        return chosen_BK

    def log_likelihood(self, released_NF: Features, bounded_MF: Features) -> NDArray[np.float64]:
        """See :meth:`Mechanism.log_likelihood`."""
        outcomes_OK = self.outcomes()
        agreement_NO = released_NF @ (2 * outcomes_OK.T - 1)  # largest at the outcome that holds the same codewords
        with np.errstate(divide="ignore"):
            log_channel_KO = np.log(self.channel().astype(np.float64))
        found_MN: NDArray[np.float64] = log_channel_KO[bounded_MF.argmax(axis=1)][:, agreement_NO.argmax(axis=1)]
        return found_MN.T


def response_weights(epsilon: float, *, likely: int, unlikely: int) -> tuple[int, int, int]:
    """How many of the 2⁶⁴ words each outcome gets: weight e^ε for ``likely`` outcomes, 1 for ``unlikely`` ones.

    Returns:
        (a, b, rest): words for each likely outcome, for each unlikely one, and words left over, with
        ``likely·a + unlikely·b + rest = 2⁶⁴`` and ``a ≤ e^ε·b`` exactly. The rest may go to one outcome, the same
        for every input; ε still holds exactly, since (a + r)/(b + r) ≤ a/b.
    """
    with localcontext() as context:
        context.prec = 80
        context.rounding = ROUND_FLOOR
        power = Decimal(epsilon).exp() * (1 - Decimal(10) ** -75)
        rare = max(1, int(_WORDS / (likely * power + unlikely)) + 1)
        often = min((_WORDS - unlikely * rare) // likely, int(power * rare))
    return often, rare, _WORDS - likely * often - unlikely * rare


class _Table(Discrete):
    """A discrete mechanism given by the subsets of codewords that it may release."""

    codewords: int
    epsilon_: float

    @property
    @abstractmethod
    def subset(self) -> int:
        """Codewords in each outcome."""

    @property
    def words_per_image(self) -> int:
        """One."""
        return 1

    @property
    def sampling_bias(self) -> float:
        """The law differs from the ideal one by less than one word per outcome. Its ε is exact all the same."""
        return math.comb(self.codewords, self.subset) / _WORDS

    @cached_property
    def _members_OK(self) -> NDArray[np.bool_]:
        """Which codewords are in each outcome."""
        chosen = np.array(list(itertools.combinations(range(self.codewords), self.subset)))
        members = np.zeros((len(chosen), self.codewords), dtype=bool)
        np.put_along_axis(members, chosen, True, axis=1)
        return members

    @cached_property
    def _weights_KO(self) -> NDArray[np.object_]:
        """Words of each outcome given the codeword, as whole numbers; rows sum to 2⁶⁴."""
        likely = math.comb(self.codewords - 1, self.subset - 1)
        often, rare, rest = response_weights(self.epsilon_, likely=likely, unlikely=len(self._members_OK) - likely)
        weights = np.where(self._members_OK.T, np.array(often, dtype=object), np.array(rare, dtype=object))
        weights[:, 0] += rest
        return weights

    @cached_property
    def _ends_KO(self) -> NDArray[np.uint64]:
        """The last word of each outcome given the codeword."""
        ends_KO: NDArray[np.uint64] = (np.cumsum(self._weights_KO, axis=1) - 1).astype(np.uint64)
        return ends_KO

    @property
    def distance(self) -> float:
        """Total variation between two rows of the channel; it is equal for all pairs."""
        one_O, other_O = (self._weights_KO[:2] / _WORDS).astype(np.float64)
        return float(np.abs(one_O - other_O).sum() / 2)

    def channel(self) -> NDArray[np.float32]:
        """Probability of each outcome given the codeword, (K, O); rows sum to 1."""
        channel_KO: NDArray[np.float32] = (self._weights_KO / _WORDS).astype(np.float32)
        return channel_KO

    @property
    def log_odds(self) -> float:
        """ε: an outcome has one of two probabilities."""
        return self.epsilon_

    def outcomes(self) -> NDArray[np.float32]:
        """The codewords in each outcome, (O, K) in {0, 1}."""
        return self._members_OK.astype(np.float32)

    def randomise(self, bounded_BF: Features, words: NDArray[np.uint64]) -> Features:
        """For each image, the outcome that its word belongs to."""
        outcomes_B = (self._ends_KO[bounded_BF.argmax(axis=1)] < words[:, None]).sum(axis=1)
        released_BK: NDArray[np.float32] = self.outcomes()[outcomes_B]
        return released_BK


@dataclass(frozen=True)
class RandomisedResponse(_Table):
    """The true codeword with probability e^ε/(e^ε + K − 1); the others equally likely (Warner 1965). Pure ε."""

    name = "randomised-response"
    codewords: int
    epsilon_: float

    @property
    def subset(self) -> int:
        """One."""
        return 1

    @property
    def event(self) -> ReleaseEvent:
        """Pure ε."""
        return ReleaseEvent("randomised-response", self.epsilon_, codewords=self.codewords)


@dataclass(frozen=True)
class SubsetSelection(_Table):
    """A set of w codewords that holds the true one with probability w·e^ε/(w·e^ε + K − w) (Ye & Barg 2018). Pure ε.

    w = max(1, round(K/(e^ε + 1))): the size with the largest mutual information. Given whether the true codeword is
    in it, every set is equally likely.
    """

    name = "subset-selection"
    codewords: int
    epsilon_: float

    def __post_init__(self) -> None:
        if (outcomes := math.comb(self.codewords, self.subset)) > MAX_OUTCOMES:
            raise ConfigError(
                f"dp.mechanism: subset selection of {self.subset} of {self.codewords} codewords has {outcomes} "
                f"outcomes, more than {MAX_OUTCOMES}; use 'randomised-response', a larger dp.epsilon, or a smaller "
                "model.codebook"
            )

    @property
    def subset(self) -> int:
        """Codewords in one release."""
        return max(1, round(self.codewords / (math.exp(min(self.epsilon_, 700)) + 1)))

    @property
    def event(self) -> ReleaseEvent:
        """Pure ε."""
        return ReleaseEvent("subset-selection", self.epsilon_, codewords=self.codewords, subset=self.subset)
