"""From settings to a mechanism, calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from smartedge.errors import ConfigError
from smartedge.privacy.calibration import gaussian_noise_multiplier, pure_epsilon
from smartedge.privacy.mechanisms.additive import Gaussian, Laplace
from smartedge.privacy.mechanisms.base import Mechanism
from smartedge.privacy.mechanisms.discrete import RandomisedResponse, SubsetSelection
from smartedge.privacy.mechanisms.unprotected import Unprotected, UnprotectedCodeword
from smartedge.types import ReleaseEvent

__all__ = ["make_mechanism"]

_LARGEST_EPSILON = 1e6  # beyond it nothing is protected, and e^ε has too many digits
_WEAKEST = 2.0**20  # clip ÷ scale of the noise: beyond it nothing is protected, and grid steps may not fit into 64 bits
_SCALES = (1e-12, 1e12)  # of the noise; releases are float32, and so must be the squares of a map that is clipped


def make_mechanism(  # noqa: PLR0913 - one argument for each setting of the section dp
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
        clip: C; default: the largest norm of numbers in [−1, 1] (√D in L2, D in L1, 1 for each number).
        bottleneck: the numbers are in [−1, 1]; only then is there a default for ``clip``.
        codebook: K, where one of K codewords is released.
        epsilon: budget of one image over all its releases.
        delta: δ of that budget.
        sigma: instead of ``epsilon``: standard deviation of additive noise.
        releases: how often one image is released at most.

    Raises:
        ConfigError: the settings do not make a mechanism.
    """
    _check_numbers({"epsilon": epsilon, "sigma": sigma, "clip": clip}, delta)
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
        return Gaussian(feature_shape, clip, _checked(sigma, clip), delta)
    if epsilon is not None:
        each = pure_epsilon(epsilon, delta, releases, lambda tried: ReleaseEvent("laplace", tried))
        return Laplace(feature_shape, clip, _checked(2 * clip / each, clip), granularity)
    assert sigma is not None
    return Laplace(feature_shape, clip, _checked(sigma / math.sqrt(2), clip), granularity)


def _check_numbers(numbers: Mapping[str, float | None], delta: float) -> None:
    for key, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"dp.{key}: {value:g} must be above 0 and finite")
    if (numbers["epsilon"] or 0) > _LARGEST_EPSILON:
        raise ConfigError(f"dp.epsilon: {numbers['epsilon']:g} protects nothing; give less, or use mechanism 'none'")
    if not 0 < delta < 1:
        raise ConfigError(f"dp.delta: {delta:g} must be above 0 and below 1, such as 1e-5")


def _checked(scale: float, clip: float) -> float:
    """The scale of the noise, where the sampler can draw it."""
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise ConfigError(f"dp.clip, dp.epsilon, dp.sigma: noise of scale {scale:g} does not fit into float32 numbers")
    if clip > _WEAKEST * scale:
        raise ConfigError(
            f"dp.clip, dp.epsilon, dp.sigma: noise of scale {scale:g} protects nothing after a clip to {clip:g}; add "
            "more, or use mechanism 'none'"
        )
    return scale
