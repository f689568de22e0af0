"""The attacker's networks: a decoder from a released feature to an image, and a critic for the GAN."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.images.size import ImageSize
from smartedge.models.layout import Layout, as_channels_first, is_map, known_layout, map_size

__all__ = ["Decoder", "PatchCritic"]

_WIDEST = 128
_FEW = 512  # up to so many numbers in a feature, a linear layer takes all of them to the first grid


class Decoder(nn.Module):
    """A released feature (B, *F) → an image (B, C, H, W) in (0, 1).

    Features are centred and scaled by the statistics from :meth:`fit_scale`. Then they reach the first grid:

    - a convolution takes a map to the grid, so positions are kept;
    - tokens are laid out as the grid that they came from, and a class token is copied to every position;
    - a linear layer takes other tokens and vectors to a 4×4 grid;
    - features of at most 512 numbers have a linear layer as well, since a narrow bottleneck may not keep positions.

    Residual blocks and nearest-neighbour upsampling follow. They get narrower as the size grows. At each size a learned
    map is added, for what all images share. At half of the image's size, 4 C channels are shuffled into pixels. At
    64x64 this takes about 60 million multiplications per image.
    """

    def __init__(
        self, feature_shape: tuple[int, ...], image_size: int | ImageSize, layout: Layout | None = None
    ) -> None:
        super().__init__()
        self.image_size = ImageSize.of(image_size)
        self.layout = known_layout(feature_shape, layout)
        self.register_buffer("centre", torch.zeros(feature_shape))
        self.register_buffer("scale", torch.ones(feature_shape))
        half = (-(-self.image_size.height // 2), -(-self.image_size.width // 2))
        channels, self.grid = _map_of(feature_shape, self.layout, self.image_size)
        start = self.grid or (4, 4)
        while start[0] > half[0] or start[1] > half[1]:  # a map larger than needed is pooled
            start = (-(-start[0] // 2), -(-start[1] // 2))
        self.start = start
        sizes = [start]
        while sizes[-1] != half:
            sizes.append((min(2 * sizes[-1][0], half[0]), min(2 * sizes[-1][1], half[1])))
        widths = [min(_WIDEST, 128 if max(size) < 12 else 64 if max(size) < 24 else 32) for size in sizes]
        numbers = math.prod(feature_shape)
        self.place = nn.Conv2d(channels, widths[0], 3, padding=1) if self.grid else None
        self.everywhere = nn.Linear(numbers, widths[0] * math.prod(start)) if numbers <= _FEW or not self.grid else None
        self.learned = nn.ParameterList(
            nn.Parameter(torch.zeros(width, *size)) for width, size in zip(widths, sizes, strict=True)
        )
        self.blocks = nn.ModuleList(nn.Sequential(_Residual(width), _Residual(width)) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths))
        self.sizes = sizes
        self.paint = nn.Conv2d(widths[-1], 4 * self.image_size.channels, 3, padding=1)

    def fit_scale(self, features_NF: Tensor) -> None:
        """Take centre and scale from a sample of the decoder's inputs, features (N, *F)."""
        self.get_buffer("centre").copy_(features_NF.mean(dim=0))
        spread = features_NF.std(dim=0, correction=0)
        # The scale has a lower limit: numbers that hardly vary would otherwise amplify small differences.
        self.get_buffer("scale").copy_(1 / spread.clamp(min=max(1e-6, 0.05 * float(spread.mean()))))

    def forward(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → (B, C, H, W) in (0, 1)."""
        scaled_BF = (features_BF - self.get_buffer("centre")) * self.get_buffer("scale")
        hidden: Tensor | float = 0.0
        if self.place is not None:
            maps_BCHW = _to_map(scaled_BF, self.layout, self.image_size)
            if maps_BCHW.shape[-2:] != self.start:
                maps_BCHW = F.adaptive_avg_pool2d(maps_BCHW, self.start)
            hidden = self.place(maps_BCHW)
        if self.everywhere is not None:
            hidden = hidden + self.everywhere(scaled_BF.flatten(1)).unflatten(1, (-1, *self.start))
        assert isinstance(hidden, Tensor)
        for level, size in enumerate(self.sizes):
            if level:
                hidden = F.interpolate(self.narrow[level - 1](hidden), size=size, mode="nearest")
            hidden = self.blocks[level](hidden + self.learned[level])
        painted_BCHW = F.pixel_shuffle(self.paint(hidden), 2)
        image_BCHW = painted_BCHW[..., : self.image_size.height, : self.image_size.width]
        return image_BCHW.sigmoid()


class PatchCritic(nn.Module):
    """Scores how real each patch of an image looks (Isola et al. 2017), given the decoder's plain image.

    (B, C, H, W) and (B, C, H, W) → scores (B, 1, H/8, W/8). Spectral normalisation limits the slope of the scores.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            norm(nn.Conv2d(2 * channels, 32, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(32, 64, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 128, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(128, 1, 3, padding=1)),
        )

    def forward(self, images_BCHW: Tensor, plain_BCHW: Tensor) -> Tensor:
        """Scores of the patches of ``images_BCHW``."""
        scores_B1HW: Tensor = self.layers(torch.cat([images_BCHW, plain_BCHW], dim=1) * 2 - 1)
        return scores_B1HW


class _Residual(nn.Module):
    """x + two 3×3 convolutions, with group normalisation before each. So images of a batch do not affect each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = width // 16
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        change_BCHW: Tensor = self.layers(x_BCHW)
        return x_BCHW + change_BCHW


def _map_of(feature_shape: tuple[int, ...], layout: Layout, image: ImageSize) -> tuple[int, tuple[int, int] | None]:
    """Channels, and height and width, of a feature as a map; None where it is not a map."""
    if is_map(layout):
        channels, height, width = map_size(feature_shape, layout)
        return channels, (max(height, width),) * 2 if image.height == image.width else (height, width)
    if layout == "tokens":
        tokens, width = feature_shape
        for number, channels in ((tokens, width), (tokens - 1, 2 * width)):
            if (grid := _grid_of(number, image)) is not None:
                return channels, grid
    return 0, None


def _grid_of(tokens: int, image: ImageSize) -> tuple[int, int] | None:
    """The grid of so many patches of an image: as much higher than wide as the image is. None where there is none."""
    height = max(1, round(math.sqrt(tokens * image.height / image.width)))
    width = tokens // height
    fits = height * width == tokens and height * image.width == width * image.height
    return (height, width) if fits and min(height, width) > 1 else None


def _to_map(features_BF: Tensor, layout: Layout, image: ImageSize) -> Tensor:
    """(B, *F) → (B, C, H, W), for features that :func:`_map_of` gives a grid."""
    if is_map(layout):
        return as_channels_first(features_BF, layout)
    if (grid := _grid_of(features_BF.shape[1], image)) is not None:
        maps_BDHW: Tensor = features_BF.transpose(1, 2).unflatten(2, grid)
        return maps_BDHW
    first_BD, rest_BTD = features_BF[:, 0], features_BF[:, 1:]
    rest = _grid_of(rest_BTD.shape[1], image)
    assert rest is not None
    grid_BDHW = rest_BTD.transpose(1, 2).unflatten(2, rest)
    return torch.cat([grid_BDHW, first_BD[:, :, None, None].expand_as(grid_BDHW)], dim=1)
