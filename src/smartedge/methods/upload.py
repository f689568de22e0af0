"""Upload: the edge sends its images as they are, and the cloud trains the whole network on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smartedge.methods.learner import Learned
from smartedge.methods.loop import Progress
from smartedge.models.network import undivided
from smartedge.runs.checkpoint import State
from smartedge.types import ImageBatch, Task

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.data import DataSet
    from smartedge.models.network import EdgeParts

__all__ = ["UploadLearner", "cloud", "edge"]


def edge(
    config: Config, task: Task, device: torch.device, dataset: DataSet | None, parts: EdgeParts | None
) -> UploadLearner:
    """The learner that passes the images on."""
    return UploadLearner(_image_shape(config))


def cloud(config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The whole network."""
    return undivided(config.division(outputs)), _image_shape(config)


def _image_shape(config: Config) -> tuple[int, ...]:
    return config.data.image_size.shape


class UploadLearner:
    """Images are sent as they are. The cloud augments them, since it learns from them."""

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        self.feature_shape = feature_shape
        self.modules: dict[str, nn.Module] = {}
        self.teacher = None

    def begin_epoch(self, epoch: int) -> None:
        """Nothing is learned here."""

    def rates(self, progress: Progress) -> None:
        """Nothing is learned here."""

    def learn(self, batch: ImageBatch, progress: Progress, *, sending: bool = False) -> Learned:
        """Return the images; nothing is learned here."""
        return Learned(None, batch.images_BCHW)

    def infer(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """The images; no logits, since the edge has no head."""
        return batch.images_BCHW, None

    def state(self) -> State:
        """Nothing is learned here."""
        return {}

    def load_state(self, state: State) -> None:
        """Nothing is learned here."""
