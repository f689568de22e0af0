"""One suite over every mechanism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from smartedge.privacy.accountant import composed_epsilon
from smartedge.privacy.mechanisms import Discrete, Mechanism, make_mechanism
from smartedge.privacy.noise import Noise

MAP = (2, 3, 3)
MECHANISMS = {
    "none": make_mechanism("none", feature_shape=MAP),
    "codeword": make_mechanism("none", feature_shape=(6,), codebook=6),
    "gaussian": make_mechanism("gaussian", feature_shape=MAP, bottleneck=True, epsilon=4.0),
    "gaussian, tokens": make_mechanism("gaussian", feature_shape=(5, 4), clip=0.1, sigma=3.0),
    "laplace": make_mechanism("laplace", feature_shape=MAP, clip=2.0, epsilon=1.0),
    "laplace, element": make_mechanism("laplace", feature_shape=MAP, granularity="element", clip=0.5, epsilon=1.0),
    "randomised response": make_mechanism("randomised-response", feature_shape=(6,), codebook=6, epsilon=2.0),
    "subset selection": make_mechanism("subset-selection", feature_shape=(6,), codebook=6, epsilon=0.5, releases=3),
}
BATCH = 7


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]


@pytest.fixture
def features_BF(mechanism: Mechanism) -> torch.Tensor:
    return 3 * torch.randn(BATCH, *mechanism.feature_shape, generator=torch.Generator().manual_seed(1))


def words_for(mechanism: Mechanism, nonce: bytes = b"") -> np.ndarray:
    return Noise(bytes(32)).words(nonce, BATCH * mechanism.words_per_image)


def test_bounding_again_changes_nothing(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    assert bounded_BF.shape == features_BF.shape
    assert bounded_BF.dtype == torch.float32
    assert torch.equal(mechanism.bound(bounded_BF), bounded_BF)


def test_an_image_is_bounded_and_released_whoever_shares_its_batch(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    alone_BF = torch.cat([mechanism.bound(features_BF[i : i + 1]) for i in range(BATCH)])
    torch.testing.assert_close(alone_BF, bounded_BF, atol=1e-6, rtol=1e-6)
    words = words_for(mechanism)
    released_BF = mechanism.randomise(bounded_BF, words)
    each = words.reshape(BATCH, -1)
    for i in range(BATCH):
        assert torch.equal(mechanism.randomise(bounded_BF[i : i + 1], each[i]), released_BF[i : i + 1])


def test_a_release_is_a_function_of_the_words(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    released_BF = mechanism.randomise(bounded_BF, words_for(mechanism))
    assert released_BF.shape == features_BF.shape
    assert released_BF.dtype == torch.float32
    assert not released_BF.requires_grad
    assert torch.equal(released_BF, mechanism.randomise(bounded_BF, words_for(mechanism)))
    if mechanism.words_per_image:
        assert not torch.equal(released_BF, mechanism.randomise(bounded_BF, words_for(mechanism, b"other")))
    else:
        assert torch.equal(released_BF, bounded_BF)


def test_simulation_follows_its_generator_and_not_the_global_state(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    state = torch.get_rng_state()
    one = mechanism.simulate(bounded_BF, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, mechanism.simulate(bounded_BF, torch.Generator().manual_seed(5)))
    assert one.shape == features_BF.shape


def test_the_event_can_be_accounted_for_and_is_consistent(mechanism):
    event = mechanism.event
    assert composed_epsilon({event: 1}, event.delta or 1e-5) == pytest.approx(event.epsilon, rel=1e-9)
    assert (event.epsilon, event.delta) == (mechanism.epsilon, mechanism.delta)
    assert mechanism.vector_epsilon >= mechanism.epsilon
    assert 0.5 < mechanism.tight_attribute_bound <= mechanism.attribute_bound <= 1
    assert 0 <= mechanism.sampling_bias < 1e-12
    assert hash(mechanism) == hash(mechanism), "learners keep mechanisms in caches"


@pytest.mark.parametrize(
    "mechanism", [name for name, each in MECHANISMS.items() if isinstance(each, Discrete)], indirect=True
)
def test_channels_are_laws_and_outcomes_are_what_is_released(mechanism, features_BF):
    channel_KO, outcomes_OK = mechanism.channel(), mechanism.outcomes()
    torch.testing.assert_close(channel_KO.sum(dim=1), torch.ones(len(channel_KO)), atol=1e-6, rtol=0)
    ratios = channel_KO.max(dim=0).values / channel_KO.min(dim=0).values
    if math.isfinite(mechanism.epsilon):
        assert float(ratios.max()) <= math.exp(mechanism.epsilon) * (1 + 1e-6)
    for released_BF in (
        mechanism.randomise(mechanism.bound(features_BF), words_for(mechanism)),
        mechanism.simulate(mechanism.bound(features_BF)),
    ):
        for row in released_BF:
            assert any(torch.equal(row, outcome) for outcome in outcomes_OK)
