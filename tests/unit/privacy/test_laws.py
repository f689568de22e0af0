from __future__ import annotations

import math

import numpy as np
import pytest

from smartedge.errors import PrivacyError
from smartedge.privacy import laws
from smartedge.privacy.laws import GridLaw, release_law
from smartedge.privacy.mechanisms import Mechanism, make_mechanism

RNG_SEED = 7


def _gaussian(numbers: int = 3) -> Mechanism:
    return make_mechanism("gaussian", feature_shape=(numbers,), sigma=0.5, bottleneck=True)


def _laplace(numbers: int = 3, granularity: str = "vector") -> Mechanism:
    return make_mechanism(
        "laplace",
        feature_shape=(numbers,),
        sigma=0.5,
        bottleneck=True,
        granularity=granularity,  # type: ignore[arg-type]
    )


def _codewords(name: str, releases_epsilon: float = 1.5) -> Mechanism:
    return make_mechanism(name, feature_shape=(5,), codebook=5, epsilon=releases_epsilon)


def _released(mechanism: Mechanism, bounded_NF: np.ndarray, seed: int) -> np.ndarray:
    words = np.random.default_rng(seed).integers(0, 2**64, len(bounded_NF) * mechanism.words_per_image, np.uint64)
    return mechanism.randomise(bounded_NF.astype(np.float32), words)


@pytest.mark.parametrize(("make", "density"), [(_gaussian, lambda z, s: -((z / s) ** 2) / 2), (_laplace, None)])
def test_densities_differ_as_the_noise_law_says(make, density) -> None:  # type: ignore[no-untyped-def]
    mechanism = make()
    law = release_law(mechanism)
    rng = np.random.default_rng(RNG_SEED)
    bounded, seen = rng.uniform(-0.5, 0.5, (4, 3)), rng.normal(size=(6, 3))
    inputs = law.inputs(bounded)
    assert np.abs(inputs - bounded).max() <= mechanism.grid.step and np.all(np.abs(inputs) <= np.abs(bounded))
    plain = density or (lambda z, s: -np.abs(z) * math.sqrt(2) / s)
    expected = plain(seen[:, None] - inputs[None], 0.5).sum(axis=2)
    found = law.log_density(seen, inputs)
    assert np.diff(found, axis=1) == pytest.approx(np.diff(expected, axis=1), abs=1e-9)


@pytest.mark.parametrize("name", ["randomised-response", "subset-selection"])
@pytest.mark.parametrize("releases", [1, 2])
def test_a_table_of_codewords_is_the_law_of_what_is_sampled(name: str, releases: int) -> None:
    law = release_law(_codewords(name), releases)
    inputs = law.inputs(np.eye(5))
    table = law.table(inputs)
    assert table is not None and table.sum(axis=1) == pytest.approx(1, abs=1e-6)
    # Draws of codeword 2: which codeword the density prefers must be what the table's rows prefer.
    seen = law.sample(np.repeat(inputs[2:3], 40_000, axis=0), np.random.default_rng(RNG_SEED))
    log = law.log_density(seen, inputs)
    posterior = np.exp(log - log.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    expected = table[2] @ (table / table.sum(axis=0)).T
    assert posterior.mean(axis=0) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_the_table_of_one_number_is_what_the_sampler_does(name: str) -> None:
    mechanism = _gaussian(1) if name == "gaussian" else _laplace(1)
    law = release_law(mechanism)
    assert isinstance(law, GridLaw)
    inputs = law.inputs(np.array([[-0.3], [0.71]]))
    table = law.table(inputs)
    assert table is not None and table.sum(axis=1) == pytest.approx(1, abs=1e-12)
    released = _released(mechanism, np.full((200_000, 1), 0.71), 3)
    near = np.arange(-40, 80, 13)[:, None] * law.step
    there = np.rint((near[:, 0] - inputs.min()) / law.step).astype(int) + len(law.masses) // 2
    odds = np.diff(law.log_density(near, inputs), axis=1)[:, 0]
    assert odds == pytest.approx(np.log(table[1, there] / table[0, there]), abs=2e-3), "continuous noise has its odds"
    lowest = round(inputs.min() / law.step) - len(law.masses) // 2
    counts = np.bincount(np.rint(released[:, 0] / law.step).astype(int) - lowest, minlength=table.shape[1])
    cumulated = np.cumsum(counts) / counts.sum()
    assert np.abs(cumulated - np.cumsum(table[1])).max() < 0.006  # Kolmogorov: 0.0055 at a miss of 1e-5


@pytest.mark.parametrize(
    "make", [_gaussian, _laplace, lambda: _laplace(3, "element"), lambda: _codewords("subset-selection")]
)
def test_the_law_is_the_mechanisms_own(make) -> None:  # type: ignore[no-untyped-def]
    """The mechanism's exact log-likelihood on its grid, up to a number for each release and the rounding of noise."""
    mechanism = make()
    law = release_law(mechanism)
    rng = np.random.default_rng(RNG_SEED)
    discrete = mechanism.channel() is not None
    features = np.eye(5)[rng.integers(0, 5, 12)] if discrete else rng.uniform(-0.4, 0.4, (12, 3))
    bounded = mechanism.bound(features.astype(np.float32))
    released = _released(mechanism, bounded, 5)
    exact = mechanism.log_likelihood(released.astype(np.float32), bounded)
    found = law.log_density(law.statistic(released[None]), law.inputs(bounded))
    assert np.diff(found, axis=1) == pytest.approx(np.diff(exact, axis=1), abs=0.02)


def test_releases_of_one_image_add_up() -> None:
    for make in (_gaussian, _laplace, lambda: _codewords("randomised-response")):
        one, four = release_law(make()), release_law(make(), 4)
        assert one.distance < four.distance <= 1 or one.distance == four.distance == 1
        assert four.sampling_bias == 4 * one.sampling_bias
    bounded = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 3))
    gaussian, laplace = release_law(_gaussian(), 4), release_law(_laplace(), 4)
    draws = gaussian.sample(np.repeat(gaussian.inputs(bounded)[:1], 20_000, axis=0), np.random.default_rng(2))
    assert draws.std(axis=0) == pytest.approx(0.25, abs=0.005)
    assert laplace.inputs(bounded).shape == (3, 12)
    released = np.stack([_released(_laplace(), bounded, seed) for seed in range(4)])
    assert laplace.statistic(released).shape == (3, 12)
    assert gaussian.statistic(released) == pytest.approx(released.mean(axis=0))


def test_how_far_several_releases_are_apart() -> None:
    """Gaussian noise: that of their mean, exactly. Else 1 − (1 − d)^R, which the union of R couplings gives."""
    gaussian = make_mechanism("gaussian", feature_shape=(3,), sigma=8.0, bottleneck=True)
    assert release_law(gaussian).distance == pytest.approx(gaussian.distance, rel=1e-12)
    assert release_law(gaussian, 4).distance == pytest.approx(math.erf(2 * gaussian.clip / 8 / math.sqrt(2)))
    response = _codewords("randomised-response")
    assert release_law(response, 3).distance == pytest.approx(1 - (1 - response.distance) ** 3, rel=1e-12)
    certain = make_mechanism("randomised-response", feature_shape=(2,), codebook=2, epsilon=80.0)
    assert release_law(certain).distance == pytest.approx(1, abs=1e-15), "no logarithm of 0"
    for one in (_gaussian(1), _laplace(1)):
        law = release_law(one)
        assert isinstance(law, GridLaw) and law.distance == pytest.approx(one.distance, rel=1e-12)
        assert not isinstance(release_law(one, 2), GridLaw)
    assert not isinstance(release_law(_gaussian(2)), GridLaw)


def test_draws_of_laplace_noise_have_its_spread() -> None:
    """20 000 draws of 3 numbers: the standard deviation is off by less than 0.02 (10 times its own)."""
    law = release_law(_laplace())
    inputs = law.inputs(np.full((1, 3), 0.25))
    drawn = law.sample(np.repeat(inputs, 20_000, axis=0), np.random.default_rng(RNG_SEED))
    assert drawn.std(axis=0) == pytest.approx(0.5, abs=0.02) and drawn.mean(axis=0) == pytest.approx(0.25, abs=0.02)


def test_a_table_that_would_be_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    law = release_law(_codewords("randomised-response"), 2)
    monkeypatch.setattr(laws, "_MOST_OUTCOMES", 14)
    assert law.table(law.inputs(np.eye(5))) is None
    monkeypatch.setattr(laws, "_MOST_OUTCOMES", 15)
    assert law.table(law.inputs(np.eye(5))) is not None


def test_no_noise_is_no_law() -> None:
    with pytest.raises(PrivacyError, match="without noise"):
        release_law(make_mechanism("none", feature_shape=(3,)))
    with pytest.raises(ValueError, match="at least 1"):
        release_law(_gaussian(), 0)


@pytest.mark.parametrize("make", [_gaussian, _laplace, lambda: _laplace(3, "element")])
def test_inputs_at_the_bound_are_put_on_the_grid_as_the_sampler_puts_them(make) -> None:  # type: ignore[no-untyped-def]
    mechanism = make()
    bounded = mechanism.bound(np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 0.2]], dtype=np.float32))
    middle = np.zeros((2, mechanism.words_per_image), dtype=np.uint64)
    middle[:, :3] = 2**63  # no noise
    released = mechanism.randomise(bounded, middle.reshape(-1))
    assert release_law(mechanism).inputs(bounded) == pytest.approx(released, abs=1e-6)


def test_a_channel_is_exact_to_double_precision() -> None:
    law = release_law(make_mechanism("randomised-response", feature_shape=(2,), codebook=2, epsilon=1.5))
    table = law.table(np.array([[0.0]]))
    assert table is not None
    assert table[0] == pytest.approx([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(1.5))], rel=1e-14)


@pytest.mark.parametrize(("codewords", "releases"), [(2, 1100), (2, 19_999), (3, 190)])
def test_many_releases_of_codewords_are_summed_exactly(codewords: int, releases: int) -> None:
    """The number of orders of 1 100 releases is beyond float64, and 20 000 x 19 999 numbers are beyond memory."""
    law = release_law(
        make_mechanism("randomised-response", feature_shape=(codewords,), codebook=codewords, epsilon=1.0)
    )
    several = release_law(
        make_mechanism("randomised-response", feature_shape=(codewords,), codebook=codewords, epsilon=1.0), releases
    )
    table = several.table(np.arange(codewords)[:, None].astype(float))
    assert table is not None and table.shape == (codewords, math.comb(codewords + releases - 1, releases))
    assert table.sum(axis=1) == pytest.approx(1)
    # One outcome every time: the first multiset and the last.
    once = law.table(np.arange(codewords)[:, None].astype(float))
    assert once is not None
    with np.errstate(under="ignore"):
        assert table[:, 0] == pytest.approx(once[:, 0] ** releases, rel=1e-9)
        assert table[:, -1] == pytest.approx(once[:, -1] ** releases, rel=1e-9)


def test_a_million_releases_of_a_codeword_are_drawn_at_once() -> None:
    law = release_law(_codewords("subset-selection"), 10**6)
    counts = law.sample(np.array([[0.0], [3.0]]), np.random.default_rng(RNG_SEED))
    assert counts.shape == (2, 5)
    assert counts.argmax(axis=1).tolist() == [0, 3]
    subset = make_mechanism("subset-selection", feature_shape=(5,), codebook=5, epsilon=1.5).event.subset
    assert counts.sum(axis=1).tolist() == [subset * 10**6] * 2


@pytest.mark.parametrize(("make", "releases"), [(_laplace, 5462), (_gaussian, 2**40 + 1)])
def test_more_releases_than_can_be_computed_with_are_refused(make, releases: int) -> None:  # type: ignore[no-untyped-def]
    release_law(make(), releases - 1)
    with pytest.raises(PrivacyError, match=r"can be computed with|too many to compute"):
        release_law(make(), releases)
