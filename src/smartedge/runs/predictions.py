"""Collects the predictions of a network for one split of one epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from smartedge import metrics
from smartedge.artifacts.results import Figures
from smartedge.errors import RunError
from smartedge.models.exits import probabilities

__all__ = ["Predictions"]

_NONE: Mapping[str, float] = {}


class Predictions:
    """Add batches, then read the figures. What lies on a GPU stays there until then, so that no step waits for it."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._labels: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._losses: list[float | Tensor] = []
        self._batches = 0
        self._further: Counter[str] = Counter()

    @property
    def latest_loss(self) -> float:
        """Of the batch added last; 0 where there is none."""
        return float(self._losses[-1]) if self._losses else 0.0

    def add(
        self,
        ids: np.ndarray,
        labels: Tensor,
        logits_BK: Tensor,
        loss: float | Tensor,
        further: Mapping[str, float] = _NONE,
    ) -> None:
        """Add one batch.

        Args:
            ids: int64 (B,).
            labels: int64 (B,) of a single-label task, float32 (B, K) of a multi-label one.
            logits_BK: the answers, (B, K).
            loss: mean over the batch; as a tensor, ().
            further: other losses of the same update, by name.
        """
        self._ids.append(ids)
        self._labels.append(labels)
        self._logits.append(logits_BK)
        self._losses.append(loss)
        self._batches += 1
        self._further.update(further)

    def __len__(self) -> int:
        return sum(len(ids) for ids in self._ids)

    def figures(self) -> Figures:
        """Mean loss, accuracy, balanced accuracy, AUROC and base rate over everything added.

        Raises:
            RunError: the network has diverged: its answers are not finite.
        """
        labels = torch.cat(self._labels).cpu()
        try:
            figures = metrics.evaluate(labels.numpy(), self._scores().numpy(), self._kind)
        except ValueError as error:  # scores that are not finite; the message says so
            raise RunError(str(error)) from error
        loss = sum(float(loss) * len(ids) for loss, ids in zip(self._losses, self._ids, strict=True))
        return Figures.model_validate({"loss": loss / len(labels), **figures})

    def further_losses(self) -> dict[str, float]:
        """The mean over the batches of each further loss."""
        return {name: total / self._batches for name, total in self._further.items()}

    def tensors(self) -> dict[str, Tensor]:
        """``ids``, ``labels`` and ``scores`` as tensors, in the order in which they were added."""
        return {
            "ids": torch.from_numpy(np.concatenate(self._ids)),
            "labels": torch.cat(self._labels).cpu(),
            "scores": self._scores(),
        }

    @property
    def _kind(self) -> Literal["single", "multi"]:
        return metrics.kind_of(self._labels[0])

    def _scores(self) -> Tensor:
        """The probabilities that the answers give, float32 (N, K), on the CPU."""
        return probabilities(torch.cat(self._logits), self._kind).cpu()
