"""The figures of the training images over one epoch."""

from __future__ import annotations

from collections import Counter

from smartedge.methods.front_step import EdgeStep
from smartedge.models.exits import probabilities
from smartedge.runs.predictions import Predictions
from smartedge.types import ImageBatch

__all__ = ["TrainingFigures"]


class TrainingFigures:
    """Figures of the updates of one epoch, on the training images.

    Args:
        task_kind: ``single`` or ``multi``.
        busy: seconds that the edge had computed before the epoch.
    """

    def __init__(self, task_kind: str, busy: float) -> None:
        self.busy = busy
        self.latest = ""  # the loss, in words
        self._kind = task_kind
        self._predictions = Predictions()
        self._sums: Counter[str] = Counter()
        self._steps = 0

    def __len__(self) -> int:
        return self._steps

    def add(self, batch: ImageBatch, step: EdgeStep) -> None:
        """One update."""
        self._predictions.add(batch.ids, batch.labels, probabilities(step.logits_BK, self._kind), step.loss)
        self._sums.update(step.figures)
        self._steps += 1
        self.latest = f" loss {step.loss:.3f}"

    def values(self) -> dict[str, float | None]:
        """Figures of the answers that were given before each update, and the mean of each further loss."""
        means = {name: total / self._steps for name, total in self._sums.items()}
        return {**self._predictions.figures().model_dump(), **means}
