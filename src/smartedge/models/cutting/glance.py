"""A first look at a network and what the settings say of its cut, before the network is recorded.

To record it imports ``torch._dynamo``, for a second. A cut that cannot be there, a bottleneck that is too large for
it, and a name of nothing that could be frozen are told before that.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from smartedge.errors import ConfigError, CutError
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import Blueprint, is_on_hub
from smartedge.models.bottleneck import check_bottleneck
from smartedge.models.layout import Layout, layout_of_shape
from smartedge.models.recording.graph import shape_text

__all__ = ["check_cuts", "check_end", "check_freezing", "check_shape", "nothing_to_freeze"]

_COUNTED = re.compile(r"_\d+$")  # of the second call and those that follow, as in relu_1
_OWN = {"apply", "decided", "device", "getattr", "getitem", "input"}  # what a recording names by itself


def check_cuts(blueprint: Blueprint, model: nn.Module, cuts: Iterable[str]) -> None:
    """Refuse a name that no module and no operation of the network can have. It is not run.

    Nothing is said of the user's own networks, whose operations may have any name.

    Raises:
        CutError: a cut has such a name.
    """
    if _is_own(blueprint):
        return
    modules = [name for name, _ in model.named_modules()]
    known = {*modules, *(name for name, _ in model.named_parameters()), *(name for name, _ in model.named_buffers())}
    for at in cuts:
        if at and (at in known or _COUNTED.sub("", at) in known):
            continue
        path, _, operation = at.rpartition(".")
        if {path, _COUNTED.sub("", path)} & known and _COUNTED.sub("", operation) in _operations():
            continue
        near = difflib.get_close_matches(at, filter(None, modules), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        size = ImageSize.of(blueprint.image_size)
        raise CutError(
            f"{blueprint.name} cannot be cut at {at}: it has no module or operation of that name; {hint}"
            f"'smartedge cuts {blueprint.name} --input {shape_text(size.shape)}' lists all"
        )


def check_end(blueprint: Blueprint, model: nn.Module) -> None:
    """Refuse the last module of a library's network as a cut where its output is the network's answer.

    The network is run on one blank image, if the cut is its last module and a linear layer.

    Raises:
        CutError: nothing is computed after the cut.
    """
    last, module = list(model.named_modules())[-1]
    if last != blueprint.at or not isinstance(module, nn.Linear) or _is_own(blueprint):
        return
    given: list[Any] = []
    hook = module.register_forward_hook(lambda _, __, out: given.append(out))
    was_training, size = model.training, ImageSize.of(blueprint.image_size)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer = model.eval()(torch.zeros(1, *size.shape))
    except (RuntimeError, ValueError, AssertionError):  # such as too small an image: told where it is recorded
        return
    finally:
        hook.remove()
        model.train(was_training)
    if any(each is answer for each in given):
        raise CutError(
            f"{blueprint.name} cannot be cut at {last}: this is already the output, nothing is computed after it; "
            f"'smartedge cuts {blueprint.name} --input {shape_text(size.shape)}' lists all"
        )


def check_shape(blueprint: Blueprint, model: nn.Module) -> None:
    """Refuse a bottleneck that does not fit what the module at the cut gives, whatever its axes may mean.

    The network is run on one blank image, up to that module.

    Raises:
        ConfigError: it does not fit.
    """
    module = dict(model.named_modules()).get(blueprint.at)
    if not isinstance(blueprint.bottleneck, tuple) or module is None or blueprint.at == "":
        return
    size = ImageSize.of(blueprint.image_size)
    shape = _given_by(module, model, size)
    if shape is None:
        return
    problems = []
    for layout in (layouts := _layouts(shape, size)):
        try:
            check_bottleneck(shape, blueprint.bottleneck, layout)
        except ConfigError as error:
            problems.append(error)
    if len(problems) == len(layouts):
        raise problems[0]


def check_freezing(blueprint: Blueprint, model: nn.Module) -> None:
    """Refuse to freeze a module that the network does not have.

    Raises:
        ConfigError: a name in ``train.freeze`` is not that of a module.
    """
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in blueprint.freeze:
        if name != "front" and (name == "" or name not in modules):
            raise nothing_to_freeze(blueprint, name, modules)


def nothing_to_freeze(blueprint: Blueprint, name: str, modules: Iterable[str]) -> ConfigError:
    """The error for a name in ``train.freeze`` that is none of the modules."""
    near = difflib.get_close_matches(name, modules, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "'smartedge cuts NAME' lists its parts"
    return ConfigError(f"train.freeze: {blueprint.name} has no module {name}; {hint}")


def _is_own(blueprint: Blueprint) -> bool:
    return ":" in blueprint.name and not is_on_hub(blueprint.name)


def _layouts(shape: tuple[int, ...], size: ImageSize) -> list[Layout]:
    """What the axes of a tensor may mean; the likely one first. The map of a square image is square."""
    likely = layout_of_shape(shape)
    if len(shape) != 3 or (size.height == size.width and (shape[0] == shape[1]) != (shape[1] == shape[2])):
        return [likely]
    return [likely, "channels-last" if likely == "channels-first" else "channels-first"]


class _Reached(Exception):
    """Ends the run of a network at the module that was waited for."""


def _given_by(module: nn.Module, model: nn.Module, size: ImageSize) -> tuple[int, ...] | None:
    """Shape of what the module gives for one image, without the batch; None: it is not run, or gives no tensor."""
    given: list[tuple[int, ...]] = []

    def reached(_: nn.Module, __: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            given.append(tuple(out.shape[1:]))
        raise _Reached

    was_training = model.training
    hook = module.register_forward_hook(reached)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(torch.zeros(1, *size.shape))
    except _Reached:
        pass
    finally:
        hook.remove()
        model.train(was_training)
    return given[0] if given else None


def _operations() -> set[str]:
    """Names that an operation can have: of functions of torch and ``operator``, of operators, of autograd functions."""
    functions = [each for group in torch.overrides.get_overridable_functions().values() for each in group]
    names = {getattr(each, "__name__", "") for each in functions} | set(vars(operator)) | _OWN
    names |= {name.partition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    return {name.strip("_") for name in names} | {each.__name__.strip("_") for each in _below(torch.autograd.Function)}


def _below(kind: type) -> Iterator[type]:
    below: list[type] = kind.__subclasses__()
    for each in below:
        yield each
        yield from _below(each)
