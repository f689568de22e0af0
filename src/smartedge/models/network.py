"""A network as the two sides hold it: front and task exit on the edge, back in the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from smartedge.errors import ConfigError, CutError
from smartedge.images.size import ImageSize
from smartedge.models.adapters import add_adapters
from smartedge.models.blueprint import Blueprint
from smartedge.models.bottleneck import Compress, Expand, usual_bottleneck
from smartedge.models.codebook import CodewordExit, Decode, Encode
from smartedge.models.cutting.cut import cut, cut_in_order
from smartedge.models.cutting.glance import check_cuts, check_end, check_freezing, check_shape, nothing_to_freeze
from smartedge.models.cutting.part import Part
from smartedge.models.exits import TaskExit
from smartedge.models.layout import ChannelsFirst, ChannelsLast, Layout, Numbers, is_map, map_size
from smartedge.models.zoo import networks
from smartedge.models.zoo.weights import USUAL_MEAN, USUAL_STD, Pixels, Rescale

__all__ = [
    "Divided",
    "EdgeParts",
    "Ends",
    "checked_network",
    "divide",
    "divide_in_order",
    "network_of",
    "to_device",
    "to_input",
    "undivided",
]


@dataclass(frozen=True)
class EdgeParts:
    """What an edge needs of a network; and shape F and layout of the tensor that crosses: never channels-last."""

    front: nn.Module
    task_exit: nn.Module
    feature_shape: tuple[int, ...]
    layout: Layout


@dataclass(frozen=True)
class Divided(EdgeParts):
    """The three parts of a divided network."""

    back: nn.Module


def checked_network(blueprint: Blueprint) -> nn.Module:
    """The whole network, after a first look at what the settings say of its cut, its bottleneck and what is frozen.

    Nothing is recorded, so it takes a moment.

    Raises:
        CutError, ConfigError: as :func:`divide`.
    """
    model = network_of(blueprint)
    check_cuts(blueprint, model, [blueprint.at])
    check_end(blueprint, model)
    check_shape(blueprint, model)
    check_freezing(blueprint, model)
    return model


def divide(blueprint: Blueprint, model: nn.Module | None = None) -> Divided:
    """Build a network by name, cut it, add exit and bottleneck, or exit and codebook.

    With a bottleneck a tensor of that shape crosses; with a codebook of K codewords, a vector (K,). Maps always cross
    channels-first, so codecs and the cloud need not guess which axis holds the channels. Both sides call
    this with equal blueprints and keep their part, so that their initial parameters are those of one network. The
    global random state is left as it was.

    What is frozen keeps its parameters, and runs in evaluation mode whatever the mode of the rest.

    Args:
        blueprint: of the network.
        model: of :func:`checked_network`, where that was called before. It is not used afterwards.

    Raises:
        CutError: the network is unknown, cannot be traced, cannot be cut there, has no weights of that name, or nothing
            behind the cut can be trained.
        ConfigError: the bottleneck does not fit the tensor at the cut, or what is to be frozen does not exist.
    """
    model = checked_network(blueprint) if model is None else model
    front, back = cut(model, blueprint.at, ImageSize.of(blueprint.image_size).shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(blueprint.seed)
        _freeze(blueprint, [front, back])
        ends = _ends_at(blueprint, front)
    begin = _first_layers(blueprint, model)
    narrow = [] if ends.narrow is None else [ends.narrow]
    whole_front = nn.Sequential(*begin, front, *narrow) if begin or narrow else front
    whole_back = back if ends.widen is None else nn.Sequential(ends.widen, back)
    if not any(parameter.requires_grad for parameter in whole_back.parameters()):
        raise CutError(
            f"nothing behind the cut {blueprint.at} of {blueprint.name} can be trained, so the cloud would learn "
            "nothing; choose an earlier cut, or let parameters behind it learn (requires_grad)"
        )
    return Divided(whole_front, ends.task_exit, ends.feature_shape, ends.layout, whole_back)


def divide_in_order(blueprint: Blueprint, cuts: Sequence[str]) -> tuple[list[Part], list[Ends]]:
    """Build the same network and cut it at several places. ``blueprint.at`` is not used.

    Returns:
        Front, middle parts and back; and what is added at each cut. The middle parts behind a cut and the back are
        together the back that :func:`divide` gives for that cut; without freezing with the same parameters.

    Raises:
        CutError, ConfigError: as :func:`divide`; or the cuts are not in order.
    """
    model = network_of(blueprint)
    check_cuts(blueprint, model, cuts)
    parts = cut_in_order(model, cuts, ImageSize.of(blueprint.image_size).shape)
    ends = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(blueprint.seed)
        _freeze(blueprint, parts)
        for part in parts[:-1]:
            torch.manual_seed(blueprint.seed)
            ends.append(_ends_at(blueprint, part))
    return parts, ends


@dataclass(frozen=True)
class Ends:
    """What is added at a cut, and shape F and layout of what crosses there."""

    narrow: nn.Module | None  # the end of the front
    widen: nn.Module | None  # the begin of the back
    task_exit: nn.Module
    feature_shape: tuple[int, ...]
    layout: Layout


def _ends_at(blueprint: Blueprint, before: Part) -> Ends:
    """What is added behind a part, so that float32 crosses. Its parameters are drawn from torch's global generator."""
    ends = _float_ends_at(blueprint, before)
    if before.feature_dtype == torch.float32:
        return ends
    narrow = [Numbers(torch.float32)] + ([] if ends.narrow is None else [ends.narrow])
    widen = ([] if ends.widen is None else [ends.widen]) + [Numbers(before.feature_dtype)]
    return replace(ends, narrow=nn.Sequential(*narrow), widen=nn.Sequential(*widen))


def _float_ends_at(blueprint: Blueprint, before: Part) -> Ends:
    shape, layout, bottleneck, codebook = before.feature_shape, before.layout, blueprint.bottleneck, blueprint.codebook
    if bottleneck == "auto":
        bottleneck = usual_bottleneck(shape, layout, blueprint.image_size)
    if bottleneck is not None:
        narrow, widen = Compress(shape, bottleneck, layout), Expand(bottleneck, shape, layout)
        crossing: Layout = "channels-first" if is_map(layout) else "tokens"
        return Ends(narrow, widen, _task_exit(blueprint, bottleneck, crossing), bottleneck, crossing)
    if codebook is not None:
        encode, decode = Encode(shape, codebook, layout), Decode(codebook, shape, layout)
        return Ends(encode, decode, CodewordExit(codebook, blueprint.outputs), (codebook,), "codeword")
    if layout == "channels-last":
        crossing_shape = map_size(shape, layout)
        task_exit = _task_exit(blueprint, crossing_shape, "channels-first")
        return Ends(ChannelsFirst(), ChannelsLast(), task_exit, crossing_shape, "channels-first")
    return Ends(None, None, _task_exit(blueprint, shape, layout), shape, layout)


def undivided(blueprint: Blueprint) -> nn.Module:
    """The whole network, images as :func:`to_input` makes them → logits. Cut, bottleneck and freezing do not matter.

    Raises:
        CutError: the network is unknown, or has no weights of that name.
    """
    model = network_of(blueprint)
    begin = _first_layers(blueprint, model)
    return nn.Sequential(*begin, model) if begin else model


def network_of(blueprint: Blueprint) -> nn.Module:
    """The whole network alone, as its library or factory makes it; see :func:`smartedge.models.zoo.networks.build`."""
    return networks.build(
        blueprint.name,
        outputs=blueprint.outputs,
        image_size=blueprint.image_size,
        small_input=blueprint.small_input,
        seed=blueprint.seed,
        weights=blueprint.weights,
        arguments=blueprint.arguments,
    )


def _first_layers(blueprint: Blueprint, model: nn.Module) -> list[nn.Module]:
    """What a network needs before it where it is pretrained, or its pixels have a scale of their own; else nothing."""
    loaded = getattr(model, "loaded", None)
    if loaded is None and blueprint.mean is None and blueprint.std is None:
        return []
    channels = ImageSize.of(blueprint.image_size).channels
    usual = Pixels((USUAL_MEAN,) * channels, (USUAL_STD,) * channels) if loaded is None else loaded.pixels
    pixels = Pixels(blueprint.mean or usual.mean, blueprint.std or usual.std)
    loaded = None if loaded is None else replace(loaded, pixels=pixels)
    return [Rescale(pixels, loaded)]


def _freeze(blueprint: Blueprint, parts: Sequence[Part]) -> None:
    """Freeze what the blueprint names. The first part is the front."""
    for name in blueprint.freeze:
        whole = name == "front"
        held = parts[:1] if whole else [part for part in parts if name in dict(part.named_modules())]
        if not held or name == "":
            raise nothing_to_freeze(blueprint, name, [n for part in parts for n, _ in part.named_modules()])
        for part in held:
            part.freeze("" if whole else name)
    if blueprint.freeze and not any(p.requires_grad for part in parts[1:] for p in part.parameters()):
        raise ConfigError("train.freeze: nothing is left for the back to learn; leave a module after the cut out of it")
    if blueprint.adapter is not None and not add_adapters(parts[0], blueprint.adapter):
        raise ConfigError(
            "model.adapter: no frozen layer before the cut can take an adapter (linear layers and convolutions of one "
            "group can); name what to freeze in train.freeze, or leave the adapter out"
        )


def _task_exit(blueprint: Blueprint, feature_shape: tuple[int, ...], layout: Layout) -> TaskExit:
    width, depth = blueprint.exit_width, blueprint.exit_depth
    return TaskExit(feature_shape, blueprint.outputs, width=width, depth=depth, layout=layout)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU need not have done its work before: the copy is put into its queue."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def to_input(images_BCHW: Tensor, device: torch.device, *, channels_last: bool = False) -> Tensor:
    """uint8 (B, C, H, W) → what networks take: float32, centred and scaled by fixed constants."""
    pixels = images_BCHW.to(device).to(torch.float32)  # in this order: a byte for each value goes to a GPU, not four
    scaled = pixels.sub_(255 * USUAL_MEAN).mul_(1 / (255 * USUAL_STD))
    return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled
