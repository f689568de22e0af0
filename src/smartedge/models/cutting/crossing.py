"""What crosses at every point of a recorded network, and the operations on either side of a point.

A point lies between two operations. The network can be cut there if three things hold. Of everything computed before
the point, one tensor is still needed after it, or several that are the results of one module. That tensor has the batch
as its first dimension. No parameter or buffer is used on both sides. What follows from parameters alone (a position
bias, say) and batch sizes do not count as crossing: the back computes them again.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence, Set
from functools import cached_property

import torch
from torch import Tensor, fx

from smartedge.errors import CutError
from smartedge.models.cutting.packing import packing_of
from smartedge.models.cutting.part import Side
from smartedge.models.cutting.part_graph import PartGraph
from smartedge.models.cutting.point import Point
from smartedge.models.recording.graph import (
    BATCHES,
    Trace,
    named_state,
    per_image,
    shape_text,
    state_of,
    storage_of,
    tensors_in,
)
from smartedge.models.recording.varying import decided

__all__ = ["Analysis"]


class Analysis:
    """What crosses at every point of a recorded network.

    Nodes are of three sorts. *Sizes* are numbers that depend on the batch size alone, and the device. *Free* ones
    depend on sizes, parameters and constants alone. Both are computed wherever they are needed. All others are *fixed*:
    they run once, in the recorded order, in the front or in the back.
    """

    def __init__(self, recorded: Trace) -> None:
        self.trace = recorded
        self.nodes = recorded.nodes
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.position[recorded.input], self.position[recorded.output] = -1, len(self.nodes)
        written = {storage for _, storage in recorded.writes}
        writers = {node for node, _ in recorded.writes}
        self.free: set[fx.Node] = set()
        self.sizes: set[fx.Node] = set()
        for node in self.nodes:
            inputs = node.all_input_nodes
            if node.op == "get_attr":
                self.free.add(node)
            elif node in writers or node in recorded.random or node.op == "call_module" or node.target is decided:
                continue
            elif self._is_size(node):
                self.sizes.add(node)
            elif all(i in self.free or i in self.sizes for i in inputs) and not written & {
                storage_of(t) for i in (node, *inputs) for t in tensors_in(recorded.values[i][0])
            }:
                self.free.add(node)

    def _is_size(self, node: fx.Node) -> bool:
        first, second = self.trace.values[node]
        if isinstance(first, torch.device):
            return True
        if not isinstance(first, (int, float)) or first == second:
            return False
        if all(node_ in self.sizes for node_ in node.all_input_nodes):
            return True
        return isinstance(first, int) and (second - first) % (BATCHES[1] - BATCHES[0]) == 0

    def is_fixed(self, node: fx.Node) -> bool:
        """Whether the node runs exactly once, in one of the two halves."""
        return node not in self.free and node not in self.sizes

    def needs(self, node: fx.Node) -> Iterator[fx.Node]:
        """The fixed and ``get_attr`` nodes whose values ``node`` uses, directly or through free nodes."""
        for used in node.all_input_nodes:
            if used in self.free and used.op != "get_attr":
                yield from self.needs(used)
            elif used not in self.sizes:
                yield used

    @cached_property
    def last_use(self) -> dict[fx.Node, int]:
        """Fixed node → position of the last operation that uses it."""
        last: dict[fx.Node, int] = {}
        for user in [*filter(self.is_fixed, self.nodes), self.trace.output]:
            for used in self.needs(user):
                last[used] = self.position[user]
        return last

    @cached_property
    def state_use(self) -> dict[int, tuple[int, int]]:
        """Identity of a parameter, buffer or tensor attribute → positions of its first and last use."""
        use: dict[int, tuple[int, int]] = {}
        for user in [*filter(self.is_fixed, self.nodes), self.trace.output]:
            tensors = [self.trace.tensor(str(n.target)) for n in self.needs(user) if n.op == "get_attr"]
            if user.op == "call_module":
                tensors += state_of(self.trace.model.get_submodule(str(user.target)))
            for tensor in tensors:
                position = self.position[user]
                use[id(tensor)] = (use.get(id(tensor), (position, position))[0], position)
        return use

    def crossing(self, index: int) -> list[fx.Node]:
        """Values that are computed up to ``index`` and used after it."""
        candidates = [self.trace.input, *filter(self.is_fixed, self.nodes[: index + 1])]
        return [node for node in candidates if self.last_use.get(node, -1) > index]

    @cached_property
    def constants(self) -> set[int]:
        """Identities of buffers, attributes and frozen parameters that nothing changes: both sides may use them."""
        written = {storage for _, storage in self.trace.writes}
        used: dict[int, Tensor] = {}
        for node in self.nodes:
            if node.op == "get_attr" and storage_of(self.trace.values[node][0]) not in written:
                tensor = self.trace.tensor(str(node.target))
                if not tensor.requires_grad:
                    used[id(tensor)] = tensor
        for node in self.nodes:
            if node.op == "call_module":  # what a module does with its buffers is not known
                for tensor in state_of(self.trace.model.get_submodule(str(node.target))):
                    used.pop(id(tensor), None)
        return set(used)

    def shared(self, index: int) -> set[int]:
        """Identities of the tensors of the network that are used both up to ``index`` and after it."""
        return {key for key, (first, last) in self.state_use.items() if first <= index < last}

    def shared_state(self, index: int) -> list[str]:
        """Names of those of them that cannot be given to both sides, since they change."""
        shared = self.shared(index) - self.constants
        if not shared:
            return []
        return [name for name, tensor in named_state(self.trace.model) if id(tensor) in shared]

    @cached_property
    def points(self) -> list[Point]:
        """Every legal point, in the order of execution."""
        points: dict[tuple[fx.Node, ...], Point] = {}
        live = {self.trace.input}
        last_fixed = max((self.position[n] for n in self.nodes if self.is_fixed(n)), default=-1)
        for index, node in enumerate(self.nodes[:last_fixed]):
            if not self.is_fixed(node):
                continue
            live = {other for other in (*live, node) if self.last_use.get(other, -1) > index}
            if len(live) == 1:
                (crossing,) = live
                if (crossing,) not in points and self._obstacle(crossing, index) is None:
                    points[crossing,] = Point(self, (crossing,), index)
            elif modules := self._answered(index, live):
                several = tuple(n for n in self.trace.several[modules[0]] if n in live)
                if several not in points and self._obstacle_of_several(several, index) is None:
                    points[several] = Point(self, several, index, modules)
        return list(points.values())

    def _answered(self, index: int, live: Set[fx.Node]) -> tuple[str, ...]:
        """The modules that have answered with just these tensors, of which the last was computed at ``index``."""
        return tuple(module for module, nodes in self._several.get(index, ()) if live <= set(nodes))

    @cached_property
    def _several(self) -> dict[int, list[tuple[str, list[fx.Node]]]]:
        """Position of the last of a module's several results → the modules and their results."""
        found: dict[int, list[tuple[str, list[fx.Node]]]] = {}
        for module, nodes in self.trace.several.items():
            if places := [self.position[node] for node in nodes if node in self.position and self.is_fixed(node)]:
                found.setdefault(max(places), []).append((module, nodes))
        return found

    def _obstacle_of_several(self, nodes: tuple[fx.Node, ...], index: int) -> str | None:
        """Why the network cannot be cut where the results of a module cross; None: it can."""
        values = [self.trace.values[node] for node in nodes]
        if packing_of(values) is None:
            return "they cannot be packed into one tensor"
        if len({storage_of(tensor) for first, _ in values for tensor in tensors_in(first)}) < len(nodes):
            return "they share memory"
        return next((why for node in nodes if (why := self._obstacle_at_ends(node))), None) or self._both_sides(index)

    def _obstacle(self, node: fx.Node, index: int) -> str | None:
        """Why the network cannot be cut after ``index``, where a single value crosses; None: it can."""
        if (why := self._obstacle_at_ends(node)) is not None:
            return why
        first, second = self.trace.values[node]
        if not isinstance(first, Tensor):
            return f"what crosses there is not a tensor but {type(first).__name__}"
        if not first.is_floating_point():
            return f"{self._text(node)} crosses there, and its {str(first.dtype).removeprefix('torch.')} cannot be sent"
        shapes = [first.shape[:1], second.shape[:1]]
        if [*map(tuple, shapes)] != [(b,) for b in BATCHES] or first.shape[1:] != second.shape[1:] or first.ndim < 2:
            return f"the tensor that crosses there, {self._text(node)}, does not have the batch as its first dimension"
        return self._both_sides(index)

    def _obstacle_at_ends(self, node: fx.Node) -> str | None:
        first, result = self.trace.values[node][0], self.trace.output.args[0]
        if first is self.trace.values[self.trace.input][0]:
            return "this is still the input, nothing was computed before it"
        if isinstance(result, fx.Node) and first is self.trace.values[result][0]:
            return "this is already the output, nothing is computed after it"
        return None

    def _both_sides(self, index: int) -> str | None:
        shared = self.shared_state(index)
        if shared:
            more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
            return f"{shared[0]}{more} would be used on both sides"
        return None

    @cached_property
    def by_name(self) -> dict[str, Point]:
        """Name or alias → the legal point; the first of several with the same name."""
        return {name: point for point in reversed(self.points) for name in point.names}

    def find(self, at: str) -> Point:
        """The legal point of that name or alias.

        Raises:
            CutError: there is none; the message says why.
        """
        if at in self.by_name:
            return self.by_name[at]
        model, network = self.trace.model, type(self.trace.model).__name__
        mode = " in training mode" if self.trace.training and self.trace.reads_mode else ""
        node = next((node for node, names in self.trace.names.items() if at in names), None)
        close = difflib.get_close_matches(at, self.by_name, n=3, cutoff=0.5)
        if node is not None and node in self.position:
            raise CutError(f"{network} cannot be cut at {at}{mode}: {self._why_not(node)}. {self._nearby(node)}")
        kept = next((w for w in self.trace.whole if at.startswith(f"{w}.")), None)
        if kept is not None:
            reason = f"{kept} is kept whole ({self.trace.whole[kept]})"
        elif at in dict(model.named_modules()):
            reason = "it is not a step of its own: it lies within a module that is kept whole, or is not run"
        else:
            reason = "it has no module or operation of that name"
        some = [point.name for point in self.points[:8]]
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Cuts: {', '.join(some)} ..."
        raise CutError(
            f"{network} cannot be cut at {at}{mode}: {reason}. {hint} 'smartedge cuts' lists all, in Python list_cuts"
        )

    def _why_not(self, node: fx.Node) -> str:
        index = self.position[node]
        live = self.crossing(index)
        if node not in live:
            return "nothing that follows uses it"
        if len(live) > 1:
            return f"{len(live)} tensors cross there: {', '.join(map(self._text, live))}"
        return self._obstacle(node, index) or "a module with the same name runs several times"

    def _nearby(self, node: fx.Node) -> str:
        index = self.position[node]
        before = [point.name for point in self.points if point.index < index][-1:]
        after = [point.name for point in self.points if point.index > index][:1]
        return f"Nearest cuts: {' and '.join([*before, *after])}" if before or after else "It has no cuts at all"

    def _text(self, node: fx.Node) -> str:
        names = sorted(self.trace.names[node], key=lambda name: name.count("."))
        value = self.trace.values[node][0]
        return f"{names[0]} ({shape_text(value.shape[1:])})" if isinstance(value, Tensor) else names[0]

    # ---- figures

    @cached_property
    def flops(self) -> list[int]:
        """Per node, for one image."""
        return [per_image(*self.trace.flops.get(node, (0, 0))) for node in self.nodes]

    def flops_of(self, index: int, side: Side) -> int | None:
        """For one image, up to ``index`` or after it; None where a module's amount depends on values."""
        part = slice(index + 1) if side == "front" else slice(index + 1, None)
        if any(node.op == "call_module" and node.target in self.trace.unknown_flops for node in self.nodes[part]):
            return None
        return sum(self.flops[part])

    @cached_property
    def activation_bytes(self) -> list[int]:
        """Per node, for one image: bytes of new memory, without views and in-place results."""
        seen = {storage_of(self.trace.values[self.trace.input][0])}
        sizes = []
        for node in self.nodes:
            total = 0
            pairs = zip(*map(tensors_in, self.trace.values[node]), strict=True)
            for first, second in pairs:
                if storage_of(first) not in seen and self.is_fixed(node):
                    seen.add(storage_of(first))
                    total += per_image(first.nbytes, second.nbytes)
            sizes.append(total)
        return sizes

    def owners(self, points: Sequence[Point]) -> dict[int, int]:
        """Identity of a parameter, buffer or tensor attribute → how many of the points lie before its first use."""
        return {key: sum(point.index < first for point in points) for key, (first, _) in self.state_use.items()}

    def parameters(self, point: Point) -> tuple[int, int]:
        """The number of parameters of front and back. A parameter that nothing uses belongs to the back."""
        owner, count = self.owners([point]), [0, 0]
        for parameter in self.trace.model.parameters():
            count[owner.get(id(parameter), 1)] += parameter.numel()
        return count[0], count[1]

    # ---- division

    def split(self, points: Sequence[Point]) -> list[fx.Graph]:
        """The operations between the points, in order: those of the front, of middle parts, and of the back."""
        graphs, begin = [], 0
        for before, after in itertools.pairwise([None, *points, None]):
            part = PartGraph(self.trace, self.sizes)
            if before is None:
                part.begin("images", [self.trace.input], None)
            else:
                part.begin("features", before.nodes, before.packing)
                for node in before.nodes:
                    storage = storage_of(self.trace.values[node][0])
                    if any(storage == s and self.position[writer] > before.index for writer, s in self.trace.writes):
                        part.own(node)
            end = len(self.nodes) if after is None else after.index + 1
            for node in filter(self.is_fixed, self.nodes[begin:end]):
                part.copy(node)
            graphs.append(
                part.ending_in(self.trace.output.args[0])
                if after is None
                else part.ending_at(after.nodes, after.packing)
            )
            begin = end
        return graphs
