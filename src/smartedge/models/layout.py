"""How the axes of the tensor at a cut are meant. The cut knows it; exits, bottlenecks and attackers are told."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from smartedge.errors import CutError

__all__ = [
    "ChannelsFirst",
    "ChannelsLast",
    "Layout",
    "Numbers",
    "as_channels_first",
    "as_tokens",
    "in_memory",
    "is_map",
    "known_layout",
    "layout_of_shape",
    "map_size",
]

Layout = Literal["channels-first", "channels-last", "tokens", "vector", "codeword", "other"]
"""Without the batch: (C, H, W); (H, W, C); tokens × width (T, D); (D,); probabilities of codewords (K,); more axes."""


def layout_of_shape(feature_shape: tuple[int, ...]) -> Layout:
    """What the shape alone suggests, for a tensor of which nothing else is known.

    Three axes are channels-last where the first two are equal and the last is not (Swin), else channels-first.
    """
    if len(feature_shape) == 3:
        first, second, third = feature_shape
        return "channels-last" if first == second != third else "channels-first"
    if len(feature_shape) > 3:
        return "other"
    return "tokens" if len(feature_shape) == 2 else "vector"


def known_layout(feature_shape: tuple[int, ...], layout: Layout | None) -> Layout:
    """``layout``, or what the shape suggests where it is None; only layouts that exits and bottlenecks take.

    Raises:
        CutError: the tensor has more than three axes.
    """
    layout = layout or layout_of_shape(feature_shape)
    if layout == "other":
        raise CutError(
            f"the tensor at the cut has shape {feature_shape}; exits and bottlenecks take at most three axes: "
            "choose another cut ('smartedge cuts MODEL' shows the shapes)"
        )
    return layout


def is_map(layout: Layout) -> bool:
    """Whether places in the tensor are places in the image."""
    return layout in ("channels-first", "channels-last")


def map_size(feature_shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    """Channels, height and width of a map."""
    first, second, third = feature_shape
    return (third, first, second) if layout == "channels-last" else (first, second, third)


def as_channels_first(maps_BF: Tensor, layout: Layout) -> Tensor:
    """A batch of maps as (B, C, H, W)."""
    return maps_BF.permute(0, 3, 1, 2) if layout == "channels-last" else maps_BF


def in_memory(features_BF: Tensor, layout: Layout, *, channels_last: bool) -> Tensor:
    """The same features, as a network with ``train.channels_last`` takes them: the channels of a place side by side.

    Only maps (B, C, H, W) change, and only in memory. All others are returned as they are.
    """
    if channels_last and layout == "channels-first":
        return features_BF.contiguous(memory_format=torch.channels_last)
    return features_BF


class ChannelsFirst(nn.Module):
    """Maps (B, H, W, C) → (B, C, H, W): the end of a front whose network works on channels-last maps."""

    def forward(self, maps_BHWC: Tensor) -> Tensor:
        """See the class."""
        return maps_BHWC.permute(0, 3, 1, 2).contiguous()


class ChannelsLast(nn.Module):
    """Maps (B, C, H, W) → (B, H, W, C): the begin of such a back."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """See the class."""
        return maps_BCHW.permute(0, 2, 3, 1).contiguous()


class Numbers(nn.Module):
    """Gives its input another dtype: where a network computes in float64 or bfloat16 at the cut, float32 crosses."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, features_BF: Tensor) -> Tensor:
        """See the class."""
        return features_BF.to(self.dtype)


def as_tokens(features_BF: Tensor, layout: Layout) -> Tensor:
    """A batch of tokens, vectors or codewords as (B, T, D); a vector is one token."""
    return features_BF if layout == "tokens" else features_BF.unsqueeze(1)
