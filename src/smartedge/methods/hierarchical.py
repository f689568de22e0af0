"""Hierarchical training: the front learns from its own exit on the edge, and its features are sent.

The cloud sends nothing back. Sepehri et al., "Hierarchical Training of Deep Neural Networks Using Early Exiting"
(arXiv 2303.02384). With protection it is "PriPHiT" (arXiv 2408.05092).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smartedge.codec import LearnedCodec, get_codec
from smartedge.errors import ConfigError, RunError
from smartedge.methods.front_step import edge_forward, edge_step
from smartedge.methods.learner import Learned, NetworkLearner
from smartedge.methods.local import UndividedLearner
from smartedge.methods.loop import Progress
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.options import options_of
from smartedge.methods.protected_step import Distillation, MixtureTerm, Protection, Suppression, protected_step
from smartedge.methods.rate import RateTerm
from smartedge.models.network import EdgeParts, divide
from smartedge.models.optim import Adam, in_one_pass
from smartedge.models.suppression.adversary import Adversaries, TrainingLabels
from smartedge.models.suppression.confusion import rise_at
from smartedge.models.suppression.mixtures import Mixtures
from smartedge.runs.checkpoint import State, load_weights
from smartedge.runs.seeds import derive_seed
from smartedge.types import ImageBatch, Task

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.data import DataSet

__all__ = ["ExitLearner", "cloud", "edge", "load_front"]


def edge(
    config: Config, task: Task, device: torch.device, dataset: DataSet | None, parts: EdgeParts | None
) -> ExitLearner:
    """The learner of front and task exit."""
    return ExitLearner(config, task, device, dataset, parts)


def cloud(config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The back."""
    divided = divide(config.division(outputs))
    return divided.back, divided.feature_shape


class ExitLearner(NetworkLearner):
    """Front and task exit learn here; bounded and detached features are sent.

    Where the settings ask for protection (``adversary``, ``dp``, ``model.codebook``) or distillation, the update is
    :func:`smartedge.methods.protected_step.protected_step`; otherwise the plain one.

    ``parts`` are front and exit, where another process has divided the network.

    Raises:
        ValueError: there are adversarial exits, but no ``dataset`` with the labels that they learn.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        device: torch.device,
        dataset: DataSet | None = None,
        parts: EdgeParts | None = None,
    ) -> None:
        parts = parts or divide(config.division(task.outputs))
        for given in (config.file_of_front("start"), config.file_of_front("front")):
            if given is not None:
                load_front(parts, given)
        self.feature_shape = parts.feature_shape
        super().__init__(config, task, device, {"front": parts.front, "exit": parts.task_exit})
        self.mechanism = mechanism_of(config, self.feature_shape)
        self.adversaries, self.adversary_optimizer = _adversaries(config, dataset, parts, device)
        codec = get_codec(config.codec_name)
        self.rate: RateTerm | None = None
        # Noise costs bits that no front can save, so with noise the codec alone keeps to the target.
        if isinstance(codec, LearnedCodec) and config.dp.mechanism == "none":
            self.rate = RateTerm(self.feature_shape, codec, device)
        self.mixtures: Mixtures | None = None
        if config.adversary.mixture > 0:
            self.mixtures = Mixtures(self.feature_shape, _training_labels(config, dataset)).to(device)
        if config.train.distill.epochs:
            self.teacher = UndividedLearner(config, task, device)
        # Frozen batch normalisation stays in evaluation mode, and mixes nothing.
        mixing = any(isinstance(module, _BatchNorm) and module.training for module in parts.front.train().modules())
        self.alone = mixing and config.dp.mechanism != "none"
        self.plain = (
            config.dp.mechanism == "none"
            and config.model.codebook is None
            and self.adversaries is None
            and self.teacher is None
        )

    def begin_epoch(self, epoch: int) -> None:
        """Every ``adversary.reset_every`` epochs one adversarial exit, in turn, gets new weights."""
        every = self.config.adversary.reset_every
        if self.adversary_optimizer is None or every == 0 or epoch == 0 or epoch % every:
            return
        assert self.adversaries is not None
        seed = derive_seed(self.config.seed, "adversary", epoch)
        self.adversaries.restart(epoch // every - 1, seed, self.adversary_optimizer)

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """One update. The features of the same forward pass are to be sent.

        There is one exception: releases are private, and the front has batch normalisation. In training, batch
        normalisation mixes the images of a batch; the noise of one image would not cover what it leaves in the
        features of the others. So the features are computed in evaluation mode, before the update.
        """
        alone_BF = self.infer(batch)[0] if self.alone and sending else None
        self.train_mode()
        inputs_BCHW, labels = self.to_input(batch.images_BCHW), batch.labels.to(self.device)
        front, task_exit = self.modules["front"], self.modules["exit"]
        update_of = (front, task_exit, self.optimizer, inputs_BCHW, labels, self.task.kind)
        if self.plain:
            step = edge_step(*update_of, options=options_of(self.config), rate=self.rate)
        else:
            protection = self._protection(batch, inputs_BCHW, progress)
            step = protected_step(*update_of, protection, options=options_of(self.config))
        return Learned(step, step.features_BF if alone_BF is None else alone_BF)

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Bounded features and the exit's logits."""
        self.eval_mode()
        return edge_forward(
            self.modules["front"],
            self.modules["exit"],
            self.to_input(batch.images_BCHW),
            mechanism=None if self.plain else self.mechanism,
            task_kind=self.task.kind,
            precision=self.config.train.precision,
        )

    def state(self) -> State:
        """The state, with adversarial exits, their optimizer, the memory of the mixture term, and the rate term.

        λ and the resets follow from step and epoch.
        """
        state = super().state()
        if self.adversaries is not None and self.adversary_optimizer is not None:
            state["adversaries"] = self.adversaries.state_dict()
            state["adversary_optimizer"] = self.adversary_optimizer.state_dict()
        if self.mixtures is not None:
            state["mixtures"] = self.mixtures.state_dict()
        if self.rate is not None:
            state["rate"] = self.rate.state()
        return state

    def load_state(self, state: State) -> None:
        """Restore a state."""
        super().load_state(state)
        if self.adversaries is not None and self.adversary_optimizer is not None:
            self.adversaries.load_state_dict(state["adversaries"], strict=True)
            self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
        if self.mixtures is not None:
            self.mixtures.load_state_dict(state["mixtures"], strict=True)
        if self.rate is not None:
            self.rate.load_state(state["rate"])

    def _protection(self, batch: ImageBatch, inputs_BCHW: Tensor, progress: Progress) -> Protection:
        """Noise, suppression and distillation at this point of the training."""
        distill, distillation = self.config.train.distill, None
        if self.teacher is not None:
            distillation = Distillation(self.teacher.answer(inputs_BCHW), distill.weight, distill.temperature)
        return Protection(
            self.mechanism,
            noise=rise_at(progress.step, progress.steps, warmup=self.config.dp.warmup),
            suppression=self._suppression(batch, progress),
            distillation=distillation,
            rate=self.rate,
        )

    def _suppression(self, batch: ImageBatch, progress: Progress) -> Suppression | None:
        if self.adversaries is None:
            return None
        adversary = self.config.adversary
        rise = rise_at(progress.step, progress.steps, warmup=adversary.warmup)
        mixture = None
        if self.mixtures is not None:
            ids_B = torch.from_numpy(batch.ids).to(self.device)
            mixture = MixtureTerm(self.mixtures, ids_B, weight=rise * adversary.mixture)
        return Suppression(
            self.adversaries,
            self.adversary_optimizer,
            {column: batch.sensitive[column].to(self.device) for column in self.adversaries.columns},
            steps=adversary.steps,
            weight=rise * adversary.weight,
            dependence=rise * adversary.dependence,
            mixture=mixture,
        )


def load_front(parts: EdgeParts, path: Path) -> None:
    """Give the front the weights of one that was trained before, and the exit those beside it, where they are there.

    Raises:
        ConfigError: the file is not there, is damaged, or holds another network.
    """
    by_file = {path: parts.front, path.with_name("exit.safetensors"): parts.task_exit}
    for file, part in by_file.items():
        if file != path and not file.exists():
            continue
        try:
            part.load_state_dict(load_weights(file), strict=True)
        except (RunError, RuntimeError) as error:
            raise ConfigError(
                f"model.front, model.start: {file} does not fit the network, cut and bottleneck of these settings "
                f"({str(error).splitlines()[0]}); use the settings of the run that trained it"
            ) from error


def _adversaries(
    config: Config, dataset: DataSet | None, parts: EdgeParts, device: torch.device
) -> tuple[Adversaries | None, torch.optim.Optimizer | None]:
    adversary = config.adversary
    if not config.suppresses:
        return None, None
    adversaries = Adversaries(
        adversary.exits,
        parts.feature_shape,
        _training_labels(config, dataset),
        confusion=adversary.confusion,
        seed=derive_seed(config.seed, "adversary"),
        layout=parts.layout,
    ).to(device)
    if not adversary.exits:
        return adversaries, None
    return adversaries, in_one_pass(Adam(adversaries.parameters(), lr=adversary.lr))


def _training_labels(config: Config, dataset: DataSet | None) -> TrainingLabels:
    if dataset is None:
        raise ValueError("what is to be hidden is learned from the labels of a data set; give one")
    learning = dataset.splits["train"]
    columns = {column: dataset.sensitive[column] for column in config.data.sensitive}
    return TrainingLabels(dataset.task, learning.labels, columns, learning.sensitive_labels)
