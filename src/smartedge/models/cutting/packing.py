"""Several tensors as one, where a module with several results is the place of a cut."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor, fx

from smartedge.models.recording.graph import BATCHES, per_image

__all__ = ["Packing", "packing_of"]


@dataclass(frozen=True)
class Packing:
    """How the numbers of several tensors lie in one: those of the first, then those of the second, and so on.

    Attributes:
        trailing: for each tensor its shape without the first dimension.
        numbers: for each tensor how many numbers it has for one image.
        width: of the tokens that are made of them; None: a vector.
    """

    trailing: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]
    width: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the one tensor, without the batch: tokens x width, or the length of a vector."""
        return (sum(self._lengths),) if self.width is None else (sum(self._lengths), self.width)

    @property
    def regroups(self) -> bool:
        """Whether a tensor has more rows than the batch has images, so that rows of one image are put together."""
        return any(count > prod(shape) for count, shape in zip(self.numbers, self.trailing, strict=True))

    @property
    def _lengths(self) -> list[int]:
        return [count // (self.width or 1) for count in self.numbers]

    def pack(self, graph: fx.Graph, tensors: Sequence[fx.Node], batch: fx.Node) -> fx.Node:
        """Write the operations that join the tensors. ``batch`` is a tensor (B, ...)."""
        images = graph.call_method("size", (batch, 0))
        last = () if self.width is None else (self.width,)
        joined = [graph.call_method("reshape", (tensor, images, -1, *last)) for tensor in tensors]
        return graph.call_function(torch.cat, (joined, 1))

    def unpack(self, graph: fx.Graph, packed: fx.Node) -> list[fx.Node]:
        """Write the operations that take them apart."""
        parts = graph.call_function(torch.split, (packed, self._lengths, 1))
        return [
            graph.call_method("reshape", (graph.call_function(operator.getitem, (parts, place)), -1, *shape))
            for place, shape in enumerate(self.trailing)
        ]


def packing_of(values: Sequence[tuple[object, object]]) -> Packing | None:
    """How tensors become one, given what they are for batches of two sizes.

    The sizes are :data:`~smartedge.models.recording.graph.BATCHES`.

    Where all of them are tokens, (B, T, D) or (B, D), they become tokens of the greatest width that fits all of them.
    All others become a vector.

    Returns:
        None where they cannot be packed: one of them is no tensor, or of another kind of numbers, or its first
        dimension does not grow with the batch alone.
    """
    trailing: list[tuple[int, ...]] = []
    numbers: list[int] = []
    kinds = set()
    for first, second in values:
        if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.ndim < 2:
            return None
        each = per_image(len(first), len(second))
        if [len(first), len(second)] != [each * images for images in BATCHES] or first.shape[1:] != second.shape[1:]:
            return None
        trailing.append(tuple(first.shape[1:]))
        numbers.append(each * prod(first.shape[1:]))
        kinds.add(first.dtype)
    if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds) or not all(numbers):
        return None
    width = gcd(*(shape[-1] for shape in trailing))
    tokens = width > 1 and all(len(shape) in (1, 2) for shape in trailing)
    return Packing(tuple(trailing), tuple(numbers), width if tokens else None)
