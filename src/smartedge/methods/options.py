"""What all updates share, whatever the method: precision, memory format, optimizer, and other options of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from smartedge.models.optim import make_optimizer

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["PLAIN", "StepOptions", "autocast", "optimizer_of", "options_of", "place"]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context for forward passes on a device; ``bfloat16`` turns autocast on."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@dataclass(frozen=True)
class StepOptions:
    """How an update is computed.

    Attributes:
        precision: ``float32``; or ``bfloat16``, which runs forward passes under autocast.
        label_smoothing: share of the target that is spread evenly over the classes, from 0 to 1.
        clip_norm: gradients are scaled down to this norm together.
    """

    precision: str = "float32"
    label_smoothing: float = 0.0
    clip_norm: float = 5.0

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context for forward passes on a device."""
        return autocast(device, self.precision)


PLAIN = StepOptions()


def options_of(config: Config) -> StepOptions:
    """The options that the settings of a run name."""
    train = config.train
    return StepOptions(train.precision, train.label_smoothing, train.clip_grad_norm)


def place(module: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Put a network on its device, in the memory format that the settings name; returns the network."""
    module.to(device)
    if config.train.channels_last is True:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def optimizer_of(config: Config, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over all parameters of some networks."""
    train = config.train
    return make_optimizer(
        modules,
        name=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        lr_pretrained=train.lr_pretrained,
    )
