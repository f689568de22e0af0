"""Local: the edge trains the whole network, and sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smartedge.methods.front_step import edge_forward, edge_step
from smartedge.methods.learner import Learned, NetworkLearner
from smartedge.methods.loop import Progress
from smartedge.methods.options import options_of
from smartedge.models.network import undivided
from smartedge.types import ImageBatch, Task

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.data import DataSet
    from smartedge.models.network import EdgeParts

__all__ = ["UndividedLearner", "edge"]


def edge(
    config: Config, task: Task, device: torch.device, dataset: DataSet | None, parts: EdgeParts | None
) -> UndividedLearner:
    """The learner of the whole network."""
    return UndividedLearner(config, task, device)


class UndividedLearner(NetworkLearner):
    """The whole network learns here. It can also be the teacher of a front."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        super().__init__(config, task, device, {"network": undivided(config.division(task.outputs))})

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """One update of the whole network."""
        self.train_mode()
        step = edge_step(
            self.modules["network"],
            nn.Identity(),
            self.optimizer,
            self.to_input(batch.images_BCHW),
            batch.labels.to(self.device),
            self.task.kind,
            options=options_of(self.config),
        )
        return Learned(step)

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The network's logits."""
        return None, self.answer(self.to_input(batch.images_BCHW))

    def answer(self, inputs_BCHW: Tensor) -> Tensor:
        """The network's logits (B, K), float32, for float32 inputs (B, 3, H, W), in evaluation mode."""
        self.eval_mode()
        precision = self.config.train.precision
        return edge_forward(self.modules["network"], nn.Identity(), inputs_BCHW, precision=precision)[1]
