"""How the attacker trains a network: in the time it has, keeping what is best on its own val images."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate

__all__ = ["Fit", "Pace", "Report", "fit"]

Report = Callable[[int, int, str], None]  # steps done, steps in all, text

_TICKS = 1000  # set_learning_rate counts whole steps
_CLIP_NORM = 5.0


@dataclass(frozen=True)
class Fit:
    """How a training went."""

    epochs: float  # passes over the images
    planned: int  # passes that it would have made with enough time
    score: float  # the best on the val images, of whatever was asked for


class Pace:
    """How far a training is, from 0 to 1: by its steps, or by the clock where time runs out first."""

    def __init__(self, steps: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self._seconds = seconds
        self._clock = clock
        self._started = clock()

    def at(self, step: int) -> float:
        """Progress before step ``step``, counted from 0."""
        spent = 1.0 if self._seconds <= 0 else (self._clock() - self._started) / self._seconds
        return min(1.0, max(step / self.steps, spent))


def fit(
    network: nn.Module,
    examples: Callable[[Tensor], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    score: Callable[[], float],
    *,
    rows: int,
    batch_size: int,
    step_size: int,
    epochs: int,
    lr: float,
    weight_decay: float,
    seconds: float,
    generator: torch.Generator,
    report: Report,
) -> Fit:
    """Train a network with AdamW and a warm-up-cosine rate that ends when the epochs or the seconds do.

    Args:
        network: left with the parameters that scored best, in evaluation mode.
        examples: positions, int64 (B,) → tensors (B, ...) of these images, which are moved to the network.
        loss: a part of such tensors → scalar.
        score: judges the network in evaluation mode on the attacker's val images after every epoch; higher is better.
        rows: number of images.
        batch_size: images that are asked for at once (a frame is coded as a whole); a smaller last batch is left out,
            unless it is the only one.
        step_size: images in a step. On a CPU many small steps learn more in the same time than few large ones.
        epochs: at most.
        lr: peak learning rate.
        weight_decay: of matrices and kernels.
        seconds: at most (the last score comes on top).
        generator: of the order.
        report: takes progress.
    """
    batches = max(1, rows // batch_size)
    per_epoch = batches * -(-min(rows, batch_size) // step_size)
    pace = Pace(per_epoch * epochs, seconds)
    device = next(network.parameters()).device
    optimizer = make_optimizer([network], name="adamw", lr=lr, weight_decay=weight_decay, momentum=0.0)
    best, best_state = float("-inf"), copy.deepcopy(network.state_dict())
    step = 0
    while pace.at(step) < 1:
        network.train()
        for batch in torch.randperm(rows, generator=generator).split(batch_size)[:batches]:
            if pace.at(step) >= 1:
                break
            for part in zip(*(tensor.to(device).split(step_size) for tensor in examples(batch)), strict=True):
                rate = min(_TICKS - 1, int(pace.at(step) * _TICKS))
                set_learning_rate(optimizer, peak=lr, step=rate, steps=_TICKS)
                loss(*part).backward()
                apply_gradients(optimizer, clip_norm=_CLIP_NORM)
                step += 1
            report(step, pace.steps, "")
        network.eval()
        reached = score()
        if reached > best:
            best, best_state = reached, copy.deepcopy(network.state_dict())
    report(pace.steps, pace.steps, f"{step / per_epoch:.1f} epochs")
    network.load_state_dict(best_state)
    network.eval()
    return Fit(step / per_epoch, epochs, best)
