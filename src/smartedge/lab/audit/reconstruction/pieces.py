"""Data that the reconstruction attacks share: images that an attack made, and how much training it had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Reconstructions", "at", "least_share", "stands", "training_of", "with_others"]

_WORTH_IT = 2.0  # a piece that was cut short is made again if there is at least so many times as much time


@dataclass(frozen=True)
class Reconstructions:
    """The reconstructions of the protected images at ``positions``."""

    positions: Tensor  # int64 (M,)
    images_MCHW: Tensor  # uint8
    figures: Mapping[str, Any]


def at(images: Reconstructions, positions: Tensor) -> Tensor:
    """The reconstructions at some of the attack's positions."""
    place = {position: row for row, position in enumerate(images.positions.tolist())}
    return images.images_MCHW[[place[position] for position in positions.tolist()]]


def training_of(share: float, seconds: float, **others: object) -> dict[str, object]:
    """How much of its training a piece had, and its time limit in seconds (None: no limit)."""
    given = None if math.isinf(seconds) else round(seconds, 1)
    return {"share": round(min(1.0, share), 3), "seconds": given, **others}


def stands(training: Mapping[str, Any], seconds: float) -> bool:
    """Whether a kept piece can be reused: it is whole, or there is not much more time now than it had."""
    return least_share(training) >= 1 or seconds < _WORTH_IT * training["seconds"]


def least_share(training: Mapping[str, Any]) -> float:
    """The smaller of two shares: of the piece's training, and of the training of the adapted classifier."""
    return float(min(training["share"], training.get("adapted_share", 1.0)))


def with_others(first: Tensor, count: int, size: int, seed: int) -> Tensor:
    """Positions: ``first``, then random others, up to ``size`` together."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    others = order[~torch.isin(order, first)]
    return torch.cat([first, others])[: max(size, len(first))]
