"""Which parameters of a network get no gradient, although images use them: they keep the values that they began with.

A forward that detaches a tensor, computes under ``torch.no_grad()`` or outside torch, or rounds, leaves everything
before that untrained. Nothing else would say so: the loss still falls, since the rest learns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smartedge.errors import CutError, list_some
from smartedge.models.blame import kind_and_place
from smartedge.models.copying import copied
from smartedge.models.cutting.part import Part
from smartedge.models.recording.chance import Generators
from smartedge.models.zoo.answers import check_training_answer

__all__ = ["Untrained", "refuse_lost_gradients", "untrained", "what_stays_untrained"]

_IMAGES = 2  # as many as batch normalisation needs
_SHOWN = 4  # names in a line


@dataclass(frozen=True)
class Untrained:
    """Names of parameters that should learn, and cannot."""

    without: tuple[str, ...] = ()  # the images use them, and no backward pass reaches them
    zero: tuple[str, ...] = ()  # the backward pass reaches them with zeros, whatever the images are


def what_stays_untrained(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    must_learn: bool,
    answers: bool = False,
    task_kind: str | None = None,
) -> str | None:
    """One line about the parameters of a network, or of a half, that get no gradient; None: all that are used do.

    Args:
        module: takes (B, *input_shape). Its parameters, buffers, mode and random generators stay as they are.
        input_shape: without the batch.
        must_learn: whether it is an error that all of it stays as it is: nothing else gets a gradient from its loss.
        answers: whether the gradient of its input is to be sent back.
        task_kind: what its results are logits of, ``single`` or ``multi``; None: they are features.

    Raises:
        CutError: its backward pass fails, nothing of it would learn, its input gets no gradient that is needed, or
            its results are no logits (:func:`~smartedge.models.zoo.answers.check_training_answer`).
    """
    inputs = _inputs(module, input_shape).requires_grad_(answers)
    found, total = untrained(module, inputs, task_kind), len(list(module.parameters()))
    if answers and found.without and inputs.grad is None:
        raise CutError(
            "no gradient comes through the network behind the cut, since its code detaches a tensor or leaves torch: "
            "with this method the front would learn nothing; choose a later cut, or method 'hierarchical'"
        )
    said = []
    if found.without:
        said.append(
            f"{len(found.without)} of {total} parameters get no gradient ({list_some(found.without, _SHOWN)}), since "
            "its code detaches what they give, or computes it under torch.no_grad(), outside torch, or in a "
            "checkpoint with use_reentrant=True that takes the images themselves"
        )
        if must_learn and len(found.without) == len(_names(module)):
            raise CutError(f"nothing of the network can be trained: {said[0]}")
    if found.zero:
        said.append(
            f"the gradient of {len(found.zero)} of {total} parameters is always zero "
            f"({list_some(found.zero, _SHOWN)}), since its code rounds, compares or takes a sign behind them"
        )
    return f"a part of the network keeps the values that it begins with: {'; '.join(said)}" if said else None


def refuse_lost_gradients(part: Part, at: str, input_shape: tuple[int, ...]) -> None:
    """Refuse a cut behind which parameters learn in the whole network, but not where features come without a gradient.

    ``torch.utils.checkpoint`` with ``use_reentrant=True`` is so, and functions of the user's own may be.

    Args:
        part: what lies behind the cut.
        at: the name of the cut.
        input_shape: of the tensor that crosses, without the batch.

    Raises:
        CutError: there are such parameters.
    """
    features = _inputs(part, input_shape)
    if not (found := untrained(part, features).without):
        return
    lost = [name for name in found if name not in untrained(part, features.requires_grad_()).without]
    if lost:
        raise CutError(
            f"the network cannot be cut at {at}: {list_some(lost, _SHOWN)} would learn nothing behind it, since the "
            "code there gives no gradient where what it takes has none. Pass use_reentrant=False to "
            "torch.utils.checkpoint, or choose another cut"
        )


def untrained(module: nn.Module, inputs: Tensor, task_kind: str | None = None) -> Untrained:
    """The parameters that a loss at the end of ``module`` gives no gradient, in training mode.

    Raises:
        CutError: its backward pass fails, or its results are no logits of the task.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return Untrained()
    try:
        module = copied(module).train()  # what modules keep from a call is not for the run
    except Exception:  # it holds something that cannot be copied, such as a lock
        return Untrained()
    names = _names(module)
    with _alone(module, inputs.device):
        if not _backward(module, inputs, task_kind) or all(p.grad is not None and bool(p.grad.any()) for p in names):
            return Untrained()
        # Once more, with what began at zero moved from there: a new head of zeros hides all that lies before it.
        _move_from_zero(names)
        _forget_gradients(module)
        used, seen = _Used(), inputs.detach().clone().requires_grad_(inputs.requires_grad)
        with used:
            _backward(module, seen)
        without = [p for p in names if p.grad is None and p.untyped_storage().data_ptr() in used.storages]
        _forget_gradients(module)
        _backward(module, seen.requires_grad_())
        blocked = seen.grad is not None and not bool(seen.grad.any())
        zero = [p for p in names if p.grad is not None and not bool(p.grad.any())] if blocked else []
        return Untrained(tuple(names[p] for p in without), tuple(names[p] for p in zero))


def _inputs(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    return torch.randn(_IMAGES, *shape, generator=random).to(device)


def _names(module: nn.Module) -> dict[nn.Parameter, str]:
    """The parameters that should learn, by the names that they have in the user's network."""
    own = {p: name for part in module.modules() if isinstance(part, Part) for name, p in part.named_parameters()}
    return {p: own.get(p, name) for name, p in module.named_parameters() if p.requires_grad}


def _backward(module: nn.Module, inputs: Tensor, task_kind: str | None = None) -> bool:
    """A backward pass from some loss at the end. False: the module does not take so few images.

    Raises:
        CutError: the backward pass fails, or the results are no logits of the task.
    """
    try:
        given = module(inputs)
    except Exception:  # what it takes shows in training: batches have other sizes there
        return False
    if task_kind is not None:
        check_training_answer(given, len(inputs), task_kind)
    results = [each for each in tree_leaves(given) if isinstance(each, Tensor) and each.requires_grad]
    random = torch.Generator().manual_seed(1)
    loss = sum(((each * torch.randn(each.shape, generator=random).to(each.device)).sum() for each in results), start=0)
    if isinstance(loss, Tensor):
        try:
            loss.real.backward()
        except Exception as error:
            raise CutError(
                f"the backward pass of the network fails: {kind_and_place(error)}; a function of torch.autograd needs "
                "a backward, and what a backward pass needs may not be changed in place"
            ) from error
    return True


class _Used(TorchDispatchMode):
    """Notes the memory of all tensors that operations take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: set[int] = set()

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                self.storages.add(each.untyped_storage().data_ptr())
        return function(*args, **(kwargs or {}))


@contextmanager
def _alone(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Gradients are on, warnings are off, and all random generators are put back at the end."""
    generators = Generators(module)
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # training gives them again
            yield
    finally:
        generators.restore()


def _move_from_zero(parameters: Iterable[nn.Parameter]) -> None:
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            if not bool(parameter.any()):
                parameter.copy_(torch.randn(parameter.shape, generator=random) / 10)


def _forget_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None
