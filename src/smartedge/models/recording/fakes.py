"""The copy of a network on fake tensors: it is made, watched for exchanged tensors, and where needed run for real."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from smartedge.errors import CutError
from smartedge.models.blame import first_line, place_and_reason
from smartedge.models.copying import copied, kept_results
from smartedge.models.recording.counting import OperatorWatch
from smartedge.models.recording.graph import Trace, named_state, real_like, shape_text, storage_of

__all__ = ["Holdings", "fake_copy", "run_for_real", "strange"]


def fake_copy(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """The network on fake tensors.

    Raises:
        CutError: it holds something that cannot be copied.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, Any] = {id(value): value for value in held if isinstance(value, torch.Generator)}  # none draws
    memo |= {id(tensor): fake.from_tensor(tensor.detach()) for tensor in kept_results(model)}
    try:
        with FakeCopyMode(fake):
            return copy.deepcopy(model, memo)
    except RecursionError:
        raise
    except Exception as error:
        raise CutError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}; keep what cannot be copied, such as locks "
            "and open files, out of the network"
        ) from error


class Holdings:
    """Which tensors the modules of a network hold: code may exchange them without a word.

    Attributes:
        names: identity of a tensor → the first name under which it is held.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held = {module: _held(module) for module in model.modules()}
        state = [*named_state(model, once=True)]
        self.names = {id(tensor): name for name, tensor in state}
        self._storages = [(name, tensor, storage_of(tensor)) for name, tensor in state]

    def lent(self, module: nn.Module) -> bool:
        """Whether it holds other parameters or buffers at the moment, as in ``torch.func.functional_call``."""
        return any(self._held.get(inner, _held(inner)) != _held(inner) for inner in module.modules())

    def renew(self, module: nn.Module) -> None:
        """What it holds now is its own: it has run as a whole, and may have exchanged its buffers."""
        self._held.update((inner, _held(inner)) for inner in module.modules())

    def check_data(self) -> None:
        """Refuse a network whose code gives a tensor other memory.

        Raises:
            CutError: it has.
        """
        for name, tensor, storage in self._storages:
            if storage_of(tensor) != storage:
                raise CutError(
                    f"{type(self._model).__name__} cannot be divided: its code replaces the data of {name} (.data =), "
                    "which torch does not report; write into it, with copy_ under torch.no_grad()"
                )


def _held(module: nn.Module) -> dict[str, int]:
    """Identities of a module's parameters and buffers, by name."""
    return {name: id(value) for name, value in (module._parameters | module._buffers).items()}


def run_for_real(trace: Trace, fake: FakeTensorMode, path: str, args: Any, kwargs: Any) -> Any:
    """A module that looks at values runs on real ones, in a copy, to learn the shapes of its results.

    Raises:
        CutError: it fails.
    """
    trace.unknown_flops.add(path)
    with unset_fake_temporarily():
        module = copied(trace.model.get_submodule(path)).train(trace.training)
        real_args, real_kwargs = tree_map_only(Tensor, real_like, (args, kwargs))
        random, watch = torch.get_rng_state(), OperatorWatch()
        try:
            with watch:
                out = tree_map_only(Tensor, Tensor.detach, module(*real_args, **real_kwargs))
        except Exception as error:
            network, shape = type(trace.model).__name__, shape_text(trace.input_shape)
            raise CutError(
                f"{network} does not take an input of {shape}: {path} ({type(module).__name__}), "
                f"{place_and_reason(error)}"
            ) from error
        finally:
            # Where nothing was drawn, this would only make other threads draw the same numbers again.
            if watch.random:
                torch.set_rng_state(random)
    return tree_map_only(Tensor, fake.from_tensor, out)


def strange(tensor: Tensor) -> str:
    """What is said of a tensor that no operation gave and the network does not hold."""
    if isinstance(tensor, nn.Parameter):
        return (
            "a parameter does not belong to the network; keep modules in nn.ModuleList or nn.ModuleDict, not in a list "
            "or dict"
        )
    return (
        "a tensor comes from code that torch does not report, such as NumPy or TorchScript; register a constant as a "
        "buffer."
    )
