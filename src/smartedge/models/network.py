"""A network as the two sides hold it: front and task exit on the edge, back in the cloud."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models import zoo
from smartedge.models.blueprint import Blueprint
from smartedge.models.bottleneck import Compress, Expand
from smartedge.models.codebook import CodewordExit, Decode, Encode
from smartedge.models.cut import cut
from smartedge.models.exits import TaskExit
from smartedge.models.layout import Layout, is_map

__all__ = ["Divided", "divide", "to_input"]

_MEAN, _SPREAD = 0.5, 0.25  # of pixel values in [0, 1]: fixed, so that edge and cloud agree without exchanging anything


@dataclass(frozen=True)
class Divided:
    """The three parts of a divided network, and shape F and layout of the tensor that crosses between them."""

    front: nn.Module
    task_exit: nn.Module
    back: nn.Module
    feature_shape: tuple[int, ...]
    layout: Layout


def divide(blueprint: Blueprint) -> Divided:
    """Build a network by name, cut it, add exit and bottleneck, or exit and codebook.

    With a bottleneck a tensor of that shape crosses; with a codebook of K codewords, a vector (K,). Both sides call
    this with equal blueprints and keep their part, so that their initial parameters are those of one network. The
    global random state is left as it was.

    Raises:
        CutError: the network is unknown, cannot be traced, or cannot be cut there.
        ConfigError: the bottleneck does not fit the tensor at the cut.
    """
    size, seed, outputs = blueprint.image_size, blueprint.seed, blueprint.outputs
    model = zoo.build(blueprint.name, outputs=outputs, image_size=size, small_input=blueprint.small_input, seed=seed)
    front, back = cut(model, blueprint.at, (3, size, size))
    shape, layout = front.feature_shape, front.layout
    bottleneck, codebook = blueprint.bottleneck, blueprint.codebook
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if bottleneck is not None:
            narrowed = nn.Sequential(front, Compress(shape, bottleneck, layout))
            widened = nn.Sequential(Expand(bottleneck, shape, layout), back)
            crossing: Layout = "channels-first" if is_map(layout) else "tokens"
            return Divided(narrowed, _task_exit(blueprint, bottleneck, crossing), widened, bottleneck, crossing)
        if codebook is not None:
            encoding = nn.Sequential(front, Encode(shape, codebook, layout))
            decoding = nn.Sequential(Decode(codebook, shape, layout), back)
            return Divided(encoding, CodewordExit(codebook, outputs), decoding, (codebook,), "codeword")
        return Divided(front, _task_exit(blueprint, shape, layout), back, shape, layout)


def _task_exit(blueprint: Blueprint, feature_shape: tuple[int, ...], layout: Layout) -> TaskExit:
    width, depth = blueprint.exit_width, blueprint.exit_depth
    return TaskExit(feature_shape, blueprint.outputs, width=width, depth=depth, layout=layout)


def to_input(images_BCHW: Tensor, device: torch.device, *, channels_last: bool = False) -> Tensor:
    """uint8 (B, 3, H, W) → what networks take: float32, centred and scaled by fixed constants."""
    pixels = images_BCHW.to(device=device, dtype=torch.float32)
    scaled = pixels.sub_(255 * _MEAN).mul_(1 / (255 * _SPREAD))
    return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled
