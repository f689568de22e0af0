"""How well answers fit the labels: accuracy, balanced accuracy, AUROC, and when to ask the cloud.

NumPy only, since the edge computes them too (``docs/decisions/0003-own-metrics.md``). Throughout, for N images and K
outputs, ``scores`` are probabilities of shape (N, K), and ``kind`` is the kind of the :class:`smartedge.types.Task`:

    "single"  labels int (N,) in 0..K-1; the answer is the class of the highest score
    "multi"   labels (N, K) in {0, 1}; the answer of a column is yes where its score is at least 0.5. A label that is
              lacking is NaN: figures are those of the labels that are known, first of each column, then their mean
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "OffloadingCurve",
    "answers",
    "attainable_balanced_accuracy",
    "attribute_bound",
    "confidence",
    "evaluate",
    "gain_interval",
    "kind_of",
    "offloading_curve",
    "probabilities",
    "rounded_down",
    "rounded_up",
    "softmax",
]

Kind = Literal["single", "multi"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Real = TypeVar("Real", np.float32, np.float64)
_LAST_DIGITS = 1e-9  # relative error of a bound by computing in double precision


class OffloadingCurve(NamedTuple):
    """The effect of the exit's confidence threshold. Every field is float64 of shape (P,), thresholds ascending.

    The exit answers an image when its confidence is at least the threshold; otherwise its features go to the back.
    """

    threshold: FloatArray  # the first keeps every image on the edge, the last (inf) offloads every one
    offloaded_share: FloatArray  # share of images that the back answers, ascending from 0 to 1
    accuracy: FloatArray
    balanced_accuracy: FloatArray


class _Array(Protocol):
    """Of NumPy or of torch."""

    @property
    def ndim(self) -> int: ...


def kind_of(labels: _Array) -> Kind:
    """The kind of task that labels are of: (N,) of a single-label one, (N, K) of a multi-label one."""
    return "single" if labels.ndim == 1 else "multi"


def answers(scores: ArrayLike, kind: Kind) -> IntArray:
    """The answers that follow from the scores: int64 of shape (N,) for "single", (N, K) in {0, 1} for "multi"."""
    scores_NK = np.asarray(scores)
    return scores_NK.argmax(axis=1) if kind == "single" else (scores_NK >= 0.5).astype(np.int64)


def probabilities(logits_NK: NDArray[np.float32], kind: Kind) -> NDArray[np.float32]:
    """Logits → probabilities, float32 (N, K): softmax over the classes, or a sigmoid for each column."""
    if kind == "multi":
        # Of −|x| alone, so that nothing overflows.
        small_NK = np.exp(-np.abs(logits_NK))
        return np.asarray(np.where(logits_NK >= 0, 1, small_NK) / (1 + small_NK), dtype=np.float32)
    return np.asarray(softmax(logits_NK), dtype=np.float32)


def softmax(logits_NK: NDArray[Real]) -> NDArray[Real]:
    """Logits → probabilities of the classes (N, K), of the same dtype."""
    weights_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))  # no power overflows
    return np.asarray(weights_NK / weights_NK.sum(axis=1, keepdims=True))


def confidence(scores: ArrayLike, kind: Kind) -> FloatArray:
    """How sure an image's answer is, float64 of shape (N,).

    The probability of the answer; for "multi" the mean of it over the columns.
    """
    scores_NK = np.asarray(scores, dtype=np.float64)
    if kind == "single":
        return np.asarray(scores_NK.max(axis=1))
    return np.asarray(np.maximum(scores_NK, 1 - scores_NK).mean(axis=1))


def evaluate(labels: ArrayLike, scores: ArrayLike, kind: Kind) -> dict[str, float | None]:
    """Measure answers against labels; for "multi" each figure is the mean over the columns.

    Returns:
        ``accuracy``: share of right answers.
        ``balanced_accuracy``: mean recall over the classes that occur.
        ``balanced_accuracy_adjusted``: balanced accuracy of adjusted answers. Each score is divided by the share of its
        class, and the highest quotient is the answer (Menon et al. 2021, logit adjustment). For scores that are true
        probabilities, these answers have the best balanced accuracy. Plain answers do not: an unsure head gives the
        most frequent class to every image.
        ``auroc``: area under the ROC curve; ties count one half. Two classes: of class 1. More: mean of one class
        against the rest. Only classes (or columns) with positives and negatives count; None where there are none.
        ``base_rate``: the accuracy of always giving the most frequent answer.

    Raises:
        ValueError: when shapes or labels do not fit, when there are no images, or when a score is not finite.
    """
    labels_, scores_NK = _checked(labels, scores, kind)
    cells = _Cells(labels_, scores_NK.shape[1], kind)
    right = cells.right(scores_NK)
    if kind == "multi":
        known = labels_ >= 0
        positives = [(scores_NK[known[:, k], k], labels_[known[:, k], k] == 1) for k in range(scores_NK.shape[1])]
    elif scores_NK.shape[1] == 2:
        positives = [(scores_NK[:, 1], labels_ == 1)]
    else:
        positives = [(scores_NK[:, k], labels_ == k) for k in range(scores_NK.shape[1])]
    areas = [_auroc(score, positive) for score, positive in positives if 0 < positive.sum() < len(positive)]
    return {
        "accuracy": cells.mean(right),
        "balanced_accuracy": cells.share(right),
        "balanced_accuracy_adjusted": cells.share(cells.right(cells.adjusted(scores_NK))),
        "auroc": float(np.mean(areas)) if areas else None,
        "base_rate": cells.most_frequent(),
    }


def attainable_balanced_accuracy(labels: ArrayLike, scores: ArrayLike, kind: Kind) -> float:
    """The highest balanced accuracy over all thresholds, as if they had been chosen on the true labels.

    There is one threshold for each yes/no question; "multi" is the mean over the columns. With more than two classes
    there is no threshold, and the better of plain and adjusted answers counts (see :func:`evaluate`).

    Raises:
        ValueError: as :func:`evaluate`.
    """
    labels_, scores_NK = _checked(labels, scores, kind)
    if kind == "single" and scores_NK.shape[1] > 2:
        figures = evaluate(labels, scores, kind)
        return max(figures["balanced_accuracy"] or 0.0, figures["balanced_accuracy_adjusted"] or 0.0)
    yes_NQ = scores_NK[:, 1:] if kind == "single" else scores_NK
    labels_NQ = labels_.reshape(yes_NQ.shape)
    pairs = [(yes_NQ[known, q], labels_NQ[known, q] == 1) for q, known in enumerate((labels_NQ >= 0).T) if known.any()]
    return float(np.mean([_best_threshold(score, truth) for score, truth in pairs]))


def offloading_curve(labels: ArrayLike, exit_scores: ArrayLike, back_scores: ArrayLike) -> OffloadingCurve:
    """Accuracy when the least sure images go to the cloud, from none of them to all.

    The task is a single-label one where ``labels`` has one dimension, else multi-label.

    Raises:
        ValueError: as :func:`evaluate`.
    """
    kind = kind_of(np.asarray(labels))
    labels_, exit_NK = _checked(labels, exit_scores, kind)
    _, back_NK = _checked(labels, back_scores, kind)
    cells = _Cells(labels_, exit_NK.shape[1], kind)
    sureness = confidence(exit_NK, kind)
    order = np.argsort(sureness, kind="stable")
    threshold, offloaded = np.unique(sureness[order], return_index=True)  # index: how many images are less sure
    threshold, offloaded = np.append(threshold, np.inf), np.append(offloaded, len(order))
    gain = (cells.right(back_NK) - cells.right(exit_NK))[order]

    def along(weight: FloatArray) -> FloatArray:
        start = (weight * cells.right(exit_NK)).sum()
        steps = np.cumsum((weight[order] * gain).sum(axis=1))
        shares = start + np.concatenate([[0.0], steps])[offloaded]
        return np.asarray(np.clip(shares, 0.0, 1.0))  # sums may be rounded beyond

    return OffloadingCurve(
        threshold=threshold,
        offloaded_share=offloaded / len(order),
        accuracy=along(cells.plain),
        balanced_accuracy=along(cells.balance),
    )


def gain_interval(
    labels: ArrayLike,
    exit_scores: ArrayLike,
    back_scores: ArrayLike,
    kind: Kind,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Confidence interval of the cloud gain, by a paired bootstrap over images.

    It covers the choice of test images, not the chance of training (seeds).

    Returns:
        ``accuracy`` and ``balanced_accuracy``, each (low, high): back minus exit.

    Raises:
        ValueError: as :func:`evaluate`.
    """
    labels_, exit_NK = _checked(labels, exit_scores, kind)
    _, back_NK = _checked(labels, back_scores, kind)
    cells = _Cells(labels_, exit_NK.shape[1], kind)
    gain = cells.right(back_NK) - cells.right(exit_NK)
    rng = np.random.default_rng(seed)
    accuracy, balanced = np.empty(resamples), np.empty(resamples)
    for r in range(resamples):
        drawn = rng.integers(len(gain), size=len(gain))
        cell, cell_gain = cells.index[drawn].ravel(), gain[drawn].ravel()
        count = np.bincount(cell, minlength=cells.counts.size)[: cells.counts.size].reshape(cells.counts.shape)
        total = np.bincount(cell, weights=cell_gain, minlength=cells.counts.size)[: cells.counts.size]
        some_Q, total = count.any(axis=1), total.reshape(cells.counts.shape)
        mean = total / np.maximum(count, 1)
        accuracy[r] = (total[some_Q].sum(axis=1) / count[some_Q].sum(axis=1)).mean()
        balanced[r] = (mean[some_Q].sum(axis=1) / (count[some_Q] > 0).sum(axis=1)).mean()
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: (float(low), float(high))
        for name, (low, high) in {
            "accuracy": np.quantile(accuracy, tails),
            "balanced_accuracy": np.quantile(balanced, tails),
        }.items()
    }


class _Cells:
    """Sorts every pair (image, question) into a cell by the true answer. Single-label tasks have one question.

    ``counts`` (Q, A) are the sizes of the cells, for Q questions with A answers. ``index`` (N, Q) is the cell of each
    pair, one past the last where the true answer is unknown. ``plain`` and ``balance`` (N, Q) are weights that sum to
    one; with them the share of right answers is accuracy and balanced accuracy. Questions without a known answer do not
    count.
    """

    def __init__(self, labels: IntArray, outputs: int, kind: Kind) -> None:
        self.kind = kind
        self.labels_NQ = labels.reshape(len(labels), -1)
        questions = self.labels_NQ.shape[1]
        options = outputs if kind == "single" else 2
        known_NQ = self.labels_NQ >= 0
        self.whole = bool(known_NQ.all())
        self.index = np.where(known_NQ, self.labels_NQ + options * np.arange(questions), questions * options)
        counts = np.bincount(self.index.ravel(), minlength=questions * options)[: questions * options]
        self.counts = counts.reshape(questions, options)
        occurring_Q, asked = (self.counts > 0).sum(axis=1), int(known_NQ.any(axis=0).sum())
        sizes_NQ = np.append(counts, 1)[self.index]
        self.balance = known_NQ / (sizes_NQ * np.maximum(occurring_Q, 1) * asked)
        self.plain = known_NQ / (np.maximum(self.counts.sum(axis=1), 1) * asked)

    def adjusted(self, scores_NK: FloatArray) -> FloatArray:
        """Scores (N, K) as they would be if all classes that occur were equally common."""
        if self.kind == "single":
            shares_K = self.counts[0] / len(scores_NK)  # of a single-label task, all answers are known
            adjusted_NK: FloatArray = np.divide(scores_NK, shares_K, out=np.zeros_like(scores_NK), where=shares_K > 0)
            return adjusted_NK
        yes_K: FloatArray = self.counts[:, 1] / np.maximum(self.counts.sum(axis=1), 1)
        yes_NK, no_NK = scores_NK * (1 - yes_K), (1 - scores_NK) * yes_K
        both = (yes_K > 0) & (yes_K < 1)
        return np.divide(yes_NK, yes_NK + no_NK, out=scores_NK.copy(), where=np.broadcast_to(both, scores_NK.shape))

    def mean(self, right_NQ: FloatArray) -> float:
        """The share of right answers, by question."""
        return float(right_NQ.mean()) if self.whole else float((self.plain * right_NQ).sum())

    def most_frequent(self) -> float:
        """The share of the most frequent answer, by question."""
        totals_Q = self.counts.sum(axis=1)
        asked = totals_Q > 0
        return float((self.counts[asked].max(axis=1) / totals_Q[asked]).mean())

    def share(self, right_NQ: FloatArray) -> float:
        """Balanced accuracy of answers. The weights' sum may be rounded to more than one; a share is not."""
        return min(float((self.balance * right_NQ).sum()), 1.0)

    def right(self, scores_NK: FloatArray) -> FloatArray:
        """1.0 where the answer is right, else 0.0; shape (N, Q)."""
        given_NQ = answers(scores_NK, self.kind).reshape(self.labels_NQ.shape)
        return np.asarray(given_NQ == self.labels_NQ, dtype=np.float64)


def _auroc(score: FloatArray, positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney: the probability that a positive scores above a negative; ties count one half (midranks)."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    midrank = np.cumsum(count) - (count - 1) / 2
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    return float((midrank[place[positive]].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def _best_threshold(score: FloatArray, positive: NDArray[np.bool_]) -> float:
    """The highest mean recall over all thresholds t, for "yes if the score is at least t"; 1 for a single class."""
    if positive.all() or not positive.any():
        return 1.0
    values, place = np.unique(score, return_inverse=True)
    yes = np.bincount(place, weights=positive, minlength=len(values)) / positive.sum()
    no = np.bincount(place, weights=~positive, minlength=len(values)) / (~positive).sum()
    # Between thresholds the recall of yes falls by ``yes``, and that of no rises by ``no``.
    return min(float((1 + np.concatenate([[0.0], np.cumsum(no - yes)]).max()) / 2), 1.0)


def _checked(labels: ArrayLike, scores: ArrayLike, kind: Kind) -> tuple[IntArray, FloatArray]:
    given, scores_NK = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    lacking = np.isnan(given) if kind == "multi" and given.dtype.kind == "f" else np.zeros(given.shape, bool)
    labels_ = np.where(lacking, -1, given).astype(np.int64)
    expected = scores_NK.shape[:1] if kind == "single" else scores_NK.shape
    if scores_NK.ndim != 2 or labels_.shape != expected:
        raise ValueError(
            f"scores must be (images, outputs) and labels {'(images,)' if kind == 'single' else 'the same shape'}, "
            f"but got scores {scores_NK.shape} and labels {labels_.shape}"
        )
    if scores_NK.size == 0 or lacking.all():
        raise ValueError("there are no images to evaluate; the split is empty")
    answers_possible = scores_NK.shape[1] if kind == "single" else 2
    if labels_[~lacking].min() < 0 or labels_.max() >= answers_possible:
        raise ValueError(f"labels must lie in 0..{answers_possible - 1}, but span {labels_.min()}..{labels_.max()}")
    if not np.isfinite(scores_NK).all():
        broken = int((~np.isfinite(scores_NK)).any(axis=1).sum())
        raise ValueError(
            f"the scores of {broken} of {len(scores_NK)} images are not finite: the network has diverged; "
            "lower train.lr or train.clip_grad_norm"
        )
    return labels_, scores_NK


def rounded_up(bound: float, digits: int | None = None) -> float:
    """An upper bound, never below itself: a text must not promise more than was shown.

    Args:
        bound: such as a share or an ε, ≥ 0.
        digits: significant digits of the result; None: three decimals.
    """
    if digits is None:
        return math.ceil(1000 * bound - 1e-9) / 1000
    return float(Context(digits, ROUND_CEILING).create_decimal_from_float(bound * (1 - _LAST_DIGITS)))


def rounded_down(bound: float, digits: int) -> float:
    """A lower bound ≥ 0 with so many significant digits, never above itself."""
    return float(Context(digits, ROUND_FLOOR).create_decimal_from_float(bound * (1 + _LAST_DIGITS)))


def attribute_bound(epsilon: float, delta: float) -> float:
    """The highest balanced accuracy with which anyone reads a yes/no attribute from an (ε, δ) release.

    A test of one image against another has true-positive rate ≤ e^ε · false-positive rate + δ, and the same with the
    images exchanged (Kairouz, Oh & Viswanath 2015, §2). So balanced accuracy ≤ (e^ε + δ) / (1 + e^ε).

    Args:
        epsilon: ε of the whole feature map, ≥ 0; infinity gives 1.
        delta: δ of the release, 0 ≤ δ < 1.
    """
    small = math.exp(-epsilon)  # divided by e^ε, so that no ε overflows
    return min(1.0, (1 + delta * small) / (1 + small))
