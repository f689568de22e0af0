"""A network as the two sides hold it: front and task exit on the edge, back in the cloud."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models import zoo
from smartedge.models.bottleneck import Compress, Expand
from smartedge.models.codebook import CodewordExit, Decode, Encode
from smartedge.models.cut import cut
from smartedge.models.exits import TaskExit

__all__ = ["Divided", "divide", "to_input"]

_MEAN, _SPREAD = 0.5, 0.25  # of pixel values in [0, 1]: fixed, so that edge and cloud agree without exchanging anything


@dataclass(frozen=True)
class Divided:
    """The three parts of a divided network and the shape F that crosses between them."""

    front: nn.Module
    task_exit: nn.Module
    back: nn.Module
    feature_shape: tuple[int, ...]


def divide(
    name: str,
    *,
    at: str,
    outputs: int,
    image_size: int,
    bottleneck: tuple[int, ...] | None = None,
    codebook: int | None = None,
    small_input: bool = True,
    exit_width: int = 128,
    exit_depth: int = 2,
    seed: int,
) -> Divided:
    """Build a network by name, cut it, add exit and bottleneck, or exit and codebook.

    With a ``bottleneck`` a tensor of that shape crosses; with a ``codebook`` of K codewords, a vector (K,). Both sides
    call this with the same arguments and keep their part, so that their initial parameters are those of one network.
    The global random state is left as it was.

    Raises:
        CutError: the network is unknown, cannot be traced, or cannot be cut there.
        ConfigError: the bottleneck does not fit the tensor at the cut.
    """
    model = zoo.build(name, outputs=outputs, image_size=image_size, small_input=small_input, seed=seed)
    front, back = cut(model, at, (3, image_size, image_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mode = front.training
        front.eval()
        with torch.no_grad():
            cut_shape = tuple(front(torch.zeros(1, 3, image_size, image_size)).shape[1:])
        front.train(mode)
        feature_shape = cut_shape
        if bottleneck is not None:
            front = nn.Sequential(front, Compress(cut_shape, bottleneck))
            back = nn.Sequential(Expand(bottleneck, cut_shape), back)
            feature_shape = bottleneck
        elif codebook is not None:
            front = nn.Sequential(front, Encode(cut_shape, codebook))
            back = nn.Sequential(Decode(codebook, cut_shape), back)
            feature_shape = (codebook,)
        task_exit: nn.Module
        if codebook is not None:
            task_exit = CodewordExit(codebook, outputs)
        else:
            task_exit = TaskExit(feature_shape, outputs, width=exit_width, depth=exit_depth)
    return Divided(front, task_exit, back, feature_shape)


def to_input(images_BCHW: Tensor, device: torch.device, *, channels_last: bool = False) -> Tensor:
    """uint8 (B, 3, H, W) → what networks take: float32, centred and scaled by fixed constants."""
    pixels = images_BCHW.to(device=device, dtype=torch.float32)
    scaled = pixels.sub_(255 * _MEAN).mul_(1 / (255 * _SPREAD))
    return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled
