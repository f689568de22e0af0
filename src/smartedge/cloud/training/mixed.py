"""Trains the back with images of several edges, while their frames come. ``from_edges`` chooses which ones."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smartedge.cloud.inputs import Ready
from smartedge.cloud.trainer import BackTrainer
from smartedge.files import system_error
from smartedge.methods.loop import take_step
from smartedge.runs.predictions import Predictions
from smartedge.types import FeatureBatch

__all__ = ["can_learn", "end_epochs", "finish", "learn", "validate"]


def learn(trainer: BackTrainer, batch: FeatureBatch) -> NDArray[np.float64]:
    """Learn from images of several edges. Returns the loss of each before the update, float64 (B,)."""
    with trainer.working():
        result = take_step(trainer.learn, Ready(batch), trainer.progress, rates=trainer.rates, random=trainer.random)
        trainer.report(trainer.progress)
        return trainer.image_losses(batch, result)


def can_learn(trainer: BackTrainer, batch: FeatureBatch) -> bool:
    """Whether an update on this batch alone succeeds, with finite results. The trainer's state stays as it was."""
    back, optimizer = trainer.back, trainer.optimizer
    weights, moments = copy.deepcopy(back.state_dict()), copy.deepcopy(optimizer.state_dict())
    predictions, trainer.predictions = trainer.predictions, defaultdict(Predictions)
    try:
        with trainer.random.active():
            result = trainer.learn_whole(Ready(batch), trainer.progress)
        whole = all(bool(tensor.isfinite().all()) for tensor in back.state_dict().values())
        return whole and bool(result.logits_BK.isfinite().all())
    except (ValueError, RuntimeError, ArithmeticError) as error:
        if system_error(error) is not None:
            raise
        return False
    finally:
        trainer.predictions = predictions
        optimizer.load_state_dict(moments)
        back.load_state_dict(weights)


def validate(trainer: BackTrainer, batch: FeatureBatch) -> None:
    """Evaluate validation images, between training steps."""
    with trainer.working():
        trainer.evaluate(batch, "val")


def end_epochs(trainer: BackTrainer, steps_per_epoch: int) -> None:
    """Record and write a checkpoint where another epoch's number of steps is done. The last epoch is left open."""
    progress = trainer.progress
    epoch = min(progress.epochs - 1, progress.step // steps_per_epoch)
    if epoch > progress.epoch:
        _record(trainer, epoch - 1)
        progress.epoch = epoch
        trainer.save()


def finish(
    trainer: BackTrainer, val: Iterator[tuple[str, FeatureBatch]], test: Iterator[tuple[str, FeatureBatch]]
) -> None:
    """Evaluate the validation images that are left, and the test images. Nothing is learned after that.

    Args:
        trainer: has made its last update.
        val: edge and batch.
        test: edge and batch, one edge after the other.
    """
    progress = trainer.progress
    last = progress.epochs - 1
    with trainer.working():
        for _, batch in val:
            trainer.evaluate(batch, "val")
        _record(trainer, last)
        for edge, batch in test:
            trainer.evaluate(batch, "test")
            trainer.test_images[edge] += len(batch.ids)
        trainer.record(last, "test")
        progress.epoch = progress.epochs


def _record(trainer: BackTrainer, epoch: int) -> None:
    trainer.record(epoch, "train")
    trainer.record(epoch, "val")
