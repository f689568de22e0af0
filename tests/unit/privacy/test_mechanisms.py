"""Each mechanism's own facts: its clip, its law, its probabilities. What all have in common: tests/contract."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from smartedge.errors import ConfigError
from smartedge.privacy.mechanisms import (
    Gaussian,
    Laplace,
    RandomisedResponse,
    SubsetSelection,
    Unprotected,
    UnprotectedCodeword,
    grid,
    make_mechanism,
    response_weights,
)
from smartedge.privacy.mechanisms.discrete import MAX_OUTCOMES
from smartedge.privacy.mechanisms.distance import _on_a_grid, laplace_product_distance
from smartedge.privacy.mechanisms.grid import SEED_WORDS, grid_of
from smartedge.privacy.noise import Noise

SHAPE = (2, 3, 2)
NOISE = Noise(bytes(range(32)))
# Kolmogorov-Smirnov: with n draws of the law, the largest gap exceeds √(ln(2/a)/2n) with probability ≤ a (Massart).
FALSE_ALARM = 1e-7


def gap_bound(draws: int, grid_mass: float = 0.0) -> float:
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * draws)) + grid_mass


def test_clipping_is_per_image_over_all_its_numbers():
    """A 4-D map, one image far beyond the bound: its norm becomes C, its direction stays, the others are untouched."""
    features_BCHW = np.random.default_rng(0).standard_normal((4, *SHAPE), np.float32)
    features_BCHW[1] *= 1000
    features_BCHW[2] = 0
    features_BCHW[0] *= 0.1
    for mechanism, order in ((Gaussian(SHAPE, 3.0, 1.0, 1e-5), 2), (Laplace(SHAPE, 3.0, 1.0), 1)):
        bounded_BCHW = mechanism.bound(features_BCHW)
        assert bounded_BCHW.shape == features_BCHW.shape
        norms = [float(np.linalg.norm(image.reshape(-1), ord=order)) for image in bounded_BCHW]
        assert norms[1] == pytest.approx(3.0, rel=1e-5)
        assert max(norms) <= 3.0
        direction = features_BCHW[1] / np.linalg.norm(features_BCHW[1].reshape(-1), ord=order)
        np.testing.assert_allclose(bounded_BCHW[1] / norms[1], direction, atol=1e-6, rtol=1e-5)
        np.testing.assert_array_equal(bounded_BCHW[[0, 2]], features_BCHW[[0, 2]])
    bounded_BCHW = Laplace(SHAPE, 0.5, 1.0, "element").bound(features_BCHW)
    np.testing.assert_allclose(bounded_BCHW, features_BCHW.clip(-0.5, 0.5), atol=1e-6)


def test_noise_is_scaled_to_twice_the_clip():
    """Replace-one: two clipped maps are up to 2C apart. σ is a standard deviation."""
    gaussian = make_mechanism("gaussian", feature_shape=SHAPE, clip=3.0, epsilon=1.0, delta=1e-5)
    assert gaussian.sigma == pytest.approx(3.730632 * 6, rel=1e-6)
    laplace = make_mechanism("laplace", feature_shape=SHAPE, clip=3.0, epsilon=2.0)
    assert laplace.scale == pytest.approx(6 / 2)
    assert laplace.sigma == pytest.approx(math.sqrt(2) * 3)
    element = make_mechanism("laplace", feature_shape=SHAPE, granularity="element", clip=0.5, epsilon=2.0)
    assert element.scale == pytest.approx(1 / 2)


def test_element_granularity_states_the_whole_map_too():
    element = make_mechanism("laplace", feature_shape=SHAPE, granularity="element", bottleneck=True, epsilon=2.0)
    assert element.clip == 1.0
    assert (element.epsilon, element.vector_epsilon) == (2.0, 2.0 * 12)
    assert element.event.granularity == "element"
    assert element.attribute_bound == pytest.approx(1 / (1 + math.exp(-24)))
    vector = make_mechanism("laplace", feature_shape=SHAPE, bottleneck=True, epsilon=2.0)
    assert (vector.epsilon, vector.vector_epsilon, vector.clip) == (2.0, 2.0, 12.0)


def test_a_noise_given_by_sigma_reports_its_epsilon():
    gaussian = make_mechanism("gaussian", feature_shape=SHAPE, bottleneck=True, sigma=5.0)
    assert gaussian.sigma == 5.0
    assert gaussian.clip == pytest.approx(math.sqrt(12))
    same = make_mechanism("gaussian", feature_shape=SHAPE, bottleneck=True, epsilon=gaussian.epsilon)
    assert same.sigma == pytest.approx(5.0, rel=1e-6)
    laplace = make_mechanism("laplace", feature_shape=SHAPE, clip=1.0, sigma=2.0)
    assert laplace.sigma == pytest.approx(2.0)
    assert laplace.epsilon == pytest.approx(2 / (2 / math.sqrt(2)))


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_the_integer_law_is_the_law_rounded_to_the_grid(law):
    """Every cell's mass against scipy's distribution; relative where float64 has digits, 2⁻⁶³ in the far tails."""
    scale = 0.7
    grid = grid_of(law, scale)
    assert math.log2(grid.step).is_integer()
    assert scale / 256 < grid.step <= scale / 128
    half = len(grid.thresholds) // 2
    ends = [0, *map(int, grid.thresholds), 2**64]
    assert ends == sorted(ends)
    masses = np.array([float(high - low) for low, high in itertools.pairwise(ends)]) / 2.0**64
    np.testing.assert_array_equal(masses, masses[::-1])
    steps = np.arange(-half, half + 1)
    ideal = stats.norm(scale=scale) if law == "gaussian" else stats.laplace(scale=scale)
    positive = np.maximum(steps, -steps) * grid.step
    expected = ideal.sf(positive - grid.step / 2) - ideal.sf(positive + grid.step / 2)
    inner = np.abs(steps) < half
    np.testing.assert_allclose(masses[inner], expected[inner], rtol=1e-11, atol=2.0**-63)
    assert masses[0] < 2.0**-20, "the last cell is all that lies beyond"
    np.testing.assert_allclose(np.exp(grid.log_mass(steps[inner])), masses[inner], rtol=1e-12)
    far = np.arange(half, 40 * half)
    beyond = ideal.logsf(far * grid.step - grid.step / 2) + np.log(
        -np.expm1(ideal.logsf(far * grid.step + grid.step / 2) - ideal.logsf(far * grid.step - grid.step / 2))
    )
    np.testing.assert_allclose(grid.log_mass(far), beyond, rtol=1e-9)
    np.testing.assert_array_equal(grid.log_mass(-far), grid.log_mass(far))
    whole = grid.masses()
    assert whole.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(whole, whole[::-1])
    ends = ideal.sf((len(whole) // 2 - 0.5) * grid.step)
    assert whole[0] == pytest.approx(ends, rel=1e-9, abs=0) and ends < 2.0**-64, "all that lies beyond"


@pytest.mark.parametrize(("law", "scale"), [("gaussian", 0.4), ("gaussian", 3.0), ("laplace", 1.0)])
def test_the_sampling_bias_bounds_the_distance_to_the_stated_law(law, scale):
    """The words of the table against tail probabilities with 40 digits."""
    grid = grid_of(law, scale)
    with mpmath.workdps(40):
        tails = [
            mpmath.ncdf(-steps) if law == "gaussian" else mpmath.exp(-steps) / 2
            for steps in (mpmath.mpf(2 * k + 1) / 2 * grid.step / mpmath.mpf(scale) for k in range(grid.half))
        ]
        stated = [*reversed(tails), *(1 - tail for tail in tails)]
        wrong = [mpmath.mpf(int(end)) / 2**64 - true for end, true in zip(grid.thresholds, stated, strict=True)]
        distance = float(sum(abs(high - low) for low, high in itertools.pairwise([0, *wrong, 0])) / 2)
    mechanism = (Gaussian((5,), 1.0, scale, 1e-5)) if law == "gaussian" else Laplace((5,), 1.0, scale)
    assert 5 * distance <= mechanism.sampling_bias < 1e-9


def test_each_word_stands_for_its_number_of_steps():
    grid = grid_of("gaussian", 1.0)
    half = len(grid.thresholds) // 2
    edges = np.array([0, 2**64 - 1, 2**63, 2**63 - 1], dtype=np.uint64)
    seeds = np.arange(4, dtype=np.uint64)[None]
    low, high, *middle = grid.draw(edges[None], seeds)[0]
    assert low <= -half and high >= half, "the first and the last cell go on"
    assert middle == [0, 0]
    ends = grid.thresholds[[500]]
    both = np.concatenate([ends - np.uint64(1), ends])[None]
    np.testing.assert_array_equal(grid.draw(both, seeds), [[500 - half, 501 - half]])


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_beyond_the_table_the_noise_follows_its_law(law):
    """5000 images whose words all lie beyond: Kolmogorov-Smirnov against the law given that; false alarm 1e-7."""
    grid = grid_of(law, 0.7)
    words = np.full((5000, 1), 2**64 - 1, np.uint64)
    seeds = NOISE.words(b"far", 5000 * SEED_WORDS).reshape(5000, SEED_WORDS)
    drawn = grid.draw(words, seeds)[:, 0]
    np.testing.assert_array_equal(grid.draw(words, seeds)[:, 0], drawn)
    places = np.arange(grid.half, drawn.max() + 1)
    stated = np.exp(grid.log_mass(places) - np.log(float(2**64 - int(grid.thresholds[-1])) / 2.0**64)).cumsum()
    found = np.searchsorted(np.sort(drawn), places, side="right") / 5000
    assert np.abs(found - stated).max() < gap_bound(5000)
    np.testing.assert_array_equal(grid.draw(np.zeros((5000, 1), np.uint64), seeds)[:, 0], -drawn)
    two = grid.draw(np.full((50, 2), 2**64 - 1, np.uint64), seeds[:50])
    assert np.count_nonzero(two[:, 0] == two[:, 1]) < 10, "numbers of one image, each with noise of its own"


@pytest.mark.parametrize("shape", [(4, 1, 1), (128,)])
@pytest.mark.parametrize("sigma", [0.4, 0.5, 0.7, 1.0, 2.0, 4.0])
def test_the_stated_epsilon_holds_at_the_stated_delta_by_the_samplers_own_words(shape, sigma):
    """All of the sensitivity in one number: δ is the sum of (P − e^ε Q)₊ over every release, P and Q by its words."""
    mechanism = make_mechanism("gaussian", feature_shape=shape, bottleneck=True, sigma=sigma)
    farthest = np.zeros((2, *shape), np.float32)
    farthest.reshape(2, -1)[:, 0] = (1e6, -1e6)
    one, other = mechanism.steps(mechanism.bound(farthest))[:, 0]
    releases = np.arange(other - 3 * mechanism.grid.half, one + 3 * mechanism.grid.half)
    log_p, log_q = mechanism.grid.log_mass(releases - one), mechanism.grid.log_mass(releases - other)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
    loss = np.maximum(log_p - log_q - mechanism.epsilon, 0)  # beyond ε
    delta = (np.exp(log_p) * -np.expm1(-loss)).sum()
    assert 0.5 * mechanism.delta < delta <= mechanism.delta
    assert mechanism.sampling_delta < 1e-8


@pytest.mark.parametrize(
    ("mechanism", "law"),
    [
        (Gaussian((4,), 2.0, 0.7, 1e-5), stats.norm(scale=0.7)),
        (Laplace((4,), 2.0, 0.7), stats.laplace(scale=0.7)),
        (Laplace((4,), 2.0, 0.7, "element"), stats.laplace(scale=0.7)),
    ],
)
def test_released_noise_follows_its_law(mechanism, law):
    draws, centre = 100_000, np.array([0.5, -0.25, 0.0, 0.125], np.float32)
    bounded_BF = mechanism.bound(np.tile(centre, (draws // 4, 1)))
    released_BF = mechanism.randomise(bounded_BF, NOISE.words(b"law", draws // 4 * mechanism.words_per_image))
    assert released_BF.dtype == np.float32
    noise = (released_BF - bounded_BF).astype(np.float64).reshape(-1)
    cell = float(law.pdf(0)) * mechanism.grid.step  # a rounded law differs from its own by up to half a cell's mass
    assert stats.kstest(noise, law.cdf).statistic < gap_bound(draws, cell)
    assert stats.kstest(noise, stats.norm(scale=0.7**2).cdf).statistic > 2 * gap_bound(draws, cell), "not a variance"


def test_numbers_of_one_image_get_independent_noise():
    """Correlation of two numbers over n images: |r| < 5.5/√n; false alarm < 6 · 4e-8."""
    images = 20_000
    mechanism = Gaussian((4,), 2.0, 1.0, 1e-5)
    words = NOISE.words(b"pairs", mechanism.words_per_image * images)
    released = mechanism.randomise(np.zeros((images, 4), np.float32), words)
    r = np.corrcoef(released.T) - np.eye(4)
    assert np.abs(r).max() < 5.5 / math.sqrt(images)


def test_a_release_lies_on_the_grid_and_rests_on_no_one_elses_clip():
    """The same words for two inputs: the difference is a whole number of steps, and within the sensitivity."""
    mechanism = Gaussian((5,), 1.0, 0.3, 1e-5)
    far = np.full((1, 5), 1e6, np.float32)
    words = NOISE.words(b"grid", mechanism.words_per_image)
    one, other = (mechanism.randomise(each, words).astype(np.float64) for each in (far, -far))
    steps = (one - other) / mechanism.grid.step
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert float(np.linalg.norm(one - other)) <= mechanism.sensitivity
    assert float(np.linalg.norm(one - other)) > 0.98 * mechanism.sensitivity


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_what_the_samplers_finite_precision_costs_follows_from_its_words(law):
    """A probability of w words is off by up to 2 of them, and a map's by D such factors in P and in Q."""
    mechanism = make_mechanism(law, feature_shape=SHAPE, clip=1.0, sigma=0.7)
    ends = [0, *map(int, mechanism.grid.thresholds), 2**64]
    fewest = min(high - low for low, high in itertools.pairwise(ends))
    assert mechanism.grid.precision == 2 / fewest
    assert mechanism.sampling_delta == pytest.approx(math.exp(2 * 12 * 2 / fewest) - 1, rel=1e-4)
    assert mechanism.sampling_bias == pytest.approx(12 / fewest)
    many = make_mechanism(law, feature_shape=(2**16,), clip=1.0, sigma=0.7)
    assert many.tight_attribute_bound - (1 + many.distance) / 2 == pytest.approx(many.sampling_bias, abs=1e-14)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_likelihoods_far_beyond_the_table_follow_the_sampler_and_need_no_step_by_step(law, monkeypatch):
    """With weak noise two inputs are millions of steps apart. Asked one by one, these took half a minute."""
    made = grid_of(law, 0.37)
    steps = np.arange(made.half, 4_000)
    shares = np.array([grid._hazard(law, 0.37, int(number)) / 2**64 for number in steps])
    monkeypatch.setattr(grid, "_hazard", None)
    found = made.log_mass(np.append(steps, 3_000_000))
    assert np.isfinite(found[:-1]).all() and not np.isnan(found[-1])
    # P(so many) / P(so many or more), where the tail is what all earlier steps leave.
    tail = made.log_mass(np.array([made.half]))[0] - math.log(shares[0])
    expected = tail + np.cumsum(np.append(0.0, np.log1p(-shares[:-1]))) + np.log(shares)
    assert np.allclose(found[:-1], expected, rtol=1e-11)


def test_likelihoods_are_the_same_however_many_are_computed_at_once(monkeypatch):
    mechanism = Gaussian((4,), 2.0, 0.7, 1e-5)
    bounded = mechanism.bound(np.random.default_rng(0).standard_normal((7, 4), np.float32))
    released = mechanism.randomise(bounded, NOISE.words(b"parts", 7 * mechanism.words_per_image))
    whole = mechanism.log_likelihood(released, bounded)
    monkeypatch.setattr("smartedge.privacy.mechanisms.additive._AT_ONCE", 2 * bounded.size)
    np.testing.assert_array_equal(mechanism.log_likelihood(released, bounded), whole)
    monkeypatch.setattr("smartedge.privacy.mechanisms.grid._MOST_CELLS", 2**13)
    far = mechanism.grid.log_mass(np.array([2**13 - 1, 2**13, 2**40]))
    assert np.isneginf(far).tolist() == [False, True, True], "further than any table goes"


# -- discrete


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 4.0, 30.0, 100.0])
@pytest.mark.parametrize(("likely", "unlikely"), [(1, 1), (1, 7), (7, 21), (1, 255), (35, 35)])
def test_words_of_outcomes_keep_epsilon_exactly(epsilon, likely, unlikely):
    often, rare, rest = response_weights(epsilon, likely=likely, unlikely=unlikely)
    assert likely * often + unlikely * rare + rest == 2**64
    assert min(often, rare, rest + 1) >= 1
    # a/b ≤ e^ε in exact arithmetic: e^ε lies above its Taylor sum.
    from fractions import Fraction

    power, term = Fraction(0), Fraction(1)
    for k in range(1, 400):
        power += term
        term = term * Fraction(epsilon) / k
    assert Fraction(often, rare) <= power
    assert Fraction(often + rest, rare + rest) <= power
    ideal = math.exp(min(epsilon, 40)) / (likely * math.exp(min(epsilon, 40)) + unlikely)
    assert often / 2**64 == pytest.approx(ideal, rel=1e-12, abs=0)


def test_one_of_eight_codewords_survives_89_times_in_100():
    """Of issue 4: ε = 4."""
    channel_KO = RandomisedResponse(8, 4.0).channel()
    assert float(channel_KO[3, 3]) == pytest.approx(0.886, abs=1e-3)
    assert float(channel_KO[3, 4]) == pytest.approx((1 - 0.8864) / 7, abs=1e-4)


@pytest.mark.parametrize(
    ("codewords", "epsilon", "subset"), [(8, 1.0, 2), (8, 0.1, 4), (8, 4.0, 1), (64, 3.0, 3), (2, 1.0, 1), (10, 0.5, 4)]
)
def test_subset_selection_has_the_size_and_the_probabilities_of_the_paper(codewords, epsilon, subset):
    if math.comb(codewords, subset) > 4096:
        with pytest.raises(ConfigError, match="outcomes"):
            SubsetSelection(codewords, epsilon)
        return
    mechanism = SubsetSelection(codewords, epsilon)
    assert mechanism.subset == subset
    channel_KO, outcomes_OK = mechanism.channel(), mechanism.outcomes()
    assert np.unique(outcomes_OK.sum(axis=1)).tolist() == [subset]
    assert len(np.unique(outcomes_OK, axis=0)) == len(outcomes_OK) == math.comb(codewords, subset)
    holds = subset * math.exp(epsilon) / (subset * math.exp(epsilon) + codewords - subset)
    for codeword in (0, codewords - 1):
        held = outcomes_OK[:, codeword] == 1
        assert float(channel_KO[codeword, held].sum()) == pytest.approx(holds, rel=1e-5)
    if subset == 1:
        np.testing.assert_allclose(
            channel_KO, RandomisedResponse(codewords, epsilon).channel()[:, outcomes_OK.argmax(1)], rtol=1e-6
        )


def test_subset_selection_may_have_as_many_outcomes_as_the_limit():
    assert SubsetSelection(MAX_OUTCOMES, 20.0).subset == 1
    with pytest.raises(ConfigError, match=f"has {MAX_OUTCOMES + 1} outcomes, more than {MAX_OUTCOMES};"):
        SubsetSelection(MAX_OUTCOMES + 1, 20.0)


@pytest.mark.parametrize("mechanism", [RandomisedResponse(3, 1.5), SubsetSelection(4, 0.1), UnprotectedCodeword(3)])
def test_channels_and_outcomes_are_float32(mechanism):
    assert mechanism.channel().dtype == mechanism.outcomes().dtype == np.float32


@pytest.mark.parametrize("mechanism", [RandomisedResponse(6, 1.5), SubsetSelection(6, 0.8)])
def test_outcomes_come_as_often_as_the_channel_says(mechanism):
    """Per outcome, Hoeffding: |share − p| ≥ t with probability ≤ 2·exp(−2nt²); summed over ≤ 90 outcomes below 1e-6."""
    draws = 60_000
    bound = math.sqrt(math.log(2 * 90 / 1e-6) / (2 * draws))
    channel_KO, outcomes_OK = mechanism.channel(), mechanism.outcomes()
    for codeword in (0, 5):
        one_hot = np.tile(np.eye(6, dtype=np.float32)[codeword], (draws, 1))
        released = mechanism.randomise(one_hot, NOISE.words(f"{codeword}".encode(), draws))
        shares_O = released @ outcomes_OK.T == mechanism.event.subset if mechanism.event.subset else released
        assert np.abs(shares_O.mean(axis=0) - channel_KO[codeword]).max() < bound


def test_every_word_has_an_outcome_also_those_that_are_left_over():
    made = [SubsetSelection(8, 0.1), SubsetSelection(6, 0.8), RandomisedResponse(7, 2.0)]
    assert any(len(set(map(int, each._weights_KO[0]))) == 3 for each in made), "some are left over"
    for each in made:
        assert [sum(row) for row in each._weights_KO.tolist()] == [2**64] * each.codewords
        assert each.sampling_bias == len(each.outcomes()) / 2**64
    assert SubsetSelection(4, 1000.0).subset == 1, "an ε of which e^ε overflows"


def test_the_word_decides_the_outcome_at_the_exact_threshold():
    mechanism = RandomisedResponse(4, 1.0)
    weights = mechanism._weights_KO
    assert [sum(row) for row in weights.tolist()] == [2**64] * 4
    last_of_first = int(weights[2, 0]) - 1
    words = np.array([0, last_of_first, last_of_first + 1, 2**64 - 1], dtype=np.uint64)
    released = mechanism.randomise(np.eye(4, dtype=np.float32)[[2, 2, 2, 2]], words)
    assert released.argmax(axis=1).tolist() == [0, 0, 1, 3]


def test_bound_of_a_codeword_is_the_most_probable_one():
    shares = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], np.float32)
    for mechanism in (RandomisedResponse(3, 1.0), UnprotectedCodeword(3)):
        assert mechanism.bound(shares).tolist() == [[0, 1, 0], [1, 0, 0]]


# -- what it means for an attribute


def best_balanced_accuracy(one: np.ndarray, other: np.ndarray) -> float:
    """Of the best test of one law against another, both given by their probabilities."""
    return float(0.5 + np.abs(one - other).sum() / 4)


def test_no_test_beats_the_bounds_and_the_tight_one_is_reached():
    response = RandomisedResponse(5, 2.0)
    one, other = response.channel().astype(np.float64)[:2]
    assert best_balanced_accuracy(one, other) == pytest.approx(response.tight_attribute_bound, rel=1e-6)
    assert response.tight_attribute_bound < response.attribute_bound == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    subset = SubsetSelection(6, 0.8)
    one, other = subset.channel().astype(np.float64)[:2]
    assert best_balanced_accuracy(one, other) == pytest.approx(subset.tight_attribute_bound, rel=1e-6)
    gaussian = make_mechanism("gaussian", feature_shape=(1,), bottleneck=True, epsilon=4.0)
    assert gaussian.tight_attribute_bound == pytest.approx(stats.norm.cdf(1 / gaussian.sigma))
    assert gaussian.attribute_bound == pytest.approx((math.exp(4) + 1e-5) / (1 + math.exp(4)))
    x, step = np.linspace(-30, 30, 600_001, retstep=True)
    laplace = make_mechanism("laplace", feature_shape=(1,), bottleneck=True, epsilon=3.0)
    one, other = (stats.laplace.pdf(x, centre, laplace.scale) * step for centre in (-1, 1))
    assert best_balanced_accuracy(one, other) == pytest.approx(laplace.tight_attribute_bound, rel=1e-4)
    assert Unprotected((3,)).tight_attribute_bound == Unprotected((3,)).attribute_bound == 1.0


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0])
def test_the_tight_bound_of_elements_is_that_of_the_whole_map(epsilon):
    """Two numbers by a double integral of |p − q|/2 on a fine mesh; sixteen by 400 000 draws of the likelihood ratio.

    Hoeffding: the mean of (1 − q/p)₊ is off by 0.005 with probability below 2·exp(−2 · 4e5 · 25e-6) = 5e-9.
    """
    shape = {"granularity": "element", "bottleneck": True, "epsilon": epsilon}
    one = make_mechanism("laplace", feature_shape=(1,), **shape)
    assert one.distance == pytest.approx(1 - math.exp(-epsilon / 2))
    two = make_mechanism("laplace", feature_shape=(2,), **shape)
    x, step = np.linspace(-12, 12, 4001, retstep=True)
    p, q = (stats.laplace.pdf(x * two.scale, centre, two.scale) * two.scale * step for centre in (-1, 1))
    total = np.abs(np.outer(p, p) - np.outer(q, q)).sum() / 2
    assert two.distance == pytest.approx(total, abs=2e-3)
    many = make_mechanism("laplace", feature_shape=(4, 2, 2), **shape)
    noise = np.random.default_rng(0).laplace(scale=many.scale, size=(400_000, 16))
    loss = ((np.abs(noise - 2) - np.abs(noise)) / many.scale).sum(axis=1)
    assert abs(many.distance - -np.expm1(-np.maximum(loss, 0)).mean()) < 0.005
    assert many.tight_attribute_bound < many.attribute_bound


@pytest.mark.parametrize("numbers", [2, 128, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tell", [0.2, 1.0, 3.0])
def test_the_distance_of_many_numbers_is_close_from_above(numbers, tell):
    """``tell``: about how many standard deviations the whole is shifted. A finer grid gives less, and hardly less."""
    epsilon = tell / math.sqrt(numbers)
    found, finer = laplace_product_distance(epsilon, numbers), _on_a_grid(epsilon, numbers, cells=2048)
    if numbers < 10_000:
        finer = _on_a_grid(epsilon, numbers, cells=2**14)
    assert finer - 1e-9 <= found < finer + 1e-6


def test_the_distance_of_noise_that_hides_nothing_is_1_and_of_more_numbers_is_never_less():
    assert laplace_product_distance(1000.0, 4) == 1.0
    assert 1 - math.exp(-5) < laplace_product_distance(10.0, 4) < 1


# -- what the ledger fixes


def test_policies_are_those_that_ledgers_hold_already():
    """Written before the mechanisms wrote them themselves: a run that began then must go on."""
    gaussian = make_mechanism("gaussian", feature_shape=(8, 4, 4), bottleneck=True, epsilon=8.0)
    assert gaussian.policy() == {
        "mechanism": "gaussian", "granularity": "vector", "feature_shape": [8, 4, 4],
        "clip": 11.313708498984761, "sigma": pytest.approx(13.58163351095721, rel=1e-12), "codewords": None,
        "epsilon_each": pytest.approx(8.0, rel=1e-9),
    }  # fmt: skip
    element = make_mechanism("laplace", feature_shape=(4,), granularity="element", clip=1.0, epsilon=2.0)
    assert element.policy() == {
        "mechanism": "laplace", "granularity": "element", "feature_shape": [4],
        "clip": 1.0, "sigma": math.sqrt(2), "codewords": None, "epsilon_each": 2.0,
    }  # fmt: skip
    for mechanism in (UnprotectedCodeword(8), RandomisedResponse(8, 4.0)):
        assert mechanism.policy() == {
            "mechanism": mechanism.name, "granularity": "vector", "feature_shape": [8],
            "clip": None, "sigma": None, "codewords": 8,
            "epsilon_each": 4.0 if mechanism.name == "randomised-response" else None,
        }  # fmt: skip


# -- from settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gaussian", "epsilon": 1.0}, "dp.clip"),
        ({"name": "gaussian", "bottleneck": True}, "exactly one"),
        ({"name": "laplace", "bottleneck": True, "epsilon": 1.0, "sigma": 1.0}, "exactly one"),
        ({"name": "randomised-response", "epsilon": 1.0}, "model.codebook"),
        ({"name": "subset-selection", "codebook": 64, "epsilon": 0.5}, "randomised-response"),
        ({"name": "exponential"}, "not known"),
        ({"name": "gaussian", "clip": 2.0**21, "sigma": 1.0}, "protects nothing after a clip"),
    ],
)
def test_settings_that_make_no_mechanism(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_mechanism(**settings, feature_shape=(4,))


def test_the_budget_is_for_all_releases():
    for name in ("gaussian", "laplace"):
        once, five = (
            make_mechanism(name, feature_shape=(4,), bottleneck=True, epsilon=2.0, releases=releases)
            for releases in (1, 5)
        )
        assert five.sigma > 2 * once.sigma
    once, five = (
        make_mechanism("randomised-response", feature_shape=(4,), codebook=4, epsilon=2.0, releases=r) for r in (1, 5)
    )
    assert once.epsilon == 2.0
    assert 0.4 <= five.epsilon < 1.0


def test_laplace_by_its_sigma_keeps_the_granularity_that_was_asked_for():
    for granularity in ("vector", "element"):
        made = make_mechanism(
            "laplace", feature_shape=(2, 1, 1), granularity=granularity, clip=1.0, bottleneck=True, sigma=0.5
        )
        assert made.event.granularity == granularity
        assert made.describe().granularity == granularity
        assert made.sigma == pytest.approx(0.5)


def test_without_a_mechanism_what_is_released_is_the_map_or_its_codeword():
    assert make_mechanism("none", feature_shape=(4,)) == Unprotected((4,))
    assert make_mechanism("none", feature_shape=(4,), codebook=4) == UnprotectedCodeword(4)
