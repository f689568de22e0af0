"""The messages of one edge in a stream, as a consumer of the broker gives them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from smartedge.errors import LinkError
from smartedge.wire.jetstream.streams import make_consumer

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

__all__ = ["pulled"]

_log = logging.getLogger(__name__)

_MESSAGES = 256  # asked for at a time
_BYTES = 4 * 2**20
_WAIT_S = 30.0  # for the first of them, before it is asked again
_PATIENCE_S = 10.0  # for the broker's answer that there is none
_NANO = 10**9


async def pulled(
    client: Client, jetstream: JetStreamContext, edge: str, stream: str, *, within_s: float | None
) -> AsyncGenerator[list[Msg], None]:
    """The messages of an edge, oldest first. It ends when another process has made this edge's consumer anew.

    Args:
        client: connected to the broker.
        jetstream: of that client.
        edge: whose messages.
        stream: where they lie.
        within_s: it ends also where none comes within so many seconds; None: it waits for ever.

    Raises:
        LinkError: a message was lost on the way here.
    """
    await make_consumer(jetstream, stream, edge)
    queue: list[Msg] = []
    came = asyncio.Event()

    async def keep(message: Msg) -> None:
        queue.append(message)
        came.set()

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=keep)
    ask = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{edge}"
    waits_s = _WAIT_S if within_s is None else within_s
    pull = {"batch": _MESSAGES, "max_bytes": max(_BYTES, 2 * client.max_payload), "expires": int(waits_s * _NANO)}
    count = 0  # of messages that came
    paused = False
    try:
        while True:
            await client.publish(ask, json.dumps(pull).encode(), reply=inbox)
            left = _MESSAGES
            while left > 0:
                came.clear()
                if not queue:
                    await asyncio.wait_for(came.wait(), waits_s + _PATIENCE_S)
                messages, queue[:] = list(queue), []
                ended = [message for message in messages if not message.reply]  # the broker itself says so
                frames = [message for message in messages if message.reply]
                if within_s is not None and ended and not frames and left == _MESSAGES:
                    return
                left = 0 if ended else left - len(frames)
                for message in frames:
                    count += 1
                    if message.metadata.sequence.consumer != count:
                        raise LinkError(f"a message of edge {edge} was lost between the broker and ingest")
                if frames:
                    yield frames
                if any(_consumer_is_gone(message) for message in ended):
                    return
                if ended and not frames:
                    paused = await _paused(jetstream, edge, stream, told=paused)
    finally:
        if not client.is_closed:
            await subscription.unsubscribe()


async def _paused(jetstream: JetStreamContext, edge: str, stream: str, *, told: bool) -> bool:
    """Whether somebody has paused the edge's consumer. Says so, unless it is ``told``."""
    from nats.js.errors import NotFoundError

    try:
        info = await jetstream.consumer_info(stream, edge)
    except NotFoundError:  # it was deleted just now, which the next request hears
        return False
    if not (paused := bool(getattr(info, "paused", None))):  # older versions of the library do not know it
        return False
    if not told:
        _log.warning(
            "the broker gives nothing of edge %s: its consumer is paused. 'nats consumer resume %s %s' ends that",
            edge,
            stream,
            edge,
        )
    return paused


def _consumer_is_gone(message: Msg) -> bool:
    """Whether a message of the broker itself says so. Else a request has ended: 404, 408, or 409 for its size."""
    headers = message.headers or {}
    return headers.get("Status") == "503" or "onsumer" in headers.get("Description", "")
