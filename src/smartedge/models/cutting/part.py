"""The parts of a divided network: modules made of the original's own modules and parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, fx, nn

from smartedge.errors import CutError
from smartedge.models.copying import copied
from smartedge.models.layout import Layout
from smartedge.models.recording.contexts import enter, restoring
from smartedge.models.recording.graph import named_state, shape_text

__all__ = ["Part", "Side", "furnish", "merge_state_dicts"]

Side = Literal["front", "middle", "back"]


class Crossing(Protocol):
    """The tensor that crosses a cut."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch."""

    @property
    def layout(self) -> Layout:
        """What the axes mean."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""


class Part(nn.Module):
    """One part of a divided network: a batch (B, *shape) → the result of the operations on its side.

    Its submodules and parameters are those of the original, under the same names. Training and evaluation mode each
    run the operations that the original runs in that mode.

    Attributes:
        feature_shape: shape of the tensor that crosses the cut, without the batch.
        layout: what its axes mean.
        feature_dtype: of the same tensor.
    """

    def __init__(
        self, side: Side, graphs: Mapping[bool, fx.Graph], at: Crossing, takes: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        self.feature_shape, self.layout, self.feature_dtype = at.shape, at.layout, at.dtype
        self._side = side
        self._graphs = graphs
        self._takes = takes  # input shape without the batch, where sizes are fixed in the operations
        self._frozen: list[str] = []
        self._other_mode: Mapping[bool, Set[str]] = {}

    def _compile(self) -> None:
        self._run = {mode: type(fx.GraphModule(self, graph)).forward for mode, graph in self._graphs.items()}
        nodes = (node for graph in self._graphs.values() for node in graph.nodes)
        self._sets_contexts = any(node.target is enter for node in nodes)

    def freeze(self, name: str) -> None:
        """Keep the parameters of a submodule as they are, and the submodule in evaluation mode; "" is the whole part.

        So batch normalisation goes on with the statistics that it has, and nothing is dropped at random.
        """
        self._frozen.append(name)
        self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Part:
        """Set the mode of everything that is not frozen, as the original's own ``train`` does."""
        super().train(mode)
        modules = dict(self.named_modules())
        for name in self._other_mode.get(mode, ()):
            if name in modules:
                modules[name].training = not mode
        for name in self._frozen:
            for module in self.get_submodule(name).modules():
                module.training = False
        return self

    def forward(self, x: Tensor) -> Any:
        """Run this part.

        Raises:
            CutError: the input has another size than the one for which the network was divided.
        """
        if self._takes is not None and x.shape[1:] != self._takes:
            raise CutError(
                f"the {self._side} takes inputs of {shape_text(self._takes)}, got {shape_text(x.shape[1:])}: "
                "the network's code depends on sizes; pass the shape of your images to cut(model, at, input_shape)"
            )
        with restoring() if self._sets_contexts else nullcontext():
            return self._run[self.training](self, x)

    def __getstate__(self) -> dict[str, object]:
        """Without the compiled operations, so that a part can be copied and sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()


def merge_state_dicts(front: nn.Module, back: nn.Module) -> dict[str, Tensor]:
    """The state dict of the original network, from those of its parts. It loads with ``strict=True``.

    Raises:
        CutError: both halves hold the same entry, so they are not a front and its back.
    """
    first, second = front.state_dict(), back.state_dict()
    both = sorted(first.keys() & second.keys())
    if both:
        raise CutError(f"both hold {both[0]} and {len(both) - 1} more: they are not the front and back of one network")
    merged = OrderedDict({**first, **second})
    merged._metadata = {**first._metadata, **second._metadata}  # type: ignore[attr-defined]  # versions of modules
    return merged


def furnish(
    model: nn.Module,
    parts: Sequence[Part],
    owner: Mapping[int, int],
    borrowed: Sequence[Set[int]],
    other_mode: Mapping[bool, Set[str]],
) -> None:
    """Give the parts the modules and tensors that their operations use, under the original's names.

    Args:
        model: the original.
        parts: in the order in which they run.
        owner: identity of a tensor → the place in ``parts`` of the one in whose state it is. The last part gets those
            that no part uses.
        borrowed: for each part the identities of constants of earlier parts that it uses as well. There they are no
            part of the state.
        other_mode: as in :class:`~smartedge.models.recording.graph.Trace`.
    """
    # In the original's order: an optimizer knows parameters by number, and every process must count alike.
    order = {path: place for place, (path, _) in enumerate(model.named_modules(remove_duplicate=False))}
    taken: set[str] = set()
    for part in parts:
        nodes = [node for graph in part._graphs.values() for node in graph.nodes]
        paths = {str(node.target) for node in nodes if node.op == "call_module"}
        part.training, part._version = model.training, model._version
        for path in sorted(paths, key=order.__getitem__):
            module = model.get_submodule(path)
            if path in taken:  # without parameters, such as a ReLU that serves several times
                module = copied(module)  # so that each part has a training flag of its own
            holder, name = _holder(part, model, path)
            if not hasattr(holder, name):
                holder.add_module(name, module)
        taken |= paths
    for path, tensor in named_state(model):
        for part, known in zip(parts, borrowed, strict=True):
            if id(tensor) in known:
                holder, name = _holder(part, model, path)
                if not hasattr(holder, name):
                    holder.register_buffer(name, tensor.detach(), persistent=False)
        holder, name = _holder(parts[owner.get(id(tensor), len(parts) - 1)], model, path)
        if hasattr(holder, name):
            continue
        if isinstance(tensor, nn.Parameter):
            holder.register_parameter(name, tensor)
        else:
            original = model.get_submodule(path.rpartition(".")[0])
            persistent = name in original._buffers and name not in original._non_persistent_buffers_set
            holder.register_buffer(name, tensor, persistent=persistent)
    for part in parts:
        part._other_mode = other_mode
        part._compile()


def _holder(part: Part, model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The submodule of ``part`` in which the last name of ``path`` belongs, and that name. It is made if missing."""
    *steps, name = path.split(".")
    holder: nn.Module = part
    for depth, step in enumerate(steps):
        if step not in holder._modules:
            original = model.get_submodule(".".join(steps[: depth + 1]))
            made = nn.Module()
            made.training, made._version = original.training, original._version
            holder.add_module(step, made)
        holder = holder.get_submodule(step)
    return holder, name
