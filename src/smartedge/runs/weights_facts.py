"""The pretrained weights that a network began with, as the run's files state them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from smartedge.artifacts.results import WeightsFacts
from smartedge.models.zoo.weights import loaded_in

__all__ = ["weights_facts"]


def weights_facts(parts: Iterable[nn.Module]) -> WeightsFacts | None:
    """Of a network of which these are parts; None: it began untrained."""
    loaded = loaded_in(parts)
    if loaded is None:
        return None
    return WeightsFacts(
        source=loaded.source,
        tensors=loaded.tensors,
        replaced=loaded.replaced,
        image_size=loaded.image_size,
        mean=loaded.pixels.mean,
        std=loaded.pixels.std,
        notes=loaded.notes,
    )
