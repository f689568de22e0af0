"""The bottleneck: a narrow, bounded tensor at the cut.

The front ends with :class:`Compress`, the back begins with :class:`Expand`. A narrow tensor shrinks the payload, the
dimension in which privacy noise lives, and what an attacker has to work with.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.errors import ConfigError
from smartedge.models.exits import tensor_layout

__all__ = ["Compress", "Expand", "check_bottleneck"]


def check_bottleneck(feature_shape: tuple[int, ...], bottleneck: tuple[int, ...]) -> None:
    """Raise :class:`ConfigError` where ``bottleneck`` does not fit the tensor at the cut."""
    layout = tensor_layout(feature_shape)
    expected = "TxD (tokens x width)" if layout == "td" else "CxHxW"
    if len(bottleneck) != (2 if layout == "td" else 3) or len(feature_shape) == 1:
        raise ConfigError(
            f"model.bottleneck: {_text(bottleneck)} does not fit the tensor {_text(feature_shape)} at the cut; "
            f"give it as {expected}, for example {'16x32' if layout == 'td' else '8x4x4'}"
        )
    if layout != "td":
        height, width = feature_shape[:2] if layout == "hwc" else feature_shape[1:]
        if bottleneck[1] > height or bottleneck[2] > width:
            raise ConfigError(
                f"model.bottleneck: {_text(bottleneck)} is larger than the {height}x{width} map at the cut; "
                "choose a height and width no larger than the map's"
            )


class Compress(nn.Module):
    """End of the front: (B, *F) → (B, *bottleneck), every value in (−1, 1) by tanh.

    Maps: 3×3 convolutions of stride 2 (batch normalisation, ReLU) while the map is at least twice as high as the
    bottleneck, adaptive average pooling for what is left, a 1×1 convolution to the bottleneck's channels.
    Tokens: one linear layer over the width, one over the tokens.
    """

    def __init__(self, feature_shape: tuple[int, ...], bottleneck: tuple[int, ...]) -> None:
        super().__init__()
        check_bottleneck(feature_shape, bottleneck)
        self.layout = tensor_layout(feature_shape)
        if self.layout == "td":
            self.width = nn.Linear(feature_shape[1], bottleneck[1])
            self.tokens = nn.Linear(feature_shape[0], bottleneck[0])
            return
        channels, side, _ = _channels_first(feature_shape)
        blocks: list[nn.Module] = []
        for _ in range(_halvings(side, bottleneck[1])):
            blocks += [
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.reduce = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(bottleneck[1:]))
        self.narrow = nn.Sequential(nn.Conv2d(channels, bottleneck[0], 1, bias=False), nn.BatchNorm2d(bottleneck[0]))

    def forward(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → (B, *bottleneck) in (−1, 1)."""
        if self.layout == "td":
            narrow_BTd = self.width(features_BF)
            return self.tokens(narrow_BTd.transpose(1, 2)).transpose(1, 2).tanh()
        maps_BCHW = features_BF.permute(0, 3, 1, 2) if self.layout == "hwc" else features_BF
        return self.narrow(self.reduce(maps_BCHW)).tanh()


class Expand(nn.Module):
    """Begin of the back: (B, *bottleneck) → (B, *F).

    Maps: a 1×1 convolution to the cut's channels, then nearest-neighbour upsampling and 3×3 convolutions (batch
    normalisation, ReLU) up to the size that the rest of the network expects. Tokens: the transpose of
    :class:`Compress`, two linear layers.
    """

    def __init__(self, bottleneck: tuple[int, ...], feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        check_bottleneck(feature_shape, bottleneck)
        self.layout = tensor_layout(feature_shape)
        if self.layout == "td":
            self.tokens = nn.Linear(bottleneck[0], feature_shape[0])
            self.width = nn.Linear(bottleneck[1], feature_shape[1])
            return
        channels, height, width = _channels_first(feature_shape)
        self.size = (height, width)
        steps = max(1, _halvings(height, bottleneck[1]))
        self.widen = _block(bottleneck[0], channels, kernel=1)
        self.refine = nn.ModuleList(_block(channels, channels, kernel=3) for _ in range(steps))

    def forward(self, narrow_BF: Tensor) -> Tensor:
        """(B, *bottleneck) → (B, *F)."""
        if self.layout == "td":
            narrow_BTd = self.tokens(narrow_BF.transpose(1, 2)).transpose(1, 2)
            return self.width(narrow_BTd)
        maps_BCHW = self.widen(narrow_BF)
        for left, block in zip(range(len(self.refine) - 1, -1, -1), self.refine, strict=True):
            size = tuple(max(1, -(-side // 2**left)) for side in self.size)
            maps_BCHW = block(F.interpolate(maps_BCHW, size=size, mode="nearest"))
        return maps_BCHW.permute(0, 2, 3, 1) if self.layout == "hwc" else maps_BCHW


def _block(channels_in: int, channels_out: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _channels_first(feature_shape: tuple[int, ...]) -> tuple[int, int, int]:
    first, second, third = feature_shape
    return (third, first, second) if tensor_layout(feature_shape) == "hwc" else (first, second, third)


def _halvings(side: int, target: int) -> int:
    """How often ``side`` can be halved (rounding up) and stay at least ``target``."""
    count = 0
    while side >= 2 * target:
        side, count = -(-side // 2), count + 1
    return count


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
