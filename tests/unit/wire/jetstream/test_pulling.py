"""What a consumer gives, with a broker that is played: real ones lose no message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from smartedge.errors import LinkError
from smartedge.wire.jetstream.pulling import pulled


class Played:
    """Client, JetStream and subscription in one: it gives messages with these numbers of the consumer."""

    max_payload = 2**20
    is_closed = False

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self._keep: Callable[[Msg], Awaitable[None]] | None = None

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]]) -> Played:
        self._keep = cb
        return self

    async def publish(self, subject: str, data: bytes, reply: str) -> None:
        assert self._keep is not None
        for number in self._numbers:
            said = f"$JS.ACK.frames.door.1.{10 * number}.{number}.1700000000000000000.0"
            await self._keep(Msg(Client(), subject="smartedge.frames.door", reply=said, data=b"%d" % number))
        await self._keep(Msg(Client(), headers={"Status": "409", "Description": "Consumer Deleted"}))

    async def unsubscribe(self) -> None:
        pass

    async def delete_consumer(self, stream: str, name: str) -> None:
        pass

    async def add_consumer(self, stream: str, config: object) -> None:
        pass


def all_of(broker: Any) -> list[bytes]:
    async def main() -> list[bytes]:
        return [
            message.data
            async for messages in pulled(broker, broker, "door", "frames", within_s=None)
            for message in messages
        ]

    return asyncio.run(main())


def test_messages_come_in_order_until_the_consumer_is_gone() -> None:
    assert all_of(Played(1, 2, 3)) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("numbers", [(2, 3), (1, 3), (1, 2, 2)])
def test_a_message_that_was_lost_on_the_way_is_noticed(numbers: tuple[int, ...]) -> None:
    """All before a number is removed from the broker: the lost one would be gone unread."""
    with pytest.raises(LinkError, match="edge door was lost between the broker and ingest"):
        all_of(Played(*numbers))
