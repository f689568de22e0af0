"""Judges how well an attack read an attribute. All attacks, references and reconstructions follow the same rule.

Scores are probabilities (N, K) of an attribute's classes, from an attacker that treats all classes as equally frequent.
Labels are int64 (N,), −1 where an image has none; such images are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge import metrics
from smartedge.artifacts.attacks import AttackFigures
from smartedge.types import Floats, Ints

__all__ = ["balanced_accuracy_interval", "by_person", "choose_threshold", "decide", "judge", "selection_score"]


_LEVEL = 0.95  # of intervals
_RESAMPLES = 2000
_FEW = 30  # persons, or images: of a class with fewer, what was drawn again and again says too little


def judge(
    val_scores_NK: Floats,
    val_labels: Ints,
    test_scores_NK: Floats,
    test_labels: Ints,
    *,
    test_persons: Ints | None = None,
) -> AttackFigures:
    """The figures of an attack on the protected images.

    For a yes/no attribute, the threshold is chosen on the validation images. Otherwise the highest score counts.
    ``test_persons``, int64 (N,), is the person in each protected image; None where it is not known.
    """
    persons = None if test_persons is None else test_persons[test_labels >= 0]
    val_scores_NK, val_labels = _known(val_scores_NK, val_labels)
    test_scores_NK, test_labels = _known(test_scores_NK, test_labels)
    threshold = choose_threshold(val_scores_NK[:, 1], val_labels) if val_scores_NK.shape[1] == 2 else None
    right = decide(test_scores_NK, threshold) == test_labels
    figures = metrics.evaluate(test_labels, test_scores_NK, "single")
    balanced, interval = balanced_accuracy_interval(test_labels, right, persons)
    val_balanced, _ = balanced_accuracy_interval(val_labels, decide(val_scores_NK, threshold) == val_labels)
    return AttackFigures.model_validate(
        {
            "balanced_accuracy": balanced,
            "auroc": figures["auroc"],
            "ci95": interval,
            "balanced_accuracy_by_person": None if persons is None else by_person(test_labels, right, persons),
            "val_balanced_accuracy": val_balanced,
            "base_rate": figures["base_rate"],
            "images": len(test_labels),
        }
    )


def by_person(labels: Ints, right: NDArray[np.bool_], persons: Ints) -> float:
    """Mean recall over the classes that occur, in the population of the certificate (docs/certificate.md).

    A random person, a random one of the classes of its images, a random image of that class.
    """
    classes, class_N = np.unique(labels, return_inverse=True)
    names, person_N = np.unique(persons, return_inverse=True)
    images_PK = np.zeros((len(names), len(classes)))
    np.add.at(images_PK, (person_N, class_N), 1)
    weight_N = 1 / images_PK[person_N, class_N] / (images_PK > 0).sum(axis=1)[person_N]
    total_K = np.bincount(class_N, weight_N)
    return float(np.mean(np.bincount(class_N, weight_N * right) / total_K))


def choose_threshold(score: Floats, labels: Ints) -> float:
    """The threshold on P(yes) with the highest balanced accuracy. If several are equally good: the middle one."""
    order = np.argsort(score, kind="stable")
    ranked, yes = score[order], labels[order] == 1
    yeses, noes = max(int(yes.sum()), 1), max(int((~yes).sum()), 1)
    # Threshold number i answers yes for the images i, i + 1, …; for i = 0 that is all images, for i = N none.
    right_yes = yes.sum() - np.concatenate([[0], np.cumsum(yes)])
    right_no = np.concatenate([[0], np.cumsum(~yes)])
    balanced = right_yes / yeses + right_no / noes
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    best = np.flatnonzero(possible & np.isclose(balanced, balanced[possible].max(), rtol=0, atol=1e-12))
    cuts = np.concatenate([[ranked[0] - 1], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] + 1]])
    return float(cuts[best[len(best) // 2]])


def decide(scores_NK: Floats, threshold: float | None) -> Ints:
    """The answers, int64 (N,): 1 where P(yes) is above the threshold; without one, the class with the highest score."""
    if threshold is None:
        return np.asarray(scores_NK.argmax(axis=1), dtype=np.int64)
    return np.asarray(scores_NK[:, 1] > threshold, dtype=np.int64)


def balanced_accuracy_interval(
    labels: Ints, right: NDArray[np.bool_], persons: Ints | None = None
) -> tuple[float, tuple[float, float]]:
    """Mean recall over the classes that occur, and its bootstrap interval, at 95 %.

    Persons are drawn with replacement, each with all of its images. Images of one person are alike, so an interval over
    images would be too short. Where persons are not known, images are drawn. The interval covers the choice of test
    images, not the variation of training.

    Of a class with one image, each draw shows the same answer. So where a class has few persons or images, the interval
    also holds 95 % of what its recall may be: a beta law for each class (Jeffreys), as if each person had one image.

    Args:
        labels: int64 (N,), without unknown ones.
        right: whether the answer is right, (N,).
        persons: int64 (N,), the person in each image; None where they are not known.
    """
    classes, index = np.unique(labels, return_inverse=True)
    cell_N, cells = 2 * index + right, 2 * len(classes)  # class, and whether the answer is right
    cells_C = np.bincount(cell_N, minlength=cells)
    rng = np.random.default_rng(0)
    if persons is None:
        drawn_RC = rng.multinomial(len(labels), cells_C / len(labels), size=_RESAMPLES)
        units_K = cells_C.reshape(-1, 2).sum(axis=1)
    else:
        names, person_N = np.unique(persons, return_inverse=True)
        cells_PC = np.zeros((len(names), cells), dtype=np.int64)
        np.add.at(cells_PC, (person_N, cell_N), 1)
        drawn_RC = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES) @ cells_PC
        units_K = (cells_PC.reshape(len(names), -1, 2).sum(axis=2) > 0).sum(axis=0)
    ends = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    low, high = np.quantile(_mean_recall(drawn_RC), ends)
    if min(units_K, default=_FEW) < _FEW:
        right_K = units_K * cells_C[1::2] / cells_C.reshape(-1, 2).sum(axis=1)
        recall_RK = rng.beta(right_K + 0.5, units_K - right_K + 0.5, size=(_RESAMPLES, len(units_K)))
        widest = np.quantile(recall_RK.mean(axis=1), ends)
        low, high = min(low, widest[0]), max(high, widest[1])
    return float(_mean_recall(cells_C[None])[0]), (float(low), float(high))


def selection_score(scores_NK: Floats, labels: Ints) -> float:
    """The score by which an attacker chooses an epoch or a network: AUROC, which needs no threshold."""
    scores_NK, labels = _known(scores_NK, labels)
    value = metrics.evaluate(labels, scores_NK, "single")["auroc"]
    return 0.5 if value is None else value


def _mean_recall(cells_RC: NDArray[Any]) -> Floats:
    wrong, right = cells_RC[:, 0::2], cells_RC[:, 1::2]
    total = wrong + right
    recall = right / np.maximum(total, 1)
    return np.asarray(recall.sum(axis=1) / np.maximum((total > 0).sum(axis=1), 1), dtype=np.float64)


def _known(scores_NK: Floats, labels: Ints) -> tuple[Floats, Ints]:
    known = labels >= 0
    return np.asarray(scores_NK, dtype=np.float64)[known], labels[known]
