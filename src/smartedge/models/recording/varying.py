"""Numbers that depend on how many images a batch has, while a network is being recorded.

The recorder follows two batch sizes at once. A number that differs between them is such a number. The network computes
with it as with any integer; what it computes becomes part of the recorded graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.proxy import TracerBase

from smartedge.errors import CutError

__all__ = ["LENGTH", "Untraceable", "Varying", "decided", "same", "varying"]

# Python makes a plain number of what len() gives, and a plain number does not follow the batch.
LENGTH = "len() gives the number of images in the batch; write x.shape[0] in its place, which can be recorded"

Recorded = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
"""Records the call of an operator with these arguments; gives its result as the network shall see it."""


class Untraceable(Exception):
    """The code being run cannot be written down as graph nodes."""


class Varying:
    """A number that depends on the batch size; ``other`` is what it is for the second of the two batch sizes."""

    node: fx.Node
    other: Any
    record: Recorded

    def __fx_create_arg__(self, _: TracerBase) -> fx.Node:
        return self.node

    def __deepcopy__(self, _: dict[int, Any]) -> Varying:
        return self

    def _refuse(self) -> Any:
        raise Untraceable("Python code depends on the number of images in the batch")

    __int__ = __float__ = __hash__ = _refuse

    def __bool__(self) -> bool:
        return bool(same(bool(_plain(self)), bool(self.other)))


class _VaryingInt(Varying, int):
    pass


class _VaryingFloat(Varying, float):
    pass


def varying(first: float, second: float, node: fx.Node, record: Recorded) -> Varying:
    """The number that is ``first`` for one batch size and ``second`` for the other, as ``node`` gave it."""
    number = _VaryingInt(first) if isinstance(first, int) else _VaryingFloat(first)
    number.node, number.other, number.record = node, second, record
    return number


def _plain(value: Any) -> Any:
    """The number for the first batch size, without its history."""
    if isinstance(value, _VaryingInt):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, _VaryingFloat) else value


def same(
    first: Any, second: Any, *, otherwise: str = "Python code decides on the number of images in the batch"
) -> Any:
    """``first``, if the two are equal: Python code goes one way only. ``otherwise`` is the reason where they differ.

    Raises:
        Untraceable: they differ.
    """
    if first != second:
        raise Untraceable(otherwise)
    return first


def decided(name: str, first: Any, second: Any, outcome: bool) -> bool:
    """Within a part: what Python code decided on the number of images while it was recorded must be true again.

    Raises:
        CutError: it is not.
    """
    if type(first) is int and getattr(operator, name)(first, second) != outcome:  # not where a size is a symbol
        raise CutError(
            f"the network's code decides on the number of images, and does something else here ({first}, compared with "
            f"{second}) than for the batches with which it was divided; use another batch size"
        )
    return outcome


def _overload(name: str, function: Callable[..., Any], *, reflected: bool = False) -> None:
    def method(self: Varying, *others: Any) -> Any:
        if any(not isinstance(value, (int, float)) for value in others):
            return NotImplemented
        arguments = (*others, self) if reflected else (self, *others)
        return self.record(function, arguments)

    setattr(Varying, name, method)


for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
    _overload(f"__{_name}__", getattr(operator, _name))
    _overload(f"__r{_name}__", getattr(operator, _name), reflected=True)
for _name in ("neg", "abs"):
    _overload(f"__{_name}__", getattr(operator, _name))


def _compare(name: str) -> None:
    function = getattr(operator, name)

    def method(self: Varying, other: Any) -> Any:
        second = other.other if isinstance(other, Varying) else other
        outcome = same(function(_plain(self), _plain(other)), function(self.other, second))
        if isinstance(other, (int, float)) and not (name == "__eq__" and outcome):  # both follow the batch, in one line
            self.record(decided, (name, self, other, outcome))
        return outcome

    setattr(Varying, f"__{name}__", method)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _compare(_name)
