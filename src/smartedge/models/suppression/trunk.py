"""The bodies of adversarial exits: what is before their last layer, (N, *F) → (N, D)."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.exits import TaskExit
from smartedge.models.layout import Layout, as_channels_first, as_tokens, is_map, map_size

__all__ = ["WIDTH", "trunk"]

WIDTH = 128  # of the convolutional and token-wise bodies
_MLP_WIDTH = 256
_MLP_INPUTS = 4096  # larger tensors are pooled before the fully connected body
_BLOCKS = 3  # of the deep body


def trunk(shape: str, feature_shape: tuple[int, ...], layout: Layout) -> tuple[nn.Module, int]:
    """The body of that shape, (N, *F) → (N, D), and its width D."""
    if shape == "linear":
        return nn.Flatten(), prod(feature_shape)
    if shape == "mlp":
        pool, inputs = _pooled(feature_shape, layout)
        layers = [nn.Linear(inputs, _MLP_WIDTH), nn.LayerNorm(_MLP_WIDTH), nn.GELU()]
        layers += [nn.Linear(_MLP_WIDTH, _MLP_WIDTH), nn.LayerNorm(_MLP_WIDTH), nn.GELU()]
        return nn.Sequential(pool, *layers), _MLP_WIDTH
    if shape == "conv":
        head = TaskExit(feature_shape, 1, width=WIDTH, depth=2, layout=layout)
        head.classify = nn.Identity()  # type: ignore[assignment]
        return head, WIDTH
    assert shape == "deep"
    if is_map(layout):
        return _DeepMaps(feature_shape, layout), WIDTH
    return _DeepTokens(feature_shape, layout), WIDTH


def _pooled(feature_shape: tuple[int, ...], layout: Layout) -> tuple[nn.Module, int]:
    """A module that flattens features, after mean pooling where they are many; and how many numbers it gives."""
    if prod(feature_shape) <= _MLP_INPUTS or layout in ("vector", "codeword"):
        return nn.Flatten(), prod(feature_shape)
    if layout == "tokens":  # neighbours are averaged
        tokens = max(1, _MLP_INPUTS // feature_shape[1])
        return nn.Sequential(nn.AdaptiveAvgPool2d((tokens, feature_shape[1])), nn.Flatten()), tokens * feature_shape[1]
    channels, height, width = map_size(feature_shape, layout)
    side = max(1, int((_MLP_INPUTS / channels) ** 0.5))
    size = (min(side, height), min(side, width))
    pool = [_ChannelsFirst(layout), nn.AdaptiveAvgPool2d(size), nn.Flatten()]
    return nn.Sequential(*pool), channels * size[0] * size[1]


class _ChannelsFirst(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, maps_BF: Tensor) -> Tensor:
        return as_channels_first(maps_BF, self.layout)


class _DeepMaps(nn.Module):
    """A convolution, then residual blocks (stride 2 while the map is larger than 4×4), then mean pooling."""

    def __init__(self, feature_shape: tuple[int, ...], layout: Layout) -> None:
        super().__init__()
        channels, side, _ = map_size(feature_shape, layout)
        blocks: list[nn.Module] = [_ChannelsFirst(layout)]
        blocks += [nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)]
        for _ in range(_BLOCKS):
            stride = 2 if side > 4 else 1
            blocks.append(_MapBlock(stride))
            side = -(-side // stride)
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, features_BF: Tensor) -> Tensor:
        pooled: Tensor = self.blocks(features_BF)
        return pooled


class _MapBlock(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
        )
        self.skip = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        return F.relu(self.body(maps_BCHW) + self.skip(maps_BCHW))


class _DeepTokens(nn.Module):
    """A linear layer, then residual blocks, then the mean over tokens. A block mixes over tokens, then within each."""

    def __init__(self, feature_shape: tuple[int, ...], layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        tokens = feature_shape[0] if layout == "tokens" else 1
        self.widen = nn.Linear(feature_shape[-1], WIDTH)
        self.blocks = nn.Sequential(*(_TokenBlock(tokens) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, features_BF: Tensor) -> Tensor:
        tokens_BTD = as_tokens(features_BF, self.layout)
        mixed_BTD: Tensor = self.norm(self.blocks(self.widen(tokens_BTD)))
        return mixed_BTD.mean(dim=1)


class _TokenBlock(nn.Module):
    """After Tolstikhin et al. 2021 (MLP-Mixer); a single token is not mixed."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        mix = [nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)]
        self.before = nn.LayerNorm(WIDTH) if tokens > 1 else None
        self.mix = nn.Sequential(*mix) if tokens > 1 else None
        self.within = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.before is not None and self.mix is not None:
            x_BTD = x_BTD + self.mix(self.before(x_BTD).transpose(1, 2)).transpose(1, 2)
        within_BTD: Tensor = self.within(x_BTD)
        return x_BTD + within_BTD
