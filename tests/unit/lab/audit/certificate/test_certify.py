from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smartedge.errors import DataError
from smartedge.lab.audit.certificate.bounds import binomial_bound, bounded_differences
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.certificate.posterior import posterior_attack
from smartedge.lab.audit.certificate.whole import Statement, certificate_of
from smartedge.privacy.laws import ReleaseLaw, release_law
from smartedge.privacy.mechanisms import make_mechanism
from smartedge.runs.progress import Quiet

NAMES = ("no", "yes")


def _law(sigma: float = 0.4, numbers: int = 2, releases: int = 1) -> ReleaseLaw:
    mechanism = make_mechanism("gaussian", feature_shape=(numbers,), sigma=sigma, bottleneck=True)
    return release_law(mechanism, releases)


def _certify(law: ReleaseLaw, features, classes, names=NAMES, persons=None, labels=None, **how):  # type: ignore[no-untyped-def]
    return certify_attribute(law, HeldOut(features, classes, names, persons, labels), **how)


def _images(count: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = (np.arange(count) % 3 > 0).astype(np.int64)
    return np.tanh(rng.normal(size=(count, 2)) * 0.3 + shift * (2 * classes - 1)[:, None]), classes


def test_the_parts_of_the_bound() -> None:
    features, classes = _images(300, 0.3, 1)
    found = _certify(_law(), features, classes, NAMES, draws=5_000)
    assert (found.units, found.images, found.method, found.draws) == ((100, 200), 300, "binomial", 5_000)
    assert found.bound == pytest.approx(
        binomial_bound(found.plug_in + found.draws_error, (100, 200), 0.05 * 0.98), abs=1e-9
    )
    assert found.plug_in < found.bound < found.dp_bound
    assert found.label_floor is None and not found.label_known
    surer = _certify(_law(), features, classes, NAMES, draws=5_000, confidence=0.999)
    assert surer.bound > found.bound


def test_weak_releases_use_the_distance_of_the_noise() -> None:
    features, classes = _images(300, 0.3, 1)
    law = _law(sigma=3.0)
    assert law.distance < 0.4
    found = _certify(law, features, classes, NAMES, draws=5_000)
    seen = found.plug_in + found.draws_error
    assert found.method == "bounded-differences"
    assert found.bound == pytest.approx(seen + bounded_differences((100, 200), 0.05 * 0.98, law.distance), abs=1e-9)
    # However few images there are, the law of the noise alone bounds every attacker.
    few = _certify(_law(sigma=30.0), features[:40], classes[:40], NAMES, draws=2_000, confidence=0.999999)
    assert few.bound <= few.dp_bound < 0.53


def test_an_attacker_on_three_codewords_reaches_what_the_noise_alone_allows() -> None:
    """Each class is one codeword. With K classes the noise allows (1 + (K − 1)τ)/K, not (1 + τ)/K."""
    law = release_law(make_mechanism("randomised-response", feature_shape=(3,), codebook=3, epsilon=1.0))
    classes = np.arange(15) % 3
    found = _certify(law, np.eye(3)[classes], classes, ("a", "b", "c"))
    assert found.plug_in == pytest.approx(math.e / (math.e + 2))
    assert found.bound == pytest.approx(found.plug_in, abs=1e-9) and found.bound >= found.plug_in - 1e-15
    assert found.dp_bound == found.bound


def test_how_far_the_sampler_is_from_its_law_is_a_part_of_the_bound() -> None:
    features, classes = _images(300, 0.3, 1)
    law: Any = _law(sigma=3.0)
    exact, wrong = (_certify(replace(law, sampling_bias=bias), features, classes, draws=2_000) for bias in (0.0, 0.01))
    assert wrong.bound == pytest.approx(exact.bound + 0.01)
    assert wrong.dp_bound == pytest.approx(exact.dp_bound + 0.01)


def test_one_number_needs_no_draws_and_several_releases_tell_more() -> None:
    features, classes = _images(300, 0.3, 1)
    single = _certify(_law(numbers=1), features[:, :1], classes, NAMES)
    assert single.draws == 0 and single.draws_error == 0
    several = _certify(_law(numbers=1, releases=4), features[:, :1], classes, NAMES, draws=5_000)
    assert several.plug_in > single.plug_in + 0.02


def test_a_certificate_is_about_all_the_releases_that_it_states() -> None:
    features, classes = _images(300, 0.3, 1)
    mechanism = make_mechanism("gaussian", feature_shape=(1,), sigma=0.4, bottleneck=True)
    held = {"male": HeldOut(features[:, :1], classes, NAMES)}
    for releases in (1, 4):
        statement = Statement(0.9, releases, False, ("test",), None, False)
        found = certificate_of(mechanism, held, statement, seed=3, monitor=Quiet(), draws=2_000)
        law = release_law(mechanism, releases)
        wanted = certify_attribute(law, held["male"], confidence=0.9, seed=3, draws=2_000)
        assert (found.releases, found.confidence, found.attributes["male"]) == (releases, 0.9, wanted)


def test_what_the_label_tells_is_stated_and_added_only_where_it_is_known() -> None:
    _, classes = _images(300, 0.3, 1)
    labels = np.where(np.arange(300) % 5 == 0, 1 - classes, classes)
    features = np.zeros((300, 2))
    alone, told = (
        _certify(_law(), features, classes, NAMES, labels=labels, label_known=known, draws=2_000)
        for known in (False, True)
    )
    assert alone.label_floor == told.label_floor == pytest.approx(0.8)
    assert alone.plug_in == pytest.approx(0.5) and told.plug_in == pytest.approx(0.8, abs=0.01)
    assert told.label_known


def test_images_of_one_person_count_once() -> None:
    features, classes = _images(300, 0.3, 1)
    apart = _certify(_law(), features, classes, NAMES, draws=5_000)
    # Every image five times, as images of one person: what is known does not grow.
    again = _certify(
        _law(), np.tile(features, (5, 1)), np.tile(classes, 5), NAMES, persons=np.tile(np.arange(300), 5), draws=5_000
    )
    assert again.units == apart.units and again.images == 1500
    assert again.bound == pytest.approx(apart.bound, abs=0.015)


def test_few_persons_of_a_class_make_a_wide_bound() -> None:
    features, classes = _images(300, 0.1, 1)
    bounds = {}
    for persons in (1, 9, 60):
        keep = np.flatnonzero((classes == 1) | (np.cumsum(classes == 0) <= persons))
        found = _certify(_law(), features[keep], classes[keep], NAMES, draws=5_000)
        assert found.units == (persons, int((classes == 1).sum()))
        bounds[persons] = found.bound
    assert bounds[60] < 0.75 < bounds[9] < 0.9 < bounds[1] <= 1


def test_a_class_that_nobody_has_cannot_be_bounded() -> None:
    features, classes = _images(90, 0.3, 1)
    with pytest.raises(DataError, match=r"no held-out person of a class \(no: 90, yes: 0\)"):
        _certify(_law(), features, np.zeros(90, dtype=np.int64), NAMES)
    with pytest.raises(DataError, match="no held-out image has a value of it"):
        _certify(_law(), features, np.full(90, -1), NAMES)
    with pytest.raises(ValueError, match="confidence"):
        _certify(_law(), features, classes, NAMES, confidence=1.0)


def test_the_posterior_attack_reads_what_can_be_read_and_no_more_than_is_certified() -> None:
    law = _law()
    own, own_classes = _images(3000, 0.3, 2)
    held, held_classes = _images(1500, 0.3, 3)
    released = law.sample(law.inputs(held), np.random.default_rng(4))
    scores = posterior_attack(law, own, own_classes, released[None], classes=2)
    assert scores.shape == (1500, 2) and scores.sum(axis=1) == pytest.approx(1)
    right = scores.argmax(axis=1) == held_classes
    accuracy = np.mean([right[held_classes == k].mean() for k in (0, 1)])
    found = _certify(law, held, held_classes, NAMES, draws=20_000)
    assert found.plug_in - 0.03 < accuracy < found.bound


def test_the_posterior_attack_takes_the_label_into_account() -> None:
    law = _law()
    own, own_classes = _images(600, 0.0, 2)
    labels = np.where(np.arange(600) % 5 == 0, 1 - own_classes, own_classes)
    released = law.sample(law.inputs(np.zeros((4, 2))), np.random.default_rng(4))
    scores = posterior_attack(
        law,
        own,
        np.where(np.arange(600) < 10, -1, own_classes),
        released[None],
        classes=2,
        own_labels_N=labels,
        labels_M=np.array([0, 1, 1, 7]),
    )
    assert scores.argmax(axis=1)[:3].tolist() == [0, 1, 1]
    assert scores[3] == pytest.approx(0.5)  # a label that no image of the attacker's has


def test_a_known_label_is_not_hidden_by_noise_on_the_features() -> None:
    """The label is the attribute: whoever knows it is always right, however weak the releases are."""
    _, classes = _images(300, 0.3, 1)
    found = _certify(
        _law(sigma=30.0), np.zeros((300, 2)), classes, NAMES, labels=classes, label_known=True, draws=2_000
    )
    assert found.bound == found.dp_bound == 1.0
