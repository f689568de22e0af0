from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from smartedge.lab.audit.judge import balanced_accuracy_interval, by_person, choose_threshold, judge


def balanced(labels: list[int], given: list[int]) -> float:
    """Mean recall, the slow way."""
    recalls = []
    for cls in sorted(set(labels)):
        right = [g == cls for label, g in zip(labels, given, strict=True) if label == cls]
        recalls.append(sum(right) / len(right))
    return sum(recalls) / len(recalls)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=2, max_size=30))
def test_the_threshold_is_as_good_as_any(pairs: list[tuple[float, bool]]) -> None:
    score, labels = np.array([s for s, _ in pairs]), np.array([int(y) for _, y in pairs])
    if len(set(labels.tolist())) < 2:
        return
    chosen = balanced(labels.tolist(), (score > choose_threshold(score, labels)).astype(int).tolist())
    tried = [balanced(labels.tolist(), (score > cut).astype(int).tolist()) for cut in np.arange(-0.125, 1.25, 0.125)]
    assert chosen == pytest.approx(max(tried))


def test_of_thresholds_that_are_equally_good_the_middle_one_counts() -> None:
    assert choose_threshold(np.arange(6.0), np.array([0, 1, 0, 1, 0, 1])) == 2.5  # 0.5, 2.5 and 4.5 are right on 4 of 6


def test_figures_of_a_known_attack_and_what_is_unknown_is_left_out() -> None:
    val_scores, val = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), np.array([0, 0, 1])
    test_scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]])
    figures = judge(val_scores, val, test_scores, np.array([0, 0, 1, 1, -1]))
    assert figures.balanced_accuracy == pytest.approx(0.75)  # threshold 0.55: one of two noes, both yeses
    assert figures.auroc == pytest.approx(0.75)  # pairs (0.1, 0.8) against (0.9, 0.7): three of four in order
    assert figures.val_balanced_accuracy == 1.0
    assert figures.images == 4
    assert figures.ci95[0] <= 0.75 <= figures.ci95[1]


def test_a_person_counts_once_however_many_images_it_has() -> None:
    """Person 0 has three images of class 0; 1 has one of class 0 and two of class 1; 2 has one of class 1."""
    persons, labels = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 0, 1, 1, 1])
    right = np.array([True, False, False, True, True, False, False])
    # Person 1 stands for each class with half of its weight.
    recalls = (1 / 3 + 1 / 2) / (1 + 1 / 2), (1 / 2 * 1 / 2 + 0) / (1 / 2 + 1)
    assert by_person(labels, right, persons) == pytest.approx(sum(recalls) / 2)
    scores = np.where(right == (labels == 1), 1.0, 0.0)[:, None] * [-1.0, 1.0] + [1.0, 0.0]
    ends, val = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    unknown = np.append(labels, -1), np.append(persons, 0)
    found = judge(ends, val, np.append(scores, [[0.0, 1.0]], axis=0), unknown[0], test_persons=unknown[1])
    assert found.balanced_accuracy_by_person == pytest.approx(sum(recalls) / 2)
    assert found.balanced_accuracy == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert judge(ends, val, scores, labels).balanced_accuracy_by_person is None


def test_the_threshold_comes_from_validation_images_alone() -> None:
    """Test scores that are shifted against the validation ones are misread, as an attacker would misread them."""
    val_scores = np.array([[0.8, 0.2], [0.2, 0.8]])
    shifted = np.array([[0.3, 0.7], [0.1, 0.9]])
    assert judge(val_scores, np.array([0, 1]), shifted, np.array([0, 1])).balanced_accuracy == 0.5


def test_more_than_two_classes_take_the_highest_score() -> None:
    scores = np.eye(3)[[0, 1, 2, 2]]
    assert judge(scores, np.array([0, 1, 2, 2]), scores, np.array([0, 1, 2, 1])).balanced_accuracy == pytest.approx(
        5 / 6
    )


def test_the_interval_is_that_of_a_bootstrap_over_images() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.2).astype(np.int64)
    right = rng.random(400) < 0.8
    value, (low, high) = balanced_accuracy_interval(labels, right)
    slow = []
    for _ in range(2000):
        rows = rng.integers(400, size=400)
        slow.append(np.mean([right[rows][labels[rows] == cls].mean() for cls in (0, 1)]))
    assert value == pytest.approx(np.mean([right[labels == cls].mean() for cls in (0, 1)]))
    # Quantiles of 2000 resamples with deviation 0.025: standard error below 0.0015; 0.01 is more than six of them.
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.01)


def test_the_interval_has_two_sides() -> None:
    """Of one class the resamples are binomial. An end's standard error is 0.0012; that of 90 % is 0.006 off."""
    _, interval = balanced_accuracy_interval(np.zeros(400, np.int64), np.arange(400) < 320)
    assert interval == pytest.approx(binom.ppf([0.025, 0.975], 400, 0.8) / 400, abs=0.004)


@pytest.mark.parametrize(("few", "right", "persons"), [(1, 1, None), (8, 0, None), (8, 8, None), (40, 0, 8)])
def test_an_interval_from_few_of_a_class_is_wide(few: int, right: int, persons: int | None) -> None:
    """Of eight images, of which an attacker read none, every draw shows none: the interval had no width."""
    labels = np.repeat([0, 1], [400, few])
    answers = np.concatenate([np.ones(400, bool), np.arange(few) < right])
    whose = None if persons is None else np.concatenate([np.arange(400), 400 + np.arange(few) % persons])
    value, (low, high) = balanced_accuracy_interval(labels, answers, whose)
    units = persons or few
    assert value == pytest.approx(0.5 + right / few / 2)
    assert low <= value <= high
    recall = beta.ppf([0.025, 0.975], units * right / few + 0.5, units * (1 - right / few) + 0.5)
    assert high - low > 0.95 * (recall[1] - recall[0]) / 2 > 0.1


def test_the_interval_is_over_persons_where_they_are_known() -> None:
    """Each image ten times, as images of one person: the interval stays as it was. Over images it would be shorter."""
    rng = np.random.default_rng(1)
    labels = (rng.random(200) < 0.3).astype(np.int64)
    right = rng.random(200) < 0.7
    value, once = balanced_accuracy_interval(labels, right)
    again, of_persons = balanced_accuracy_interval(np.tile(labels, 10), np.tile(right, 10), np.tile(np.arange(200), 10))
    # Ends of 2000 resamples with deviation 0.035: standard error of a difference below 0.003; 0.02 is six of them.
    assert again == pytest.approx(value) and of_persons == pytest.approx(once, abs=0.02)
    _, of_images = balanced_accuracy_interval(np.tile(labels, 10), np.tile(right, 10))
    assert of_images[1] - of_images[0] < (of_persons[1] - of_persons[0]) / 2
