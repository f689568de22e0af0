"""What a consumer gives, with a broker that is played: real ones lose no message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from smartedge.errors import LinkError
from smartedge.wire.jetstream.pulling import pulled

GONE, NONE, LATE = ("409", "Consumer Deleted"), ("404", "No Messages"), ("408", "Request Timeout")


class Played:
    """Client, JetStream and subscription in one: to each request it gives what a test says.

    That are messages with these numbers of the consumer, and what the broker itself says. After the last request the
    consumer is gone.
    """

    max_payload = 2**20
    is_closed = False

    def __init__(self, *answers: list[int | tuple[str, str]], paused: tuple[bool | Exception | None, ...] = ()) -> None:
        self._paused = list(paused)  # for each question about the consumer
        self._answers = [*answers, [GONE]]
        self._keep: Callable[[Msg], Awaitable[None]] | None = None
        self.asked: list[tuple[str, dict[str, int], str]] = []
        self.made: list[str] = []
        self.unsubscribed = 0

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]]) -> Played:
        assert inbox == "inbox"
        self._keep = cb
        return self

    async def publish(self, subject: str, data: bytes, reply: str) -> None:
        assert self._keep is not None
        self.asked.append((subject, json.loads(data), reply))
        for each in self._answers[len(self.asked) - 1]:
            if isinstance(each, int):
                said = f"$JS.ACK.frames.door.1.{10 * each}.{each}.1700000000000000000.0"
                await self._keep(Msg(Client(), subject="smartedge.frames.door", reply=said, data=b"%d" % each))
            else:
                await self._keep(Msg(Client(), headers=dict(zip(("Status", "Description"), each, strict=True))))

    async def unsubscribe(self) -> None:
        self.unsubscribed += 1

    async def consumer_info(self, stream: str, name: str) -> SimpleNamespace:
        assert (stream, name) == ("frames", "door")
        paused = self._paused.pop(0) if self._paused else None
        if isinstance(paused, Exception):
            raise paused
        return SimpleNamespace(paused=paused)

    async def delete_consumer(self, stream: str, name: str) -> None:
        self.made.append(f"no {stream} {name}")

    async def add_consumer(self, stream: str, config: Any) -> None:
        self.made.append(f"{stream} {config.durable_name}")


def all_of(broker: Any, *, within_s: float | None = None) -> list[bytes]:
    async def main() -> list[bytes]:
        return [
            message.data
            async for messages in pulled(broker, broker, "door", "frames", within_s=within_s)
            for message in messages
        ]

    return asyncio.run(main())


def test_messages_come_in_order_until_the_consumer_is_gone() -> None:
    as_many_as_asked_for = [*range(3, 259)]  # no word of an end comes after them
    broker = Played([1, 2, NONE], as_many_as_asked_for, [259, LATE])
    assert all_of(broker) == [b"%d" % number for number in range(1, 260)]
    assert len(broker.asked) == 4 and broker.unsubscribed == 1
    assert broker.made == ["no frames door", "frames door"], "begun with the oldest message"


def test_a_broker_of_which_nobody_answers_for_the_consumer_has_it_no_longer() -> None:
    broker = Played([1, ("503", "")])
    assert all_of(broker) == [b"1"] and len(broker.asked) == 1


@pytest.mark.parametrize(
    ("within_s", "most", "pull"),
    [
        (None, 2**20, {"batch": 256, "max_bytes": 4 * 2**20, "expires": 30 * 10**9}),
        (0.5, 2**23, {"batch": 256, "max_bytes": 2**24, "expires": 5 * 10**8}),
    ],
)
def test_what_is_asked_of_the_broker(within_s: float | None, most: int, pull: dict[str, int]) -> None:
    """At least one message must fit in what is asked for, or none ever comes."""
    broker = Played()
    broker.max_payload = most
    assert all_of(broker, within_s=within_s) == []
    assert broker.asked == [("$JS.API.CONSUMER.MSG.NEXT.frames.door", pull, "inbox")]


def test_where_no_more_is_waited_for_it_ends_at_the_first_request_that_brings_nothing() -> None:
    broker = Played([1, NONE], [2, NONE], [NONE], [3])
    assert all_of(broker, within_s=0.5) == [b"1", b"2"] and len(broker.asked) == 3


def test_a_consumer_that_is_paused_is_told_once_for_each_pause(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody hears of it otherwise: the requests end as those of an edge that sends nothing."""
    said = (None, True, True, False, NotFoundError(), True)
    broker = Played(*[[LATE] for _ in said], [1, LATE], paused=said)
    assert all_of(broker) == [b"1"]
    text = "the broker gives nothing of edge door: its consumer is paused. 'nats consumer resume frames door' ends that"
    assert caplog.messages == [text, text]


def test_a_broker_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.wire.jetstream.pulling._PATIENCE_S", 0.01)
    for closed in (False, True):
        broker = Played([])
        broker.is_closed = closed
        with pytest.raises(asyncio.TimeoutError):
            all_of(broker, within_s=0.01)
        assert broker.unsubscribed == (not closed)


@pytest.mark.parametrize("numbers", [(2, 3), (1, 3), (1, 2, 2)])
def test_a_message_that_was_lost_on_the_way_is_noticed(numbers: tuple[int, ...]) -> None:
    """All before a number is removed from the broker: the lost one would be gone unread."""
    with pytest.raises(LinkError, match="edge door was lost between the broker and ingest"):
        all_of(Played([*numbers]))
