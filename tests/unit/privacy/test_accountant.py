"""Composition: closed forms and loss distributions against each other, against RDP, and against plain integration."""

from __future__ import annotations

import builtins
import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from smartedge.errors import ConfigError, PrivacyError
from smartedge.privacy.accountant import _composed, composed_epsilon, gaussian_delta, gaussian_epsilon, log_normal_cdf
from smartedge.types import ReleaseEvent

UNPROTECTED = ReleaseEvent("none", math.inf)


def gaussian(multiplier: float) -> ReleaseEvent:
    return ReleaseEvent("gaussian", 0.0, 1e-5, noise_multiplier=multiplier)


def test_gaussian_delta_is_the_mass_by_which_one_density_exceeds_the_other():
    """δ(ε) = ∫ max(0, p − e^ε q), summed over a fine grid: no closed form, no logarithms."""
    for mu, epsilon in itertools.product((0.3, 1.0, 2.5), (0.0, 0.5, 2.0)):
        x, step = np.linspace(-12, 12 + mu, 400_001, retstep=True)
        excess = np.maximum(0, stats.norm.pdf(x, loc=mu) - math.exp(epsilon) * stats.norm.pdf(x))
        assert gaussian_delta(mu, epsilon) == pytest.approx(excess.sum() * step, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 1e-2])
@pytest.mark.parametrize("mu", [0.003, 0.1, 1.0, 8.0, 20.0])
def test_gaussian_epsilon_inverts_delta_over_the_whole_range(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    if epsilon > 0:
        assert gaussian_delta(mu, epsilon * (1 - 1e-6)) > delta
        found = optimize.brentq(
            lambda e: (
                stats.norm.logcdf(mu / 2 - e / mu)
                + np.log(-np.expm1(e + stats.norm.logcdf(-mu / 2 - e / mu) - stats.norm.logcdf(mu / 2 - e / mu)))
                - math.log(delta)
            ),
            1e-9,
            1e3,
        )
        assert epsilon == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize(("multiplier", "count"), [(1.08, 1), (2.0, 3), (8.0, 50)])
def test_gaussian_histories_agree_with_dp_accounting(multiplier, count):
    """The loss distribution is pessimistic by its discretisation; Rényi accounting is an upper bound."""
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.rdp import rdp_privacy_accountant as rdp

    ours = composed_epsilon({gaussian(multiplier): count}, 1e-5)
    by_loss = pld.from_gaussian_mechanism(multiplier).self_compose(count).get_epsilon_for_delta(1e-5)
    assert ours <= by_loss + 1e-6
    assert ours == pytest.approx(by_loss, rel=2e-3)
    # One event of sensitivity 1 and this multiplier, as replacing one record by another would compose it.
    accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), count)
    assert ours < accountant.get_epsilon(1e-5) < 1.5 * ours


def test_different_gaussians_compose_as_one():
    mixed = composed_epsilon({gaussian(3.0): 1, gaussian(4.0): 2}, 1e-5)
    assert mixed == pytest.approx(gaussian_epsilon(math.sqrt(1 / 9 + 2 / 16), 1e-5), rel=1e-12)


def exact_epsilon(p: list[float], q: list[float], times: int, delta: float) -> float:
    """ε of ``times`` independent outcomes with laws p or q, by listing every sequence of outcomes."""
    sequences = [
        (math.prod(p[i] for i in chosen), math.prod(q[i] for i in chosen))
        for chosen in itertools.product(range(len(p)), repeat=times)
    ]

    def excess(epsilon: float) -> float:
        return sum(max(0.0, a - math.exp(epsilon) * b) for a, b in sequences) - delta

    return optimize.brentq(excess, 0, 20) if excess(0) > 0 else 0.0


@pytest.mark.parametrize("delta", [1e-5, 1e-2])
@pytest.mark.parametrize("times", [2, 4])
def test_discrete_releases_compose_as_listed_by_hand(times, delta):
    epsilon, codewords = 0.7, 4
    total = math.exp(epsilon) + codewords - 1
    rows = [[(math.exp(epsilon) if i == x else 1) / total for i in range(codewords)] for x in range(2)]
    event = ReleaseEvent("randomised-response", epsilon, codewords=codewords)
    ours = composed_epsilon({event: times}, delta)
    exact = exact_epsilon(rows[0], rows[1], times, delta)
    assert exact <= ours + 1e-9
    assert ours <= exact + 1e-3

    subsets = list(itertools.combinations(range(codewords), 2))
    weights = [[math.exp(epsilon) if x in chosen else 1.0 for chosen in subsets] for x in range(2)]
    rows = [[w / sum(row) for w in row] for row in weights]
    ours = composed_epsilon({ReleaseEvent("subset-selection", epsilon, codewords=codewords, subset=2): times}, delta)
    exact = exact_epsilon(rows[0], rows[1], times, delta)
    assert exact <= ours + 1e-9
    assert ours <= exact + 1e-3


def test_two_kinds_of_pure_releases_compose_as_listed_by_hand():
    """Each alone would cost less."""
    epsilons, delta = (0.7, 1.1), 1e-2
    one, other = ([math.exp(each) / (math.exp(each) + 1), 1 / (math.exp(each) + 1)] for each in epsilons)
    pairs = list(itertools.product(one, other)), list(itertools.product(one[::-1], other[::-1]))
    exact = exact_epsilon(*([a * b for a, b in side] for side in pairs), 1, delta)
    history = {ReleaseEvent("randomised-response", each, codewords=2): 1 for each in epsilons}
    ours = composed_epsilon(history, delta)
    assert max(epsilons) < exact <= ours + 1e-9 <= exact + 1e-3


@pytest.mark.parametrize(("codewords", "subset"), [(4, 2), (5, 3), (6, 2)])
def test_outcomes_that_hold_both_codewords_or_neither_count_too(codewords, subset):
    """They have loss 0, so a δ that outcomes with the largest loss cannot make up alone is needed to see them."""
    epsilon, delta = 0.7, 0.2
    subsets = list(itertools.combinations(range(codewords), subset))
    weights = [[math.exp(epsilon) if x in chosen else 1.0 for chosen in subsets] for x in range(2)]
    rows = [[w / sum(row) for w in row] for row in weights]
    event = ReleaseEvent("subset-selection", epsilon, codewords=codewords, subset=subset)
    exact = exact_epsilon(rows[0], rows[1], 3, delta)
    assert exact > 0.2
    assert composed_epsilon({event: 3}, delta) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_one_number_is_the_worst_case_of_laplace_noise_on_a_vector(share):
    """L1 distance spread over two numbers: its δ(ε) is never above that of the whole distance in one number."""
    scale_of = 2.0  # ε of the whole
    first, second = share * scale_of, (1 - share) * scale_of
    x, step = np.linspace(-14, 14, 1401, retstep=True)
    law = stats.laplace.pdf(x)
    spread = np.outer(stats.laplace.pdf(x, first), stats.laplace.pdf(x, second))
    for epsilon in (0.0, 0.5, 1.0, 1.5, 1.9):
        excess = np.maximum(0, spread - math.exp(epsilon) * np.outer(law, law)).sum() * step * step
        alone = -math.expm1((epsilon - scale_of) / 2)
        assert excess <= alone + 1e-3


def test_one_pure_release_costs_its_epsilon_and_more_never_more_than_their_sum():
    laplace = ReleaseEvent("laplace", 2.0)
    assert composed_epsilon({laplace: 1}, 1e-5) == 2.0
    assert composed_epsilon({laplace: 2}, 1e-5) <= 4.0
    assert composed_epsilon({ReleaseEvent("laplace", 0.1): 50}, 1e-5) < 3.7, "0.1 · 50 = 5 by basic composition"


def test_gaussian_and_pure_releases_compose_below_their_sum():
    pure = ReleaseEvent("randomised-response", 1.0, codewords=8)
    both = composed_epsilon({gaussian(2.0): 2, pure: 1}, 1e-5)
    alone = composed_epsilon({gaussian(2.0): 2}, 1e-5)
    assert alone < both <= alone + 1.0


def test_an_unprotected_release_makes_it_infinite_and_nothing_costs_nothing():
    assert composed_epsilon({gaussian(2.0): 5, UNPROTECTED: 1}, 1e-5) == math.inf
    assert composed_epsilon({}, 1e-5) == 0.0
    assert composed_epsilon({UNPROTECTED: 0}, 1e-5) == 0.0


@pytest.mark.parametrize(
    "event",
    [
        ReleaseEvent("sparse-vector", 1.0),  # type: ignore[arg-type]
        ReleaseEvent("gaussian", 1.0, 1e-5),
        ReleaseEvent("gaussian", 1.0, 1e-5, noise_multiplier=0.0),
        ReleaseEvent("laplace", 0.0),
        ReleaseEvent("randomised-response", 0.0, codewords=4),
        ReleaseEvent("randomised-response", 1.0),
        ReleaseEvent("randomised-response", 1.0, codewords=1),
        ReleaseEvent("subset-selection", 0.0, codewords=4, subset=2),
        ReleaseEvent("subset-selection", 1.0, codewords=4),
        ReleaseEvent("subset-selection", 1.0, codewords=4, subset=4),
    ],
)
def test_what_cannot_be_accounted_for_is_refused_by_name(event):
    with pytest.raises(PrivacyError, match=event.mechanism):
        composed_epsilon({event: 1}, 1e-5)


def test_without_dp_accounting_gaussians_and_single_releases_still_compose(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    _composed.cache_clear()
    assert composed_epsilon({gaussian(2.0): 7}, 1e-5) > 0
    assert composed_epsilon({ReleaseEvent("laplace", 2.0): 1}, 1e-5) == 2.0
    with pytest.raises(ConfigError, match=r"run: .*pip install .*\[privacy\]"):
        composed_epsilon({ReleaseEvent("laplace", 0.123): 3}, 1e-5)


def test_the_logarithm_of_the_normal_cdf_is_exact_in_both_tails():
    values = [*np.linspace(-60, 10, 1401), *np.linspace(-1e4, -60, 100), -14.0, np.nextafter(-14.0, 0), -1e6, 0.0, 38.0]
    found = np.array([log_normal_cdf(float(value)) for value in values])
    np.testing.assert_allclose(found, special.log_ndtr(values), rtol=1e-12, atol=1e-300)
