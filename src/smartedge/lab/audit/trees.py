"""Attackers from scikit-learn: gradient-boosted trees, and logistic regression on a few columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.lab.audit.attacks import Reading, Unit
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.inputs import Inputs, val_labels, val_releases
from smartedge.lab.audit.judge import selection_score
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats, Ints

__all__ = ["Table", "fit_logistic", "fit_trees", "read_with_trees"]

_ROUNDS = 50  # rounds of boosting between two looks at the clock
_FIRST_ROUNDS = 10  # before the first look, where time is limited
_DRAWS = 4  # releases of each training image that trees learn from
_BINS = 255  # as many as scikit-learn's trees can tell apart

Columns = NDArray[Any]  # float32 or float64 (N, D)


@dataclass(frozen=True)
class Table:
    """Columns, and the labels to read from them."""

    columns_ND: Columns
    labels_N: Ints  # none unknown


def fit_trees(
    train: Table,
    val: Table,
    *others_ND: Columns,
    classes: int,
    learning_rate: float = 0.1,
    rounds: int = 200,
    seed: int = 0,
    clock: Clock | None = None,
) -> tuple[int, tuple[Floats, ...]]:
    """Train gradient-boosted trees with balanced classes. The number of rounds is the best on the validation images.

    Args:
        train: the table to learn from.
        val: the table that chooses the number of rounds.
        others_ND: further columns to read.
        classes: number of classes K.
        learning_rate: learning rate of boosting.
        rounds: largest number of rounds.
        seed: seed of scikit-learn's generator.
        clock: checked after 10 rounds, and then after every 50; None: no time limit.

    Returns:
        The number of rounds trained; probabilities (N, K) for the columns of ``val`` and for each of ``others_ND``.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise _missing() from error
    model = HistGradientBoostingClassifier(
        class_weight="balanced",
        learning_rate=learning_rate,
        max_iter=0,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
        warm_start=True,
    )
    bounds = _bounds(train.columns_ND)
    train_ND, val_ND = _binned(train.columns_ND, bounds), _binned(val.columns_ND, bounds)
    with threadpool_limits(torch.get_num_threads()):
        clock = clock or Clock(None)
        each = 0.0  # seconds of a round
        while model.max_iter < rounds and (model.max_iter == 0 or clock.remaining() > each * _ROUNDS):
            limited = not math.isinf(clock.remaining())
            more = _FIRST_ROUNDS if limited and model.max_iter == 0 else _ROUNDS
            begun = clock.elapsed()
            model.set_params(max_iter=min(rounds, model.max_iter + more))
            model.fit(train_ND, train.labels_N)
            each = (clock.elapsed() - begun) / more
        present = model.classes_
        best, best_round = -1.0, 0
        for number, scores_NP in enumerate(model.staged_predict_proba(val_ND)):
            score = selection_score(_widened(scores_NP, present, classes), val.labels_N)
            if score > best:
                best, best_round = score, number
        return model.max_iter, tuple(
            _widened(_stage(model.staged_predict_proba(other_ND), best_round), present, classes)
            for other_ND in (val_ND, *(_binned(columns_ND, bounds) for columns_ND in others_ND))
        )


def fit_logistic(train: Table, *others_ND: Columns, classes: int) -> tuple[Floats, ...]:
    """Train a logistic regression with balanced classes on few columns; returns probabilities (N, K) of each other.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise _missing() from error
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(train.columns_ND, train.labels_N)
    return tuple(_widened(model.predict_proba(other_ND), model.classes_, classes) for other_ND in others_ND)


def read_with_trees(evidence: Evidence, unit: Unit, *, clock: Clock) -> Reading:
    """Train boosted trees on a few releases of each image, and let them read one attribute of the protected images."""
    (attribute,) = unit.attributes
    inputs = Inputs(evidence, unit.attack)
    generator = torch.Generator().manual_seed(derive_seed(unit.seed, "audit", "draws"))
    train = evidence.train
    draws = _DRAWS if evidence.noisy else 1
    views = range(len(train.views_VNF))
    parts = [evidence.draw(train, generator, view=view) for _ in range(draws) for view in views]
    train_ND = torch.cat([inputs(part, train.desired) for part in parts]).numpy()
    val_ND = inputs(*val_releases(evidence)).numpy()
    test_ND = inputs(evidence.test_features_NF, evidence.test_desired).numpy()
    labels = np.tile(train.labels[attribute].numpy(), len(parts))
    truth = val_labels(evidence, attribute)
    known, val_known = labels >= 0, truth >= 0
    rounds, (_, at_val, at_test) = fit_trees(
        Table(train_ND[known], labels[known]),
        Table(val_ND[val_known], truth[val_known]),
        val_ND,
        test_ND,
        classes=len(evidence.classes[attribute]),
        learning_rate=unit.rate,
        rounds=unit.kind.epochs,
        seed=unit.seed,
        clock=clock,
    )
    return Reading({attribute: at_val}, {attribute: at_test}, rounds, unit.kind.epochs)


def _bounds(columns_ND: Columns) -> list[Columns]:
    """The upper ends of the bins of each column, but for the last one: about equally many numbers are in each bin.

    The trees would find bins themselves, but anew at each look at the clock and by sorting a column 254 times.
    """
    shares = np.linspace(0, 1, _BINS + 1)[1:-1]
    bounds = []
    for column_N in columns_ND.T.astype(np.float64):
        values = np.unique(column_N)
        if len(values) <= _BINS:
            bounds.append((values[1:] + values[:-1]) / 2)
        else:
            bounds.append(np.unique(np.quantile(column_N, shares, method="averaged_inverted_cdf")))
    return bounds


def _binned(columns_ND: Columns, bounds: list[Columns]) -> NDArray[np.uint8]:
    """The number of the bin in place of each number."""
    places = (np.searchsorted(ends, column_N) for ends, column_N in zip(bounds, columns_ND.T, strict=True))
    return np.stack([place.astype(np.uint8) for place in places], axis=1)


def _missing() -> ConfigError:
    return ConfigError(f"the audit needs scikit-learn, which is not installed; run: {how_to_install('audit')}")


def _stage(stages: Any, number: int) -> Floats:
    for place, scores_NP in enumerate(stages):
        if place == number:
            return np.asarray(scores_NP)
    raise AssertionError("there are as many stages as rounds")


def _widened(scores_NP: Columns, present: Ints, classes: int) -> Floats:
    """Scores for all classes; a class that did not occur in training gets 0."""
    scores_NK = np.zeros((len(scores_NP), classes))
    scores_NK[:, present] = scores_NP
    return scores_NK
