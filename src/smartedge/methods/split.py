"""Split learning: the edge sends features and waits for the gradient. The gradient then updates the front."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smartedge.methods.front_step import split_finish, split_start
from smartedge.methods.learner import Learned, NetworkLearner
from smartedge.methods.loop import Progress
from smartedge.models.network import divide
from smartedge.types import ImageBatch, Task

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.data import DataSet
    from smartedge.models.network import EdgeParts

__all__ = ["SplitLearner", "cloud", "edge"]


def edge(
    config: Config, task: Task, device: torch.device, dataset: DataSet | None, parts: EdgeParts | None
) -> SplitLearner:
    """The learner of the front."""
    return SplitLearner(config, task, device)


def cloud(config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The back."""
    divided = divide(config.division(outputs))
    return divided.back, divided.feature_shape


class SplitLearner(NetworkLearner):
    """The front learns here, from the cloud's gradient."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        divided = divide(config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        super().__init__(config, task, device, {"front": divided.front})

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """Forward pass. The backward pass and the update follow when the cloud's gradient comes."""
        self.train_mode()
        features_BF = split_start(
            self.modules["front"], self.to_input(batch.images_BCHW), precision=self.config.train.precision
        )
        return Learned(None, features_BF.detach(), partial(self._finish, features_BF))

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Features; no logits, since the edge has no head."""
        self.eval_mode()
        with torch.no_grad():
            return split_start(
                self.modules["front"], self.to_input(batch.images_BCHW), precision=self.config.train.precision
            ), None

    def _finish(self, features_BF: Tensor, gradient_BF: Tensor) -> None:
        gradient_BF = gradient_BF.to(self.device)
        split_finish(self.optimizer, features_BF, gradient_BF, clip_norm=self.config.train.clip_grad_norm)
