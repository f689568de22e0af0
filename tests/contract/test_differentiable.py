"""The twin on tensors, that training and attackers use, against the mechanism itself, that releases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mechanisms import BATCH, MECHANISMS

from smartedge.errors import PrivacyError
from smartedge.methods.differentiable import Differentiable, differentiable
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, RandomisedResponse
from smartedge.privacy.noise import Noise


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]


@pytest.fixture
def twin(mechanism: Mechanism) -> Differentiable:
    return differentiable(mechanism)


@pytest.fixture
def features_BF(mechanism: Mechanism) -> torch.Tensor:
    return 3 * torch.randn(BATCH, *mechanism.feature_shape, generator=torch.Generator().manual_seed(1))


def test_both_clip_alike(mechanism, twin, features_BF):
    """To float32 rounding; and what the twin bounded, the gate leaves as it is, bit by bit."""
    for scale in (0.01, 1.0, 1000.0):
        bounded_BF = twin.bound(scale * features_BF)
        np.testing.assert_allclose(bounded_BF, mechanism.bound((scale * features_BF).numpy()), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(mechanism.bound(bounded_BF.numpy()), bounded_BF)
        assert torch.equal(twin.bound(bounded_BF), bounded_BF)


def test_both_have_the_same_tables(mechanism, twin):
    for mine, its in ((mechanism.channel(), twin.channel), (mechanism.outcomes(), twin.outcomes)):
        assert (mine is None) == (its is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, its)


def test_both_draw_from_the_same_law(mechanism, twin, features_BF):
    """40 000 draws of each for one map, its first number (of codewords: the outcome): Kolmogorov-Smirnov.

    The largest gap of two samples of one law exceeds √(ln(2/a)/n) with probability below a = 1e-6 (each is within half
    of that of the law: Massart 1990). A grid cell's mass, at most 0.4/128, comes on top.
    """
    draws = 40_000
    bounded_BF = twin.bound(features_BF[:1]).expand(draws, *features_BF.shape[1:])
    words = Noise(bytes(32)).words(b"twin", draws * mechanism.words_per_image)
    released = mechanism.randomise(bounded_BF.numpy(), words)
    simulated = twin.simulate(bounded_BF, torch.Generator().manual_seed(3)).numpy()
    outcomes_OK = mechanism.outcomes()
    if outcomes_OK is None:
        one, other = (each.reshape(draws, -1)[:, 0] for each in (released, simulated))
    else:
        one, other = ((each @ (2 * outcomes_OK.T - 1)).argmax(axis=1) for each in (released, simulated))
    places = np.unique(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(each), places, side="right") / draws for each in (one, other)]
    assert np.abs(shares[0] - shares[1]).max() < math.sqrt(math.log(2 / 1e-6) / draws) + 0.4 / 128


def test_noise_of_another_scale_would_be_seen():
    """What the test above is worth: σ off by 5 % exceeds its bound."""
    draws = 40_000
    bound = math.sqrt(math.log(2 / 1e-6) / draws) + 0.4 / 128
    right, wrong = (
        np.sort(differentiable(Gaussian((1,), 5.0, scale, 1e-5)).simulate(torch.zeros(draws, 1), generator)[:, 0])
        for scale, generator in ((1.0, torch.Generator().manual_seed(1)), (1.1, torch.Generator().manual_seed(2)))
    )
    gap = np.abs(np.searchsorted(right, wrong, side="right") / draws - np.arange(1, draws + 1) / draws).max()
    assert gap > bound


def test_simulation_follows_its_generator_and_not_the_global_state(twin, features_BF):
    bounded_BF = twin.bound(features_BF)
    state = torch.get_rng_state()
    one = twin.simulate(bounded_BF, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, twin.simulate(bounded_BF, torch.Generator().manual_seed(5)))
    assert one.shape == features_BF.shape


@pytest.mark.parametrize("law", [Gaussian((2,), 1.0, 0.5, 1e-5), Laplace((2,), 1.4, 0.5)])
def test_the_gradient_goes_through_clip_and_noise(law):
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    twin = differentiable(law)
    twin.simulate(twin.bound(features), torch.Generator().manual_seed(0))[0, 0].backward()
    # L2, C = 1: d/dx of x₁/‖x‖ is (1 − x₁²/‖x‖²)/‖x‖ and −x₁x₂/‖x‖³. L1, C = 1.4: of 1.4 x₁/(x₁ + x₂).
    expected = [[(1 - 9 / 25) / 5, -12 / 125]] if law.noise_norm == 2 else [[1.4 * 4 / 49, -1.4 * 3 / 49]]
    torch.testing.assert_close(features.grad, torch.tensor(expected), atol=1e-5, rtol=0)


def test_outcomes_of_probabilities_of_codewords():
    """Per outcome |share − p| < 0.02 for 20 000 draws by Hoeffding: a false alarm below 4 · 2·exp(−16) = 1e-6."""
    mechanism = RandomisedResponse(4, 1.0)
    twin = differentiable(mechanism)
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    drawn = twin.simulate(shares.expand(20_000, 4), torch.Generator().manual_seed(0)).mean(dim=0)
    torch.testing.assert_close(drawn[None], twin.released(shares).shares_BO, atol=0.02, rtol=0)


def test_one_twin_for_a_mechanism(mechanism, twin):
    assert differentiable(mechanism) is twin


def test_both_have_the_same_density(mechanism, twin, features_BF):
    """Up to a term of the release alone: against :mod:`smartedge.privacy.laws`, which the certificate computes with."""
    if math.isinf(mechanism.epsilon):
        if twin.outcomes is None:
            with pytest.raises(PrivacyError, match="no density"):
                twin.log_density(twin.released(features_BF), features_BF)
        return
    law = release_law(mechanism)
    inputs_ND = law.inputs(twin.bound(features_BF).numpy())  # on the grid, where the law puts them
    inputs_BF = twin.bound(features_BF)
    if twin.outcomes is None:
        inputs_BF = torch.from_numpy(inputs_ND).float().reshape(features_BF.shape)
    released = twin.released(inputs_BF)
    mine_RN = twin.log_density(released, inputs_BF).double().numpy()
    its_RN = law.log_density(law.statistic(released.features_NF.numpy()[None]), inputs_ND)
    mine_RN, its_RN = (log_RN - log_RN[:, :1] for log_RN in (mine_RN, its_RN))
    np.testing.assert_allclose(mine_RN, its_RN, rtol=1e-4, atol=1e-4 * np.abs(its_RN).max())
    assert np.ptp(its_RN) > 0.1, "they differ at all"
