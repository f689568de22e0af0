"""Collects the predictions of a network for one split of one epoch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from smartedge import metrics
from smartedge.artifacts.results import Figures
from smartedge.errors import RunError

__all__ = ["Predictions"]


class Predictions:
    """Add batches, then read the figures."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._labels: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._loss = 0.0

    def add(self, ids: np.ndarray, labels: Tensor, scores_BK: Tensor, loss: float) -> None:
        """One batch: ids (B,), labels as in a task, probabilities float32 (B, K), mean loss over the batch."""
        self._ids.append(ids)
        self._labels.append(labels.cpu())
        self._scores.append(scores_BK.cpu())
        self._loss += loss * len(ids)

    def __len__(self) -> int:
        return sum(len(ids) for ids in self._ids)

    def figures(self) -> Figures:
        """Mean loss, accuracy, balanced accuracy, AUROC and base rate over everything added.

        Raises:
            RunError: the network has diverged: its answers are not finite.
        """
        labels = torch.cat(self._labels)
        kind: Literal["single", "multi"] = "multi" if labels.dim() == 2 else "single"
        try:
            figures = metrics.evaluate(labels.numpy(), torch.cat(self._scores).numpy(), kind)
        except ValueError as error:  # scores that are not finite; the message says so
            raise RunError(str(error)) from error
        return Figures.model_validate({"loss": self._loss / len(labels), **figures})

    def tensors(self) -> dict[str, Tensor]:
        """``ids``, ``labels`` and ``scores`` as tensors, in the order in which they were added."""
        return {
            "ids": torch.from_numpy(np.concatenate(self._ids)),
            "labels": torch.cat(self._labels),
            "scores": torch.cat(self._scores).contiguous(),
        }
