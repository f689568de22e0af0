"""Noise for a budget: exact where there is a closed form, never above the budget, stable over the whole range."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from smartedge.privacy.accountant import composed_epsilon, gaussian_delta
from smartedge.privacy.calibration import gaussian_noise_multiplier, pure_epsilon
from smartedge.types import ReleaseEvent


def gaussian(multiplier: float) -> ReleaseEvent:
    return ReleaseEvent("gaussian", 0.0, noise_multiplier=multiplier)


@pytest.mark.parametrize("releases", [1, 10])
@pytest.mark.parametrize("delta", [1e-12, 1e-5])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 4.0, 16.0, 100.0])
def test_gaussian_noise_spends_the_budget_and_no_more(epsilon, delta, releases):
    multiplier = gaussian_noise_multiplier(epsilon, delta, releases)
    spent = composed_epsilon({gaussian(multiplier): releases}, delta)
    assert epsilon * (1 - 1e-6) < spent <= epsilon
    assert gaussian_delta(math.sqrt(releases) / multiplier, epsilon) == pytest.approx(delta, rel=1e-6, abs=0)
    assert composed_epsilon({gaussian(multiplier * 0.999): releases}, delta) > epsilon


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_the_classical_bound_is_an_upper_bound(epsilon):
    """σ = √(2 ln(1.25/δ))·Δ/ε for ε ≤ 1 (Dwork & Roth 2014, theorem A.1)."""
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon
    assert 0.5 * classical < gaussian_noise_multiplier(epsilon, 1e-5) < classical


def test_k_releases_take_root_k_times_the_noise():
    once, ten = gaussian_noise_multiplier(2.0, 1e-5), gaussian_noise_multiplier(2.0, 1e-5, 10)
    assert ten == pytest.approx(math.sqrt(10) * once, rel=1e-9)


def test_known_values():
    """ε = 1, δ = 1e-5: 3.7306 (Balle & Wang 2018, and every later implementation); a variance would be 13.9."""
    assert gaussian_noise_multiplier(1.0, 1e-5) == pytest.approx(3.730632, rel=1e-6)


def test_one_number_keeps_its_sign_about_seven_times_in_ten():
    """Of issue 4: ε = 4, δ = 1e-5, one number in [−1, 1]: the sensitivity is 2."""
    sigma = 2 * gaussian_noise_multiplier(4.0, 1e-5)
    assert stats.norm.cdf(1 / sigma) == pytest.approx(0.68, abs=0.01)


@pytest.mark.parametrize("epsilon", [0.01, 4.0, 100.0])
def test_one_pure_release_gets_all_of_it(epsilon):
    assert pure_epsilon(epsilon, 1e-5, 1, lambda e: ReleaseEvent("laplace", e)) == epsilon


@pytest.mark.parametrize("kind", ["laplace", "randomised-response"])
@pytest.mark.parametrize(("epsilon", "releases"), [(0.5, 4), (4.0, 3), (4.0, 50), (30.0, 7)])
def test_several_pure_releases_get_at_least_their_share(kind, epsilon, releases):
    def event_of(each: float) -> ReleaseEvent:
        return ReleaseEvent(kind, each, codewords=8)

    each = pure_epsilon(epsilon, 1e-5, releases, event_of)
    assert each >= epsilon / releases * (1 - 1e-12)
    assert composed_epsilon({event_of(each): releases}, 1e-5) <= epsilon
    assert composed_epsilon({event_of(each * 1.01): releases}, 1e-5) > epsilon
    if releases == 50:
        assert each > 1.5 * epsilon / releases, "advanced composition is worth it here"


@pytest.mark.parametrize(("epsilon", "delta", "releases"), [(0, 1e-5, 1), (1, 0, 1), (1, 1, 1), (1, 1e-5, 0)])
def test_impossible_budgets(epsilon, delta, releases):
    with pytest.raises(ValueError, match="epsilon > 0"):
        gaussian_noise_multiplier(epsilon, delta, releases)
    with pytest.raises(ValueError, match="epsilon > 0"):
        pure_epsilon(epsilon, delta, releases, lambda e: ReleaseEvent("laplace", e))
