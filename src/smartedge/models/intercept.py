"""Reports what one network does while it runs, and nothing that any other network or thread does.

Three things have to be seen that ``torch.overrides.TorchFunctionMode`` does not show: calls of modules, calls of custom
autograd functions, and whether code asks a module if it is training.

Modules are seen by giving every module of one copy of the network a class of its own, a subclass of its class. Other
networks keep their classes. Custom autograd functions have no instance that could be changed, so
``torch.autograd.Function.apply`` is replaced for the time of the recording. The replacement looks up an observer of
the calling thread. A thread without one goes straight to torch's own ``apply``.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from smartedge.errors import CutError

__all__ = ["Observer", "observe_modules", "observing", "refuse_nesting"]


class Observer(Protocol):
    """Receives the reports. Each call is carried out by the observer, which returns its result."""

    def module_called(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """``module(*args, **kwargs)`` was called; ``call`` does what the module itself would do."""

    def function_applied(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """``apply`` of a custom autograd function was called; ``function`` does what it would do."""

    def mode_read(self) -> None:
        """Code has looked at ``module.training``."""


def observe_modules(model: nn.Module, observer: Observer) -> None:
    """Make every module of ``model`` report to ``observer``, for good. Meant for a copy that is thrown away."""
    classes: dict[type[nn.Module], type[nn.Module]] = {}
    for module in model.modules():
        kind = type(module)
        if kind not in classes:
            classes[kind] = _observed(kind, observer)
        module.__class__ = classes[kind]


def _observed(kind: type[nn.Module], observer: Observer) -> type[nn.Module]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return observer.module_called(self, kind.__call__, args, kwargs)

    def is_training(self: nn.Module) -> bool:
        observer.mode_read()
        return bool(self.__dict__["training"])

    def set_training(self: nn.Module, mode: bool) -> None:
        self.__dict__["training"] = mode

    members = {"__call__": call, "training": property(is_training, set_training)}
    return types.new_class(kind.__name__, (kind,), exec_body=lambda namespace: namespace.update(members))


_thread = threading.local()  # .observer: of the recording that runs in this thread
_lock = threading.Lock()
_recordings = 0  # how many threads are recording
_apply = torch.autograd.Function.__dict__["apply"]


def refuse_nesting() -> None:
    """Raise a :class:`CutError` where this thread is recording a network already."""
    if getattr(_thread, "observer", None) is not None:
        raise CutError(
            "a network that is being recorded calls list_cuts or cut in its forward: cut the inner network before"
        )


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Within this block, custom autograd functions that this thread applies report to ``observer``."""
    _thread.observer = observer
    try:
        _begin()
        try:
            yield
        finally:
            _end()
    finally:
        _thread.observer = None


def _begin() -> None:
    global _recordings
    with _lock:
        _recordings += 1
        torch.autograd.Function.apply = classmethod(_reporting_apply)  # type: ignore[assignment]


def _end() -> None:
    global _recordings
    with _lock:
        _recordings -= 1
        if not _recordings:
            torch.autograd.Function.apply = _apply  # type: ignore[method-assign]


def _reporting_apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        return _apply.__get__(None, cls)(*args, **kwargs)

    observer: Observer | None = getattr(_thread, "observer", None)
    if observer is None:
        return function(*args, **kwargs)
    function.__name__ = cls.__name__  # the name of the node in the graph, and of the cut
    return observer.function_applied(function, args, kwargs)
