"""Images as pictures that people look at."""

from __future__ import annotations

from torch import Tensor

from smartedge.images.size import RGB

__all__ = ["as_pictures"]


def as_pictures(images_BCHW: Tensor) -> Tensor:
    """Images of any number of channels, uint8 (B, C, H, W) → (B, 3, H, W).

    Of more than three channels the first three are shown as red, green and blue; of one or two, the first as grey.
    """
    if images_BCHW.shape[1] >= RGB:
        return images_BCHW[:, :RGB].contiguous()
    return images_BCHW[:, :1].repeat(1, RGB, 1, 1)
