"""Converts bytes, images and network inputs. In this package an image is float32 (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from smartedge.models.network import to_input

__all__ = ["prepare", "to_bytes", "to_image"]

_CPU = torch.device("cpu")


def to_image(pixels_BCHW: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → image."""
    return pixels_BCHW.float() / 255


def to_bytes(images_BCHW: Tensor) -> Tensor:
    """Image → uint8 (B, 3, H, W), rounded."""
    return (images_BCHW.detach() * 255).round().clamp(0, 255).to(torch.uint8)


def prepare(images_BCHW: Tensor) -> Tensor:
    """Image → network input, as :func:`smartedge.models.network.to_input` makes it from bytes; differentiable."""
    black, white = (float(to_input(torch.tensor([[[[value]]]], dtype=torch.uint8), _CPU)) for value in (0, 255))
    return images_BCHW * (white - black) + black
