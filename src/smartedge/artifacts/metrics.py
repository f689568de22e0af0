"""``metrics.jsonl``: a line for each epoch and split, with the figures of one side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from smartedge.artifacts.base import Part
from smartedge.errors import RunError

__all__ = ["EpochFigures", "read_metrics"]


class EpochFigures(Part):
    """The figures of one side, after one epoch, on one split."""

    schema_version: Literal[1, 2, 3] = 3  # 1 lacks ``mixture``, 2 the two figures of the rate
    side: str = Field(
        description="`edge` (the task exit; the whole network where `method` is `local`) or `cloud` (the back)"
    )
    epoch: int = Field(description="from 0")
    split: str = Field(description="`train`, `val` or `test`")
    loss: float = Field(description="mean cross-entropy")
    accuracy: float = Field(description="as in `results.json`")
    balanced_accuracy: float = Field(description="likewise")
    balanced_accuracy_adjusted: float | None = Field(default=None, description="likewise")
    auroc: float | None = Field(description="likewise")
    base_rate: float = Field(description="likewise")
    seconds: float | None = Field(
        default=None, description="time spent on that split in that epoch; absent in the edge's `val` and `test` lines"
    )
    adversary_loss: float | None = Field(
        default=None,
        description="mean loss of the adversarial exits; absent without protection, as the next five",
    )
    confusion: float | None = Field(default=None, description="likewise")
    dependence: float | None = Field(default=None, description="likewise")
    mixture: float | None = Field(default=None, description="likewise")
    distillation_loss: float | None = Field(default=None, description="likewise")
    weight: float | None = Field(default=None, alias="lambda", description="of the confusion, at the end of the epoch")
    rate_bytes: float | None = Field(
        default=None,
        description="mean bytes that an image's features take with the step of the training; only with codec `learned`",
    )
    rate_weight: float | None = Field(default=None, description="mean weight of the rate in the loss; likewise")

    def line(self) -> str:
        """The line, with its end. Figures that were not given are left out."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return json.dumps({"schema_version": self.schema_version, **given}) + "\n"


def read_metrics(path: Path, *, whole: bool = False) -> list[EpochFigures]:
    """The rows of a ``metrics.jsonl``. Empty where there is no file.

    Args:
        path: of the file.
        whole: the file was written in one piece. Else a torn last line is left out: its process was killed.

    Raises:
        RunError: a line is damaged.
    """
    if not path.exists():
        return []
    rows: list[EpochFigures] = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(EpochFigures.model_validate_json(line))
        except ValueError as error:
            if whole or number < len(lines):
                raise RunError(f"{path}, line {number}: is not a line of metrics ({error}); remove it") from error
    return rows
