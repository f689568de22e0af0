"""A method that is not in the package: the front stays as it was built, and only the back learns, from its features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smartedge.methods.front_step import split_start
from smartedge.methods.learner import Learned
from smartedge.models.network import divide, to_input


def edge(config, task, device, dataset, parts):
    return FixedFront(config, task, device)


def cloud(config, outputs):
    divided = divide(config.division(outputs))
    return divided.back, divided.feature_shape


class FixedFront:
    teacher = None

    def __init__(self, config, task, device) -> None:
        divided = divide(config.division(task.outputs))
        self.feature_shape = divided.feature_shape
        self.modules: dict[str, nn.Module] = {"front": divided.front.to(device).eval()}
        self.device = device

    def begin_epoch(self, epoch: int) -> None: ...

    def rates(self, progress) -> None: ...

    def learn(self, batch, progress, *, sending: bool = False) -> Learned:
        return Learned(None, self.infer(batch)[0])

    def infer(self, batch):
        with torch.no_grad():
            return split_start(self.modules["front"], to_input(batch.images_BCHW, self.device)), None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state) -> None: ...
