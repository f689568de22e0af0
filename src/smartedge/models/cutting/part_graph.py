"""Writes the operations of one part of a divided network: the front, a middle part, or the back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from smartedge.models.cutting.packing import Packing
from smartedge.models.recording.contexts import Own, enter, leave
from smartedge.models.recording.graph import BATCHES, Trace, per_image

__all__ = ["PartGraph"]


class PartGraph:
    """A graph into which operations of a recording are copied, each with the free values and sizes that it needs.

    Args:
        trace: the recording of the whole network.
        sizes: those of its nodes that compute sizes, and no tensors.

    Attributes:
        graph: the operations so far.
        copied: node of the recording → its copy.
        input: what this part is given.
    """

    input: fx.Node

    def __init__(self, trace: Trace, sizes: set[fx.Node]) -> None:
        self.trace = trace
        self.sizes = sizes
        self.graph = fx.Graph()
        self.copied: dict[fx.Node, fx.Node] = {}
        self._arrived: fx.Node | None = None  # the same behind a cut; None in the front
        self._context: tuple[Own, fx.Node] | None = None  # that of the last operation, and what ends it

    def begin(self, name: str, nodes: Sequence[fx.Node], packing: Packing | None) -> None:
        """This part is given what these nodes of the recording are: the images, or what crosses the cut."""
        self.input = self.graph.placeholder(name)
        if name == "features":
            self._arrived = self.input
        given = [self.input] if packing is None else packing.unpack(self.graph, self.input)
        self.copied.update(zip(nodes, given, strict=True))

    def own(self, node: fx.Node) -> None:
        """Take a copy of what is given, since it is written into: the caller's tensor is not."""
        self.copied[node] = self.graph.call_method("clone", (self.copied[node],))

    def ending_at(self, nodes: Sequence[fx.Node], packing: Packing | None) -> fx.Graph:
        """The graph, which returns what crosses the cut."""
        if packing is None:
            return self.ending_in(nodes[0])
        copies = [self.copy(node) for node in nodes]
        self._set_context(None)
        self.graph.output(packing.pack(self.graph, copies, self.input))
        return self.graph

    def ending_in(self, result: Any) -> fx.Graph:
        """The graph, which returns that."""
        output = self._arguments(result)
        self._set_context(None)
        self.graph.output(output)
        return self.graph

    def copy(self, node: fx.Node) -> fx.Node:
        """Copy one node, unless it is there already."""
        if node not in self.copied:
            self.copied[node] = self._copy(node)
        return self.copied[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        first, second = self.trace.values[node]
        if self._arrived is not None and isinstance(first, torch.device):
            return self.graph.call_function(getattr, (self._arrived, "device"))
        if self._arrived is not None and node in self.sizes and not all(n in self.sizes for n in node.all_input_nodes):
            images, scale = self.graph.call_method("size", (self._arrived, 0)), per_image(first, second)
            scaled = self.graph.call_function(operator.mul, (images, scale))
            return self.graph.call_function(operator.add, (scaled, first - scale * BATCHES[0]))
        args, kwargs = self._arguments((node.args, node.kwargs))
        self._set_context(self.trace.contexts.get(node))
        return self.graph.create_node(node.op, node.target, args, kwargs)

    def _arguments(self, arguments: Any) -> Any:
        return fx.node.map_arg(arguments, self.copy)

    def _set_context(self, context: Own | None) -> None:
        """Let the next operation run in that context."""
        if self._context is not None and self._context[0] != context:
            self.graph.call_function(leave, (self._context[1],))
            self._context = None
        if context is not None and self._context is None:
            self._context = context, self.graph.call_function(enter, (context,))
