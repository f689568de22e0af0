"""Metrics of one side: a JSON line per epoch and split, and a TensorBoard log where TensorBoard is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartedge.artifacts.metrics import EpochFigures, read_metrics
from smartedge.files import private_folder, write_atomically

__all__ = ["Recorder"]


class Recorder:
    """Appends to ``metrics.jsonl`` and to ``tensorboard/`` in one side's folder.

    Args:
        folder: the side's folder.
        side: ``edge`` or ``cloud``.
        resume_epoch: lines of this epoch and of later ones are removed first; they will be written again.
    """

    def __init__(self, folder: Path, side: str, *, resume_epoch: int = 0) -> None:
        self.side = side
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row.epoch < resume_epoch]
        write_atomically(self.path, "".join(row.line() for row in kept))
        self.board = _open_board(folder.parent / "tensorboard" / side, resume_epoch)

    def write(self, epoch: int, split: str, values: Mapping[str, float | None]) -> None:
        """Record the figures of one split after one epoch (counted from 0)."""
        row = EpochFigures.model_validate({"side": self.side, "epoch": epoch, "split": split, **values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.line())
        if self.board is not None:
            for name, value in values.items():
                if value is not None:
                    self.board.add_scalar(f"{name}/{split}", float(value), epoch)
            self.board.flush()

    def close(self) -> None:
        """Close the TensorBoard log."""
        if self.board is not None:
            self.board.close()


def _open_board(folder: Path, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    private_folder(folder.parent)
    return SummaryWriter(str(folder), purge_step=purge_step or None)
