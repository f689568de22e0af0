"""What the client of the broker reads of a message's headers."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from smartedge.errors import LinkError
from smartedge.wire.credentials import Credentials
from smartedge.wire.jetstream.client import _status, cancelled, connect
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.pulling import _consumer_is_gone


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", ("409", "Consumer Deleted")),
        (b"NATS/1.0 503\r\n\r\n", ("503", "")),
        (b"NATS/1.0   100   Idle Heartbeat \r\na: b\r\n\r\n", ("100", "  Idle Heartbeat")),
        (b"NATS/1.0 \xff\xfe junk\xff\r\n\r\n", ("\ufffd\ufffd", "junk\ufffd")),  # an edge may send it
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", None),
        (b"NATS/1.0 \r\n\r\n", None),
        (b"HTTP/1.1 503 no\r\n\r\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_only_what_the_broker_itself_says_is_a_status(headers: bytes | None, found: tuple[str, str] | None) -> None:
    expected = None if found is None else {"Status": found[0], "Description": found[1]}
    assert _status(headers) == expected


@pytest.mark.parametrize(
    ("headers", "gone"),
    [
        (b"NATS/1.0 503\r\n\r\n", True),  # nobody answers for the consumer
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", True),
        (b"NATS/1.0 409 Leadership Change of the consumer\r\n\r\n", True),
        (b"NATS/1.0 404 No Messages\r\n\r\n", False),
        (b"NATS/1.0 408 Request Timeout\r\n\r\n", False),
        (b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n", False),
        (b"", False),
    ],
)
def test_a_request_that_ends_is_told_from_a_consumer_that_is_gone(headers: bytes, gone: bool) -> None:
    message = Msg(Client(), subject="inbox", headers=_status(headers))
    assert _consumer_is_gone(message) == gone


def test_a_broker_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library limits each of its steps, and not all of them together."""

    async def never(client: Client, *given: object, **options: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()
        address = Address("127.0.0.1", 9, "frames")
        await asyncio.wait_for(connect(address, Credentials(), name="door", timeout_s=0.05, lost=lost), 30)

    monkeypatch.setattr(Client, "connect", never)
    with pytest.raises(LinkError, match="did not answer in time"):
        asyncio.run(main())


def test_a_task_that_forgets_a_cancellation_is_cancelled_again() -> None:
    """asyncio.wait_for does so before Python 3.12."""

    async def main() -> list[str]:
        begun, went = asyncio.Event(), []

        async def forgetful() -> None:
            begun.set()
            for _ in range(2):
                try:
                    await asyncio.sleep(2)
                except asyncio.CancelledError:
                    went.append("on")
            await asyncio.sleep(2)

        async def failing() -> None:
            raise ValueError

        tasks = [asyncio.create_task(forgetful()), asyncio.create_task(failing())]
        await begun.wait()
        await asyncio.wait_for(cancelled(tasks), 10)
        return went if all(task.done() for task in tasks) else []

    assert asyncio.run(main()) == ["on", "on"]
