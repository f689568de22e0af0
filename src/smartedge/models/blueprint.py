"""What a divided network is built from. Without torch, so that settings can be turned into it anywhere."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Blueprint"]


@dataclass(frozen=True)
class Blueprint:
    """A network, where it is divided, and what is added at the cut. Edge and cloud build theirs from equal ones."""

    name: str  # see smartedge.models.zoo.build
    at: str  # name or alias of a cut
    outputs: int  # K of task exit and back
    image_size: int  # height and width of the images in pixels
    seed: int  # determines every parameter
    bottleneck: tuple[int, ...] | None = None  # shape of the narrow tensor that crosses instead
    codebook: int | None = None  # number of codewords, one of which crosses instead
    small_input: bool = True  # adapt the network to small images
    exit_width: int = 128  # channels of the task exit's hidden layers
    exit_depth: int = 2  # their number
