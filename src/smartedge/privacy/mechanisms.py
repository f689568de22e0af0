"""Clip and noise: what turns features into something that may be released.

Every mechanism works on any feature shape, image by image, in three steps of its own:

- :meth:`Mechanism.bound` clips; what the exits see, and what noise is added to. Differentiable where noise is added.
- :meth:`Mechanism.simulate` draws the same law from torch's generator. For training on the edge and for attackers;
  never for a release.
- :meth:`Mechanism.randomise` makes the release, from 64-bit words of a cryptographic source
  (:mod:`smartedge.privacy.noise`), in integer arithmetic.

The guarantee is local differential privacy under replace-one adjacency: any feature map against any other. Two maps
clipped to norm C differ by up to 2C, which is the sensitivity. ``docs/privacy.md`` says what is covered and what not.

Shape letters: B images, F any feature shape, D its numbers, K codewords, O outcomes of a discrete mechanism.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smartedge.errors import ConfigError
from smartedge.privacy.accountant import gaussian_epsilon
from smartedge.privacy.calibration import gaussian_noise_multiplier, pure_epsilon
from smartedge.types import ReleaseEvent

__all__ = [
    "MAX_OUTCOMES",
    "Additive",
    "Discrete",
    "Gaussian",
    "Laplace",
    "Mechanism",
    "RandomisedResponse",
    "SubsetSelection",
    "Unprotected",
    "make_mechanism",
    "response_weights",
]

MAX_OUTCOMES = 4096
_WORDS = 2**64  # values of a word
_SHRINK = 1 - 2.0**-20  # a clipped map lands safely below the bound, whatever float32 makes of it
_STEPS = 128  # grid steps per power of two below the noise's scale


class Mechanism(ABC):
    """What every mechanism can do."""

    name: ClassVar[Literal["none", "gaussian", "laplace", "randomised-response", "subset-selection"]]
    feature_shape: tuple[int, ...]  # F

    @property
    @abstractmethod
    def event(self) -> ReleaseEvent:
        """What one release of one image costs."""

    @property
    @abstractmethod
    def words_per_image(self) -> int:
        """64-bit words that :meth:`randomise` uses for each image."""

    @abstractmethod
    def bound(self, features_BF: Tensor) -> Tensor:
        """Clip each image's features (B, *F); does nothing to what it made itself."""

    @abstractmethod
    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of the release's law from torch's generator, float32 (B, *F): for training and attacks only."""

    @abstractmethod
    def randomise(self, bounded_BF: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """The release, float32 (B, *F) on the CPU.

        Args:
            bounded_BF: what :meth:`bound` gave.
            words: uint64 (B · words_per_image,), independent and uniform: see :class:`smartedge.privacy.noise.Noise`.
        """

    @property
    def epsilon(self) -> float:
        """Of one release of one image, at :attr:`delta`."""
        return self.event.epsilon

    @property
    def delta(self) -> float:
        """Of one release of one image; 0 for pure ε."""
        return self.event.delta

    @property
    def vector_epsilon(self) -> float:
        """Of one release of the whole feature map: another number than :attr:`epsilon` where that is an element's."""
        numbers = math.prod(self.feature_shape) if self.event.granularity == "element" else 1
        return numbers * self.epsilon

    @property
    def sampling_bias(self) -> float:
        """Bound of the total variation between the law stated and the law of :meth:`randomise`, per image."""
        return 0.0

    @property
    def attribute_bound(self) -> float:
        """No attacker reads any yes/no attribute from one release with a higher balanced accuracy.

        (e^ε + δ)/(1 + e^ε), with the ε of the whole feature map: a test with false-positive rate x has true-positive
        rate ≤ e^ε·x + δ, both ways round (Kairouz, Oh & Viswanath 2015).
        """
        small = math.exp(-self.vector_epsilon)
        return min(1.0, (1 + self.delta * small) / (1 + small))

    @property
    def distance(self) -> float:
        """Total variation between the releases of the two inputs that differ most; 1 where nothing protects."""
        return 1.0

    @property
    def tight_attribute_bound(self) -> float:
        """As :attr:`attribute_bound`, from the law of :meth:`randomise` and not from (ε, δ) alone: (1 + distance)/2."""
        return min(self.attribute_bound, (1 + self.distance) / 2 + self.sampling_bias)


class Discrete(Mechanism):
    """One of K codewords in, one of O outcomes out. Features are (B, K), F = (K,)."""

    codewords: int  # K

    @abstractmethod
    def channel(self) -> Tensor:
        """Probability of each outcome given the codeword, float32 (K, O); rows sum to 1."""

    @abstractmethod
    def outcomes(self) -> Tensor:
        """The tensor that is released at each outcome, float32 (O, K) in {0, 1}."""

    @property
    @abstractmethod
    def log_odds(self) -> float:
        """Of an outcome: log P(it | a codeword that it holds) − log P(it | one that it does not); inf without noise."""

    def bound(self, features_BF: Tensor) -> Tensor:
        """The codeword chosen, float32 one-hot (B, K). Has no gradient: train on probabilities @ :meth:`channel`."""
        chosen_B = features_BF.detach().argmax(dim=1)
        return torch.nn.functional.one_hot(chosen_B, self.codewords).float()

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An outcome's tensor per image, float32 (B, K); ``bounded_BF`` may hold any probabilities of codewords."""
        channel_KO = self.channel().to(bounded_BF.device)
        drawn_B = torch.multinomial(bounded_BF.detach() @ channel_KO, 1, generator=generator).squeeze(1)
        return self.outcomes().to(bounded_BF.device)[drawn_B]


@dataclass(frozen=True)
class Unprotected(Mechanism):
    """Nothing is clipped, nothing is added: ε = ∞. Any dtype passes as it is."""

    name = "none"
    feature_shape: tuple[int, ...]

    @property
    def event(self) -> ReleaseEvent:
        """ε = ∞."""
        return ReleaseEvent("none", math.inf)

    @property
    def words_per_image(self) -> int:
        """None."""
        return 0

    def bound(self, features_BF: Tensor) -> Tensor:
        """The features themselves."""
        return features_BF

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The features themselves."""
        return bounded_BF

    def randomise(self, bounded_BF: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """The features themselves."""
        return bounded_BF.detach().cpu()


@dataclass(frozen=True)
class UnprotectedCodeword(Discrete):
    """The codeword itself is released: ε = ∞."""

    name = "none"
    codewords: int

    @property
    def feature_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(K,)."""
        return (self.codewords,)

    @property
    def event(self) -> ReleaseEvent:
        """ε = ∞."""
        return ReleaseEvent("none", math.inf, codewords=self.codewords)

    @property
    def words_per_image(self) -> int:
        """None."""
        return 0

    def channel(self) -> Tensor:
        """The identity (K, K)."""
        return torch.eye(self.codewords)

    def outcomes(self) -> Tensor:
        """The identity (K, K)."""
        return torch.eye(self.codewords)

    @property
    def log_odds(self) -> float:
        """Infinite."""
        return math.inf

    def randomise(self, bounded_BF: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """The codeword itself."""
        return bounded_BF.detach().float().cpu()


# -- additive noise


class Additive(Mechanism):
    """Clip to C, then independent noise of one law on each number."""

    clip: float  # C
    scale: float  # of the noise, in the law's own unit

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
        """One per number."""
        return math.prod(self.feature_shape)

    @property
    def grid(self) -> Grid:
        """Where releases lie, and the integer law of their noise."""
        return _grid(self.name, self.scale)

    @property
    def sampling_bias(self) -> float:
        """Thresholds of 2⁻⁶⁴ each, and the tails beyond the last one, for every number."""
        return self.words_per_image * (len(self.grid.thresholds) + 2) / _WORDS

    @abstractmethod
    def _norms(self, flat_BD: Tensor) -> Tensor:
        """(B, 1) or (B, D): what must not exceed C."""

    def bound(self, features_BF: Tensor) -> Tensor:
        """Scale each image's features (element: each number) down to C where they exceed it; float32 (B, *F)."""
        flat_BD = features_BF.float().flatten(1)
        norms = self._norms(flat_BD)
        factor = torch.where(norms > self.clip, self.clip * _SHRINK / norms.clamp(min=self.clip), 1.0)
        return (flat_BD * factor).reshape(features_BF.shape)

    def randomise(self, bounded_BF: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """The clipped map on the grid, towards zero, plus a whole number of grid steps drawn from a table.

        With the map on the grid, rounded noise is noise rounded: post-processing of the mechanism with real numbers.
        """
        flat_BD = bounded_BF.detach().cpu().double().flatten(1)
        # Again in float64, and strictly: the sensitivity must not rest on what the caller did.
        factor = (self.clip * (1 - 2.0**-40) / self._norms(flat_BD).clamp(min=1e-300)).clamp(max=1.0)
        grid = self.grid
        steps_BD = torch.trunc(flat_BD * factor / grid.step).numpy().astype(np.int64)
        noise_BD = grid.draw(words).reshape(steps_BD.shape)
        released_BD = (steps_BD + noise_BD).astype(np.float64) * grid.step
        return torch.from_numpy(released_BD.astype(np.float32)).reshape(bounded_BF.shape)


@dataclass(frozen=True)
class Gaussian(Additive):
    """L2 clip and Gaussian noise (analytic Gaussian mechanism: Balle & Wang 2018, theorem 8).

    ``scale`` is σ, a standard deviation in the unit of the features, not a variance. ``delta_`` is where ε is stated.
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

    def _norms(self, flat_BD: Tensor) -> Tensor:
        norms_B1: Tensor = flat_BD.norm(dim=1, keepdim=True)
        return norms_B1

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Plus σ times a standard normal draw; the gradient passes through."""
        return bounded_BF + self.scale * _normal(bounded_BF, generator)


@dataclass(frozen=True)
class Laplace(Additive):
    """L1 clip (``vector``), or each number in [−C, C] (``element``), and Laplace noise of scale 2C/ε. Pure ε.

    With granularity ``element``, ε protects one number of the map alone; the whole map has D times that ε.
    """

    name = "laplace"
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
        """1 − e^(−ε/2), of the whole map: two Laplace laws that are the sensitivity apart in one number."""
        return -math.expm1(-self.vector_epsilon / 2)

    def _norms(self, flat_BD: Tensor) -> Tensor:
        return flat_BD.abs().sum(dim=1, keepdim=True) if self.granularity == "vector" else flat_BD.abs()

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Plus a Laplace draw; the gradient passes through."""
        unit = torch.rand(bounded_BF.shape, generator=generator, device=_device(bounded_BF, generator))
        half = (unit.to(bounded_BF.device) - 0.5).clamp(-0.4999999, 0.4999999)
        return bounded_BF - self.scale * half.sign() * torch.log1p(-2 * half.abs())


def _device(like: Tensor, generator: torch.Generator | None) -> torch.device:
    return like.device if generator is None else generator.device


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=_device(like, generator)).to(like.device)


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


@lru_cache(maxsize=16)
def _grid(law: str, scale: float) -> Grid:
    """The grid for a law (``gaussian``: scale is σ; ``laplace``: its scale): 128 to 256 steps per scale."""
    step = 2.0 ** math.floor(math.log2(scale)) / _STEPS

    def upper_tail(value: float) -> int:
        """2⁶⁴ · P(noise > value), rounded down."""
        ratio = value / scale
        return int(math.erfc(ratio / math.sqrt(2)) * 2.0**63 if law == "gaussian" else math.exp(-ratio) * 2.0**63)

    tails = list(itertools.takewhile(bool, (upper_tail((steps + 0.5) * step) for steps in itertools.count())))
    thresholds = [*reversed(tails), *(_WORDS - tail for tail in tails)]
    return Grid(step, np.array(thresholds, dtype=np.uint64))


# -- discrete releases


def response_weights(epsilon: float, *, likely: int, unlikely: int) -> tuple[int, int, int]:
    """How many of the 2⁶⁴ words each outcome gets where ``likely`` outcomes weigh e^ε and ``unlikely`` ones 1.

    Returns:
        (a, b, rest): words for each likely outcome, for each unlikely one, and words left over, with
        ``likely·a + unlikely·b + rest = 2⁶⁴`` and ``a ≤ e^ε·b`` exactly. Whoever gives the rest to one outcome, the
        same for every input, keeps ε exactly: (a + r)/(b + r) ≤ a/b.
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
    def feature_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(K,)."""
        return (self.codewords,)

    @property
    def words_per_image(self) -> int:
        """One."""
        return 1

    @property
    def sampling_bias(self) -> float:
        """The law differs from the ideal one by less than one word per outcome; its ε is exact nevertheless."""
        return math.comb(self.codewords, self.subset) / _WORDS

    @cached_property
    def _members_OK(self) -> NDArray[np.bool_]:
        """Which codewords each outcome holds."""
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
        """Between any two rows of the channel: they differ alike."""
        one_O, other_O = (self._weights_KO[:2] / _WORDS).astype(np.float64)
        return float(np.abs(one_O - other_O).sum() / 2)

    def channel(self) -> Tensor:
        """Probability of each outcome given the codeword, float32 (K, O); rows sum to 1."""
        return torch.from_numpy((self._weights_KO / _WORDS).astype(np.float64)).float()

    @property
    def log_odds(self) -> float:
        """ε: both laws have two levels."""
        return self.epsilon_

    def outcomes(self) -> Tensor:
        """The tensor that is released at each outcome, float32 (O, K) in {0, 1}."""
        return torch.from_numpy(self._members_OK.astype(np.float32))

    def randomise(self, bounded_BF: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """The outcome whose words hold the image's word."""
        codewords_B = bounded_BF.detach().cpu().argmax(dim=1).numpy()
        outcomes_B = (self._ends_KO[codewords_B] < words[:, None]).sum(axis=1)
        return self.outcomes()[torch.from_numpy(outcomes_B)]


@dataclass(frozen=True)
class RandomisedResponse(_Table):
    """The codeword with probability e^ε/(e^ε + K − 1), else any other, equally likely (Warner 1965; k-ary). Pure ε."""

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
        """Codewords in what is released."""
        return max(1, round(self.codewords / (math.exp(min(self.epsilon_, 700)) + 1)))

    @property
    def event(self) -> ReleaseEvent:
        """Pure ε."""
        return ReleaseEvent("subset-selection", self.epsilon_, codewords=self.codewords, subset=self.subset)


# -- from settings


def make_mechanism(
    name: str,
    *,
    feature_shape: tuple[int, ...],
    granularity: Literal["vector", "element"] = "vector",
    clip: float | None = None,
    bottleneck: bool = False,
    codebook: int | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
    sigma: float | None = None,
    releases: int = 1,
) -> Mechanism:
    """The mechanism that settings name, calibrated.

    Args:
        name: ``none``, ``gaussian``, ``laplace``, ``randomised-response`` or ``subset-selection``.
        feature_shape: F of what crosses the cut; (K,) for a codebook.
        granularity: what ``epsilon`` protects (``element`` for Laplace alone).
        clip: C; default: what numbers in [−1, 1] cannot exceed (√D in L2, D in L1, 1 each).
        bottleneck: the numbers are in [−1, 1], so that there is such a default.
        codebook: K, where one of K codewords is released.
        epsilon: budget of one image over all its releases.
        delta: of that budget.
        sigma: instead of ``epsilon``: standard deviation of additive noise.
        releases: how often one image is released at most.

    Raises:
        ConfigError: the settings do not make a mechanism.
    """
    if name == "none":
        return Unprotected(feature_shape) if codebook is None else UnprotectedCodeword(codebook)
    if name in ("randomised-response", "subset-selection"):
        if codebook is None or epsilon is None:
            raise ConfigError(f"dp.mechanism: '{name}' needs model.codebook and dp.epsilon")
        kind = RandomisedResponse if name == "randomised-response" else SubsetSelection
        each = pure_epsilon(epsilon, delta, releases, lambda tried: kind(codebook, tried).event)
        return kind(codebook, each)
    if name not in ("gaussian", "laplace"):
        raise ConfigError(f"dp.mechanism: '{name}' is not known")
    if clip is None:
        if not bottleneck:
            raise ConfigError("dp.clip: without model.bottleneck the features have no bound; give one")
        numbers = math.prod(feature_shape)
        clip = 1.0 if granularity == "element" else math.sqrt(numbers) if name == "gaussian" else float(numbers)
    if (epsilon is None) == (sigma is None):
        raise ConfigError(f"dp.epsilon, dp.sigma: mechanism '{name}' needs exactly one of them")
    if name == "gaussian":
        if epsilon is not None:
            sigma = 2 * clip * gaussian_noise_multiplier(epsilon, delta, releases)
        assert sigma is not None
        return Gaussian(feature_shape, clip, sigma, delta)
    if epsilon is not None:
        each = pure_epsilon(epsilon, delta, releases, lambda tried: ReleaseEvent("laplace", tried))
        return Laplace(feature_shape, clip, 2 * clip / each, granularity)
    assert sigma is not None
    return Laplace(feature_shape, clip, sigma / math.sqrt(2), granularity)
