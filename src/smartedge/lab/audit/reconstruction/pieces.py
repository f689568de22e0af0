"""What the reconstruction attacks hand to each other: images that an attack made, and how much training it had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Images", "at", "how", "least_share", "stands", "with_others"]

_WORTH_IT = 2.0  # a piece that was cut short is done again where there is that many times as much time


@dataclass(frozen=True)
class Images:
    """What an attack made of the protected images at ``positions``."""

    positions: Tensor  # int64 (M,)
    images_MCHW: Tensor  # uint8
    figures: Mapping[str, Any]


def at(images: Images, positions: Tensor) -> Tensor:
    """The images at some positions, all of which the attack was done for."""
    place = {position: row for row, position in enumerate(images.positions.tolist())}
    return images.images_MCHW[[place[position] for position in positions.tolist()]]


def how(share: float, seconds: float, **others: object) -> dict[str, object]:
    """How much of its training a piece had, and the seconds it was given (None: as many as it liked)."""
    given = None if math.isinf(seconds) else round(seconds, 1)
    return {"share": round(min(1.0, share), 3), "seconds": given, **others}


def stands(training: Mapping[str, Any], seconds: float) -> bool:
    """Whether a kept piece is as good as one that would be made now: it is whole, or there is no more time for it."""
    return least_share(training) >= 1 or seconds < _WORTH_IT * training["seconds"]


def least_share(training: Mapping[str, Any]) -> float:
    """The share of the training of a piece, or of the classifier that adapts to it, whichever had less."""
    return float(min(training["share"], training.get("adapted_share", 1.0)))


def with_others(first: Tensor, count: int, size: int, seed: int) -> Tensor:
    """Positions: ``first``, then others at random up to ``size``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    others = order[~torch.isin(order, first)]
    return torch.cat([first, others])[: max(size, len(first))]
