"""Learners, which the edge runs: their interface, and the base of learners with parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from smartedge.methods.front_step import EdgeStep
from smartedge.methods.loop import Progress, Rates, load_networks_state, networks_state, warmup_cosine
from smartedge.methods.options import optimizer_of, place
from smartedge.models.network import to_input
from smartedge.runs.checkpoint import State
from smartedge.types import ImageBatch, Task

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.methods.local import UndividedLearner

__all__ = ["Learned", "Learner", "NetworkLearner"]


@dataclass(frozen=True)
class Learned:
    """The result of one batch.

    Attributes:
        step: the update's figures; None where the edge has no head of its own.
        sent_BF: what is to be sent, (B, *F), detached; None where nothing is sent.
        finish: ends the update; its argument is the cloud's answer, the gradient at the cut (B, *F). None where the
            update needs no answer.
    """

    step: EdgeStep | None
    sent_BF: Tensor | None = None
    finish: Callable[[Tensor], None] | None = None


class Learner(Protocol):
    """A method's part on the edge."""

    feature_shape: tuple[int, ...]  # F of what is sent; () where nothing is sent
    modules: dict[str, nn.Module]  # what it trains; the weights are saved under these names
    teacher: UndividedLearner | None  # trained first; None where the run does not distil

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of every epoch in which it learns; epochs count from 0."""

    def rates(self, progress: Progress) -> None:
        """Set the learning rates of the next update."""

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """Update on one batch. Returns what is to be sent; the caller sends it where ``sending`` is true."""

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """What would be sent, (B, *F), and logits (B, K); None for what the method does not have. Changes nothing."""

    def state(self) -> State:
        """All that :meth:`learn` changes, for a checkpoint."""

    def load_state(self, state: State) -> None:
        """Restore a state."""


class NetworkLearner:
    """A learner with parameters. It places its modules, updates them, and gives their state to checkpoints.

    Args:
        config: the run's settings.
        task: what the desired labels mean.
        device: where it computes.
        modules: what it trains, by the names under which they are saved.
    """

    feature_shape: tuple[int, ...] = ()

    def __init__(self, config: Config, task: Task, device: torch.device, modules: dict[str, nn.Module]) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.modules = modules
        self.teacher: UndividedLearner | None = None
        train = config.train
        for module in modules.values():
            place(module, config, device)
        self.optimizer = optimizer_of(config, modules.values())
        self.rates: Rates = warmup_cosine(self.optimizer, train.lr)
        self.to_input = partial(to_input, device=device, channels_last=train.channels_last is True)

    def begin_epoch(self, epoch: int) -> None:
        """Nothing to do."""

    def state(self) -> State:
        """Parameters, buffers, and the optimizer's state."""
        return networks_state(self.modules, self.optimizer)

    def load_state(self, state: State) -> None:
        """Restore a state."""
        load_networks_state(state, self.modules, self.optimizer)

    def train_mode(self) -> None:
        """Put all modules into training mode."""
        for module in self.modules.values():
            module.train()

    def eval_mode(self) -> None:
        """Put all modules into evaluation mode."""
        for module in self.modules.values():
            module.eval()
