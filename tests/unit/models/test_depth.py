"""Networks whose modules are nested deep."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut, list_cuts


class Around(nn.Module):
    """Calls one other module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def nested(depth: int) -> nn.Module:
    """Linear layers, the first of them within so many modules."""
    first: nn.Module = nn.Linear(4, 4)
    for _ in range(depth):
        first = Around(first)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(4, 3))


def test_a_network_nested_200_modules_deep_is_cut():
    network, images, limit = nested(200), torch.rand(2, 4), sys.getrecursionlimit()
    expected = network(images)
    front, back = cut(network, "1", (4,))
    assert torch.equal(back(front(images)), expected)
    assert sys.getrecursionlimit() == limit


def test_what_is_nested_too_deep_is_refused_with_what_to_do():
    limit = sys.getrecursionlimit()
    with pytest.raises(CutError, match=r"nested too deep.*sys\.setrecursionlimit in the file that makes the network"):
        list_cuts(nested(1200), (4,))
    assert sys.getrecursionlimit() == limit
