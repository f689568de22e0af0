"""Releases that no refactoring may change: a resumed run must release what it released before.

The key of the noise is known here, so that a release is a function of mechanism, split, image and number of the frame.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from smartedge.privacy.ledger import Budget, Ledger
from smartedge.privacy.mechanisms import make_mechanism
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.types import Task

IDS = np.array([5, 1, 9, 7])
FEATURES = (np.arange(12).reshape(4, 3, 1, 1) * 7 % 12 / 6 - 0.9).astype(np.float32)
CODEWORDS = np.eye(5, dtype=np.float32)[[3, 0, 4, 2]]
CLASSES = Task("single", ("kind",), ("a", "b", "c", "d", "e", "f"))
COLUMNS = Task("multi", ("hat", "smile", "beard"), ("hat", "smile", "beard"))
LABELS = {"single": np.array([2, 2, 0, 5]), "multi": np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32)}
MECHANISMS = {
    "none": {"name": "none", "feature_shape": (3, 1, 1)},
    "gaussian": {"name": "gaussian", "feature_shape": (3, 1, 1), "clip": 1.0, "sigma": 0.7},
    "laplace": {"name": "laplace", "feature_shape": (3, 1, 1), "clip": 1.0, "epsilon": 2.0},
    "element": {"name": "laplace", "granularity": "element", "feature_shape": (3, 1, 1), "clip": 0.5, "epsilon": 2.0},
    "randomised-response": {"name": "randomised-response", "feature_shape": (5,), "codebook": 5, "epsilon": 1.0},
    "subset-selection": {"name": "subset-selection", "feature_shape": (5,), "codebook": 5, "epsilon": 0.3},
}
# mechanism -> split -> all numbers of four images; of codewords, the places of the ones
STORED: dict[str, dict[str, list[float]]] = {
    "none": {
        "train": [-0.9, 0.26667, -0.56667, 0.6, -0.23333, 0.93333, 0.1, -0.73333, 0.43333, -0.4, 0.76667, -0.06667],
        "val": [-0.9, 0.26667, -0.56667, 0.6, -0.23333, 0.93333, 0.1, -0.73333, 0.43333, -0.4, 0.76667, -0.06667],
    },
    "gaussian": {
        "train": [
            -1.0625,
            0.16406,
            -0.60547,
            -0.10938,
            0.33984,
            0.51172,
            0.19531,
            -1.41797,
            0.48047,
            -0.08594,
            -0.5625,
            1.61719,
        ],
        "val": [
            -0.03516,
            -0.63281,
            -1.53516,
            0.12891,
            -0.60547,
            -0.16797,
            0.57812,
            -1.26953,
            0.03906,
            -1.24219,
            -0.19531,
            -0.77734,
        ],
    },
    "laplace": {
        "train": [
            -0.1875,
            0.28906,
            -0.42969,
            3.77344,
            0.0625,
            0.50781,
            1.38281,
            0.22656,
            -0.21875,
            -1.375,
            1.11719,
            -1.42969,
        ],
        "val": [
            0.14062,
            0.00781,
            -1.14844,
            3.03125,
            0.20312,
            0.53125,
            0.96875,
            0.21875,
            0.45312,
            -0.65625,
            2.375,
            -0.57812,
        ],
    },
    "element": {
        "train": [
            -0.04297,
            0.76562,
            -1.39844,
            1.78516,
            -1.96484,
            0.61719,
            -0.58984,
            -1.24609,
            0.48047,
            0.84375,
            -0.375,
            0.14844,
        ],
        "val": [
            -0.48047,
            0.23047,
            -0.84766,
            0.74609,
            -1.04688,
            0.41406,
            -0.28125,
            -1.02344,
            0.58594,
            0.24609,
            0.48047,
            -0.00391,
        ],
    },
    "randomised-response": {"train": [0, 5, 13, 16], "val": [1, 5, 10, 17]},
    "subset-selection": {"train": [0, 1, 5, 6, 11, 14, 15, 17], "val": [0, 3, 5, 6, 10, 12, 16, 19]},
}
STORED_LABELS: dict[str, dict[str, list[float]]] = {
    "single": {"train": [2, 4, 1, 3], "val": [2, 2, 0, 1]},
    "multi": {
        "train": [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0],
        "val": [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0],
    },
}


def release(tmp_path, mechanism: str, split: str, task: Task) -> tuple[list[float], list[float]]:
    made = make_mechanism(**MECHANISMS[mechanism])
    ledger = Ledger(tmp_path / "ledger", "run", policy={}, budget=Budget(math.inf, 1e-5), existing=False)
    gate = Gate(
        made, ledger, Noise(bytes(range(32))), task=task, label_epsilon=1.5, training_only=False, front_is_final=True
    )
    features = CODEWORDS if "codebook" in MECHANISMS[mechanism] else FEATURES
    released = gate.release(IDS, features, LABELS[task.kind], split=split, seq=3)
    ledger.close()
    numbers = np.asarray(released.features_BF).reshape(-1)
    told = np.flatnonzero(numbers) if "codebook" in MECHANISMS[mechanism] else numbers.round(5)
    return told.tolist(), np.asarray(released.labels).reshape(-1).tolist()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_features(tmp_path, mechanism, split):
    found, _ = release(tmp_path, mechanism, split, CLASSES)
    # Logarithms and cosines differ in their last digits between makes of processor.
    assert found == pytest.approx(STORED[mechanism][split], abs=2e-5)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("task", [CLASSES, COLUMNS], ids=lambda task: task.kind)
def test_labels(tmp_path, task, split):
    assert release(tmp_path, "none", split, task)[1] == STORED_LABELS[task.kind][split]
