"""Pretrained weights: where they come from, how they are put into a network, and what is said about it.

Files are ``.safetensors``, or those of ``torch.save``, which are read without running any code
(:mod:`smartedge.models.zoo.pth`). The head is replaced where it has another size, and its last layer begins at zero:
timm draws some of them so large that a network with few labels never unlearns them (decision 53). Any other difference
between file and network is an error: a network that is half pretrained looks like one that learns badly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.decode import is_lfs_pointer
from smartedge.errors import CutError
from smartedge.image_size import RGB
from smartedge.models.zoo.pth import Unknown, UnreadableFile, read_pth

__all__ = [
    "IMAGENET",
    "Loaded",
    "Pixels",
    "Pretrained",
    "Rescale",
    "fill",
    "is_pretrained",
    "later_loaded",
    "loaded_in",
    "read_weights",
]

# Where training scripts put the weights, the most usual first. Other places (``encoder``, ``params``) come after these.
_PLACES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema", "module", "net", "network")
Adapt = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]
_PREFIX = 3  # steps of a name that may be a prefix, such as ``module.model.``
_SHOWN = 4  # names of tensors in a message


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
        head = f"; begin untrained: {_some(self.replaced)}" if self.replaced else ""
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
        pixels: the scale.
        mean: of the pixel values that come in, in [0, 1].
        std: what they were divided by.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, pixels: Pixels, *, mean: float, std: float) -> None:
        super().__init__()
        scale = [std / value for value in pixels.std]
        shift = [(mean - own) / value for own, value in zip(pixels.mean, pixels.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).reshape(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).reshape(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        scaled: Tensor = images_BCHW * self.scale + self.shift
        return scaled


class Pretrained(Rescale):
    """First layer of a pretrained network: turns the pixels that all networks get into those that it was trained on.

    Args:
        loaded: what was put into the network.
        mean: of the pixel values that come in, in [0, 1].
        std: what they were divided by.
    """

    def __init__(self, loaded: Loaded, *, mean: float, std: float) -> None:
        super().__init__(loaded.pixels, mean=mean, std=std)
        self.loaded = loaded


def loaded_in(modules: Iterable[nn.Module]) -> Loaded | None:
    """What was put into a network of which these are parts; None: nothing."""
    return next((m.loaded for part in modules for m in part.modules() if isinstance(m, Pretrained)), None)


def is_pretrained(parameter: nn.Parameter) -> bool:
    """Whether the parameter's first value came from a file or the hub."""
    return getattr(parameter, "_pretrained", False)


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of a file, and notes about what was chosen.

    Raises:
        CutError: it cannot be read, or holds no named tensors. The message says what it holds.
    """
    try:
        with path.open("rb") as file:
            if is_lfs_pointer(file.read(64)):
                raise CutError(f"model.weights: {path} is a git-LFS pointer, not the file itself; run 'git lfs pull'")
        if path.suffix.lower() == ".safetensors":
            return load_file(path), []
        saved = read_pth(path)
    except OSError as error:
        raise CutError(f"model.weights: {path} cannot be read ({error.strerror or error})") from error
    except (SafetensorError, UnreadableFile) as error:
        raise CutError(f"model.weights: {path} cannot be read: {error}") from error
    if isinstance(saved, Mapping):
        if any(isinstance(value, Tensor) for value in saved.values()):
            return _tensors_in(saved), []
        inner = {place: saved[place] for place in (*_PLACES, *saved) if isinstance(saved.get(place), Mapping)}
        places = [place for place, held in inner.items() if _tensors_in(held)]
        if places:
            others = f"; not used is what is in its {', '.join(map(repr, places[1:]))}" if places[1:] else ""
            return _tensors_in(inner[places[0]]), [f"taken from its {places[0]!r}{others}"]
    raise CutError(f"model.weights: {path} {_what_else(saved)}")


def _tensors_in(saved: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in saved.items() if isinstance(value, Tensor)}


def _what_else(saved: Any) -> str:
    held = f"it holds {', '.join(map(repr, list(saved)[:8])) or 'nothing'}" if isinstance(saved, Mapping) else ""
    kind = saved.name if isinstance(saved, Unknown) else type(saved).__name__
    return (
        f"holds no named tensors: {held or f'it holds a {kind}'}. A file that holds a network as a Python object can "
        "only be read by running its code; if you trust it, load it in torch and save model.state_dict() with "
        "safetensors.torch.save_file"
    )


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, head: tuple[str, ...], adapt: Adapt | None = None
) -> tuple[int, tuple[str, ...], list[str]]:
    """Copy the tensors of ``state`` into ``model``. The last layer of a head of another size is set to zero.

    Args:
        model: the network. Its parameters that get values are marked, see :func:`is_pretrained`.
        state: names → tensors.
        source: for messages.
        head: names of the modules that give the logits; where none are given, the part of the last parameter.
        adapt: (state, model) → the state as the network's library turns other forms of it into its own.

    Returns:
        How many tensors were copied, the names of those of the head that were not, and notes.

    Raises:
        CutError: tensors outside the head are missing, left over or of another shape, or values are no numbers.
    """
    own = model.state_dict(keep_vars=True)
    heads = tuple(f"{name}." for name in head or (list(dict(model.named_parameters()))[-1].partition(".")[0],))
    state, notes = _with_own_names(state, own.keys())
    if taken := _other_channels(own, state):
        names = _some(taken)
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
    if adapt is not None and not _Comparison(own, state, heads).fits:
        state = adapt(dict(state), model)
    found = _Comparison(own, state, heads)
    if not found.fits:
        raise CutError(
            f"model.weights: {source} holds the weights of another network than {type(model).__name__}: "
            f"{found.text()}. Only a head of another size is replaced"
        )
    _refuse_values(source, own, {name: state[name] for name in found.copied})
    with torch.no_grad():
        for name in found.copied:
            own[name].copy_(state[name])
            if isinstance(own[name], nn.Parameter):
                own[name]._pretrained = True
        for name in found.logits:
            own[name].zero_()
    return len(found.copied), found.replaced, notes


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
            said.append(f"{len(missing)} tensors are not in it: {_some(missing)}")
        if extra := self._outside(self.extra):
            said.append(f"{len(extra)} of its tensors are not in the network: {_some(extra)}")
        return "; ".join(said)

    def _outside(self, names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith(self.heads)]


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _with_own_names(state: Mapping[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without a prefix such as ``module.``, where more names are then those of the network.

    Where several prefixes give equally many (``encoder_q.`` and ``encoder_k.``), the first in the file is taken.
    """
    own = set(own)
    found, chosen, fit = dict(state), [""], len(own & state.keys())
    for depth in range(1, _PREFIX + 1):
        for prefix in dict.fromkeys(
            ".".join(name.split(".")[:depth]) + "." for name in state if name.count(".") >= depth
        ):
            inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            if (names := len(own & inner.keys())) > fit:
                found, chosen, fit = inner, [prefix], names
            elif names == fit and chosen[0]:
                chosen.append(prefix)
    if not chosen[0]:
        return found, []
    left = len(state) - len(found)
    others = f", of which those of {' and '.join(map(repr, chosen[1:]))} would fit as well" if chosen[1:] else ""
    said = f" ({left} tensors without it are left out{others})" if left else ""
    return found, [f"without the prefix {chosen[0]!r}{said}"]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
