"""What the edge does with a batch, for each method: one class each, all with the same members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smartedge.config import Config
from smartedge.data import DataSet
from smartedge.edge.outbox import Outbox
from smartedge.edge.protection import mechanism_of
from smartedge.edge.step import EdgeStep, edge_forward, edge_step, split_finish, split_start
from smartedge.edge.suppression import Lesson, Suppression, protected_step
from smartedge.models import zoo
from smartedge.models.adversary import Adversaries, weight_at
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer, set_learning_rate
from smartedge.runs.seeds import derive_seed
from smartedge.types import ImageBatch, Task

__all__ = ["Learner", "make_learner"]


class Learner(Protocol):
    """A method's part on the edge."""

    feature_shape: tuple[int, ...]  # F of what is sent; () where nothing is sent
    modules: dict[str, nn.Module]  # what it trains and the run ends with; saved under these names
    teacher: UndividedLearner | None  # to be trained first, where the run distils

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of every epoch in which it learns; epochs count from 0."""

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> EdgeStep | None:
        """Update on one batch and send what the method sends; what the update gave, where the edge has a head."""

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """What would be sent, (B, *F), and logits (B, K), where there are any. Changes nothing."""

    def state(self) -> dict[str, Any]:
        """All that :meth:`learn` changes, for a checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state."""


def make_learner(config: Config, task: Task, device: torch.device, dataset: DataSet | None = None) -> Learner:
    """The learner for ``config.method``.

    Args:
        config: the run's settings.
        task: what the desired labels mean.
        device: where it computes.
        dataset: whose sensitive labels the adversarial exits learn; needed where there are any.
    """
    if config.method == "hierarchical":
        return ExitLearner(config, task, device, dataset)
    kinds: dict[str, Callable[[Config, Task, torch.device], Learner]] = {
        "split": SplitLearner,
        "upload": UploadLearner,
        "local": UndividedLearner,
    }
    return kinds[config.method](config, task, device)


class _Trains:
    """What the learners with parameters share: where modules live, and how they are updated."""

    def __init__(self, config: Config, task: Task, device: torch.device, modules: dict[str, nn.Module]) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.modules = modules
        self.teacher: UndividedLearner | None = None
        train = config.train
        for module in modules.values():
            module.to(device)
            if train.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            modules.values(),
            name=train.optimizer,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=train.momentum,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Nothing."""

    def state(self) -> dict[str, Any]:
        """Parameters, buffers, and the optimizer's state."""
        modules = {name: module.state_dict() for name, module in self.modules.items()}
        return {"modules": modules, "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])

    def _ready(self, step: int, steps: int) -> torch.optim.Optimizer:
        for module in self.modules.values():
            module.train()
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
    """Hierarchical training: front and task exit learn here, bounded and detached features are sent.

    Where the settings ask for protection (``adversary``, ``dp``, ``model.codebook``) or distillation, the update is
    :func:`smartedge.edge.suppression.protected_step`; otherwise the plain one.
    """

    def __init__(self, config: Config, task: Task, device: torch.device, dataset: DataSet | None = None) -> None:
        divided = divide(**config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        super().__init__(config, task, device, {"front": divided.front, "exit": divided.task_exit})
        self.mechanism = mechanism_of(config, self.feature_shape)
        self.adversaries, self.adversary_optimizer = _adversaries(config, dataset, self.feature_shape, device)
        if config.train.distill.epochs:
            self.teacher = UndividedLearner(config, task, device)
        mixing = any(isinstance(module, _BatchNorm) for module in divided.front.modules())
        self.alone = mixing and config.dp.mechanism != "none"
        self.plain = (
            config.dp.mechanism == "none"
            and config.model.codebook is None
            and self.adversaries is None
            and self.teacher is None
        )

    def begin_epoch(self, epoch: int) -> None:
        """Every ``adversary.reset_every`` epochs one adversarial exit in turn starts anew."""
        every = self.config.adversary.reset_every
        if self.adversary_optimizer is None or every == 0 or epoch == 0 or epoch % every:
            return
        assert self.adversaries is not None
        seed = derive_seed(self.config.seed, "adversary", epoch)
        self.adversaries.restart(epoch // every - 1, seed, self.adversary_optimizer)

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> EdgeStep | None:
        """One update; the features of the same forward pass are sent, unless there is no outbox (front only).

        Not where they are private and batch normalisation mixes the images of a batch: then each image's features are
        made by itself, before the update, or its noise would not cover what it leaves in the others' of its frame.
        """
        alone_BF = self.infer(batch)[0] if self.alone and outbox is not None else None
        result = (
            self._step(self.modules["front"], self.modules["exit"], batch, step, steps)
            if self.plain
            else self._protected(batch, step, steps)
        )
        if outbox is not None:
            outbox.send(batch.ids, result.features_BF if alone_BF is None else alone_BF, batch.labels)
        return result

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Bounded features and the exit's logits."""
        self._freeze()
        return edge_forward(
            self.modules["front"],
            self.modules["exit"],
            self._inputs(batch),
            mechanism=None if self.plain else self.mechanism,
            task_kind=self.task.kind,
            precision=self.config.train.precision,
        )

    def state(self) -> dict[str, Any]:
        """Also the adversarial exits and their optimizer; λ and the resets follow from step and epoch."""
        state = super().state()
        if self.adversaries is not None and self.adversary_optimizer is not None:
            state["adversaries"] = self.adversaries.state_dict()
            state["adversary_optimizer"] = self.adversary_optimizer.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        super().load_state(state)
        if self.adversaries is not None and self.adversary_optimizer is not None:
            self.adversaries.load_state_dict(state["adversaries"], strict=True)
            self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])

    def _protected(self, batch: ImageBatch, step: int, steps: int) -> EdgeStep:
        train, adversary = self.config.train, self.config.adversary
        optimizer = self._ready(step, steps)
        inputs_BCHW = self._inputs(batch)
        suppression = lesson = None
        if self.adversaries is not None:
            rise = weight_at(step, steps, weight=1.0, warmup=adversary.warmup)
            suppression = Suppression(
                self.adversaries.train(),
                self.adversary_optimizer,
                {column: batch.sensitive[column].to(self.device) for column in self.adversaries.columns},
                steps=adversary.steps,
                weight=rise * adversary.weight,
                dependence=rise * adversary.dependence,
            )
        if self.teacher is not None:
            distill = train.distill
            lesson = Lesson(self.teacher.answer(inputs_BCHW), distill.weight, distill.temperature)
        return protected_step(
            self.modules["front"],
            self.modules["exit"],
            optimizer,
            inputs_BCHW,
            batch.labels.to(self.device),
            self.task.kind,
            mechanism=self.mechanism,
            noise=weight_at(step, steps, weight=1.0, warmup=self.config.dp.warmup),
            suppression=suppression,
            lesson=lesson,
            precision=train.precision,
            label_smoothing=train.label_smoothing,
            clip_norm=train.clip_grad_norm,
        )


def _adversaries(
    config: Config, dataset: DataSet | None, feature_shape: tuple[int, ...], device: torch.device
) -> tuple[Adversaries | None, torch.optim.Optimizer | None]:
    adversary = config.adversary
    if not config.suppresses:
        return None, None
    if dataset is None:
        raise ValueError("adversarial exits learn the labels of a data set; give make_learner one")
    learning = dataset.splits["train"]
    adversaries = Adversaries(
        adversary.exits,
        feature_shape,
        dataset.task,
        {column: dataset.sensitive[column] for column in config.data.sensitive},
        learning.labels,
        learning.sensitive_labels,
        confusion=adversary.confusion,
        seed=derive_seed(config.seed, "adversary"),
    ).to(device)
    if not adversary.exits:
        return adversaries, None
    return adversaries, torch.optim.Adam(adversaries.parameters(), lr=adversary.lr)


class SplitLearner(_Trains):
    """Classic split learning: features are sent, the gradient comes back."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        divided = divide(**config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        super().__init__(config, task, device, {"front": divided.front})

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> EdgeStep | None:
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
        self.teacher: UndividedLearner | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing is learned here."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing is learned here."""

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> EdgeStep | None:
        """Send the images."""
        assert outbox is not None
        outbox.send(batch.ids, batch.images_BCHW, batch.labels)
        return None

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The images."""
        return batch.images_BCHW, None


class UndividedLearner(_Trains):
    """Everything on the edge: the whole network, nothing is sent. Also the teacher of a front."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        whole = zoo.build(**config.whole(task.outputs))
        self.feature_shape: tuple[int, ...] = ()
        super().__init__(config, task, device, {"network": whole})

    def learn(self, batch: ImageBatch, step: int, steps: int, outbox: Outbox | None) -> EdgeStep | None:
        """One update of the whole network."""
        return self._step(self.modules["network"], nn.Identity(), batch, step, steps)

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The network's logits."""
        return None, self.answer(self._inputs(batch))

    def answer(self, inputs_BCHW: Tensor) -> Tensor:
        """The network's logits (B, K) for float32 inputs (B, 3, H, W), in evaluation mode."""
        self._freeze()
        precision = self.config.train.precision
        return edge_forward(self.modules["network"], nn.Identity(), inputs_BCHW, precision=precision)[1]
