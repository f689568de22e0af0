"""Pretrained weights: how they are put into a network, and what is said about it.

:mod:`smartedge.models.zoo.files` reads them. The head is replaced where it has another size, and its last layer begins
at zero: timm draws some of them so large that a network with few labels never unlearns them (decision 53). Any other
difference between file and network is an error: a network that is half pretrained looks like one that learns badly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from smartedge.errors import CutError, list_some
from smartedge.images.size import RGB
from smartedge.models.zoo.tensor_names import own_names

__all__ = [
    "IMAGENET",
    "USUAL_MEAN",
    "USUAL_STD",
    "Loaded",
    "Pixels",
    "Rescale",
    "fill",
    "is_pretrained",
    "later_loaded",
    "loaded_in",
]

# The scale that all networks get: fixed, so that edge and cloud agree without exchanging anything.
USUAL_MEAN, USUAL_STD = 0.5, 0.25

Adapt = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_head.", "aux_classifier.")  # heads that only training has
_SHOWN = 4  # names of tensors in a message
_SHARD = re.compile(r"-\d+-of-\d+\.")  # in the name of one file of several


@dataclass(frozen=True)
class Pixels:
    """How a network was trained to see colours: ``(value in [0, 1] − mean) / std``, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of_channels(self, channels: int) -> Pixels:
        """The same for so many channels, which get the mean over the channels that there are."""
        return Pixels((fmean(self.mean),) * channels, (fmean(self.std),) * channels)


IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Loaded:
    """What was put into a network."""

    source: str  # a file, or a name on the hub
    tensors: int  # that came from there
    replaced: tuple[str, ...]  # tensors that have another size here, or are not there: they begin untrained
    pixels: Pixels
    image_size: int | None  # in pixels, of the images that the weights were trained with; None: not known
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """One line for the user."""
        head = f"; begin untrained: {list_some(self.replaced, _SHOWN)}" if self.replaced else ""
        size = "" if self.image_size is None else f", trained at {self.image_size}x{self.image_size}"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.pixels.mean, self.pixels.std))
        more = "".join(f"; {note}" for note in self.notes)
        return f"weights: {self.tensors} tensors from {self.source}{size}{head}; pixels: mean {mean}, std {std}{more}"


def later_loaded(channels: int) -> Loaded:
    """Of a network that will get the weights of a run: those include the scale of its pixels."""
    return Loaded("a run", 0, (), Pixels((0.0,) * channels, (1.0,) * channels), None)


class Rescale(nn.Module):
    """First layer of a network: turns the pixels that all networks get into those of another scale, channel by channel.

    Args:
        pixels: the scale; what comes in has that of :data:`USUAL_MEAN` and :data:`USUAL_STD`.
        loaded: what was put into the network, where it is pretrained.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, pixels: Pixels, loaded: Loaded | None) -> None:
        super().__init__()
        self.loaded = loaded
        scale = [USUAL_STD / value for value in pixels.std]
        shift = [(USUAL_MEAN - own) / value for own, value in zip(pixels.mean, pixels.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).reshape(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).reshape(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        scaled: Tensor = images_BCHW * self.scale + self.shift
        return scaled


def loaded_in(modules: Iterable[nn.Module]) -> Loaded | None:
    """What was put into a network of which these are parts; None: nothing."""
    found = (m.loaded for part in modules for m in part.modules() if isinstance(m, Rescale))
    return next(filter(None, found), None)


def is_pretrained(parameter: nn.Parameter) -> bool:
    """Whether the parameter's first value came from a file or the hub."""
    return getattr(parameter, "_pretrained", False)


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, head: tuple[str, ...], adapt: Adapt | None = None
) -> tuple[int, tuple[str, ...], list[str]]:
    """Copy the tensors of ``state`` into ``model``. The last layer of a head of another size is set to zero.

    Args:
        model: the network. Its parameters that get values are marked, see :func:`is_pretrained`.
        state: names → tensors.
        source: for messages.
        head: names of the modules that give the logits; where none are given, :func:`_last_part`.
        adapt: (state, model) → the state as the network's library turns other forms of it into its own.

    Returns:
        How many tensors were copied, the names of those of the head that were not, and notes.

    Raises:
        CutError: tensors outside the head are missing, left over or of another shape, or values are no numbers.
    """
    own = model.state_dict(keep_vars=True)
    found, notes = _compare(model, own, state, head, adapt)
    if not found.fits:
        raise CutError(
            f"model.weights: {source} holds the weights of another network than {type(model).__name__}: "
            f"{found.text()}. Only a head of another size is replaced{found.remedy}"
            + ("; it is one of several files: give their .index.json" if _SHARD.search(source) else "")
        )
    values = {name: found.state[name] for name in found.copied}
    _refuse_values(source, own, values)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
            if isinstance(own[name], nn.Parameter):
                own[name]._pretrained = True
        for name in found.logits:
            own[name].zero_()
    return len(values), found.replaced, notes


def _compare(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    head: tuple[str, ...],
    adapt: Adapt | None,
) -> tuple[_Comparison, list[str]]:
    """The network's tensors (``own``) beside those of ``state``, by its names and in its form; and notes on changes.

    Other arguments as of :func:`fill`.
    """
    heads = tuple(f"{name}." for name in head or (_last_part([name for name, _ in model.named_parameters()]),))
    state, notes = own_names(state, own.keys())
    state, more = _without_their_heads(state, own, heads)
    notes += more
    if taken := _other_channels(own, state):
        names = list_some(taken, _SHOWN)
        channels = next(iter(taken.values())).shape[1]
        rule = (
            "their sum"
            if channels == 1
            else f"repeated over {channels} channels and scaled by 3/{channels}, as timm does"
        )
        state, notes = (
            {**state, **taken},
            [*notes, f"the weights of {names} for red, green and blue were taken as {rule}"],
        )
    found = _Comparison(own, state, heads)
    if adapt is not None and not found.fits:
        found = _Comparison(own, adapt(dict(state), model), heads)
    return found, notes


def _refuse_values(source: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Refuse weights that no training leaves: whole numbers for fractions, and values that are not finite."""
    for name, tensor in state.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise CutError(
                f"model.weights: {source} holds {name} as {str(tensor.dtype).removeprefix('torch.')}, so it is "
                "quantised or no weight; save the weights as floating-point numbers"
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise CutError(f"model.weights: {source} holds values in {name} that are not finite; its training failed")


def _other_channels(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """First convolutions over red, green and blue for a network with another number of channels, by timm's rule.

    One channel: the sum over the three. Others: the three repeated in turn, scaled so that the sum over the channels
    stays.
    """
    found = {}
    for name, mine in own.items():
        theirs = state.get(name)
        if theirs is None or mine.dim() != 4 or theirs.dim() != 4 or theirs.shape[1] != RGB:
            continue
        channels = mine.shape[1]
        if channels != RGB and mine.shape == (theirs.shape[0], channels, *theirs.shape[2:]):
            wide = theirs.repeat(1, -(-channels // RGB), 1, 1)[:, :channels] * (RGB / channels)
            found[name] = theirs.sum(dim=1, keepdim=True) if channels == 1 else wide
    return found


class _Comparison:
    """The tensors of a network beside those of a file."""

    def __init__(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], heads: tuple[str, ...]) -> None:
        self.own, self.state, self.heads = own, state, heads
        shared = [name for name in own if name in state]
        self.misfit = [name for name in shared if state[name].shape != own[name].shape]
        self.copied = [name for name in shared if name not in self.misfit]
        # Early versions of torch wrote no counters of batches.
        self.missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
        self.extra = [name for name in state if name not in own]
        self.replaced = tuple(name for name in (*self.misfit, *self.missing) if name.startswith(heads))

    @property
    def logits(self) -> list[str]:
        """Tensors of another size in the last such layer of each head."""
        last = {head: _layer(name) for name in self.misfit for head in self.heads if name.startswith(head)}
        return [name for name in self.misfit if _layer(name) in last.values()]

    @property
    def fits(self) -> bool:
        """Whether nothing but the head differs."""
        return not self._outside([*self.misfit, *self.missing, *self.extra])

    def text(self) -> str:
        """What differs outside the head."""
        said = []
        for name in self._outside(self.misfit)[:2]:
            said.append(f"{name} is {_shape(self.state[name])} there and {_shape(self.own[name])} here")
        if missing := self._outside(self.missing):
            said.append(f"{len(missing)} tensors are not in it: {list_some(missing, _SHOWN)}")
        if extra := self._outside(self.extra):
            said.append(f"{len(extra)} of its tensors are not in the network: {list_some(extra, _SHOWN)}")
        return "; ".join(said)

    @property
    def remedy(self) -> str:
        """What to do where the first convolution takes other channels."""
        for name in self._outside(self.misfit)[:1]:
            there, here = self.state[name].shape, self.own[name].shape
            if len(there) == 4 and there[0] == here[0] and there[2:] == here[2:] and here[1] == RGB:
                return f"; images of {there[1]} channels are asked for by data.image_size: 64x64x{there[1]}"
        return ""

    def _outside(self, names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith(self.heads)]


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _last_part(parameters: list[str]) -> str:
    """The outermost module of the last parameter that has at most half of all, and not the first.

    A network within a wrapper has one outermost module, which is no head.
    """
    part = _layer(parameters[-1])
    for depth in range(1, part.count(".") + 1):
        outer = ".".join(part.split(".")[:depth])
        within = sum(name.startswith(f"{outer}.") for name in parameters)
        if 2 * within <= len(parameters) and not parameters[0].startswith(f"{outer}."):
            return outer
    return part


def _without_their_heads(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], heads: tuple[str, ...]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Leave out heads of the file that the network has not: its last layer under another name, and auxiliary ones."""
    extra = [name for name in state if name not in own and not name.startswith(heads)]
    last = _layer(list(state)[-1])
    theirs = [name for name in extra if _layer(name) == last or name.startswith(_AUXILIARY)]
    if not theirs or len(theirs) < len(extra):
        return state, []
    return {name: tensor for name, tensor in state.items() if name not in theirs}, [
        f"its head {list_some(dict.fromkeys(map(_layer, theirs)), _SHOWN)} is left out"
    ]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
