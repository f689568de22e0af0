"""Writes the operations of one half of a divided network."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from smartedge.models.contexts import Own, enter, leave
from smartedge.models.recording import BATCHES, Trace, per_image

__all__ = ["Half"]


class Half:
    """A graph into which operations of a recording are copied, each with the free values and sizes that it needs.

    Attributes:
        graph: the operations so far.
        copied: node of the recording → its copy.
        arrived: what the back is given; None in the front.
    """

    def __init__(self, trace: Trace, sizes: set[fx.Node]) -> None:
        self.trace = trace
        self.sizes = sizes
        self.graph = fx.Graph()
        self.copied: dict[fx.Node, fx.Node] = {}
        self.arrived: fx.Node | None = None
        self._context: tuple[Own, fx.Node] | None = None  # that of the last operation, and what ends it

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
        if self.arrived is not None and isinstance(first, torch.device):
            return self.graph.call_function(getattr, (self.arrived, "device"))
        if self.arrived is not None and node in self.sizes and not all(n in self.sizes for n in node.all_input_nodes):
            images, scale = self.graph.call_method("size", (self.arrived, 0)), per_image(first, second)
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
