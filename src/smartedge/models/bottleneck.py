"""The bottleneck: a narrow, bounded tensor at the cut.

The front ends with :class:`Compress`, the back begins with :class:`Expand`. A narrow tensor makes fewer bytes, needs
less privacy noise (which grows with the number of dimensions), and gives an attacker less to work with.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.errors import ConfigError
from smartedge.images.size import ImageSize
from smartedge.models.layout import Layout, as_channels_first, is_map, known_layout, map_size
from smartedge.models.recording.graph import shape_text

__all__ = ["Compress", "Expand", "check_bottleneck", "usual_bottleneck"]

_SIDES = (8, 16)  # smallest and largest longer side of the default, where the map at the cut has them
_MOST = 4096  # numbers


def usual_bottleneck(
    feature_shape: tuple[int, ...], layout: Layout, image_size: int | ImageSize
) -> tuple[int, ...] | None:
    """The default of ``model.bottleneck``: at most a quarter as many numbers as the image has pixels, and 4096.

    A map gets an eighth of the image's longer side, but between 8 and 16; its other side follows from the image's
    shape, and it has as many channels as that leaves.
    Tokens keep their number, and get fewer dimensions. In one byte a number that is less than the image as JPEG
    (docs/decisions/0037-defaults.md).

    Args:
        feature_shape: F of the tensor at the cut.
        layout: of the same tensor.
        image_size: height and width of the images, in pixels.

    Returns:
        A shape that :func:`check_bottleneck` accepts. None: a vector, or more than three axes; it crosses as it is.
    """
    image = ImageSize.of(image_size)
    numbers = min(image.height * image.width // 4, _MOST)
    if is_map(layout):
        channels, height, width = map_size(feature_shape, layout)
        longer = max(image.sides)
        side = min(max(longer // 8, _SIDES[0]), _SIDES[1])
        height, width = (
            min(here, max(1, round(side * there / longer)))
            for here, there in zip((height, width), image.sides, strict=True)
        )
        return max(1, min(channels, numbers // (height * width))), height, width
    if layout == "tokens":
        tokens, width = feature_shape
        return tokens, max(1, min(width, numbers // tokens))
    return None


def check_bottleneck(feature_shape: tuple[int, ...], bottleneck: tuple[int, ...], layout: Layout) -> None:
    """Raise :class:`ConfigError` where ``bottleneck`` does not fit the tensor at the cut."""
    expected = "CxHxW" if is_map(layout) else "TxD (tokens x width)"
    if layout == "vector" or len(bottleneck) != (3 if is_map(layout) else 2):
        raise ConfigError(
            f"model.bottleneck: {shape_text(bottleneck)} does not fit the tensor {shape_text(feature_shape)} "
            f"at the cut; give it as {expected}, for example {'8x4x4' if is_map(layout) else '16x32'}"
        )
    if is_map(layout):
        _, height, width = map_size(feature_shape, layout)
        if bottleneck[1] > height or bottleneck[2] > width:
            raise ConfigError(
                f"model.bottleneck: {shape_text(bottleneck)} is larger than the {height}x{width} map at the cut; "
                "choose a height and width no larger than the map's"
            )


class Compress(nn.Module):
    """End of the front: (B, *F) → (B, *bottleneck), every value in (−1, 1) by tanh.

    Maps: 3×3 convolutions of stride 2 (batch normalisation, ReLU) while the map is at least twice as high as the
    bottleneck, adaptive average pooling for what is left, a 1×1 convolution to the bottleneck's channels.
    Tokens: one linear layer over the width, one over the tokens.
    """

    def __init__(
        self, feature_shape: tuple[int, ...], bottleneck: tuple[int, ...], layout: Layout | None = None
    ) -> None:
        super().__init__()
        self.layout = known_layout(feature_shape, layout)
        check_bottleneck(feature_shape, bottleneck, self.layout)
        if not is_map(self.layout):
            self.width = nn.Linear(feature_shape[1], bottleneck[1])
            self.tokens = nn.Linear(feature_shape[0], bottleneck[0])
            return
        channels, side, _ = map_size(feature_shape, self.layout)
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
        narrow_BF: Tensor
        if is_map(self.layout):
            narrow_BF = self.narrow(self.reduce(as_channels_first(features_BF, self.layout)))
        else:
            narrow_BF = self.tokens(self.width(features_BF).transpose(1, 2)).transpose(1, 2)
        return narrow_BF.tanh()


class Expand(nn.Module):
    """Begin of the back: (B, *bottleneck) → (B, *F).

    Maps: a 1×1 convolution to the cut's channels, then nearest-neighbour upsampling and 3×3 convolutions (batch
    normalisation, ReLU) up to the size that the rest of the network expects. Tokens: the transpose of
    :class:`Compress`, two linear layers.
    """

    def __init__(
        self, bottleneck: tuple[int, ...], feature_shape: tuple[int, ...], layout: Layout | None = None
    ) -> None:
        super().__init__()
        self.layout = known_layout(feature_shape, layout)
        check_bottleneck(feature_shape, bottleneck, self.layout)
        if not is_map(self.layout):
            self.tokens = nn.Linear(bottleneck[0], feature_shape[0])
            self.width = nn.Linear(bottleneck[1], feature_shape[1])
            return
        channels, height, width = map_size(feature_shape, self.layout)
        self.size = (height, width)
        steps = max(1, _halvings(height, bottleneck[1]))
        self.widen = _block(bottleneck[0], channels, kernel=1)
        self.refine = nn.ModuleList(_block(channels, channels, kernel=3) for _ in range(steps))

    def forward(self, narrow_BF: Tensor) -> Tensor:
        """(B, *bottleneck) → (B, *F)."""
        if not is_map(self.layout):
            tokens_BTD: Tensor = self.width(self.tokens(narrow_BF.transpose(1, 2)).transpose(1, 2))
            return tokens_BTD
        maps_BCHW: Tensor = self.widen(narrow_BF)
        for left, block in zip(range(len(self.refine) - 1, -1, -1), self.refine, strict=True):
            size = tuple(max(1, -(-side // 2**left)) for side in self.size)
            maps_BCHW = block(F.interpolate(maps_BCHW, size=size, mode="nearest"))
        return maps_BCHW.permute(0, 2, 3, 1) if self.layout == "channels-last" else maps_BCHW


def _block(channels_in: int, channels_out: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _halvings(side: int, target: int) -> int:
    """How often ``side`` can be halved (rounding up) and stay at least ``target``."""
    count = 0
    while side >= 2 * target:
        side, count = -(-side // 2), count + 1
    return count
