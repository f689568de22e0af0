"""Trains the back for all epochs with complete logs, where each image was sent once."""

from __future__ import annotations

import threading
import time

from smartedge.cloud.inputs import Ready
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.order.supply import Supply
from smartedge.cloud.trainer import BackTrainer
from smartedge.methods.back_step import CloudStep
from smartedge.methods.loop import Progress, fit
from smartedge.types import FeatureBatch, SplitName

__all__ = ["TrainingFromLogs"]


class TrainingFromLogs:
    """All epochs on complete logs.

    Args:
        trainer: may have completed some epochs.
        frames: of the logs.

    Attributes:
        supply: of the batches.
    """

    def __init__(self, trainer: BackTrainer, frames: Shuffled) -> None:
        self._trainer = trainer
        self._frames = frames
        self._begun = time.perf_counter()  # of the time that does not yet count as busy
        self.supply = Supply(frames, trainer.inputs, trainer.config.cloud.shards, trainer.group)

    def run(self, *, influence: Influence | None = None, stop: threading.Event | None = None) -> None:
        """Train until all epochs are completed; returns after the current step where ``stop`` is set.

        Args:
            influence: gets the loss of each image, of several edges; not where the back is trained in shards.
            stop: ends the training.
        """
        trainer, frames = self._trainer, self._frames
        trainer.progress.steps_per_epoch = frames.steps
        trainer.progress.step = trainer.progress.epoch * frames.steps
        self._begun = time.perf_counter()
        trainer.label_shares.clear()
        for edge, labels, outputs in frames.labels():
            trainer.label_shares.see(edge, labels, outputs)

        def learn(ready: Ready, progress: Progress) -> CloudStep:
            batch, result = ready.batch, trainer.learn(ready, progress)
            if influence is not None and isinstance(batch, FeatureBatch) and batch.edge_B is not None:
                influence.note(batch.edge_B, trainer.image_losses(batch, result))
            return result

        fit(
            learn,
            self.supply.epoch,
            trainer.progress,
            rates=trainer.rates,
            random=trainer.random,
            report=trainer.report,
            after_epoch=self._end_epoch,
            stop=lambda: trainer.group.agree(lambda: "stop" if stop is not None and stop.is_set() else "") == "stop",
        )

    def _end_epoch(self, progress: Progress) -> None:
        """Evaluate, record, and write a checkpoint."""
        trainer, epoch = self._trainer, progress.epoch - 1
        self._count_time()
        trainer.record(epoch, "train")
        splits: tuple[SplitName, ...] = ("val", "test") if trainer.finished else ("val",)
        for split in splits:
            for batch in self._frames.split(split):
                trainer.evaluate(batch, split)
            self._count_time()
            trainer.record(epoch, split)
        trainer.save()

    def _count_time(self) -> None:
        """The time since this was last called counts as busy."""
        now = time.perf_counter()
        self._trainer.busy += now - self._begun
        self._begun = now
