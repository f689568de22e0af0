"""Low-rank adapters: a frozen layer learns a small correction of itself.

Hu et al. 2021, "LoRA" (arXiv 2106.09685), section 4.1: ``W x + B A x`` with A of r rows and B of r columns; B begins at
zero, so the network begins as it was. For a convolution, A is a convolution of the same kernel to r channels, and B one
of a single point. A layer keeps the names of its own parameters.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

__all__ = ["AdaptedConv2d", "AdaptedLinear", "add_adapters"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class AdaptedLinear(nn.Linear):
    """A linear layer with a correction of low rank."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        _take_over(self, layer)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer alone, and the correction."""
        correction: Tensor = self.up(self.down(x))
        return super().forward(x) + correction


class AdaptedConv2d(nn.Conv2d):
    """A two-dimensional convolution of one group with a correction of low rank."""

    def __init__(self, layer: nn.Conv2d, rank: int) -> None:
        settings = {
            "kernel_size": layer.kernel_size,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "padding_mode": layer.padding_mode,
        }
        super().__init__(layer.in_channels, layer.out_channels, device="meta", **settings)  # type: ignore[arg-type]
        _take_over(self, layer)
        self.down = nn.Conv2d(layer.in_channels, rank, bias=False, **settings)  # type: ignore[arg-type]
        self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer alone, and the correction."""
        correction: Tensor = self.up(self.down(x))
        return super().forward(x) + correction


def _take_over(adapted: Layer, layer: Layer) -> None:
    """Give ``adapted`` the layer's own parameters: the same objects under the same names."""
    adapted.weight, adapted.bias, adapted.training = layer.weight, layer.bias, layer.training


def add_adapters(part: nn.Module, rank: int) -> int:
    """Put an adapter of that rank into every layer of ``part`` whose weights are frozen; returns how many there are.

    Only linear layers and convolutions of one group can have one. Their subclasses, which may compute otherwise, are
    left as they are.
    """
    count = 0
    for path, module in list(part.named_modules()):
        if type(module) not in (nn.Linear, nn.Conv2d) or module.weight.requires_grad:
            continue
        holder, _, name = path.rpartition(".")
        if isinstance(module, nn.Linear):
            setattr(part.get_submodule(holder), name, AdaptedLinear(module, rank))
        elif module.groups == 1:
            setattr(part.get_submodule(holder), name, AdaptedConv2d(module, rank))
        else:
            continue
        count += 1
    return count
