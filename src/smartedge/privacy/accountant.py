"""The total cost of the releases of one image: from events and their numbers to ε at δ.

Replace-one adjacency, local model: the releases of one image against those of any other image. Amplification by
subsampling is not claimed: it needs a secret sample, and the cloud sees which image each release belongs to.

There are three ways. The history alone decides which one is used, so every machine gets the same noise:

- Gaussian releases alone: closed form. Noise multipliers z₁ … z_k compose to one Gaussian release with
  1/z² = Σ 1/zᵢ² (Dong, Roth & Su 2022, corollary 3.3), whose δ(ε) is exact (Balle & Wang 2018, theorem 8).
- One release of pure ε: that ε itself.
- Anything else: the privacy loss distribution of ``dp-accounting``, rounded to the safe side, or the sum (basic
  composition) where that is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import ConfigError, PrivacyError
from smartedge.extras import how_to_install
from smartedge.types import ReleaseEvent

__all__ = ["composed_epsilon", "gaussian_delta", "gaussian_epsilon", "log_normal_cdf", "log_normal_tails"]

_PURE = ("laplace", "randomised-response", "subset-selection")
_FINEST = 1e-4  # interval of the discretised privacy loss
_FAR_TAIL = -14.0  # below it erfc comes near the end of float64
_CELLS = 1e5  # about how many intervals a composed loss may span


def composed_epsilon(history: Mapping[ReleaseEvent, int], delta: float) -> float:
    """ε at ``delta`` of all releases of one image together; inf where one of them was unprotected.

    Args:
        history: event → how often it happened.
        delta: in (0, 1).

    Raises:
        PrivacyError: an event is of a kind that cannot be accounted for.
        ConfigError: ``dp-accounting`` is needed for this history and not installed.
    """
    for event in history:
        _check(event)
    return _composed(tuple(sorted(((e, n) for e, n in history.items() if n), key=repr)), delta)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ(ε) of a Gaussian release with sensitivity ÷ σ = ``mu`` (Balle & Wang 2018, theorem 8), exactly.

    Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), by logarithms, so that neither term overflows.
    """
    if mu == 0:
        return 0.0
    first, second = log_normal_cdf(mu / 2 - epsilon / mu), epsilon + log_normal_cdf(-mu / 2 - epsilon / mu)
    return math.exp(first) * -math.expm1(min(0.0, second - first))


@lru_cache(maxsize=4096)
def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest ε ≥ 0 at which a Gaussian release with sensitivity ÷ σ = ``mu`` is (ε, δ); up to 10⁻¹² too large."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # Chernoff: δ(high) ≤ delta
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def log_normal_cdf(value: float) -> float:
    """Log Φ(value), with a relative error of about 10⁻¹⁴, in the far tail too."""
    if value > 0:
        return math.log1p(-math.erfc(value / math.sqrt(2)) / 2)
    if value > _FAR_TAIL:
        return math.log(math.erfc(-value / math.sqrt(2)) / 2)
    return float(log_normal_tails(np.array([-value]))[0])


def log_normal_tails(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log Φ(−x) for numbers from 14 up, with a relative error of about 10⁻¹⁴.

    Φ(−x) = φ(x)/x · (1 − 1/x² + 1·3/x⁴ − 1·3·5/x⁶ + …): its terms fall below 10⁻¹⁷ long before they rise again.
    """
    squares_N = values_N * values_N
    terms_N = totals_N = np.ones_like(values_N)
    for odd in range(1, 40, 2):
        terms_N = terms_N * -odd / squares_N
        totals_N = totals_N + terms_N
    found_N: NDArray[np.float64] = -squares_N / 2 - np.log(values_N) - math.log(2 * math.pi) / 2 + np.log(totals_N)
    return found_N


def _check(event: ReleaseEvent) -> None:
    known = {
        "none": True,
        "gaussian": event.noise_multiplier is not None and event.noise_multiplier > 0,
        "laplace": event.epsilon > 0,
        "randomised-response": event.epsilon > 0 and (event.codewords or 0) >= 2,
        "subset-selection": event.epsilon > 0 and 0 < (event.subset or 0) < (event.codewords or 0),
    }
    if not known.get(event.mechanism, False):
        raise PrivacyError(f"a release by {event.mechanism!r} cannot be accounted for ({event}); nothing was released")


@lru_cache(maxsize=4096)
def _composed(history: tuple[tuple[ReleaseEvent, int], ...], delta: float) -> float:
    if any(event.mechanism == "none" for event, _ in history):
        return math.inf
    gaussians = [(event, count) for event, count in history if event.mechanism == "gaussian"]
    pures = [(event, count) for event, count in history if event.mechanism in _PURE]
    mu = math.sqrt(sum(count / event.noise_multiplier**2 for event, count in gaussians if event.noise_multiplier))
    basic = sum(count * event.epsilon for event, count in pures)
    if gaussians:
        basic += gaussian_epsilon(mu, delta)
    if not pures or (not gaussians and sum(count for _, count in pures) == 1):
        return basic
    span = sum(count * event.epsilon for event, count in pures) + mu * mu / 2 + 12 * mu
    interval = max(_FINEST, span / _CELLS)
    total: Any = None
    for event, count in pures:
        each = _loss_distribution(event, interval)
        several = each.self_compose(count) if count > 1 else each
        total = several if total is None else total.compose(several)
    if gaussians:
        total = total.compose(_pld().from_gaussian_mechanism(1 / mu, value_discretization_interval=interval))
    return min(basic, float(total.get_epsilon_for_delta(delta)))


def _pld() -> Any:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError as error:
        raise ConfigError(
            "dp.mechanism: several releases of one image by this mechanism are accounted for by dp-accounting, which "
            f"is not installed (one release, or 'gaussian', does without it); run: {how_to_install('privacy')}"
        ) from error
    return privacy_loss_distribution


def _loss_distribution(event: ReleaseEvent, interval: float) -> Any:
    """The privacy loss distribution of one pure release, for its worst pair of inputs."""
    pld, epsilon = _pld(), event.epsilon
    if event.mechanism == "laplace":
        return pld.from_laplace_mechanism(1 / epsilon, value_discretization_interval=interval)
    # Only one fact separates two codewords: whether the outcome holds both, the first, the second, or neither.
    codewords, subset = event.codewords or 0, event.subset or 1
    inside = 1 / (1 + (codewords - subset) / subset * math.exp(-epsilon))
    outside = 1 / (1 + subset / (codewords - subset) * math.exp(epsilon))
    first, second = inside * (codewords - subset) / (codewords - 1), outside * subset / (codewords - 1)
    both, neither = inside * (subset - 1) / (codewords - 1), outside * (codewords - 1 - subset) / (codewords - 1)
    masses = {"first": first, "second": second, "both": both, "neither": neither}
    upper = {name: math.log(mass) for name, mass in masses.items() if mass > 0}
    swapped = {**masses, "first": second, "second": first}
    lower = {name: math.log(mass) for name, mass in swapped.items() if mass > 0}
    return pld.from_two_probability_mass_functions(lower, upper, value_discretization_interval=interval)
