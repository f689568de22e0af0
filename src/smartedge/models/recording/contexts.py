"""The context in which an operation runs: whether gradients are recorded, and whether autocast is on.

A network's own code can set it (``torch.no_grad()``, ``torch.autocast(...)``). Its parts set it at the same places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = [
    "Context",
    "Own",
    "context_now",
    "enter",
    "leave",
    "other_context",
    "own_context",
    "restoring",
    "usual_context",
]

Context = tuple[bool | torch.dtype, ...]
"""Whether gradients are recorded; then, for CPU and CUDA, the dtype of autocast, or False."""

Own = tuple[bool | torch.dtype | None, ...]
"""The same, with None where the context of the caller applies."""

_DEVICES = ("cpu", "cuda")


def context_now() -> Context:
    """The context in which an operation would run now."""
    return (torch.is_grad_enabled(), *map(_autocast, _DEVICES))


def _autocast(device: str) -> bool | torch.dtype:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else False


@contextmanager
def _set_autocast(device: str, dtype: bool | torch.dtype) -> Iterator[None]:
    """Autocast of a device, also of one that is not there: ``torch.autocast`` would warn, and leave it off."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.autocast_increment_nesting()
    torch.set_autocast_enabled(device, dtype is not False)
    if isinstance(dtype, torch.dtype):
        torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()  # it holds converted weights, which change with the next update


@contextmanager
def _setting(context: Own) -> Iterator[None]:
    with ExitStack() as stack:
        grad, *autocast = context
        if grad is not None:
            stack.enter_context(torch.set_grad_enabled(grad is True))
        for device, dtype in zip(_DEVICES, autocast, strict=True):
            if dtype is not None:
                stack.enter_context(_set_autocast(device, dtype))
        yield


@contextmanager
def usual_context() -> Iterator[None]:
    """Gradients are recorded, autocast is off."""
    with _setting((True, *(False for _ in _DEVICES))):
        yield


@contextmanager
def other_context() -> Iterator[None]:
    """Differs from :func:`usual_context` in every component."""
    with _setting((False, *(torch.float16 for _ in _DEVICES))):
        yield


def own_context(usual: Context, other: Context) -> Own | None:
    """What an operation sets by itself, from its contexts within :func:`usual_context` and :func:`other_context`.

    None: nothing. A component that follows its caller is None.
    """
    with usual_context():
        callers = [context_now()]
    with other_context():
        callers.append(context_now())
    own = tuple(
        None if (first, second) == of_callers else first
        for first, second, of_callers in zip(usual, other, zip(*callers, strict=True), strict=True)
    )
    return None if all(value is None for value in own) else own


def enter(context: Own) -> ExitStack:
    """Begin a context within the code of a part; :func:`leave` ends it."""
    stack = ExitStack()
    stack.enter_context(_setting(context))
    return stack


def leave(stack: ExitStack) -> None:
    """End a context."""
    stack.close()


@contextmanager
def restoring() -> Iterator[None]:
    """After this block, whatever happens in it, the context is what it was before."""
    with _setting(context_now()):
        yield
