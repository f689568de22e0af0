"""Finds the noise for a budget: (ε, δ, releases) → the parameter of one release, by search.

The search uses the ledger's accountant, and ends on the side that keeps the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from smartedge.privacy.accountant import composed_epsilon, gaussian_delta
from smartedge.types import ReleaseEvent

__all__ = ["gaussian_noise_multiplier", "pure_epsilon"]

_HALVINGS = 20


def gaussian_noise_multiplier(epsilon: float, delta: float, releases: int = 1) -> float:
    """σ ÷ sensitivity at which ``releases`` Gaussian releases of one image are (ε, δ) together.

    The analytic Gaussian mechanism (Balle & Wang 2018, theorem 8): exact for every ε > 0; k releases
    count as one with √k times the sensitivity. The result is a ratio of standard deviations, not of variances.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(epsilon, delta, releases)
    low, high = 0.0, 1.0  # bounds of μ = sensitivity ÷ σ of all releases together
    while gaussian_delta(high, epsilon) <= delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= delta else (low, middle)
    multiplier = math.sqrt(releases) / low
    while composed_epsilon({ReleaseEvent("gaussian", 0.0, noise_multiplier=multiplier): releases}, delta) > epsilon:
        multiplier *= 1 + 1e-12
    return multiplier


def pure_epsilon(epsilon: float, delta: float, releases: int, event_of: Callable[[float], ReleaseEvent]) -> float:
    """ε of one pure release, for which ``releases`` of them are (ε, δ) together.

    One release may have ``epsilon`` itself, at δ = 0. For more, the search halves the interval between ε/k, which
    basic composition allows, and ε.

    Args:
        epsilon: of all releases together.
        delta: of all releases together.
        releases: k.
        event_of: the event of one release, given its ε.

    Raises:
        ValueError: an argument is out of range.
        ConfigError: ``dp-accounting`` is not installed, and k > 1.
    """
    _check(epsilon, delta, releases)
    if releases == 1:
        return epsilon
    low, high = epsilon / releases, epsilon
    while low * releases > epsilon:
        low = math.nextafter(low, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = composed_epsilon({event_of(middle): releases}, delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


def _check(epsilon: float, delta: float, releases: int) -> None:
    if not (epsilon > 0 and 0 < delta < 1 and releases >= 1):
        raise ValueError(f"needs epsilon > 0, 0 < delta < 1, releases >= 1; got {epsilon}, {delta}, {releases}")
