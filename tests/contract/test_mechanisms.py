"""One suite over every mechanism."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from mechanisms import BATCH, MAP, MECHANISMS
from scipy import stats

from smartedge.privacy.accountant import composed_epsilon
from smartedge.privacy.mechanisms import Mechanism
from smartedge.privacy.noise import Noise


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]


@pytest.fixture
def features_BF(mechanism: Mechanism) -> np.ndarray:
    return 3 * np.random.default_rng(1).standard_normal((BATCH, *mechanism.feature_shape), np.float32)


def words_for(mechanism: Mechanism, nonce: bytes = b"") -> np.ndarray:
    return Noise(bytes(32)).words(nonce, BATCH * mechanism.words_per_image)


def test_bounding_again_changes_nothing(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    assert bounded_BF.shape == features_BF.shape
    assert bounded_BF.dtype == np.float32
    np.testing.assert_array_equal(mechanism.bound(bounded_BF), bounded_BF)


def test_an_image_is_bounded_and_released_whoever_shares_its_batch(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    alone_BF = np.concatenate([mechanism.bound(features_BF[i : i + 1]) for i in range(BATCH)])
    np.testing.assert_allclose(alone_BF, bounded_BF, atol=1e-6, rtol=1e-6)
    words = words_for(mechanism)
    released_BF = mechanism.randomise(bounded_BF, words)
    each = words.reshape(BATCH, -1)
    for i in range(BATCH):
        np.testing.assert_array_equal(
            mechanism.randomise(bounded_BF[i : i + 1], each[i].reshape(-1)), released_BF[i : i + 1]
        )


def test_a_release_is_a_function_of_the_words(mechanism, features_BF):
    bounded_BF = mechanism.bound(features_BF)
    released_BF = mechanism.randomise(bounded_BF, words_for(mechanism))
    assert released_BF.shape == features_BF.shape
    assert released_BF.dtype == np.float32
    assert np.array_equal(released_BF, mechanism.randomise(bounded_BF, words_for(mechanism)))
    if mechanism.words_per_image:
        assert not np.array_equal(released_BF, mechanism.randomise(bounded_BF, words_for(mechanism, b"other")))
    else:
        assert np.array_equal(released_BF, bounded_BF)


def test_the_event_can_be_accounted_for_and_is_consistent(mechanism):
    event = mechanism.event
    assert composed_epsilon({event: 1}, event.delta or 1e-5) == pytest.approx(event.epsilon, rel=1e-9)
    assert (event.epsilon, event.delta) == (mechanism.epsilon, mechanism.delta)
    assert mechanism.vector_epsilon >= mechanism.epsilon
    assert 0.5 < mechanism.tight_attribute_bound <= mechanism.attribute_bound <= 1
    assert 0 <= mechanism.sampling_bias < 1e-9
    assert hash(mechanism) == hash(mechanism), "learners keep mechanisms in caches"


def test_what_the_ledger_fixes_and_reports_say_is_json(mechanism):
    policy, description = mechanism.policy(), mechanism.describe()
    assert json.loads(json.dumps(policy, allow_nan=False)) == policy
    assert list(policy) == [
        "mechanism", "granularity", "feature_shape", "clip", "sigma", "codewords", "epsilon_each",
    ]  # fmt: skip
    said = asdict(description)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert (said["clip"], said["sigma"]) == (policy["clip"], policy["sigma"]) == (mechanism.clip, mechanism.sigma)
    assert said["epsilon"] == policy["epsilon_each"] == (None if mechanism.name == "none" else mechanism.epsilon)
    assert said["vector_epsilon"] == (None if mechanism.name == "none" else mechanism.vector_epsilon)
    event = mechanism.event
    assert (said["mechanism"], said["granularity"], said["delta"]) == (mechanism.name, event.granularity, event.delta)
    assert (said["codewords"], said["subset"]) == (event.codewords, event.subset)
    for name in ("attribute_bound", "tight_attribute_bound", "sampling_delta"):
        assert said[name] == getattr(mechanism, name)


def test_the_likelihood_is_that_of_the_sampler(mechanism, features_BF):
    """One number, or one codeword: probabilities of all releases sum to 1, and are the shares of 60 000 draws.

    Per release |share − p| < 0.01 by Hoeffding, with a false alarm below 2·exp(−2 · 60 000 · 1e-4) = 1.3e-5.
    """
    draws = 60_000
    shape = mechanism.feature_shape
    if mechanism.sigma is None:
        alone, first = mechanism, mechanism.bound(features_BF)[:1]
    else:  # of one number, the others have no noise to compare
        alone = replace(mechanism, feature_shape=(1,))
        first = alone.bound(features_BF.reshape(BATCH, -1)[:1, :1])
    words = Noise(bytes(32)).words(b"law", draws * alone.words_per_image)
    released = alone.randomise(np.repeat(first, draws, axis=0), words)
    found, times = np.unique(released.reshape(draws, -1), axis=0, return_counts=True)
    masses = np.exp(alone.log_likelihood(found.reshape(-1, *first.shape[1:]), first)[:, 0])
    assert 0.99 < masses.sum() <= 1 + 1e-5
    assert np.abs(times / draws - masses).max() < 0.01
    whole = mechanism.log_likelihood(mechanism.bound(features_BF), mechanism.bound(features_BF[:2]))
    assert whole.shape == (BATCH, 2) and shape == mechanism.feature_shape


def test_the_likelihood_of_a_map_is_the_sum_over_its_numbers():
    mechanism = MECHANISMS["gaussian"]
    bounded = mechanism.bound(np.random.default_rng(0).standard_normal((3, *MAP), np.float32))
    words = Noise(bytes(32)).words(b"sum", 3 * mechanism.words_per_image)
    released = mechanism.randomise(bounded, words)
    noise = (released[:, None].astype(np.float64) - bounded[None]).reshape(3, 3, -1)
    density = stats.norm.logpdf(noise, scale=mechanism.sigma).sum(axis=2)
    cells = math.prod(MAP) * math.log(mechanism.grid.step)
    np.testing.assert_allclose(mechanism.log_likelihood(released, bounded), density + cells, atol=0.5)


@pytest.mark.parametrize(
    "mechanism", [name for name, each in MECHANISMS.items() if each.channel() is not None], indirect=True
)
def test_channels_are_laws_and_outcomes_are_what_is_released(mechanism, features_BF):
    channel_KO, outcomes_OK = mechanism.channel(), mechanism.outcomes()
    np.testing.assert_allclose(channel_KO.sum(axis=1), 1, atol=1e-6)
    if math.isfinite(mechanism.epsilon):
        ratios = channel_KO.max(axis=0) / channel_KO.min(axis=0)
        assert float(ratios.max()) <= math.exp(mechanism.epsilon) * (1 + 1e-6)
    for row in mechanism.randomise(mechanism.bound(features_BF), words_for(mechanism)):
        assert any(np.array_equal(row, outcome) for outcome in outcomes_OK)
