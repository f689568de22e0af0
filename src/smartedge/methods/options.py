"""Options that all updates share, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["PLAIN", "StepOptions", "options_of"]


@dataclass(frozen=True)
class StepOptions:
    """How an update is computed."""

    precision: str = "float32"  # ``bfloat16`` runs forward passes under autocast
    label_smoothing: float = 0.0  # share of the target that is spread evenly over the classes
    clip_norm: float = 5.0  # gradients are scaled down to this norm

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context for forward passes on a device."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


PLAIN = StepOptions()


def options_of(config: Config) -> StepOptions:
    """The options that the settings of a run name."""
    train = config.train
    return StepOptions(train.precision, train.label_smoothing, train.clip_grad_norm)
