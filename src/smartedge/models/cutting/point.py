"""A point at which a network can be cut: what crosses there, and what lies on either side of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from smartedge.models.cutting.packing import Packing, packing_of
from smartedge.models.layout import Layout, layout_of_shape
from smartedge.models.recording.graph import Trace

if TYPE_CHECKING:
    from smartedge.models.cutting.crossing import Analysis

__all__ = ["Cut", "Point"]


@dataclass(frozen=True)
class Cut:
    """A point at which a network can be divided, and what lies on either side of it.

    Everything is for one image. FLOPs are floating-point operations as counted by
    ``torch.utils.flop_counter``: convolutions, matrix products and attention, 2 per multiply-accumulate.

    Attributes:
        name: the outermost module whose output crosses, or ``module.operation``.
        aliases: other names of the same point, such as that module's last submodule.
        shape: F of the tensor that crosses, without the batch.
        layout: what its axes mean: ``channels-first``, ``channels-last``, ``tokens`` or ``vector``.
        dtype: of the same tensor.
        front_parameters: number of parameters before the cut.
        back_parameters: number of parameters after it.
        front_flops: FLOPs of a forward pass before the cut; None: not known, since a module there computes what its
            values ask for.
        back_flops: the same after the cut.
        activation_bytes: of the tensor that crosses, as float32.
        front_activation_bytes: of the outputs of all operations before the cut; views and in-place results count
            nothing.
        back_activation_bytes: the same after the cut.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype
    front_parameters: int
    back_parameters: int
    front_flops: int | None
    back_flops: int | None
    activation_bytes: int
    front_activation_bytes: int
    back_activation_bytes: int


@dataclass(frozen=True)
class Point:
    """A place between two operations at which the network can be cut.

    One tensor crosses. Where a module answers with several, these are packed into one
    (:mod:`smartedge.models.cutting.packing`).
    """

    analysis: Analysis
    nodes: tuple[fx.Node, ...]  # whose outputs cross
    index: int  # the last operation of the front
    modules: tuple[str, ...] = ()  # whose several results these are

    @property
    def names(self) -> list[str]:
        """Outermost first."""
        names = self.modules or self.analysis.trace.names[self.nodes[0]]
        return sorted(names, key=lambda name: name.count("."))

    @property
    def name(self) -> str:
        """Of the outermost module whose output crosses, or module.operation."""
        return self.names[0]

    @cached_property
    def packing(self) -> Packing | None:
        """How several tensors are one; None where one crosses."""
        return packing_of([self.analysis.trace.values[node] for node in self.nodes]) if self.modules else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that crosses, without the batch."""
        if self.packing is not None:
            return self.packing.shape
        return tuple(self.analysis.trace.values[self.nodes[0]][0].shape[1:])

    @property
    def layout(self) -> Layout:
        """What the axes of the tensor that crosses mean: by the operations that made it, else by its shape."""
        if len(self.shape) == 3:
            return _layout_by_origin(self.analysis.trace, self.nodes[0]) or layout_of_shape(self.shape)
        return layout_of_shape(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor that crosses."""
        kind: torch.dtype = self.analysis.trace.values[self.nodes[0]][0].dtype
        return kind

    def describe(self) -> Cut:
        """The point as users see it."""
        analysis, after = self.analysis, self.index + 1
        bytes_ = analysis.activation_bytes
        parameters = analysis.parameters(self)
        return Cut(
            name=self.name,
            aliases=tuple(self.names[1:]),
            shape=self.shape,
            layout=self.layout,
            dtype=self.dtype,
            front_parameters=parameters[0],
            back_parameters=parameters[1],
            front_flops=analysis.flops_of(self.index, "front"),
            back_flops=analysis.flops_of(self.index, "back"),
            activation_bytes=4 * prod(self.shape),
            front_activation_bytes=sum(bytes_[:after]),
            back_activation_bytes=sum(bytes_[after:]),
        )


_MOVED: dict[tuple[Any, ...], Layout] = {(0, 2, 3, 1): "channels-last", (0, 3, 1, 2): "channels-first"}
_RESHAPING = ("view", "reshape", "flatten", "unflatten", "transpose", "roll", "permute")


def _layout_by_origin(trace: Trace, node: fx.Node) -> Layout | None:
    """Walks back from a tensor (B, *, *, *) to the operation that tells where its channels are; None: none does.

    Operations that say nothing themselves, such as activations and sums, leave the axes as they are.
    """
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop(0)
        value = trace.values[node][0]
        if not isinstance(value, Tensor) or value.dim() != 4 or node.op in ("placeholder", "get_attr"):
            continue
        names = _names_of_operation(trace, node)
        if layout := _layout_after(node, names):
            return layout
        if not names & {*_RESHAPING}:
            new = [origin for origin in node.all_input_nodes if origin not in seen]
            seen.update(new)
            waiting += new
    return None


def _names_of_operation(trace: Trace, node: fx.Node) -> set[str]:
    """The function's or method's name, or the names of the module's class and its bases."""
    if node.op == "call_module":
        return {kind.__name__ for kind in type(trace.model.get_submodule(str(node.target))).__mro__}
    return {node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")}


def _layout_after(node: fx.Node, names: set[str]) -> Layout | None:
    """Two-dimensional layers have channels first, linear layers and layer normalisation last; permute moves them."""
    if any(name.lower().endswith("2d") or name == "batch_norm" for name in names):
        return "channels-first"
    if names & {"Linear", "LayerNorm", "linear", "layer_norm"}:
        return "channels-last"
    if "permute" in names:
        order = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        return _MOVED.get(tuple(order))
    return None
