from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from smartedge.lab.audit.judge import selection_score
from smartedge.lab.audit.trees import Table, _binned, _bounds, fit_trees


def test_with_few_values_the_trees_are_those_of_scikit_learn() -> None:
    """Also for numbers between those of the training images, of which the middle counts."""
    rng = np.random.default_rng(0)
    labels, asked = rng.integers(2, size=400), rng.normal(size=(300, 4)) * 30
    columns = np.round(rng.normal(size=(400, 4)) * 20 + labels[:, None] * 10).astype(np.float32)
    assert len(np.unique(columns)) <= 255
    rounds, (_, found) = fit_trees(Table(columns, labels), Table(columns, labels), asked, classes=2, rounds=1)
    theirs = HistGradientBoostingClassifier(
        class_weight="balanced", max_iter=1, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=False
    ).fit(columns, labels)
    assert rounds == 1 and np.array_equal(found, theirs.predict_proba(asked))


def test_validation_images_choose_the_number_of_rounds_and_classes_weigh_alike() -> None:
    rng = np.random.default_rng(0)
    labels, val_labels = ((rng.random(count) < 0.2).astype(np.int64) for count in (400, 200))
    columns, val, asked = (
        np.round(rng.normal(size=(len(part), 4)) * 20 + part[:, None] * 20) for part in (labels, val_labels, labels)
    )
    _, (_, found) = fit_trees(
        Table(columns, labels), Table(val, val_labels), asked, classes=2, rounds=12, learning_rate=0.5
    )
    theirs = HistGradientBoostingClassifier(
        class_weight="balanced", learning_rate=0.5, max_iter=12, max_leaf_nodes=15, l2_regularization=1.0,
        early_stopping=False,
    ).fit(columns, labels)  # fmt: skip
    by_round = [selection_score(scores, val_labels) for scores in theirs.staged_predict_proba(val)]
    best = int(np.argmax(by_round))
    assert 0 < best < 11
    assert np.array_equal(found, list(theirs.staged_predict_proba(asked))[best])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_of_many_values_hold_equally_many(dtype: type) -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([rng.permutation(1000), np.repeat([0, 1], 500), np.exp(rng.permutation(1000) / 100)], axis=1)
    binned = _binned(columns.astype(dtype), _bounds(columns.astype(dtype)))
    assert set(np.bincount(binned[:, 0])) == {3, 4} and binned[:, 0].max() == 254
    assert np.array_equal(binned[:, 1], columns[:, 1])
    assert set(np.bincount(binned[:, 2])) == {3, 4} and len(np.bincount(binned[:, 2])) == 255
    assert (np.diff(binned[np.argsort(columns[:, 2]), 2].astype(int)) >= 0).all()
