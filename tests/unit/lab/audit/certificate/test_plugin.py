"""The best attacker on a sample, where it is known by hand, by quadrature or by another way of counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smartedge.lab.audit.certificate.plugin import label_floor, plug_in, sample_of
from smartedge.privacy import laws
from smartedge.privacy.laws import GridLaw, release_law
from smartedge.privacy.mechanisms import make_mechanism


def _rng() -> np.random.Generator:
    return np.random.default_rng(11)


def _gaussian(numbers: int, releases: int = 1):  # type: ignore[no-untyped-def]
    mechanism = make_mechanism("gaussian", feature_shape=(numbers,), sigma=0.5, bottleneck=True)
    return release_law(mechanism, releases)


def _two_points(numbers: int) -> tuple[np.ndarray, np.ndarray]:
    classes = np.repeat([0, 1], 5)
    return np.where(classes == 1, 0.5, -0.5)[:, None] / math.sqrt(numbers) * np.ones((1, numbers)), classes


@pytest.mark.parametrize("releases", [1, 4])
@pytest.mark.parametrize("numbers", [1, 3])
def test_two_points_under_gaussian_noise(numbers: int, releases: int) -> None:
    """Φ(distance · √releases / 2σ), whatever the number of dimensions between them."""
    law = _gaussian(numbers, releases)
    bounded, classes = _two_points(numbers)
    sample = sample_of(law, bounded, classes, rng=_rng())
    found = plug_in(law, sample, draws=60_000, miss=0.001, rng=_rng())
    distance = float(np.linalg.norm(sample.inputs_ND[0] - sample.inputs_ND[-1]))
    assert distance == pytest.approx(1, abs=0.02)  # the sampler rounds towards zero
    truth = (1 + math.erf(distance * math.sqrt(releases) / 2 / 0.5 / math.sqrt(2))) / 2
    assert (found.draws == 0) == isinstance(law, GridLaw)
    assert found.value == pytest.approx(truth, abs=1e-5 if found.draws == 0 else 0.004)
    assert 0 <= found.error < 0.005


def test_draws_agree_with_the_exact_table_of_one_number() -> None:
    law = _gaussian(1)
    assert isinstance(law, GridLaw)
    bounded = np.tanh(_rng().normal(size=(60, 1)))
    sample = sample_of(law, bounded, (_rng().random(60) < 0.4).astype(np.int64), rng=_rng())
    exact = plug_in(law, sample, draws=1, miss=0.5, rng=_rng())
    drawn = plug_in(law.law, sample, draws=60_000, miss=0.001, rng=_rng())
    assert exact.error == 0 and abs(exact.value - drawn.value) < drawn.error


@pytest.mark.parametrize("name", ["randomised-response", "subset-selection"])
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "with a label"])
def test_codewords_are_summed_exactly_and_draws_agree(
    name: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mechanism = make_mechanism(name, feature_shape=(6,), codebook=6, epsilon=1.0)
    codes, classes = _rng().integers(0, 6, 300), np.arange(300) % 3
    codes = np.where(classes == 2, 0, codes)
    law = release_law(mechanism, 2)
    told = (codes + classes) % 2 if grouped else np.zeros_like(codes)
    sample = sample_of(law, np.eye(6)[codes], classes, groups_N=told, rng=_rng())
    exact = plug_in(law, sample, draws=1, miss=0.5, rng=_rng())
    channel = np.asarray(mechanism.channel(), dtype=float)
    pairs = np.einsum("ka,kb->kab", channel, channel).reshape(6, -1)
    total = 0.0
    for group in (0, 1):
        shares = [np.bincount(codes[(classes == k) & (told == group)], minlength=6) / 100 for k in range(3)]
        total += (np.stack(shares) @ pairs).max(axis=0).sum() / 3
    assert exact.value == pytest.approx(total, abs=1e-6)
    monkeypatch.setattr(laws, "_MOST_OUTCOMES", 0)
    drawn = plug_in(law, sample, draws=60_000, miss=0.001, rng=_rng())
    assert drawn.draws == 60_000 and abs(drawn.value - exact.value) < drawn.error


def test_the_label_adds_what_it_tells() -> None:
    """Features tell nothing, the label is right for 3 of 4: with the label known, 75 %."""
    law = _gaussian(3)
    classes = np.repeat([0, 1], 80)
    labels = np.where(np.arange(160) % 4 == 0, 1 - classes, classes)
    for groups, truth in ((None, 0.5), (labels, 0.75)):
        sample = sample_of(law, np.zeros((160, 3)), classes, groups_N=groups, rng=_rng())
        found = plug_in(law, sample, draws=4_000, miss=0.01, rng=_rng())
        assert label_floor(sample) == pytest.approx(truth)
        assert found.value == pytest.approx(truth, abs=0.01)


def test_a_share_of_all_is_one() -> None:
    """The label tells the class of 26 images, 9 and 17. The sum of the shares was 2 and a rounding error."""
    groups_N = np.arange(26) % 3
    classes_N = np.minimum(groups_N, 1)
    sample = sample_of(_gaussian(3), np.zeros((26, 3)), classes_N, groups_N=groups_N, rng=_rng())
    assert label_floor(sample) == 1.0


def test_a_person_counts_once_and_is_of_one_class() -> None:
    law = _gaussian(2)
    persons = np.array([0, 0, 0, 1, 2, 2, 3, 9])
    classes = np.array([0, 0, 0, 0, 0, 1, 1, -1])  # person 2 has images of both classes, person 9 no label
    sample = sample_of(law, np.arange(16).reshape(8, 2) / 20, classes, persons_N=persons, rng=_rng())
    assert sum(sample.units) == 4
    for k in (0, 1):
        assert sample.weights_N[sample.classes_N == k].sum() == pytest.approx(1)
    weights = sample.weights_N[:3]
    assert weights == pytest.approx(1 / sample.units[0] / 3)
    assert len(sample.classes_N) == 6  # one of person 2's images is left out


def test_a_person_with_images_of_two_classes_is_in_each_with_even_odds() -> None:
    """Nine of ten images in one class: the population is a random person, then a random one of its classes."""
    persons, classes = np.repeat(np.arange(400), 10), np.tile([0] * 9 + [1], 400)
    law = release_law(make_mechanism("gaussian", feature_shape=(1,), sigma=0.4, bottleneck=True))
    drawn = sample_of(law, np.zeros((4000, 1)), classes, persons_N=persons, rng=np.random.default_rng(0))
    assert sum(drawn.units) == 400
    assert 120 < drawn.units[1] < 280, "eight deviations about the half"
