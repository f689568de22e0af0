"""Our metrics against scikit-learn and against plain loops."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartedge import metrics
from smartedge.metrics import (
    answers,
    attainable_balanced_accuracy,
    attribute_bound,
    confidence,
    evaluate,
    gain_interval,
    offloading_curve,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is a development dependency")


def draw_task(seed: int, kind: str, images: int, outputs: int, levels: int):
    """Labels and two sets of scores that carry some signal; few ``levels`` make many ties."""
    rng = np.random.default_rng(seed)
    if kind == "single":
        labels = rng.integers(outputs, size=images)
        truth = np.eye(outputs)[labels]
    else:
        labels = truth = rng.integers(2, size=(images, outputs))
    both = []
    for noise in (1.0, 0.6):
        scores = np.round((truth + noise * rng.random((images, outputs))) / (1 + noise) * levels) / levels
        if kind == "single":
            scores = (scores + 1e-3) / (scores + 1e-3).sum(axis=1, keepdims=True)
        both.append(scores)
    return labels, *both


tasks = {
    "seed": st.integers(0, 2**32 - 1),
    "images": st.integers(2, 60),
    "outputs": st.integers(2, 6),
    "levels": st.sampled_from([2, 5, 1000]),
}


@given(**tasks)
@settings(max_examples=60, deadline=None)
def test_single_label_equals_scikit_learn(seed, images, outputs, levels):
    labels, scores, _ = draw_task(seed, "single", images, outputs, levels)
    ours = evaluate(labels, scores, "single")
    given_answers = scores.argmax(axis=1)
    recall = sklearn_metrics.recall_score(
        labels, given_answers, labels=np.unique(labels), average="macro", zero_division=0
    )
    assert ours["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, given_answers))
    assert ours["balanced_accuracy"] == pytest.approx(recall)
    assert ours["base_rate"] == pytest.approx(np.bincount(labels).max() / images)
    present = np.unique(labels)
    if len(present) == 1:
        assert ours["auroc"] is None
    elif outputs == 2:
        assert ours["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores[:, 1]))
    else:
        each = [sklearn_metrics.roc_auc_score(labels == k, scores[:, k]) for k in present]
        assert ours["auroc"] == pytest.approx(np.mean(each))
        if len(present) == outputs:
            whole = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
            assert ours["auroc"] == pytest.approx(whole)


@given(**tasks)
@settings(max_examples=60, deadline=None)
def test_multi_label_is_the_mean_over_columns(seed, images, outputs, levels):
    labels, scores, _ = draw_task(seed, "multi", images, outputs, levels)
    ours = evaluate(labels, scores, "multi")
    columns = [
        evaluate(labels[:, k], np.stack([1 - scores[:, k], scores[:, k]], axis=1), "single") for k in range(outputs)
    ]
    # a score of exactly one half is a yes in a column, but argmax takes the first of two equal classes
    plain = (scores >= 0.5) == labels
    assert ours["accuracy"] == pytest.approx(plain.mean())
    recalls = [
        np.mean([plain[labels[:, k] == answer, k].mean() for answer in np.unique(labels[:, k])]) for k in range(outputs)
    ]
    assert ours["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert ours["base_rate"] == pytest.approx(np.mean([column["base_rate"] for column in columns]))
    areas = [column["auroc"] for column in columns if column["auroc"] is not None]
    assert ours["auroc"] == (pytest.approx(np.mean(areas)) if areas else None)


def test_an_unsure_head_is_measured_by_the_answers_that_its_scores_are_good_for():
    """Seven of ten images are of class 0, and what little the head knows never makes class 1 the likelier one."""
    labels = np.array([0] * 70 + [1] * 30)
    yes = np.where(labels == 1, 0.45, 0.25)
    yes[:7], yes[70:73] = 0.45, 0.25  # a tenth of each class is mistaken
    scores = np.stack([1 - yes, yes], axis=1)
    single, multi = evaluate(labels, scores, "single"), evaluate(labels[:, None], yes[:, None], "multi")
    assert single["balanced_accuracy"] == multi["balanced_accuracy"] == 0.5
    assert single["balanced_accuracy_adjusted"] == pytest.approx(0.9)
    assert multi["balanced_accuracy_adjusted"] == pytest.approx(0.9)


@given(**tasks)
@settings(max_examples=60, deadline=None)
def test_adjusted_answers_are_the_highest_scores_in_proportion_to_their_classes_shares(seed, images, outputs, levels):
    labels, scores, _ = draw_task(seed, "single", images, outputs, levels)
    present, counts = np.unique(labels, return_counts=True)
    chosen = present[(scores[:, present] / counts).argmax(axis=1)]
    recalls = [(chosen[labels == k] == k).mean() for k in present]
    found = evaluate(labels, scores, "single")
    assert found["balanced_accuracy_adjusted"] == pytest.approx(np.mean(recalls))
    if len(present) == outputs and len(set(counts)) == 1:
        assert found["balanced_accuracy_adjusted"] == pytest.approx(found["balanced_accuracy"])


@given(**tasks)
@settings(max_examples=60, deadline=None)
def test_what_is_attainable_equals_trying_every_threshold(seed, images, outputs, levels):
    labels, scores, _ = draw_task(seed, "multi", images, outputs, levels)
    each = []
    for truth, score in zip(labels.T, scores.T, strict=True):
        given = [score >= t for t in [*np.unique(score), np.inf]]
        each.append(max(np.mean([(yes[truth == k] == k).mean() for k in np.unique(truth)]) for yes in given))
        one = attainable_balanced_accuracy(truth, np.stack([1 - score, score], axis=1), "single")
        assert one == pytest.approx(each[-1])
        figures = evaluate(truth, np.stack([1 - score, score], axis=1), "single")
        assert one >= max(figures["balanced_accuracy"], figures["balanced_accuracy_adjusted"]) - 1e-9
    assert attainable_balanced_accuracy(labels, scores, "multi") == pytest.approx(np.mean(each))


def test_a_column_with_one_answer_only_is_adjusted_to_nothing():
    labels, scores = np.array([[0, 1], [0, 1]]), np.array([[0.2, 0.9], [0.6, 0.4]])
    found = evaluate(labels, scores, "multi")
    assert found["balanced_accuracy_adjusted"] == found["balanced_accuracy"] == 0.5


@given(kind=st.sampled_from(["single", "multi"]), **tasks)
@settings(max_examples=60, deadline=None)
def test_offloading_curve_equals_trying_every_threshold(kind, seed, images, outputs, levels):
    labels, exit_scores, back_scores = draw_task(seed, kind, images, outputs, levels)
    curve = offloading_curve(labels, exit_scores, back_scores)
    assert (np.diff(curve.threshold) > 0).all() and (np.diff(curve.offloaded_share) > 0).all()
    assert curve.offloaded_share[0] == 0 and curve.offloaded_share[-1] == 1
    sureness = confidence(exit_scores, kind)
    for threshold, share, accuracy, balanced in zip(*curve, strict=True):
        stays = sureness >= threshold
        mixed = evaluate(labels, np.where(stays[:, None], exit_scores, back_scores), kind)
        assert share == pytest.approx(1 - stays.mean())
        assert accuracy == pytest.approx(mixed["accuracy"])
        assert balanced == pytest.approx(mixed["balanced_accuracy"])


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_gain_interval_equals_plain_resampling(kind):
    labels, exit_scores, back_scores = draw_task(3, kind, 40, 3, 20)
    fast = gain_interval(labels, exit_scores, back_scores, kind, resamples=50, seed=5)
    rng = np.random.default_rng(5)
    gains = []
    for _ in range(50):
        drawn = rng.integers(40, size=40)
        exit_, back = (evaluate(labels[drawn], s[drawn], kind) for s in (exit_scores, back_scores))
        gains.append([back[name] - exit_[name] for name in ("accuracy", "balanced_accuracy")])
    for name, column in zip(("accuracy", "balanced_accuracy"), np.transpose(gains), strict=True):
        assert fast[name] == pytest.approx(tuple(np.quantile(column, [0.025, 0.975])))


def test_gain_interval_covers_the_true_gain_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        labels = rng.integers(2, size=200)
        exit_ = np.eye(2)[np.where(rng.random(200) < 0.8, labels, 1 - labels)]
        back = np.eye(2)[np.where(rng.random(200) < 0.9, labels, 1 - labels)]
        low, high = gain_interval(labels, exit_, back, "single", resamples=200, seed=trial)["balanced_accuracy"]
        covered += low <= 0.1 <= high
    assert 87 <= covered <= 99


def test_equal_heads_have_no_gain():
    labels, scores, _ = draw_task(0, "single", 50, 4, 10)
    assert gain_interval(labels, scores, scores, "single")["balanced_accuracy"] == (0.0, 0.0)


def test_answers_and_confidence_by_hand():
    scores = np.array([[0.2, 0.9], [0.5, 0.5]])
    assert answers(scores, "single").tolist() == [1, 0]
    assert answers(scores, "multi").tolist() == [[0, 1], [1, 1]]
    assert confidence(scores, "single").tolist() == [0.9, 0.5]
    assert confidence(scores, "multi").tolist() == pytest.approx([0.85, 0.5])


@pytest.mark.parametrize(
    ("labels", "scores", "kind", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "single", "labels"),
        ([0, 1], [0.5, 0.5], "single", "scores must be"),
        ([0], [[0.5, 0.5]], "multi", "same shape"),
        (np.zeros(0), np.zeros((0, 2)), "single", "split is empty"),
        ([2], [[0.5, 0.5]], "single", "lie in 0..1, but span 2..2"),
        ([[2, 0]], [[0.5, 0.5]], "multi", "lie in 0..1"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.1]], "single", "1 of 2 images are not finite.*train.lr"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels, scores, kind, message):
    with pytest.raises(ValueError, match=message):
        evaluate(labels, scores, kind)


def test_needs_numpy_alone():
    path = metrics.__file__
    code = f"import runpy, sys; runpy.run_path({path!r}); print({{'torch', 'scipy', 'sklearn'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_all_right_is_exactly_one_for_any_counts() -> None:
    """The weights are rounded: for 1 660 of these 10 000 pairs of counts their sum is above one."""
    above = 0
    for zeros in range(1, 101):
        for ones in range(1, 101):
            labels = np.array([0] * zeros + [1] * ones)
            weights = 1 / (np.bincount(labels)[labels] * 2)
            above += weights.sum() > 1
            if weights.sum() > 1:
                scores = np.eye(2)[labels]
                figures = evaluate(labels, scores, "single")
                assert figures["balanced_accuracy"] == figures["balanced_accuracy_adjusted"] == 1.0
                assert offloading_curve(labels, scores, scores).balanced_accuracy.max() <= 1.0
    assert above > 100


@given(**tasks)
@settings(max_examples=40, deadline=None)
def test_labels_that_are_lacking_count_for_nothing(seed, images, outputs, levels):
    labels, one, other = draw_task(seed, "multi", images, outputs, levels)
    lacking = np.random.default_rng(seed).random(labels.shape) < 0.4
    lacking[0, 0] = False
    labels = np.where(lacking, np.nan, labels)
    columns = [(k, ~lacking[:, k]) for k in range(outputs) if not lacking[:, k].all()]

    def mean(figure_of) -> float:
        return np.mean([figure_of(labels[known][:, [k]], one[known][:, [k]], "multi") for k, known in columns])

    ours = evaluate(labels, one, "multi")
    for name in ("accuracy", "balanced_accuracy", "balanced_accuracy_adjusted", "base_rate"):
        assert ours[name] == pytest.approx(mean(lambda *of, name=name: evaluate(*of)[name]))
    assert attainable_balanced_accuracy(labels, one, "multi") == pytest.approx(mean(attainable_balanced_accuracy))
    curve = offloading_curve(labels, one, other)
    for scores, place in ((one, 0), (other, -1)):  # the first point offloads nothing, the last one everything
        of = evaluate(labels, scores, "multi")
        assert curve.accuracy[place] == pytest.approx(of["accuracy"])
        assert curve.balanced_accuracy[place] == pytest.approx(of["balanced_accuracy"])
    gain = {name: evaluate(labels, other, "multi")[name] - ours[name] for name in ("accuracy", "balanced_accuracy")}
    if lacking.mean() < 0.9 and images >= 20:
        for name, (low, high) in gain_interval(labels, one, other, "multi", level=0.999, resamples=200).items():
            assert low - 0.1 <= gain[name] <= high + 0.1


def test_without_a_single_label_nothing_can_be_measured():
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(np.full((3, 2), np.nan), np.full((3, 2), 0.4), "multi")


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.1])
def test_the_bound_is_that_of_the_best_test_of_one_image_against_another(epsilon, delta):
    # Independent of the formula: the best point of TPR <= e^eps FPR + delta and 1 - FPR <= e^eps (1 - TPR) + delta
    fpr = np.linspace(0, 1, 200_001)
    tpr = np.minimum(math.exp(epsilon) * fpr + delta, 1 - (1 - fpr - delta) / math.exp(epsilon))
    best = ((np.clip(tpr, 0, 1) + 1 - fpr) / 2).max()
    assert attribute_bound(epsilon, delta) == pytest.approx(best, abs=1e-4)


def test_the_bound_of_no_guarantee_is_certainty():
    assert attribute_bound(math.inf, 0.0) == 1.0
    assert attribute_bound(5000.0, 1e-5) == 1.0
