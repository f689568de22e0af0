"""Divides any network at a point at which exactly one tensor crosses, and merges the two halves back.

The network is recorded as a sequence of operations (:mod:`smartedge.models.recording.trace`), once in training mode
and, where its code looks at the mode, once in evaluation mode. :mod:`smartedge.models.cutting.crossing` says where it
can be cut.

Both halves are made of the original's own modules and parameters under their own names. So they train the original,
and their state dicts together are the original's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.lazy import LazyModuleMixin

from smartedge.errors import CutError
from smartedge.models.copying import copied
from smartedge.models.cutting.crossing import Analysis
from smartedge.models.cutting.part import Part, Side, furnish, merge_state_dicts
from smartedge.models.cutting.point import Cut
from smartedge.models.gradients import refuse_lost_gradients
from smartedge.models.recording.depth import deep_calls
from smartedge.models.recording.trace import trace
from smartedge.models.zoo.answers import plain

__all__ = ["Cut", "cut", "cut_in_order", "list_cuts", "merge_state_dicts"]


@deep_calls()
def list_cuts(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> list[Cut]:
    """Every point at which ``model`` can be divided, in the order of execution.

    Args:
        model: any network that takes one tensor (B, *input_shape); it is neither run nor changed.
        input_shape: shape of one image, such as (3, 64, 64). By default the one that the network names, as timm's
            ``pretrained_cfg`` does; where it names none, the first of 224, 64 and 32 pixels that it takes.

    Raises:
        CutError: the network cannot be recorded, or does not take such an input. The message names the place.
    """
    modes = _recorded(_plain(model), input_shape)
    return [point.describe() for point in modes[False].points if _legal(modes, point.name)]


def cut(model: nn.Module, at: str, input_shape: tuple[int, ...] | None = None) -> tuple[Part, Part]:
    """Divide ``model`` into (front, back) with ``back(front(x))`` equal to ``model(x)``, in either mode.

    Both parts state the shape and the layout of the tensor that crosses (``feature_shape``, ``layout``).

    Args:
        model: any network that takes one tensor. Its modules and parameters become the parts' own: they are shared,
            not copied.
        at: name or alias of a cut (see :func:`list_cuts`).
        input_shape: shape of one image; the default is that of :func:`list_cuts`. It matters where the network's code
            looks at sizes: the parts then take images of this shape only.

    Raises:
        CutError: the network cannot be recorded, or cannot be divided there. The message says what crosses and
            names points nearby.
    """
    front, back = cut_in_order(model, [at], input_shape)
    return front, back


@deep_calls()
def cut_in_order(model: nn.Module, at: Sequence[str], input_shape: tuple[int, ...] | None) -> list[Part]:
    """Divide ``model`` at several points: front, middle parts and back. Run after each other they are the model.

    Args:
        model: as for :func:`cut`.
        at: names or aliases of cuts, in the order of execution.
        input_shape: as for :func:`cut`.

    Raises:
        CutError: as :func:`cut`; or the cuts are not in order, or one is there twice.
    """
    model = _plain(model)
    modes = _recorded(model, input_shape)
    names = [modes[False].find(name).name for name in at]
    chosen = {mode: [analysis.find(name) for name in names] for mode, analysis in modes.items()}
    for given, name, point, next_point in zip(at, names, chosen[False], [*chosen[False][1:], None], strict=True):
        if not _legal(modes, name):
            raise CutError(
                f"{type(model).__name__} cannot be cut at {given}: what lies before it in training mode is not what "
                "lies before it in evaluation mode"
            )
        if next_point is not None and next_point.index <= point.index:
            raise CutError(f"the cut {next_point.name} does not lie behind {point.name}; give cuts in their order")
    if len({isinstance(analysis.trace.output.args[0], Node) for analysis in modes.values()}) > 1:
        raise CutError(
            f"{type(model).__name__} answers with one tensor in one mode and with several in the other; let its "
            "forward return the logits alone in training mode, too"
        )
    graphs = {mode: analysis.split(chosen[mode]) for mode, analysis in modes.items()}
    owner = modes[False].owners(chosen[False]) | modes[True].owners(chosen[True])
    recorded = modes[False].trace
    fixed = recorded.reads_sizes or modes[True].trace.reads_sizes
    takes = [recorded.input_shape, *(point.shape for point in chosen[False])]
    middle: list[Side] = ["middle"] * (len(at) - 1)
    sides: list[Side] = ["front", *middle, "back"]
    parts = [
        Part(side, {mode: each[place] for mode, each in graphs.items()}, crossing, takes[place] if fixed else None)
        for place, (side, crossing) in enumerate(zip(sides, [*chosen[False], chosen[False][-1]], strict=True))
    ]
    borrowed: list[set[int]] = [set()]
    for place in range(len(at)):
        borrowed.append(set.union(*(each.shared(chosen[mode][place].index) for mode, each in modes.items())))
    furnish(model, parts, owner, borrowed, recorded.other_mode)
    for place, point in enumerate(chosen[False]):
        regroups = point.packing is not None and point.packing.regroups
        _refuse_mixed_images(parts[: place + 1], at[place], recorded.input_shape, regroups=regroups)
        behind = parts[place + 1]
        if any(name in analysis.trace.whole for analysis in modes.values() for name, _ in behind.named_modules()):
            refuse_lost_gradients(behind, at[place], point.shape)
    return parts


def _refuse_mixed_images(parts: Sequence[nn.Module], at: str, input_shape: tuple[int, ...], *, regroups: bool) -> None:
    """Refuse a cut at which features of an image tell of other images: they would travel under the wrong image's id.

    What is not equal to the bit is compared in float64, and so are rows that are put together from several tensors
    (``regroups``): a new network may have nearly the same features for all images.

    Raises:
        CutError: features depend on other images of their batch.
    """
    if any(parameter.is_meta for part in parts for parameter in part.parameters()):
        return  # there is nothing to run
    if not regroups and _stay_apart(parts, input_shape, None, rtol=0.0):
        return
    try:
        separate = _stay_apart(parts, input_shape, torch.float64, rtol=1e-6)
    except RuntimeError:  # its code names another kind of number
        separate = _stay_apart(parts, input_shape, None, rtol=1e-3)
    if not separate:
        raise CutError(
            f"the network cannot be cut at {at}: what crosses there for an image depends on the other images of its "
            "batch, such as where rows of several images lie mixed; choose another cut"
        )


def _stay_apart(
    parts: Sequence[nn.Module], input_shape: tuple[int, ...], kind: torch.dtype | None, *, rtol: float
) -> bool:
    """Whether the features of each of two images stay as they are when the other image is replaced.

    True as well where parts give the same images other features when they are run again: then nothing can be said.

    Args:
        parts: those before the cut.
        input_shape: of one image.
        kind: what they compute in; None: as they are, on float32 images.
        rtol: a smaller difference is rounding; a thousandth of it, relative to the largest feature, too.

    Raises:
        CutError: they run with gradients alone.
        RuntimeError: they do not run on numbers of this kind.
    """
    copies = [part.eval() for part in copied(nn.ModuleList(parts))]
    if kind is not None:
        copies = [part.to(kind) for part in copies]
    device = next((parameter.device for part in parts for parameter in part.parameters()), torch.device("cpu"))
    images_BF = torch.rand(4, *input_shape, generator=torch.Generator().manual_seed(0)).to(device, kind)

    def features(first: int, second: int) -> torch.Tensor:
        taken_BF = images_BF[[first, second]]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for part in copies:
                try:
                    taken_BF = part(taken_BF)
                except RuntimeError as error:
                    if kind is not None:
                        raise
                    raise CutError(
                        f"the network cannot run without gradients, which an edge needs to send ({error}); call "
                        "torch.enable_grad() in the forward of the part that wants them"
                    ) from error
        return taken_BF

    def close(one_F: torch.Tensor, other_F: torch.Tensor) -> bool:
        return torch.allclose(one_F, other_F, rtol=rtol, atol=rtol / 1000 * scale, equal_nan=True)

    both_BF = features(0, 1)
    scale = float(both_BF.abs().max())
    apart = close(both_BF[0], features(0, 2)[0]) and close(both_BF[1], features(3, 1)[1])
    return apart or not close(features(0, 1), both_BF)


def _plain(model: nn.Module) -> nn.Module:
    """The network itself, where it was compiled or is run on several devices. Its parts are not: do that with each.

    Raises:
        CutError: a part of it is TorchScript, or has no parameters before it has seen a batch.
    """
    model = plain(model)
    for name, module in model.named_modules():
        where = f"its part {name}" if name else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise CutError(
                f"{type(model).__name__} cannot be divided: {where} is TorchScript, which hides what it computes; "
                "divide the network before torch.jit.script or torch.jit.trace, and script its halves"
            )
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise CutError(
                f"{type(model).__name__} cannot be divided: {where} is lazy and has no parameters yet; run the network "
                "once on a batch of images"
            )
    return model


def _recorded(model: nn.Module, input_shape: tuple[int, ...] | None) -> dict[bool, Analysis]:
    return _at_usual_size(model) if input_shape is None else _both_modes(model, tuple(input_shape))


def _both_modes(model: nn.Module, input_shape: tuple[int, ...]) -> dict[bool, Analysis]:
    """Training mode (True) or not → analysis; the same one where nothing but single nodes depends on the mode."""
    training = Analysis(trace(model, input_shape, training=True))
    if not training.trace.reads_mode:
        return {False: training, True: training}
    return {False: Analysis(trace(model, input_shape, training=False)), True: training}


def _at_usual_size(model: nn.Module) -> dict[bool, Analysis]:
    """Analyses for the image size that the network names, else for the first usual one that it takes."""
    for shape in dict.fromkeys([*_shapes_in(model), *_usual_shapes(model)]):
        try:
            return _both_modes(model, shape)
        except CutError as error:
            last = error
    raise CutError(f"pass the shape of one image to cut(model, at, input_shape): it cannot be guessed ({last})")


def _shapes_in(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """What torchvision and timm write down about the images that a model is made for: (C, H, W).

    A size on the model itself is that with which it was built. It comes before timm's ``pretrained_cfg``, which has
    the size of the published weights.
    """
    channels = _channels(model)
    for holder in (model, getattr(model, "patch_embed", None)):
        for attribute in ("image_size", "img_size"):
            size = getattr(holder, attribute, None)
            if isinstance(size, int):
                yield channels, size, size
            elif isinstance(size, (tuple, list)) and len(size) == 2:
                yield channels, *size
    for attribute in ("pretrained_cfg", "default_cfg"):
        shape = (getattr(model, attribute, None) or {}).get("input_size")
        if shape is not None and len(shape) == 3:
            yield channels, *shape[1:]


def _usual_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    channels = _channels(model)
    return [(channels, size, size) for size in (224, 64, 32)]


def _channels(model: nn.Module) -> int:
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels


def _legal(modes: Mapping[bool, Analysis], name: str) -> bool:
    """Whether the point of that name is legal in both modes, with the same tensor and one owner per parameter."""
    points = [analysis.by_name.get(name) for analysis in modes.values()]
    if points[0] is None or points[1] is None or points[0].shape != points[1].shape:
        return False
    if points[0].packing != points[1].packing:
        return False
    owners = [analysis.owners([point]) for analysis, point in zip(modes.values(), points, strict=True) if point]
    return all(owners[1].get(key, side) == side for key, side in owners[0].items())
