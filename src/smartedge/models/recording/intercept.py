"""Reports what one network does while it runs, and nothing that any other network or thread does.

Torch functions are seen by ``torch.overrides.TorchFunctionMode``. It does not show three things that have to be seen:
calls of modules, calls of custom autograd functions, and whether code asks a module if it is training.

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
from torch.overrides import TorchFunctionMode

from smartedge.errors import CutError

__all__ = ["FunctionMode", "Observer", "observe_modules", "observing", "refuse_nesting"]


class Observer(Protocol):
    """Receives the reports. Each call is carried out by the observer, which returns its result."""

    def module_called(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """``module(*args, **kwargs)`` was called; ``call`` does what the module itself would do."""

    def torch_called(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A torch function, or a method or property of a tensor, was called."""

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


# torch calls these where a context begins and ends. Contexts are noted for each operation instead.
_CONTEXT_FUNCTIONS = {
    "_set_grad_enabled",
    "set_autocast_enabled",
    "set_autocast_dtype",
    "set_autocast_cache_enabled",
    "autocast_increment_nesting",
    "autocast_decrement_nesting",
    "clear_autocast_cache",
}


class FunctionMode(TorchFunctionMode):
    """Within its block, every torch function that the network calls is reported to ``observer``."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _CONTEXT_FUNCTIONS:
            return func(*args, **(kwargs or {}))
        return self.observer.torch_called(func, args, kwargs or {})


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
    observer: Observer | None = getattr(_thread, "observer", None)
    if observer is None:
        return _Applied(cls)(*args, **kwargs)
    return observer.function_applied(_Applied(cls), args, kwargs)


class _Applied:
    """A custom autograd function as an operation of a graph, which can be sent to another process."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = function.__name__  # of the node in the graph, and of the cut

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _apply.__get__(None, self.function)(*args, **kwargs)
