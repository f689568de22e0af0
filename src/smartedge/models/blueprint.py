"""What a divided network is built from. Without torch, so that settings can be turned into it anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from smartedge.images.size import ImageSize

__all__ = ["Blueprint", "is_on_hub", "of_a_run", "weights_named"]


@dataclass(frozen=True)
class Blueprint:
    """A network, where it is divided, and what is added at the cut. Edge and cloud build theirs from equal ones."""

    name: str  # see smartedge.models.zoo.networks.build
    at: str  # name or alias of a cut
    outputs: int  # K of task exit and back
    image_size: int | ImageSize  # of the images; a number: a square of three channels
    seed: int  # determines every parameter
    mean: tuple[float, ...] | None = None  # of each channel in [0, 1], subtracted; None: as usual, or of the weights
    std: tuple[float, ...] | None = None  # by which the differences are divided; None: likewise
    bottleneck: tuple[int, ...] | Literal["auto"] | None = None  # shape of the narrow tensor that crosses instead
    codebook: int | None = None  # number of codewords, one of which crosses instead
    small_input: bool = True  # adapt the network to small images; a pretrained one is left as published
    weights: str | None = None  # see weights_named
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)  # for whoever builds the network
    freeze: tuple[str, ...] = ()  # "front", or modules of the network, whose parameters do not change
    adapter: int | None = None  # rank of the low-rank adapters in frozen layers of the front
    exit_width: int = 128  # channels of the task exit's hidden layers
    exit_depth: int = 2  # their number


def is_on_hub(name: str) -> bool:
    """Whether the name is that of a network on the Hugging Face hub, ``hf_hub:USER/NAME``."""
    return name.startswith(("hf_hub:", "hf-hub:"))


def weights_named(name: str, weights: str | None) -> str:
    """Where a network's weights come from: ``none``, ``timm``, a file, or ``later``.

    ``later``: it is made as a pretrained one, and gets the weights that a run ended with.

    Where nothing is said, the name decides, as in timm: ``resnet18.a1_in1k`` and ``hf_hub:USER/NAME`` name weights;
    ``resnet18`` and ``package.module:factory`` do not.
    """
    if weights is not None:
        return weights
    tagged = "." in name and ":" not in name
    return "timm" if tagged or is_on_hub(name) else "none"


def of_a_run(blueprint: Blueprint, *, pretrained: bool) -> Blueprint:
    """The blueprint of a network that will get the weights of a finished run: the file that it began with is not read.

    Args:
        blueprint: from the run's settings.
        pretrained: whether the run began with pretrained weights.
    """
    return replace(blueprint, weights="later" if pretrained else "none")
