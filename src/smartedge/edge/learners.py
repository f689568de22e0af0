"""What the edge does with a batch, for each method: one class each, all with the same four members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from smartedge.config import Config
from smartedge.edge.outbox import Outbox
from smartedge.edge.step import EdgeStep, edge_forward, edge_step, split_finish, split_start
from smartedge.models import zoo
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer, set_learning_rate
from smartedge.types import ImageBatch, Task

__all__ = ["Learner", "make_learner"]


class Learner(Protocol):
    """A method's part on the edge."""

    feature_shape: tuple[int, ...]  # F of what is sent; () where nothing is sent
    modules: dict[str, nn.Module]  # what it trains; saved in checkpoints under these names
    optimizer: torch.optim.Optimizer | None

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> tuple[Tensor, float] | None:
        """Update on one batch and send what the method sends; logits (B, K) and loss where the edge has a head."""

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """What would be sent, (B, *F), and logits (B, K), where there are any. Changes nothing."""


def make_learner(config: Config, task: Task, device: torch.device) -> Learner:
    """The learner for ``config.method``."""
    kinds: dict[str, Callable[[Config, Task, torch.device], Learner]] = {
        "hierarchical": ExitLearner,
        "split": SplitLearner,
        "cloud": UploadLearner,
        "edge": UndividedLearner,
    }
    return kinds[config.method](config, task, device)


class _Trains:
    """What the learners with parameters share: where modules live, and how they are updated."""

    def __init__(self, config: Config, task: Task, device: torch.device, modules: dict[str, nn.Module]) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.modules = modules
        train = config.train
        for module in modules.values():
            module.to(device)
            if train.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer: torch.optim.Optimizer | None = make_optimizer(
            modules.values(),
            name=train.optimizer,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=train.momentum,
        )

    def _ready(self, step: int, steps: int) -> torch.optim.Optimizer:
        for module in self.modules.values():
            module.train()
        assert self.optimizer is not None
        set_learning_rate(self.optimizer, peak=self.config.train.lr, step=step, steps=steps)
        return self.optimizer

    def _freeze(self) -> None:
        for module in self.modules.values():
            module.eval()

    def _inputs(self, batch: ImageBatch) -> Tensor:
        return to_input(batch.images_BCHW, self.device, channels_last=self.config.train.channels_last)

    def _step(self, front: nn.Module, head: nn.Module, batch: ImageBatch, step: int, steps: int) -> EdgeStep:
        train = self.config.train
        optimizer = self._ready(step, steps)
        return edge_step(
            front,
            head,
            optimizer,
            self._inputs(batch),
            batch.labels.to(self.device),
            self.task.kind,
            precision=train.precision,
            label_smoothing=train.label_smoothing,
            clip_norm=train.clip_grad_norm,
        )


class ExitLearner(_Trains):
    """Hierarchical training: front and task exit learn here, detached features are sent."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        divided = divide(**config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        super().__init__(config, task, device, {"front": divided.front, "exit": divided.task_exit})

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> tuple[Tensor, float] | None:
        """One update; the features of the same forward pass are sent, unless there is no outbox (front only)."""
        result = self._step(self.modules["front"], self.modules["exit"], batch, step, steps)
        if outbox is not None:
            outbox.send(batch.ids, result.features_BF, batch.labels)
        return result.logits_BK, result.loss

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Features and the exit's logits."""
        self._freeze()
        return edge_forward(
            self.modules["front"], self.modules["exit"], self._inputs(batch), precision=self.config.train.precision
        )


class SplitLearner(_Trains):
    """Classic split learning: features are sent, the gradient comes back."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        divided = divide(**config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        super().__init__(config, task, device, {"front": divided.front})

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> tuple[Tensor, float] | None:
        """Forward, exchange, backward; the edge has no head, so there is nothing to report."""
        assert outbox is not None
        optimizer = self._ready(step, steps)
        features_BF = split_start(self.modules["front"], self._inputs(batch), precision=self.config.train.precision)
        gradient_BF = outbox.exchange(batch.ids, features_BF.detach(), batch.labels)
        split_finish(optimizer, features_BF, gradient_BF.to(self.device), clip_norm=self.config.train.clip_grad_norm)
        return None

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Features."""
        self._freeze()
        with torch.no_grad():
            return split_start(self.modules["front"], self._inputs(batch), precision=self.config.train.precision), None


class UploadLearner:
    """Upload-and-train-in-cloud: images are sent as they are; the cloud augments them."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        self.feature_shape: tuple[int, ...] = (3, config.data.image_size, config.data.image_size)
        self.modules: dict[str, nn.Module] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> tuple[Tensor, float] | None:
        """Send the images."""
        assert outbox is not None
        outbox.send(batch.ids, batch.images_BCHW, batch.labels)
        return None

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The images."""
        return batch.images_BCHW, None


class UndividedLearner(_Trains):
    """Everything on the edge: the whole network, nothing is sent."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        whole = zoo.build(**config.whole(task.outputs))
        self.feature_shape: tuple[int, ...] = ()
        super().__init__(config, task, device, {"network": whole})

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> tuple[Tensor, float] | None:
        """One update of the whole network."""
        result = self._step(self.modules["network"], nn.Identity(), batch, step, steps)
        return result.logits_BK, result.loss

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The network's logits."""
        self._freeze()
        train = self.config.train
        _, logits_BK = edge_forward(
            self.modules["network"], nn.Identity(), self._inputs(batch), precision=train.precision
        )
        return None, logits_BK
