"""One stream at the receiver, between the event loop that reads it and the threads on which the handler works."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from smartedge.errors import FrameError
from smartedge.wire.frame import Message
from smartedge.wire.parts import Joiner
from smartedge.wire.places import OpenStream
from smartedge.wire.slots import Slots

__all__ = ["Ahead", "Inbox", "Turns", "Unsynced", "drained", "first_message", "no_messages_kept"]

_AHEAD_BYTES = 2 * 2**20  # no more is read while the handler works
_AHEAD_FRAMES = 64  # nor more than this
_AHEAD_OF_ALL = 8 * 2**20  # of all streams together; a stream may always read one frame

_Result = TypeVar("_Result")


@dataclass
class Ahead:
    """What all streams together have read ahead."""

    size: int = 0  # bytes


class Inbox:
    """The frames of a stream that were read and not yet handed on. Reading goes on while the handler works."""

    def __init__(self, place: OpenStream, rate: float, ahead: Ahead) -> None:
        self._place = place
        self._rate = rate
        self._ahead = ahead
        self._room = asyncio.Event()
        self._free_at = 0.0
        self._size = 0
        self.messages: list[Message] = []
        self.ended = False
        self.came: asyncio.Future[None] = asyncio.Future()  # done once there is something, or the end

    async def fill(self, context: Any, joiner: Joiner) -> None:
        """Read to the end of the stream. Waits while too much is there."""
        try:
            # No name here holds a message: while the next one is awaited, it would stay in memory.
            while (size := self._put(await context.read(), joiner)) is not None:
                if self._rate != float("inf"):
                    now = self._place.heard
                    self._free_at = max(self._free_at, now - 1.0) + size / self._rate
                    await asyncio.sleep(max(0.0, self._free_at - now))
                while self._full():
                    self._room.clear()
                    await self._room.wait()
        finally:
            self.ended = True
            self._wake()

    def _put(self, data: Any, joiner: Joiner) -> int | None:
        """Take a message of the link; gives its size, or None at the end of the stream."""
        if data is grpc.aio.EOF:
            return None
        self._place.heard = time.monotonic()
        if (message := joiner.add(data)) is not None:
            size = len(message.head) + len(message.payload)
            self.messages.append(message)
            self._size += size
            self._ahead.size += size
            self._wake()
        return len(data)

    def _full(self) -> bool:
        mine = self._size >= _AHEAD_BYTES or len(self.messages) >= _AHEAD_FRAMES
        return mine or (self._size > 0 and self._ahead.size >= _AHEAD_OF_ALL)

    def empty(self) -> tuple[list[Message], int]:
        """Take out what is there; gives the frames and their bytes."""
        messages, size = self.messages, self._size
        self.messages, self._size = [], 0
        self._ahead.size -= size
        if not self.ended:
            self.came = asyncio.Future()
        self._room.set()
        return messages, size

    def _wake(self) -> None:
        if not self.came.done():
            self.came.set_result(None)


async def first_message(seconds: float, reading: Coroutine[Any, Any, Any]) -> bytes | None:
    """The first message of a stream; None where the stream ends without one."""
    try:
        data = await asyncio.wait_for(reading, seconds)
    except asyncio.TimeoutError as error:
        raise FrameError(f"stream: no header came within {seconds:g} s") from error
    return None if data is grpc.aio.EOF else bytes(data)


def drained(messages: list[Message]) -> Iterator[Message]:
    """The messages in their order. Each one leaves the list, so that it is in memory no longer than it is needed."""
    messages.reverse()
    while messages:
        yield messages.pop()


class Unsynced:
    """How much of a stream was taken and is not durable yet. It is made durable while further frames come."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._size = 0
        self._some, self._full, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def add(self, size: int, *, last: bool) -> None:
        """So many bytes of frames were taken. Waits where a whole group waits already. ``last``: all is due at once."""
        self._size += size
        self._some.set()
        self._room.clear()
        if last or self._size >= self._group:
            self._full.set()
        if self._size >= self._group:
            await self._room.wait()

    async def due(self, seconds: float) -> None:
        """Wait until something is there, and then for a whole group or for ``seconds``. It counts as synced then."""
        await self._some.wait()
        # Not wait_for: where the event comes together with a cancellation, it forgets the cancellation (Python 3.11).
        alarm = asyncio.get_running_loop().call_later(seconds, self._full.set)
        try:
            await self._full.wait()
        finally:
            alarm.cancel()
        self._size = 0
        self._some.clear()
        self._full.clear()
        self._room.set()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._group = sys.maxsize
        self._room.set()


class Turns:
    """Calls the handler of one stream on a thread, one call at a time, also where the stream is cancelled meanwhile."""

    def __init__(self, pool: ThreadPoolExecutor, slots: Slots) -> None:
        self._pool = pool
        self._slots = slots
        self._running: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Call on a thread, and wait for it."""
        slot = await self._slots.take()
        self._running = asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(slot.work, call))
        self._running.add_done_callback(lambda _: slot.give())
        result: _Result = await asyncio.shield(self._running)
        return result

    async def idle(self) -> None:
        """Wait until no call runs."""
        if self._running is not None:
            await asyncio.wait({self._running})

    def made(self, kind: type[_Result]) -> _Result | None:
        """What the last call returned, where it is of this kind."""
        if self._running is None or self._running.cancelled() or self._running.exception() is not None:
            return None
        result = self._running.result()
        return result if isinstance(result, kind) else None


@contextlib.contextmanager
def no_messages_kept() -> Iterator[None]:
    """Let go of the messages that an error refers to, by the frames in its traceback.

    Tasks, their errors and these frames refer to each other, so only the garbage collector would free a message of a
    MiB. It comes rarely: four senders of bad messages took 2 MiB more in each second.
    """
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
