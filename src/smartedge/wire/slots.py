"""How many calls of a receiver's handler work at the same time, and how one that waits lets others begin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Slot", "Slots", "about_to_wait"]

_SLOTS = 16  # of a receiver
_SLOT_S = 1.0  # that a call may hold a slot: a handler may wait without saying so

_Result = TypeVar("_Result")
_here = threading.local()  # .slot: of the newest call on this thread


def about_to_wait() -> None:
    """Say in a handler that it will wait for other edges or for training. Elsewhere nothing happens.

    Its call gives its slot up, so that other calls can begin. Waiting for a lock or the disk is no such case: it
    ends without another call.
    """
    slot: Slot | None = getattr(_here, "slot", None)
    if slot is not None:
        slot.give_from_call()


class Slot:
    """The right of one call to work. It is given back once; further times do nothing."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = free
        self._given = False
        self._alarm = self._loop.call_later(_SLOT_S, self.give)

    def give(self) -> None:
        """Give it back. Call this on the loop's thread."""
        self._alarm.cancel()
        if not self._given:
            self._given = True
            self._free.release()

    def give_from_call(self) -> None:
        """Give it back, from the thread of the call."""
        self._loop.call_soon_threadsafe(self.give)

    def work(self, call: Callable[[], _Result]) -> _Result:
        """Call. Inside, :func:`about_to_wait` gives this slot back."""
        _here.slot = self
        return call()


class Slots:
    """Lets few calls of all streams work at a time: most are short, and share few threads.

    A pool makes a thread for each call that finds no idle one. Where many edges send at the same moment it would have
    one for each of them, and keep it.
    """

    def __init__(self, most: int = _SLOTS) -> None:
        self._free = asyncio.Semaphore(most)

    async def take(self) -> Slot:
        """Wait for a slot. It gives itself back after a moment."""
        await self._free.acquire()
        return Slot(self._free)
