"""Runs a recorded network's Python code again, to find what the recording cannot hold.

A recording keeps the operations that the code asked for once. That is wrong where the code asks for other ones at
another call: it counts its calls, reads the time, or decides on the number of images. In a replay nothing is computed.
The code gets the recorded results, and must ask for the same operations on the same values again.

The replay also runs under another context (no gradients, autocast) than the recording. So it tells which operations
have a context of their own, and which take that of their caller.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from smartedge.models.recording.contexts import Context, context_now
from smartedge.models.recording.varying import Untraceable

__all__ = ["Event", "FunctionCaches", "Kept", "Replay", "forgotten_caches"]

_COMPARED = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Event:
    """One operation that the network's code asked for."""

    kind: str  # of the node
    target: Any
    node: fx.Node | None  # None: it gave a plain value and used no tensor
    result: Any  # where there is no node
    context: Context


class Replay:
    """Answers the network's code from a recording.

    Args:
        events: what the code asked for while it was recorded.
        values: node → results for the two batch sizes.
        batch: which of the two is replayed.
        reason: what is said where the code asks for something else.
    """

    def __init__(
        self, events: Sequence[Event], values: Mapping[fx.Node, tuple[Any, Any]], batch: int, reason: str
    ) -> None:
        self._events = events
        self._values = values
        self._batch = batch
        self._reason = reason
        self.contexts: list[Context] = []

    def answer(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """The recorded result of the next operation.

        Raises:
            Untraceable: it is not the next one that was recorded.
        """
        if len(self.contexts) == len(self._events):
            raise Untraceable(self._reason)
        event = self._events[len(self.contexts)]
        self.contexts.append(context_now())
        same = event.kind == kind and _name(event.target) == _name(target)
        if event.node is not None:
            same = same and self._same(event.node.args, tuple(args)) and self._same(event.node.kwargs, dict(kwargs))
        if not same:
            raise Untraceable(self._reason)
        return event.result if event.node is None else self._values[event.node][self._batch]

    def end(self, expected: Any, result: Any) -> None:
        """The code has returned ``result``.

        Raises:
            Untraceable: more had been recorded, or the recording returned something else.
        """
        if len(self.contexts) != len(self._events) or not self._same(expected, result):
            raise Untraceable(self._reason)

    def _same(self, recorded: Any, given: Any) -> bool:
        if isinstance(recorded, fx.Node):
            value = self._values[recorded][self._batch]
            return given is value if isinstance(value, Tensor) else bool(_plain(given) == _plain(value))
        if isinstance(recorded, (tuple, list)):
            if not isinstance(given, (tuple, list)) or len(given) != len(recorded):
                return False
            return all(map(self._same, recorded, given))
        if isinstance(recorded, dict):
            if not isinstance(given, dict) or given.keys() != recorded.keys():
                return False
            return all(self._same(recorded[key], given[key]) for key in recorded)
        if isinstance(recorded, slice):
            parts = ((s.start, s.stop, s.step) for s in (recorded, given) if isinstance(s, slice))
            return isinstance(given, slice) and self._same(*parts)
        if isinstance(recorded, _COMPARED) and isinstance(given, _COMPARED):
            return _equal(recorded, given)
        return True


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", repr(target))


def _plain(value: Any) -> Any:
    return value.type if isinstance(value, torch.device) else value


class Kept:
    """What the modules of a network hold as attributes, and what containers among these hold."""

    def __init__(self, model: nn.Module) -> None:
        self._values: dict[tuple[int, str], list[Any]] = {}
        for number, module in enumerate(model.modules()):
            for name, value in (vars(module) | module._buffers).items():
                if name not in ("training", "_parameters", "_buffers", "_modules"):
                    items = value.items() if isinstance(value, dict) else value
                    self._values[number, name] = list(items) if isinstance(value, _CONTAINERS) else [value]

    def same_as(self, other: Kept) -> bool:
        """Whether these are the same tensors and objects, and equal numbers and texts."""
        if self._values.keys() != other._values.keys():
            return False
        return all(_alike(values, other._values[key]) for key, values in self._values.items())


_CONTAINERS = (dict, list, tuple, set, deque)


def _equal(first: Any, second: Any) -> bool:
    return bool(first == second) or (first != first and second != second)  # "not a number" equals nothing


def _alike(first: Any, second: Any) -> bool:
    if isinstance(first, _COMPARED) and isinstance(second, _COMPARED):
        return _equal(first, second)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_alike, first, second))
    return first is second


class FunctionCaches:
    """What functions keep (``functools.cache``), of which a network's code may ask for more.

    A recording must not meet results from before, and must not leave its own behind: these have no numbers.
    """

    def __init__(self) -> None:
        self._before = {function: function.cache_info() for function in _functions_that_keep()}

    def forget(self) -> bool:
        """Empty those that were asked since; returns whether one of them had kept something from before."""
        held = False
        for function, before in self._before.items():
            now = function.cache_info()
            if (now.hits, now.misses) != (before.hits, before.misses):
                function.cache_clear()
                self._before[function] = function.cache_info()
                held |= before.currsize > 0
        return held


_OF_LIBRARIES = frozenset({"torch", "sympy", "numpy", *sys.stdlib_module_names})  # these keep no results of a network


def _functions_that_keep() -> Iterator[functools._lru_cache_wrapper[Any]]:
    """Functions of all modules and methods of their classes. ``gc`` does not know all of them (``gc.freeze``)."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _OF_LIBRARIES:
            for value in list(vars(module).values()):
                for each in (value, *(list(vars(value).values()) if isinstance(value, type) else ())):
                    if type(each) is functools._lru_cache_wrapper:
                        yield each


def forgotten_caches(model: nn.Module, functions: FunctionCaches) -> Callable[[], None]:
    """Notes which attributes of ``model`` are empty; the returned function empties them and ``functions`` again.

    What a network computes at its first call and keeps would be missing from a second recording.
    """
    before = {module: {name: _emptied(value) for name, value in vars(module).items()} for module in model.modules()}
    no_buffers = [(module, [name for name, value in module._buffers.items() if value is None]) for module in before]

    def forget() -> None:
        functions.forget()
        for module, names in no_buffers:
            module._buffers.update(dict.fromkeys(names))
        for module, attributes in before.items():
            for name in list(vars(module)):
                if name not in attributes:
                    if _emptied(getattr(type(module), name, None)) is not _FULL:  # else an attribute of its class
                        del module.__dict__[name]
                elif attributes[name] is not _FULL:
                    module.__dict__[name] = _emptied(attributes[name])

    return forget


_FULL = object()


def _emptied(value: Any) -> Any:
    """A new empty container, None, or a mark for all that is not empty."""
    if value is None:
        return None
    if type(value) in (dict, list, set) and not value:
        return type(value)()
    return _FULL
