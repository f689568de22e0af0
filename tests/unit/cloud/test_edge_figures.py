"""Figures of each edge's test images, from the predictions that the trainer wrote."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from smartedge.cloud.edge_figures import _test_figures
from smartedge.cloud.trainer import BackTrainer

NAN = math.nan


def trainer(folder: Path, labels: Tensor, scores: Tensor, images: dict[str, int]) -> BackTrainer:
    """What ``_test_figures`` reads of a trainer that has finished."""
    save_file({"labels": labels, "scores": scores}, folder / "predictions.safetensors")
    return cast("BackTrainer", SimpleNamespace(finished=True, folder=folder, test_images=images))


def cross_entropy(pairs: list[tuple[float, float]]) -> float:
    """The mean over pairs (label, score) of a yes/no column: a plain loop."""
    return sum(-math.log(score if label == 1 else 1 - score) for label, score in pairs) / len(pairs)


def test_loss_of_several_columns_leaves_out_labels_that_are_lacking(tmp_path: Path) -> None:
    labels = torch.tensor([[1, 0], [NAN, 1], [0, NAN], [1, 1], [0, 0]])
    scores = torch.tensor([[0.9, 0.3], [0.5, 0.6], [0.2, 0.5], [0.7, 0.8], [0.4, 0.1]])
    found = _test_figures(trainer(tmp_path, labels, scores, {"a": 3, "b": 2}))
    assert found["a"].loss == pytest.approx(cross_entropy([(1, 0.9), (0, 0.3), (1, 0.6), (0, 0.2)]), rel=1e-5)
    assert found["b"].loss == pytest.approx(cross_entropy([(1, 0.7), (1, 0.8), (0, 0.4), (0, 0.1)]), rel=1e-5)


def test_loss_of_classes_is_that_of_the_true_class(tmp_path: Path) -> None:
    labels = torch.tensor([2, 0, 1])
    scores = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.5, 0.25, 0.25]])
    found = _test_figures(trainer(tmp_path, labels, scores, {"a": 2, "b": 1}))
    assert found["a"].loss == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-5)
    assert found["b"].loss == pytest.approx(-math.log(0.25), rel=1e-5)
