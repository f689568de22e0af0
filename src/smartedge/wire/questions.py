"""Questions of edges that are one message, with an answer that is one message: at the receiver, beside its streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from smartedge.errors import LinkError
from smartedge.wire.admission import Peer
from smartedge.wire.link_pb2 import Ask, Told
from smartedge.wire.places import Places

__all__ = ["NOT_HERE", "Questions"]

NOT_HERE = "this side does not give back what the cloud wrote; ask 'smartedge serve'"


class Questions:
    """Answers questions on threads of the receiver, one of each edge at a time. Streams do not wait for them.

    Args:
        pool: the receiver's threads.
        answer: takes the name of an edge and its question; may block. None: there are no answers here.
    """

    def __init__(self, pool: ThreadPoolExecutor, answer: Callable[[str, bytes], bytes] | None) -> None:
        self._pool, self._answer = pool, answer
        self._places = Places(1)
        self._running: set[asyncio.Future[bytes]] = set()

    async def take(self, context: Any, peer: Peer, question: bytes) -> bool:
        """Answer one question; whether it was about a run. An empty one asks only whether the edge is let in.

        Raises:
            Busy: another one of the same edge is being answered.
            SmartEdgeError: why there is no answer.
        """
        if not question:
            await context.write(Told(edge=peer.edge).SerializeToString())
            return False
        if self._answer is None:
            raise LinkError(NOT_HERE)
        place = await self._places.claim(peer)
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, peer.edge, question)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            await context.write(await asyncio.shield(running))
        finally:  # an edge that hangs up cannot ask again while a thread still works for it
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            running.add_done_callback(lambda _: self._places.free(place))
        return bool(Ask.FromString(question).run)

    async def idle(self) -> None:
        """Wait until no thread works on an answer."""
        while self._running:
            await asyncio.wait(self._running)
