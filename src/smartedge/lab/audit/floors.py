"""Floors: how well an attacker reads an attribute from the desired label alone.

*Label floor*: the attacker sees only the true desired label. A defence that keeps the label cannot be below this floor.
*Prediction floor*: the attacker sees only the task exit's answer, as if the edge sent nothing else. Both are at least
the accuracy of a guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smartedge import metrics
from smartedge.artifacts.attacks import NamedFigures
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.judge import judge
from smartedge.lab.audit.trees import Table, fit_logistic, fit_trees
from smartedge.types import SPLITS, Floats, Ints

__all__ = ["label_floor", "prediction_floor", "table_attack"]

Answers = Ints | NDArray[np.float32]


def label_floor(evidence: Evidence, attribute: str) -> NamedFigures:
    """The best attack that sees only the true desired label, judged as any other attack."""
    desired = (evidence.train.desired, evidence.val.desired, evidence.test_desired)
    return _floor(evidence, attribute, *(labels.numpy() for labels in desired))


def prediction_floor(evidence: Evidence, attribute: str) -> NamedFigures | None:
    """The best attack that sees only the task exit's answer; None where the method has no exit."""
    if not evidence.exit_scores:
        return None
    train, val, test = (_answers(evidence, evidence.exit_scores[split]) for split in SPLITS)
    return _floor(evidence, attribute, train, val, test)


def table_attack(answers_N: Ints, labels: Ints, *others_N: Ints, options: int, classes: int) -> tuple[Floats, ...]:
    """The balanced posterior of the attribute given one answer, counted on the attacker's own images.

    An attacker that sees only the answer can only use a function of it. With enough images this function is the best.

    Args:
        answers_N: the answers to the attacker's own images, int64 in 0..options-1.
        labels: the attribute of these images, int64 (N,), none unknown.
        others_N: the answers to other images.
        options: number of possible answers.
        classes: number of classes K of the attribute.

    Returns:
        Scores (N, K) for each of ``others_N``.
    """
    counts_OK = np.zeros((options, classes))
    np.add.at(counts_OK, (answers_N, labels), 1.0)
    likelihood_OK = (counts_OK + 1e-3) / np.maximum(counts_OK.sum(axis=0), 1.0)
    posterior_OK = likelihood_OK / likelihood_OK.sum(axis=1, keepdims=True)
    return tuple(posterior_OK[other_N] for other_N in others_N)


def _floor(evidence: Evidence, attribute: str, train: Answers, val: Answers, test: Answers) -> NamedFigures:
    """``train``, ``val``, ``test``: answers, int64 (N,) to one question or (N, Q) to Q yes/no questions."""
    classes = len(evidence.classes[attribute])
    train_N, val_N, test_N = (
        labels[attribute].numpy() for labels in (evidence.train.labels, evidence.val.labels, evidence.test_labels)
    )
    train_known, val_known = train_N >= 0, val_N >= 0
    if train.ndim == 1:
        train, val, test = (answers.astype(np.int64) for answers in (train, val, test))
        seen = np.concatenate([train[train_known], val[val_known]])
        labels = np.concatenate([train_N[train_known], val_N[val_known]])
        options = evidence.task.outputs
        attacks = {"table": table_attack(seen, labels, val, test, options=options, classes=classes)}
    else:
        at_train, at_val, *others = (
            answers.astype(np.float64) for answers in (train[train_known], val[val_known], val, test)
        )
        known = Table(at_train, train_N[train_known])
        logistic = fit_logistic(known, *others, classes=classes)
        _, (_, *trees) = fit_trees(known, Table(at_val, val_N[val_known]), *others, classes=classes)
        attacks = {"logistic": logistic, "trees": tuple(trees)}
    # A guess is also an attack. So a floor is not below a guess, even if a threshold from few val images fails on test.
    attacks["chance"] = tuple(np.full((len(labels), classes), 1 / classes) for labels in (val_N, test_N))
    persons = None if evidence.persons is None else evidence.persons.test.numpy()
    figures = {
        name: judge(at_val, val_N, at_test, test_N, test_persons=persons) for name, (at_val, at_test) in attacks.items()
    }
    best = max(figures, key=lambda name: figures[name].balanced_accuracy)
    return NamedFigures(attack=best, **figures[best].model_dump())


def _answers(evidence: Evidence, scores_NK: Tensor) -> Ints:
    return metrics.answers(scores_NK.numpy(), evidence.task.kind)
