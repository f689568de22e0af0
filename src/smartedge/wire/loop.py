"""An event loop on a thread of its own, for the ends of a link that other threads use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Loop", "cancelled"]

_Result = TypeVar("_Result")

_AGAIN_S = 0.1  # until a task that goes on is cancelled again


class Loop:
    """An event loop. Its methods are called from other threads.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._loop.is_closed()

    def start(self, work: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Begin a coroutine; returns what can be waited for from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine, and wait for it."""
        return self.start(work).result()

    def close(self) -> None:
        """End the thread, and what still runs on it."""
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    """Cancel every other task of this loop: libraries leave some behind."""
    await cancelled(asyncio.all_tasks() - {asyncio.current_task()})


async def cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they have ended. Errors in which they end are dropped.

    They are cancelled again and again. Before Python 3.12 ``asyncio.wait_for``, which libraries use too, forgets a
    cancellation that comes together with what it waits for.
    """
    all_tasks = list(tasks)
    while left := {task for task in all_tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)
    for task in all_tasks:
        if not task.cancelled():
            task.exception()  # else it is logged as one that nobody has seen
