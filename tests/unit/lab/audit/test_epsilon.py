"""The check must hold where the claim is true, and must be able to fail where it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.epsilon import (
    clopper_pearson,
    gaussian_lower_bound,
    lower_bound,
    measure,
    pairs_of,
)
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, make_mechanism

TRIALS = 40_000


def words(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda count: rng.integers(2**64, size=count, dtype=np.uint64)


def gaussian(**changes: float) -> Gaussian:
    made = make_mechanism("gaussian", feature_shape=(2, 2, 2), bottleneck=True, epsilon=2.0, delta=1e-5)
    assert isinstance(made, Gaussian)
    return replace(made, **changes)


def audited(mechanism: Mechanism, **how: Any) -> dict[str, Any]:
    return measure(mechanism, clock=Clock(None), trials=TRIALS, words=words(5), **how)


@pytest.mark.parametrize(
    "mechanism",
    [
        gaussian(),
        make_mechanism("laplace", feature_shape=(4,), bottleneck=True, epsilon=2.0),
        make_mechanism("laplace", feature_shape=(4,), granularity="element", bottleneck=True, epsilon=2.0),
        make_mechanism("randomised-response", feature_shape=(8,), codebook=8, epsilon=2.0),
        make_mechanism("subset-selection", feature_shape=(16,), codebook=16, epsilon=1.0),
    ],
    ids=lambda mechanism: f"{mechanism.name} {mechanism.event.granularity}",
)
def test_the_bound_stays_below_a_true_claim_and_comes_near_it(mechanism: Mechanism) -> None:
    """A false alarm has probability 1e-3 over random words; these are fixed, so it happens always or never."""
    found = audited(mechanism)
    assert found["holds"]
    assert found["epsilon_lower_bound"] <= mechanism.epsilon
    if mechanism.delta:  # δ = 1e-5 shows in rare events alone: few trials see little of it, but most of µ
        assert 0.75 * mechanism.epsilon <= found["epsilon_lower_bound_gaussian"] <= mechanism.epsilon
    else:
        assert found["epsilon_lower_bound"] >= 0.7 * mechanism.epsilon
    assert found["control_without_noise"] > mechanism.epsilon, "the same test without noise must break the claim"


@pytest.mark.parametrize("wrong", ["half", "variance", "none"])
def test_too_little_noise_is_found(wrong: str) -> None:
    """Half of σ; σ² where σ should stand (σ is 0.2 here, so that σ² is too small); no noise at all."""
    claim = gaussian()
    if wrong == "half":
        broken: Gaussian = gaussian(scale=claim.scale / 2)
    elif wrong == "variance":
        claim = gaussian(clip=0.2 * claim.clip / claim.scale, scale=0.2)
        broken = replace(claim, scale=claim.scale**2)
    else:
        broken = _Silent(**vars(claim))
    found = audited(broken, claim=claim)
    assert not found["holds"]
    assert max(found["epsilon_lower_bound"], found["epsilon_lower_bound_gaussian"]) > claim.epsilon


class _Silent(Gaussian):
    def randomise(self, bounded_BF: np.ndarray, words: NDArray[np.uint64]) -> np.ndarray:
        return bounded_BF


class _PerRow(Gaussian):
    """The mistake of clipping each row by itself, which lets the whole map be larger than the bound."""

    def _norms(self, flat_BD: np.ndarray) -> np.ndarray:
        return np.linalg.norm(flat_BD.reshape(len(flat_BD), -1, 2), axis=2).repeat(2, axis=1)


def test_a_clip_by_rows_instead_of_images_is_found() -> None:
    claim = gaussian()
    assert not audited(_PerRow(**vars(claim)), claim=claim)["holds"]


def test_unprotected_features_break_any_claim_that_so_many_trials_can_reach() -> None:
    found = audited(make_mechanism("none", feature_shape=(4,)))
    assert found["epsilon_claimed"] is None
    assert found["epsilon_lower_bound"] == pytest.approx(found["control_without_noise"])
    assert found["epsilon_lower_bound"] > math.log(TRIALS / 2 / 20)  # zero of 20 000: below 20 / 20 000 for sure


def test_lower_bound_against_the_exact_law() -> None:
    """Randomised response on a bit: the true ε is log(p / (1 − p))."""
    rng = np.random.default_rng(0)
    p = 0.9
    one, other = (rng.random(20_000) < p).astype(float), (rng.random(20_000) < 1 - p).astype(float)
    bound = lower_bound(one, other, delta=0.0, miss=1e-3)
    assert 0.9 * math.log(9) < bound <= math.log(9)
    assert lower_bound(one, one[::-1].copy(), delta=0.0, miss=1e-6) < 0.1
    assert lower_bound(one, other, delta=0.95, miss=1e-3) == 0.0, "δ alone explains it"


def test_gaussian_lower_bound_comes_near_the_true_distance() -> None:
    rng = np.random.default_rng(0)
    mu = 1.3
    bound = gaussian_lower_bound(rng.normal(mu, 1, 20_000), rng.normal(0, 1, 20_000), miss=1e-3)
    assert 0.92 * mu < bound <= mu


def test_clopper_pearson_inverts_the_binomial() -> None:
    from scipy.stats import binom

    low, high = clopper_pearson(np.array([0, 3, 10]), 10, 0.01)
    assert low[0] == 0.0 and high[2] == 1.0
    assert binom.sf(2, 10, low[1]) == pytest.approx(0.01)  # P(at least 3)
    assert binom.cdf(3, 10, high[1]) == pytest.approx(0.01)
    assert high[0] == pytest.approx(1 - 0.01 ** (1 / 10))


def test_the_clock_ends_the_trials_but_not_before_there_are_some() -> None:
    found = measure(gaussian(), clock=Clock(1e-9), trials=10**9, words=words(1))
    assert 0 < found["trials"] < 10**9


def test_inputs_lie_outside_the_bound() -> None:
    mechanism = gaussian()
    for pair in pairs_of(mechanism):
        one, other = (mechanism.bound(x[None]) for x in (pair.one_F, pair.other_F))
        assert float(np.linalg.norm(one - other)) == pytest.approx(mechanism.sensitivity, rel=1e-4)
    laplace = make_mechanism("laplace", feature_shape=(3,), bottleneck=True, epsilon=1)
    assert isinstance(laplace, Laplace)
    one, other = (laplace.bound(x[None]) for x in (pairs_of(laplace)[1].one_F, pairs_of(laplace)[1].other_F))
    assert float(np.abs(one - other).sum()) == pytest.approx(laplace.sensitivity, rel=1e-4)
