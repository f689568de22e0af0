"""A network of full depth for features of any shape, where the back is not known."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.layout import Layout, as_channels_first, is_map, map_size

__all__ = ["deep_network"]

_TINY = 1e-30  # beside the variance of features, which may be of any scale
_VECTOR_WIDTH, _VECTOR_BLOCKS = 512, 4
_MAP_WIDTHS = (64, 128, 256)
_TOKEN_WIDTH, _TOKEN_BLOCKS, _TOKEN_HEADS = 128, 3, 4


def deep_network(feature_shape: tuple[int, ...], layout: Layout, outputs: int) -> nn.Module:
    """A residual network for maps, a transformer for tokens, a residual MLP for all others: (B, *F) → (B, K)."""
    if is_map(layout):
        return _MapNetwork(feature_shape, layout, outputs)
    if layout == "tokens":
        return _TokenNetwork(feature_shape, outputs)
    return _VectorNetwork(math.prod(feature_shape), outputs)


class _VectorNetwork(nn.Module):
    def __init__(self, numbers: int, outputs: int) -> None:
        super().__init__()
        width = _VECTOR_WIDTH
        alike = nn.BatchNorm1d(numbers, eps=_TINY, affine=False)
        self.enter = nn.Sequential(nn.Flatten(), alike, nn.Linear(numbers, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width)
            )
            for _ in range(_VECTOR_BLOCKS)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Logits."""
        hidden_BD = self.enter(features_BF)
        for block in self.blocks:
            hidden_BD = hidden_BD + block(hidden_BD)
        logits_BK: Tensor = self.leave(hidden_BD)
        return logits_BK


class _Block(nn.Module):
    """The basic block of ResNet (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = channels == width and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps of another width."""
        return F.relu(self.convolve(maps_BCHW) + self.skip(maps_BCHW))


class _MapNetwork(nn.Module):
    def __init__(self, feature_shape: tuple[int, ...], layout: Layout, outputs: int) -> None:
        super().__init__()
        self.layout = layout
        channels, height, width = map_size(feature_shape, layout)
        side = min(height, width)
        blocks: list[nn.Module] = [nn.BatchNorm2d(channels, eps=_TINY, affine=False)]
        for wide in _MAP_WIDTHS:
            stride = 2 if side > 4 else 1
            blocks += [_Block(channels, wide, stride), _Block(wide, wide, 1)]
            channels, side = wide, -(-side // stride)
        self.blocks = nn.Sequential(*blocks)
        self.leave = nn.Linear(channels, outputs)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Logits."""
        # Torch 2.13 crashes on processors with AVX2 alone where channels come last in memory, and a 1x1 convolution of
        # stride 2 (the first skip) is given 3 to 5 of them.
        maps_BCHW = as_channels_first(features_BF, self.layout).contiguous()
        logits_BK: Tensor = self.leave(self.blocks(maps_BCHW).mean(dim=(2, 3)))
        return logits_BK


class _TokenNetwork(nn.Module):
    def __init__(self, feature_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        tokens, width = feature_shape
        self.enter = nn.Sequential(nn.LayerNorm(width, eps=_TINY), nn.Linear(width, _TOKEN_WIDTH))
        self.places = nn.Parameter(0.02 * torch.randn(tokens, _TOKEN_WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                _TOKEN_WIDTH, _TOKEN_HEADS, 2 * _TOKEN_WIDTH, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_TOKEN_BLOCKS)
        )
        self.leave = nn.Sequential(nn.LayerNorm(_TOKEN_WIDTH), nn.Linear(_TOKEN_WIDTH, outputs))

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Logits."""
        hidden_BTD = self.enter(features_BTD) + self.places
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        logits_BK: Tensor = self.leave(hidden_BTD.mean(dim=1))
        return logits_BK
