"""Random changes of training images. Needs torch alone, so that edge and cloud can both use it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["AugmentKind", "augment"]

AugmentKind = Literal["none", "flip", "flip-crop"]


def augment(images_BCHW: Tensor, *, generator: torch.Generator, kind: AugmentKind) -> Tensor:
    """Change every image of a batch at random. No pixel value is interpolated.

    Args:
        images_BCHW: uint8, (B, C, H, W). Left as it is.
        generator: a CPU generator. How many numbers it draws depends on B and ``kind``.
        kind: ``"none"`` returns the images themselves; ``"flip"`` mirrors half of them left to right;
            ``"flip-crop"`` also moves every image by up to an eighth of its size each way, filling by reflection.

    Returns:
        uint8, (B, C, H, W).
    """
    if kind == "none":
        return images_BCHW
    B, _, H, W = images_BCHW.shape
    flips_B = torch.rand(B, generator=generator) < 0.5
    if kind == "flip-crop":
        down, right = H // 8, W // 8
        top_B = torch.randint(0, 2 * down + 1, (B,), generator=generator)
        left_B = torch.randint(0, 2 * right + 1, (B,), generator=generator)
        padded = images_BCHW[:, :, _reflected(H, down)][:, :, :, _reflected(W, right)]
        windows = padded.unfold(2, H, 1).unfold(3, W, 1)  # (B, C, 2 * down + 1, 2 * right + 1, H, W), a view
        images_BCHW = windows[torch.arange(B), :, top_B, left_B]
    return torch.where(flips_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)


def _reflected(size: int, margin: int) -> Tensor:
    """Indices that extend an axis by ``margin`` on both ends, mirrored about its first and last element."""
    indices = torch.arange(-margin, size + margin).abs()
    return torch.minimum(indices, 2 * (size - 1) - indices)
