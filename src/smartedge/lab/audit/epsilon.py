"""An empirical lower bound on ε of one release, from many releases of two inputs and a threshold test.

The two inputs are as far apart as possible. (ε, δ)-differential privacy bounds every test that distinguishes their
releases: ``TPR ≤ e^ε · FPR + δ`` (Kairouz, Oh, Viswanath 2015). A better test refutes the claim. The threshold is
chosen on one half of the releases. On the other half, the bounds of Clopper and Pearson turn counts into a bound with a
stated confidence, for every distribution of the noise.

The inputs lie far outside the bound of the mechanism, so the test also notices a wrong clip.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.lab.audit.clock import Clock
from smartedge.privacy.accountant import gaussian_epsilon
from smartedge.privacy.mechanisms import Mechanism
from smartedge.types import Features, Floats

__all__ = [
    "Pair",
    "clopper_pearson",
    "gaussian_lower_bound",
    "lower_bound",
    "measure",
    "pairs_of",
    "random_words",
]

CONFIDENCE = 0.999
_TRIALS = 100_000  # releases of each input
_FAR = 1e3  # in units of the features' range: inputs far outside the bound
_CHUNK_NUMBERS = 2**20
_THRESHOLDS = 500
_SURE = 1e300

Words = Callable[[int], NDArray[np.uint64]]


@dataclass(frozen=True)
class Pair:
    """Two inputs whose releases a mechanism must make hard to distinguish."""

    name: str
    one_F: NDArray[np.float32]  # before the clip
    other_F: NDArray[np.float32]


def random_words(count: int) -> NDArray[np.uint64]:
    """64-bit words from the system's cryptographic source."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def pairs_of(mechanism: Mechanism) -> tuple[Pair, ...]:
    """Pairs of inputs with opposite signs: one pair in all numbers, one in a single number. Codewords: two of them.

    Where ε holds for a single number (granularity ``element``), there is only the pair with a single number.
    """
    if mechanism.channel() is not None:
        one_K, other_K = np.eye(2, *mechanism.feature_shape, dtype=np.float32)
        return (Pair("two codewords", one_K, other_K),)
    spread_F = np.full(mechanism.feature_shape, _FAR, np.float32)
    single_F = np.zeros(mechanism.feature_shape, np.float32)
    single_F.reshape(-1)[0] = _FAR
    single = Pair("one number", single_F, -single_F)
    return (single,) if mechanism.event.granularity == "element" else (Pair("all numbers", spread_F, -spread_F), single)


def measure(
    mechanism: Mechanism,
    *,
    clock: Clock,
    trials: int = _TRIALS,
    words: Words = random_words,
    claim: Mechanism | None = None,
) -> dict[str, float | int | str | bool | None]:
    """Try to refute the ε that a mechanism claims for one release.

    Args:
        mechanism: makes the releases.
        clock: when it runs out, fewer trials are made.
        trials: number of releases of each input, for each pair of inputs.
        words: the source of the release's randomness.
        claim: states ε, δ and the worst inputs; default ``mechanism``.

    Returns:
        ``epsilon_claimed`` (None where nothing is claimed), ``delta``, ``epsilon_lower_bound`` (for any mechanism),
        ``epsilon_lower_bound_gaussian`` (from the refuted µ of a Gaussian mechanism; else None), ``confidence`` of
        both together, ``trials``, ``pair`` (the inputs that gave the bound), ``control_without_noise`` (the result of
        the same test without noise: the highest bound that so many trials can give, so it cannot refute a larger
        claim), ``holds`` (no bound exceeds the claim).

    Raises:
        ConfigError: scipy is not installed.
    """
    stated = claim or mechanism
    pairs = pairs_of(stated)
    # All bounds hold together: the probability of a miss is divided among the pairs and the kinds of bound.
    gaussian = stated.event.noise_multiplier is not None
    miss = (1 - CONFIDENCE) / len(pairs) / (2 if gaussian else 1)
    found: list[tuple[float, int, str]] = []
    multiple: list[float] = []
    control = 0.0
    for place, pair in enumerate(pairs):
        part = clock.part(clock.share(len(pairs) - place))
        one, other = _statistics(mechanism, pair, part, trials, words)
        found.append((lower_bound(one, other, delta=stated.delta, miss=miss), len(one), pair.name))
        if gaussian:
            multiple.append(gaussian_lower_bound(one, other, miss=miss))
        # Without noise the two clipped inputs can be distinguished with certainty, unless they are equal.
        one_F, other_F = mechanism.bound(np.stack([pair.one_F, pair.other_F]))
        sure = np.full(len(one), float(not np.array_equal(one_F, other_F)))
        control = max(control, lower_bound(sure, -sure, delta=stated.delta, miss=miss))
    bound, used, name = max(found)
    from_mu = gaussian_epsilon(max(multiple), stated.delta) if gaussian else None
    return {
        "epsilon_claimed": None if math.isinf(stated.epsilon) else stated.epsilon,
        "delta": stated.delta,
        "epsilon_lower_bound": bound,
        "epsilon_lower_bound_gaussian": from_mu,
        "confidence": CONFIDENCE,
        "trials": used,
        "pair": name,
        "control_without_noise": control,
        "holds": max(bound, from_mu or 0.0) <= stated.epsilon,
    }


def lower_bound(one: Floats, other: Floats, *, delta: float, miss: float) -> float:
    """The ε that two samples of a statistic refute at δ, for any mechanism; 0 where they refute none.

    Args:
        one: the statistic of releases of one input, float64 (n,).
        other: the same for the other input, float64 (n,).
        delta: δ of the claim.
        miss: probability with which the bound may be too high.

    Returns:
        A number that is at most the true ε with probability at least ``1 − miss``.
    """
    return _refuted(one, other, lambda low, high: _log_ratio(low, high, delta), miss)


def gaussian_lower_bound(one: Floats, other: Floats, *, miss: float) -> float:
    """The µ = sensitivity/σ of a Gaussian mechanism that two samples refute; arguments as :func:`lower_bound`.

    All tests on such a mechanism obey ``TPR ≤ Φ(Φ⁻¹(FPR) + µ)`` (Dong, Roth, Su 2022), so every threshold says
    something about µ. This bound is much tighter than one on ε at a small δ, which needs rare events.
    """
    from scipy.stats import norm

    return _refuted(one, other, lambda low, high: norm.ppf(low) - norm.ppf(high), miss)


def _refuted(one: Floats, other: Floats, score: Callable[[Floats, Floats], Floats], miss: float) -> float:
    """The score of the second halves, for the threshold test that is best on the first halves.

    ``score`` takes a lower bound of TPR and an upper bound of FPR.
    """
    half = len(one) // 2
    best, test = -math.inf, (0.0, False, True)
    values = np.unique(np.concatenate([one[:half], other[:half]]))
    if len(values) > _THRESHOLDS:
        values = np.quantile(values, np.linspace(0, 1, _THRESHOLDS))
    # The number of values at or above each threshold.
    one_V, other_V = (half - np.searchsorted(np.sort(part[:half]), values, side="left") for part in (one, other))
    for swapped, upper in ((False, True), (False, False), (True, True), (True, False)):
        hits_V, alarms_V = (other_V, one_V) if swapped else (one_V, other_V)
        if not upper:  # the test looks for values below the threshold
            hits_V, alarms_V = half - hits_V, half - alarms_V
        score_V = score(clopper_pearson(hits_V, half, miss / 2)[0], clopper_pearson(alarms_V, half, miss / 2)[1])
        place = int(np.nanargmax(score_V))
        if score_V[place] > best:
            best, test = float(score_V[place]), (float(values[place]), swapped, upper)
    threshold, swapped, upper = test
    rest = len(one) - half
    hit, alarm = (int((part[half:] >= threshold).sum()) for part in ((other, one) if swapped else (one, other)))
    if not upper:
        hit, alarm = rest - hit, rest - alarm
    low = clopper_pearson(np.array([hit]), rest, miss / 2)[0]
    high = clopper_pearson(np.array([alarm]), rest, miss / 2)[1]
    return max(0.0, float(score(low, high)[0]))


def clopper_pearson(counts: NDArray[np.integer], n: int, miss: float) -> tuple[Floats, Floats]:
    """Lower and upper bound of a share. Each is wrong with a probability of at most ``miss``."""
    try:
        from scipy.stats import beta
    except ImportError as error:
        raise ConfigError(f"the audit needs scipy, which is not installed; run: {how_to_install('audit')}") from error
    counts = np.asarray(counts)
    low = np.where(counts > 0, beta.ppf(miss, np.maximum(counts, 1), n - counts + 1), 0.0)
    high = np.where(counts < n, beta.ppf(1 - miss, counts + 1, np.maximum(n - counts, 1)), 1.0)
    return low, high


def _log_ratio(low: Floats, high: Floats, delta: float) -> Floats:
    """log((TPR − δ)/FPR); very low where TPR is at most δ."""
    gain = np.maximum(low - delta, 0.0)
    return np.asarray(np.log(np.maximum(gain, 1e-300)) - np.log(np.maximum(high, 1e-300)))


def _statistics(mechanism: Mechanism, pair: Pair, clock: Clock, trials: int, words: Words) -> tuple[Floats, Floats]:
    """The statistic of releases of both inputs: equally many of each, up to ``trials`` or as time allows."""
    size = max(1, min(trials, _CHUNK_NUMBERS // max(1, mechanism.words_per_image, math.prod(mechanism.feature_shape))))
    parts: tuple[list[Floats], list[Floats]] = ([], [])
    done = 0
    while done < trials and (done == 0 or clock.remaining() > 0):
        now = min(size, trials - done)
        for x_F, into in zip((pair.one_F, pair.other_F), parts, strict=True):
            bounded_BF = mechanism.bound(np.repeat(x_F[None], now, axis=0))
            released_BF = mechanism.randomise(bounded_BF, words(now * mechanism.words_per_image))
            into.append(_statistic(mechanism, pair, released_BF))
        done += now
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _statistic(mechanism: Mechanism, pair: Pair, released_BF: Features) -> Floats:
    """The log-likelihood ratio of the two inputs: the best statistic (Neyman, Pearson). ±10³⁰⁰ stands for certainty."""
    both_2F = mechanism.bound(np.stack([pair.one_F, pair.other_F]))
    one_B, other_B = mechanism.log_likelihood(released_BF, both_2F).T
    with np.errstate(invalid="ignore"):
        ratio_B: Floats = np.nan_to_num(one_B - other_B, nan=0.0, posinf=_SURE, neginf=-_SURE)
    return ratio_B
