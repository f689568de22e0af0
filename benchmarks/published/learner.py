"""What all defences have in common: how a front learns with one, and what it sends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.config import Config
from smartedge.methods.front_step import EdgeStep
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.learner import Learned
from smartedge.methods.loop import Progress
from smartedge.methods.options import options_of
from smartedge.models.exits import task_loss
from smartedge.models.optim import apply_gradients
from smartedge.models.suppression.confusion import rise_at
from smartedge.types import ImageBatch, Task

__all__ = ["Defence", "DefendedLearner", "Seen"]


@dataclass(frozen=True)
class Seen:
    """A batch of training images, as a penalty may look at it."""

    inputs_BCHW: Tensor  # float32, as the front takes them
    labels_B: Tensor  # int64, the desired label
    sensitive_B: Tensor  # int64


class Defence(nn.Module):
    """What a defence adds to the front's loss, and what it does to the features before they are sent.

    The base class adds nothing and sends the features as they are.
    """

    def release(self, features_BF: Tensor) -> Tensor:
        """What is sent of features (B, *F). In training it is differentiable."""
        return features_BF

    def penalty(self, features_BF: Tensor, seen: Seen) -> Tensor:
        """A scalar that front and task exit minimise beside the loss on the desired label.

        A defence with an adversary updates the adversary here, on features without a graph.
        """
        return features_BF.new_zeros(())

    def learned(self) -> Iterable[nn.Parameter]:
        """The parameters that learn together with the front (not those of an adversary)."""
        return ()

    def forward(self, features_BF: Tensor) -> Tensor:
        """The same as :meth:`release`, so that a defence can follow the front in a chain."""
        return self.release(features_BF)


class DefendedLearner(ExitLearner):
    """Front and task exit learn the desired label from what the defence releases, and minimise its penalty.

    The penalty's weight rises over the first fifth of the steps (``adversary.warmup``), as the library's own terms do.
    """

    def __init__(self, config: Config, task: Task, device: torch.device, defence: Defence) -> None:
        super().__init__(config, task, device)
        self.modules["defence"] = defence.to(device)
        self.defence = defence
        if learned := list(defence.learned()):
            self.optimizer.add_param_group({"params": learned, "weight_decay": 0.0})

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """One update."""
        self.train_mode()
        inputs_BCHW, labels_B = self.to_input(batch.images_BCHW), batch.labels.to(self.device)
        (sensitive_B,) = batch.sensitive.values()
        options = options_of(self.config)
        with options.autocast(self.device):
            features_BF = self.modules["front"](inputs_BCHW)
        features_BF = features_BF.float()
        with options.autocast(self.device):
            logits_BK = self.modules["exit"](self.defence.release(features_BF))
        loss = task_loss(logits_BK, labels_B, self.task.kind)
        rise = rise_at(progress.step, progress.steps, warmup=self.config.adversary.warmup)
        penalty = self.defence.penalty(features_BF, Seen(inputs_BCHW, labels_B, sensitive_B.to(self.device)))
        (loss + rise * penalty).backward()
        apply_gradients(self.optimizer, clip_norm=options.clip_norm)
        figures = {"penalty": penalty.item()}
        return Learned(EdgeStep(features_BF.detach(), logits_BK.detach().float(), loss.item(), figures))
