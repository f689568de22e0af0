"""How a process ends when it is asked to: SIGTERM from a supervisor, Ctrl-C (SIGINT) or a closed terminal (SIGHUP).

Work that may be given up at any moment, such as reading data or attacking features, is simply interrupted:
:class:`Stopped` is raised where it stands. Work that has something to bring to an end, such as a run that sends, looks
at the :class:`Stop` itself, and is not interrupted.

A process that works for another one ends with it (:func:`child_command`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

__all__ = ["Interrupted", "Stop", "Stopped", "child_command", "end_after_signal", "end_with_parent", "stop_on_signals"]

_AGAIN_S = 0.05
_LOOK_S = 0.5


class Stopped(KeyboardInterrupt):
    """The process was asked to end, and what it leaves behind is whole."""


class Interrupted(Exception):
    """Work was given up, since the run is to stop."""


class Stop(threading.Event):
    """Set when the process is asked to end."""

    def __init__(self) -> None:
        super().__init__()
        self._polled = False

    @contextlib.contextmanager
    def polled(self) -> Iterator[None]:
        """The block looks at this event often, so a signal only sets it, and does not interrupt the block.

        Raises:
            Stopped: it is set already.
        """
        self._polled = True
        try:
            if self.is_set():
                raise Stopped
            yield
        finally:
            self._polled = False

    def ask(self) -> None:
        """Ask to end.

        Raises:
            Stopped: nobody looks at this event now.
            KeyboardInterrupt: it was set before, so the process is to end at once.
        """
        if self.is_set():
            raise KeyboardInterrupt
        self.set()
        if not self._polled:
            raise Stopped


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A :class:`Stop` that the first SIGINT, SIGTERM or SIGHUP sets; the second one interrupts at once.

    A process that was told to ignore SIGHUP, as by ``nohup``, goes on ignoring it.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, frame: stop.ask()) for number in numbers}
    with _asked_again_where_it_was_lost(stop):
        try:
            yield stop
        finally:
            for number, old in before.items():
                signal.signal(number, old)


@contextlib.contextmanager
def _asked_again_where_it_was_lost(stop: Stop) -> Iterator[None]:
    """Ask once more, a moment later, where Python printed :class:`Stopped` and went on.

    It does so where a signal comes within ``__del__`` or the callback of a weak reference.
    """
    usual, ended = sys.unraisablehook, threading.Event()

    def again() -> None:
        if not ended.wait(_AGAIN_S):
            signal.raise_signal(signal.SIGTERM)

    def look(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, Stopped):
            stop.clear()
            threading.Thread(target=again, daemon=True).start()
        else:
            usual(lost)

    sys.unraisablehook = look
    try:
        yield
    finally:
        ended.set()
        sys.unraisablehook = usual


def end_after_signal(seconds: float) -> None:
    """End this process so long after its first signal with a handler, whatever its main thread does then.

    A handler written in Python runs in the main thread, and not while a library waits there. The process ends with code
    1, and nothing is cleaned up.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)

    def watch() -> None:
        os.read(heard, 1)
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name="end", daemon=True).start()


def child_command(program: str) -> list[str]:
    """The command of a process that works for this one and ends with it, however this one ends.

    Args:
        program: what the process does, in Python.
    """
    begin = f"from smartedge.stopping import end_with_parent; end_with_parent({os.getpid()})"
    return [sys.executable, "-c", f"{begin}\n{program}"]


def end_with_parent(parent: int) -> None:
    """End this process, with code 1, when its parent is the process ``parent`` no more: that one has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
