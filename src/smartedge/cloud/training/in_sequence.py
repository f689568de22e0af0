"""Trains the back with the frames of one edge, in the order in which they were sent."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from smartedge.cloud.inputs import Ready
from smartedge.cloud.trainer import BackTrainer
from smartedge.methods.loop import take_step
from smartedge.types import FeatureBatch, StreamHeader

__all__ = ["consume", "skip"]


def consume(trainer: BackTrainer, header: StreamHeader, seq: int, batch: FeatureBatch) -> Tensor | None:
    """Learn from frame ``seq`` of a stream, or evaluate it. Returns the gradient at the cut, if answered.

    The gradient is float32 (B, *F), on the CPU.
    """
    gradient_BF: Tensor | None = None
    with trainer.working():
        if header.split == "train":
            trainer.progress.steps_per_epoch = header.train_steps
            learn = partial(trainer.learn, want_gradient=header.answered)
            result = take_step(learn, Ready(batch), trainer.progress, rates=trainer.rates, random=trainer.random)
            gradient_BF = None if result.gradient_BF is None else result.gradient_BF.cpu()
            trainer.report(trainer.progress)
        else:
            trainer.evaluate(batch, header.split)
    _pass(trainer, header, seq)
    return gradient_BF


def skip(trainer: BackTrainer, header: StreamHeader, seq: int) -> None:
    """Go past frame ``seq``, which was lost on the way. A training frame counts as a step that changed nothing."""
    if header.split == "train":
        trainer.progress.steps_per_epoch = header.train_steps
        trainer.progress.step += 1
    _pass(trainer, header, seq)


def _pass(trainer: BackTrainer, header: StreamHeader, seq: int) -> None:
    """Frame ``seq`` is done. At a stream's end its figures are written, and at an epoch's end a checkpoint."""
    trainer.next_seq = seq + 1
    if trainer.next_seq == header.end_seq:
        progress = trainer.progress
        last_epoch = progress.epoch + 1 == progress.epochs
        trainer.record(progress.epoch, header.split)
        if header.split == ("test" if last_epoch else "val"):
            progress.epoch += 1
            trainer.save()
