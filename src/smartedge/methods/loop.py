"""The training loop. Every network of smartedge is trained by it: front, teacher, back, and the audit's networks.

:func:`fit` goes through epochs and batches; :func:`take_step` makes one update, for callers whose batches come
one by one. Each training brings its own ``step``: loss, backward pass and update.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from smartedge.models.optim import set_learning_rate
from smartedge.runs.checkpoint import State
from smartedge.runs.seeds import RandomStream

__all__ = [
    "Best",
    "Deadline",
    "Progress",
    "Rates",
    "cosine",
    "fit",
    "load_networks_state",
    "load_training_state",
    "networks_state",
    "take_step",
    "training_state",
    "warmup_cosine",
]

Batch = TypeVar("Batch")
Result = TypeVar("Result")

_REPORT_EVERY = 4  # steps
_TICKS = 1000  # steps of the learning rate in a training that ends by the clock


class Deadline:
    """A time limit, and how much of it is used.

    Args:
        seconds: the limit; ``math.inf`` for none.
        now: returns the time in seconds; tests pass their own.
    """

    def __init__(self, seconds: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._begun = now()

    @property
    def spent(self) -> float:
        """Share of the limit that is used, from 0."""
        return 1.0 if self._seconds <= 0 else (self._now() - self._begun) / self._seconds


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epochs: epochs in all.
        steps_per_epoch: updates in each.
        epoch: epochs completed.
        step: updates made.
        deadline: ends the training before its epochs are completed. None: the epochs alone decide.
    """

    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    deadline: Deadline | None = None

    @property
    def steps(self) -> int:
        """Updates in all, where the time suffices."""
        return self.epochs * self.steps_per_epoch

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1: the share of the updates or of the time, whichever is larger."""
        spent = 0.0 if self.deadline is None else self.deadline.spent
        return min(1.0, max(self.step / self.steps, spent))

    @property
    def is_told(self) -> bool:
        """Whether to tell people how far it is: after every fourth update, and after the last one."""
        return self.step % _REPORT_EVERY == 0 or self.step == self.steps

    @property
    def ended(self) -> bool:
        """Whether all epochs are completed, or the time is over."""
        return self.epoch >= self.epochs or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and self.deadline.spent >= 1


Rates = Callable[[Progress], None]  # sets the learning rates of the next update


def fit(
    step: Callable[[Batch, Progress], Result],
    batches: Callable[[int], Generator[Batch, None, None]],
    progress: Progress,
    *,
    rates: Rates,
    random: RandomStream | None = None,
    report: Callable[[Progress], None] | None = None,
    after_epoch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> bool:
    """Train until the epochs are completed or the time is over (True), or until ``stop`` says so (False).

    Args:
        step: one update on a batch: loss, backward pass, step of the optimizers.
        batches: epoch, counted from 0 → its batches.
        progress: where to begin, for example from a checkpoint. It is updated in place.
        rates: sets the learning rates before each step.
        random: where a step draws its random numbers from. None: torch's global generator.
        report: called every fourth step, and after the last one.
        after_epoch: called after each epoch: to validate, to keep the best state, to write a checkpoint.
        stop: called before each step; True ends the training.
    """
    while not progress.ended:
        with closing(batches(progress.epoch)) as source:
            for batch in source:
                if stop is not None and stop():
                    return False
                if progress.out_of_time:
                    break
                take_step(step, batch, progress, rates=rates, random=random)
                if report is not None and progress.is_told:
                    report(progress)
        progress.epoch += 1
        if after_epoch is not None:
            after_epoch(progress)
    return True


def take_step(
    step: Callable[[Batch, Progress], Result],
    batch: Batch,
    progress: Progress,
    *,
    rates: Rates,
    random: RandomStream | None = None,
) -> Result:
    """Make one update, and return what ``step`` gives. The arguments are those of :func:`fit`."""
    rates(progress)
    with nullcontext() if random is None else random.active():
        result = step(batch, progress)
    progress.step += 1
    return result


def warmup_cosine(optimizer: torch.optim.Optimizer, peak: float) -> Rates:
    """Linear warm-up to ``peak`` over the first tenth of a training, then a cosine to zero.

    The rate follows the updates. With a deadline it follows :attr:`Progress.share`.
    """

    def set_rate(progress: Progress) -> None:
        if progress.deadline is None:
            set_learning_rate(optimizer, peak=peak, step=progress.step, steps=progress.steps)
        else:
            tick = min(_TICKS - 1, int(progress.share * _TICKS))
            set_learning_rate(optimizer, peak=peak, step=tick, steps=_TICKS)

    return set_rate


def cosine(optimizer: torch.optim.Optimizer, peak: float) -> Rates:
    """A cosine from ``peak`` to zero, without a warm-up. It follows :attr:`Progress.share`."""

    def set_rate(progress: Progress) -> None:
        for group in optimizer.param_groups:
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress.share))

    return set_rate


class Best:
    """The state of a network that scored highest so far.

    Args:
        network: its state is kept.
        score: of its present state.
    """

    def __init__(self, network: nn.Module, score: float = float("-inf")) -> None:
        self.network = network
        self.score = score
        self._state = copy.deepcopy(network.state_dict())

    def offer(self, score: float) -> None:
        """Keep the present state if ``score`` is higher than all before."""
        if score > self.score:
            self.score, self._state = score, copy.deepcopy(self.network.state_dict())

    def restore(self) -> None:
        """Put the best state into the network, and the network into evaluation mode."""
        self.network.load_state_dict(self._state)
        self.network.eval()


def networks_state(modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> State:
    """Parameters and buffers of networks, and the state of their optimizer."""
    states = {name: module.state_dict() for name, module in modules.items()}
    return {"modules": states, "optimizer": optimizer.state_dict()}


def load_networks_state(state: State, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Restore a state that :func:`networks_state` returned."""
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name], strict=True)
    optimizer.load_state_dict(state["optimizer"])


def training_state(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, random: RandomStream, progress: Progress
) -> State:
    """All that a training changes, for :class:`smartedge.runs.checkpoint.Checkpoints`."""
    learned = networks_state(modules, optimizer)
    return {**learned, "random": random.state, "epoch": progress.epoch, "step": progress.step}


def load_training_state(
    state: State,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    random: RandomStream,
    progress: Progress,
) -> None:
    """Restore a state that :func:`training_state` returned."""
    load_networks_state(state, modules, optimizer)
    random.state, progress.epoch, progress.step = state["random"], state["epoch"], state["step"]
