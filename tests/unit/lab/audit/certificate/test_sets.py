from __future__ import annotations

import itertools

import numpy as np
import pytest

from smartedge.errors import DataError
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.certificate.sets import held_sets, set_law
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, RandomisedResponse


def mechanisms() -> list[Mechanism]:
    return [Gaussian((2,), 2.0, 0.7, 1e-5), Laplace((2,), 2.0, 1.0), RandomisedResponse(3, 1.0)]


def features(mechanism: Mechanism, rng: np.random.Generator, count: int) -> np.ndarray:
    if mechanism.channel() is not None:
        return np.eye(3, dtype=np.float32)[rng.integers(3, size=count)]
    return rng.uniform(-0.9, 0.9, (count, 2)).astype(np.float32)


@pytest.mark.parametrize("mechanism", mechanisms(), ids=lambda each: each.name)
def test_a_set_has_the_mean_density_over_all_orders(mechanism: Mechanism) -> None:
    rng = np.random.default_rng(0)
    one, law = release_law(mechanism), set_law(mechanism, 3)
    held, released = features(mechanism, rng, 12).reshape(4, 3, -1), features(mechanism, rng, 6).reshape(1, 2, 3, -1)
    found = law.log_density(law.statistic(released), law.inputs(held))
    each = one.log_density(one.statistic(released.reshape(1, 6, -1)), one.inputs(held.reshape(12, -1))).reshape(
        2, 3, 4, 3
    )
    for m, p in itertools.product(range(2), range(4)):
        orders = list(itertools.permutations(range(3)))
        slow = np.mean([np.exp(sum(each[m, i, p, order[i]] for i in range(3))) for order in orders])
        assert found[m, p] == pytest.approx(np.log(slow))
    turned = released[:, :, [2, 0, 1]]
    assert law.log_density(law.statistic(turned), law.inputs(held)) == pytest.approx(found)


def test_a_set_of_one_is_one_image() -> None:
    mechanism = Gaussian((2,), 2.0, 0.7, 1e-5)
    rng = np.random.default_rng(0)
    one, law = release_law(mechanism), set_law(mechanism, 1)
    held, released = features(mechanism, rng, 5), features(mechanism, rng, 3)[None]
    assert law.log_density(law.statistic(released[:, :, None]), law.inputs(held[:, None])) == pytest.approx(
        one.log_density(one.statistic(released), one.inputs(held))
    )
    assert law.distance == one.distance
    with pytest.raises(ValueError, match="1 to 5"):
        set_law(mechanism, 6)


def test_draws_have_the_law_of_the_noise_image_by_image() -> None:
    mechanism = Gaussian((2,), 2.0, 0.7, 1e-5)
    law = set_law(mechanism, 2)
    inputs = law.inputs(np.array([[[0.5, 0.0], [-0.5, 0.25]]]))
    drawn = law.sample(np.repeat(inputs, 20_000, axis=0), np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx(inputs[0], abs=5 * 0.7 / np.sqrt(20_000))
    assert np.cov(drawn.T) == pytest.approx(0.49 * np.eye(4), abs=0.03)


def test_one_set_of_each_person_with_enough_images() -> None:
    persons = np.array([4, 4, 4, 2, 2, 6, 6, 6, 9])
    classes = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1])
    labels = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1])
    bounded = np.arange(9, dtype=np.float32)[:, None]
    held = held_sets(HeldOut(bounded, classes, ("no", "yes"), persons, labels), 3, seed=0)
    assert [sorted(of[:, 0].tolist()) for of in np.asarray(held.bounded_NF)] == [[0, 1, 2], [5, 6, 7]]
    assert held.classes_N.tolist() == [1, 0]
    assert held.labels_N is not None
    assert held.labels_N[0] == held.labels_N[1]  # twice label 1, once label 0
    assert len(held_sets(HeldOut(bounded, classes, ("no", "yes"), persons, labels), 2, seed=3).classes_N) <= 3
    with pytest.raises(DataError, match="no held-out person has 4"):
        held_sets(HeldOut(bounded, classes, ("no", "yes"), persons, labels), 4, seed=0)
    with pytest.raises(DataError, match="names no persons"):
        held_sets(HeldOut(bounded, classes, ("no", "yes")), 2, seed=0)


def test_the_certificate_of_sets_lies_above_the_best_attacker_on_the_true_law() -> None:
    """Every image of a person is at ±0.3 in one number: of n images the best attacker is right with Φ(0.3·√n/σ)."""
    mechanism = Gaussian((1,), 1.0, 0.6, 1e-5)
    persons = np.repeat(np.arange(400), 4)
    classes = persons % 2
    bounded = np.where(classes == 1, 0.3, -0.3)[:, None].astype(np.float32)
    held = HeldOut(bounded, classes, ("no", "yes"), persons)
    bounds = {}
    for images, truth in ((1, 0.6915), (4, 0.8413)):  # Φ(0.5), Φ(1)
        found = certify_attribute(set_law(mechanism, images), held_sets(held, images, seed=0), draws=8_000)
        assert found.units == (200, 200)
        assert found.plug_in == pytest.approx(truth, abs=0.02)  # 8 000 draws: ± 0.005; the grid moves it by 0.003
        assert truth < found.bound < truth + 0.1
        bounds[images] = found.bound
    assert bounds[4] > bounds[1]


@pytest.mark.parametrize("mechanism", mechanisms(), ids=lambda each: each.name)
def test_with_known_labels_an_order_gives_each_release_its_label(mechanism: Mechanism) -> None:
    rng = np.random.default_rng(0)
    one, law = release_law(mechanism), set_law(mechanism, 3, labelled=True)
    held, released = features(mechanism, rng, 12).reshape(4, 3, -1), features(mechanism, rng, 6).reshape(1, 2, 3, -1)
    labels_Pm, told_Mm = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]), np.array([[1, 1, 0], [0, 1, 0]])
    found = law.log_density(
        law.statistic(np.concatenate([released, told_Mm[None, ..., None].astype(np.float32)], axis=3)),
        law.inputs(np.concatenate([held, labels_Pm[..., None].astype(np.float32)], axis=2)),
    )
    each = one.log_density(one.statistic(released.reshape(1, 6, -1)), one.inputs(held.reshape(12, -1))).reshape(
        2, 3, 4, 3
    )
    for m, p in itertools.product(range(2), range(4)):
        slow = sum(
            np.exp(sum(each[m, i, p, order[i]] for i in range(3)))
            for order in itertools.permutations(range(3))
            if (labels_Pm[p, list(order)] == told_Mm[m]).all()
        )
        assert np.exp(found[m, p]) == pytest.approx(slow / 6)


def test_an_attacker_knows_which_label_belongs_to_which_release() -> None:
    """Of class "yes" the image with label 1 is at +½ and that with label 0 at −½; of class "no" it is the other way.

    Both classes have the same releases and the same labels. Only the pairs tell: the best attacker is right with
    Φ(√2·½/σ).
    """
    mechanism = Gaussian((1,), 1.0, 0.6, 1e-5)
    persons, labels = np.repeat(np.arange(400), 2), np.tile([0, 1], 400)
    classes = persons % 2
    bounded = np.where(labels == classes, 0.5, -0.5)[:, None].astype(np.float32)
    held = HeldOut(bounded, classes, ("no", "yes"), persons, labels)
    law, sets = set_law(mechanism, 2, labelled=True), held_sets(held, 2, seed=0, labelled=True)
    found = certify_attribute(law, sets, label_known=True, draws=20_000)
    truth = 0.8807  # Φ(1.1785)
    assert found.label_floor == pytest.approx(0.5)
    assert found.plug_in == pytest.approx(truth, abs=0.02)
    assert truth < found.bound < truth + 0.1
    without = certify_attribute(set_law(mechanism, 2), held_sets(held, 2, seed=0), draws=20_000)
    assert without.plug_in == pytest.approx(0.5, abs=0.02)  # who does not know the labels reads nothing
