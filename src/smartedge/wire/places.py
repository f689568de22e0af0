"""The open streams of a receiver: how many an edge may have, and which one gives way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from smartedge.errors import LinkError, SmartEdgeError
from smartedge.wire.admission import Peer
from smartedge.wire.link_pb2 import Down

__all__ = ["Busy", "OpenStream", "Places", "heartbeat"]

_REPLACED_AFTER_S = 5.0  # a stream that was silent for so long gives way to a new one of the same edge
_GRACE_S = 5.0  # for the end of a stream that is replaced


class Busy(LinkError):
    """A stream is refused for now; its sender tries again."""


@dataclass(eq=False)
class OpenStream:
    """A stream that is open. It is made on the loop that serves it."""

    peer: Peer
    heard: float  # when its last message came
    stop: asyncio.Future[SmartEdgeError] = field(default_factory=asyncio.Future)  # its result, the reason, ends it
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while something is sent back

    def end(self, reason: SmartEdgeError) -> None:
        """Let the stream end, for the reason that was given first."""
        if not self.stop.done():
            self.stop.set_result(reason)


class Places:
    """The open streams of all edges.

    Args:
        most: streams of an edge at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, list[OpenStream]] = {}

    def __iter__(self) -> Iterator[OpenStream]:
        return iter([each for places in self._open.values() for each in places])

    async def claim(self, peer: Peer) -> OpenStream:
        """A place for a stream of this edge.

        Raises:
            Busy: the edge has as many streams as it may have, and they are alive.
        """
        mine = self._open.get(peer.edge, [])
        if len(mine) >= self._most:
            oldest = min(mine, key=lambda each: each.heard)
            if time.monotonic() - oldest.heard > _REPLACED_AFTER_S:
                oldest.end(LinkError("another stream of the same edge took the place of this one"))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(oldest.ended.wait(), _GRACE_S)
            if len(self._open.get(peer.edge, [])) >= self._most:
                raise Busy(f"edge {peer.edge} has an open stream, and takes one at a time; is it running twice?")
        place = OpenStream(peer, time.monotonic())
        self._open.setdefault(peer.edge, []).append(place)
        return place

    def free(self, place: OpenStream) -> None:
        """The stream has ended, and its handler has returned."""
        mine = self._open[place.peer.edge]
        mine.remove(place)
        if not mine:
            del self._open[place.peer.edge]
        place.ended.set()


@contextlib.asynccontextmanager
async def heartbeat(context: Any, writing: asyncio.Lock, seconds: float) -> AsyncIterator[None]:
    """Inside, send an empty message every few seconds: a sender can tell a receiver that waits from one that hangs."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(seconds)
            async with writing:
                await context.write(Down().SerializeToString())

    beating = asyncio.create_task(beat())
    beating.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        yield
    finally:
        async with writing:  # a write that has begun ends
            beating.cancel()
