"""A recorded forward pass, and what is asked of its tensors.

:mod:`smartedge.models.recording.trace` writes it, and :mod:`smartedge.models.cutting.crossing` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from smartedge.models.recording.contexts import Own

__all__ = [
    "BATCHES",
    "Raw",
    "Trace",
    "defined_by_torch",
    "named_state",
    "per_image",
    "real_like",
    "shape_text",
    "state_of",
    "storage_of",
    "tensors_in",
]

# Far enough apart that halves, quarters and remainders of the two differ, which is how they are told from constants.
BATCHES = (3, 8)


class Trace:
    """One recorded forward pass, in execution order.

    Attributes:
        model: the network that was traced, untouched.
        input_shape: shape of one image, without the batch.
        training: the mode in which it was recorded.
        nodes: every node between placeholder and output, in the order of execution.
        values: node → what it gave for the two batch sizes of :data:`BATCHES` (fake tensors, integers, ...).
        names: node → the names by which users know its result, in the order in which they were given.
        several: module name → the nodes of its results, where a module answers with several tensors.
        flops: node → floating-point operations for the two batch sizes, 2 per multiply-accumulate.
        random: nodes that draw random numbers.
        writes: (node, storage) for every write into a tensor that existed before.
        contexts: node → the context that the network's code sets around it; absent where it sets none.
        unknown_flops: names of whole modules of which nobody knows how much they compute, since that depends on values.
        whole: module name → why it is kept as one node although it is made of smaller modules.
        other_mode: training mode or not → names of the modules that the network's own ``train`` leaves in the other
            mode, such as batch normalisation that is frozen.
        reads_sizes: whether sizes other than the batch's were looked at, which fixes them.
        reads_mode: whether code outside the modules that are single nodes asked if it is training.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], *, training: bool, whole: dict[str, str]
    ) -> None:
        self.model = model
        self.input_shape = input_shape
        self.training = training
        self.graph = fx.Graph()
        self.input: fx.Node
        self.output: fx.Node
        self.values: dict[fx.Node, tuple[Any, Any]] = {}
        self.names: dict[fx.Node, list[str]] = {}
        self.several: dict[str, list[fx.Node]] = {}
        self.flops: dict[fx.Node, tuple[int, int]] = {}
        self.random: set[fx.Node] = set()
        self.writes: list[tuple[fx.Node, int]] = []
        self.contexts: dict[fx.Node, Own] = {}
        self.unknown_flops: set[str] = set()
        self.other_mode: dict[bool, set[str]] = {}
        self.whole = whole
        self.reads_sizes = False
        self.reads_mode = False

    @property
    def nodes(self) -> list[fx.Node]:
        """What runs between the input and the output."""
        return [node for node in self.graph.nodes if node.op not in ("placeholder", "output")]

    def name_results(self, module: str, result: Any, made_by: Mapping[int, fx.Node]) -> None:
        """Users know what a module answers by the module's name. ``made_by``: identity of a tensor → its node."""
        nodes = [made_by[id(tensor)] for tensor in tensors_in(result) if id(tensor) in made_by]
        if isinstance(result, Tensor):
            for node in nodes:
                self.names[node].append(module)
        elif len(nodes) > 1:
            self.several[module] = nodes

    def constant_modules(self) -> set[str]:
        """Modules of the user's own that are single nodes and answer with tensors without a place for each image.

        Such as rotary positions that every block uses: what they compute may be needed on both sides of a cut.
        """
        found: set[str] = set()
        for node in self.nodes:
            path = str(node.target)
            if node.op == "call_module" and path not in {*self.whole, *self.unknown_flops}:
                first, second = map(tensors_in, self.values[node])
                alike = bool(first) and all(a.shape == b.shape for a, b in zip(first, second, strict=True))
                if alike and not defined_by_torch(self.model.get_submodule(path)):
                    found.add(path)
        return found

    def tensor(self, name: str) -> Tensor:
        """The original parameter, buffer or tensor attribute behind a ``get_attr`` node."""
        path, _, attribute = name.rpartition(".")
        tensor = getattr(self.model.get_submodule(path), attribute)
        assert isinstance(tensor, Tensor)
        return tensor


class Raw:
    """A node that is given to an operation as it is, in place of its value."""

    def __init__(self, node: Any) -> None:
        self.node = node


def defined_by_torch(module: nn.Module) -> bool:
    """Whether torch.nn defines its class or a base of it."""
    return any(
        base.__module__.startswith(("torch.nn.", "torch.ao.")) and base not in (nn.Module, nn.Sequential)
        for base in type(module).__mro__
    )


def per_image(first: int, second: int) -> int:
    """What one more image adds, from the figures for the two batch sizes."""
    return (second - first) // (BATCHES[1] - BATCHES[0])


def storage_of(tensor: Tensor) -> int:
    """Identifies the memory behind a tensor: equal for a tensor and its views."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text, such as ``3x64x64``."""
    return "x".join(map(str, shape))


def state_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers and plain tensor attributes of a module and its submodules."""
    return [tensor for _, tensor in named_state(module)]


def named_state(model: nn.Module, *, once: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of parameters, buffers and plain attributes.

    What lies in a module that has several names comes under each of them; with ``once``, under the first one alone.
    """
    for path, module in model.named_modules(remove_duplicate=once):
        for name, value in (module._parameters | module._buffers | vars(module)).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}".lstrip("."), value


def real_like(fake: Tensor) -> Tensor:
    """A tensor of the same kind with values: normally distributed, from a generator of its own; integers are 0."""
    if fake.is_floating_point():
        values = torch.randn(fake.shape, generator=torch.Generator().manual_seed(0))
        return values.to(device=fake.device, dtype=fake.dtype)
    return torch.zeros(fake.shape, dtype=fake.dtype, device=fake.device)
