"""What an edge publishes and what counts as confirmed, with a broker that is played."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from smartedge.errors import LinkError
from smartedge.wire.jetstream import sender
from smartedge.wire.jetstream.messages import Address, message_id
from smartedge.wire.jetstream.sender import _Connection


class Played:
    """A client and its JetStream. A test answers what was published."""

    max_payload = 100_000

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, str, dict[str, str] | None]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.timeout: float | None = None
        self.closed = 0

    def jetstream(self, timeout: float) -> Played:
        self.timeout = timeout
        return self

    async def publish_async(
        self, subject: str, payload: bytes, *, stream: str, headers: dict[str, str] | None
    ) -> asyncio.Future[None]:
        if payload == b"denied":
            raise ValueError("Permissions Violation")
        self.published.append((subject, payload, stream, headers))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def close(self) -> None:
        self.closed += 1

    def confirm(self, number: int) -> None:
        self.answers[number].set_result(None)


Scenario = Callable[[_Connection, Played], Awaitable[None]]


def over(scenario: Scenario, *, timeout_s: float = 60.0) -> Played:
    """Run a scenario over a connection to a broker that is played."""
    broker: Any = Played()

    async def main() -> None:
        lost: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()
        connection = _Connection(broker, Address("host", 5, "faces"), "door", timeout_s, lost)
        await asyncio.wait_for(scenario(connection, broker), 30)

    asyncio.run(main())
    return broker


def test_what_is_published_has_subject_stream_and_id() -> None:
    async def scenario(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"header"], end=0, unique=False)
        await connection.publish([b"one", b"two"], end=1, unique=True, run="r")
        assert connection.most == 100_000 - 1024, "room for the id"

    broker = over(scenario, timeout_s=7.0)
    ids = [{"Nats-Msg-Id": message_id("door", "r", piece)} for piece in (b"one", b"two")]
    assert broker.published == [
        ("smartedge.faces.door", piece, "faces", headers)
        for piece, headers in zip([b"header", b"one", b"two"], [None, *ids], strict=True)
    ]
    assert broker.timeout == 7.0


def test_a_frame_is_confirmed_with_its_last_message_and_none_before_another_one() -> None:
    async def scenario(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"header"], end=4, unique=False)
        await connection.publish([b"one", b"two"], end=5, unique=True)
        await connection.publish([b"three"], end=6, unique=True)
        found = [connection.confirmed]
        for number in (0, 1, 3):
            broker.confirm(number)
            await connection.publish([], end=0, unique=True)
            found.append(connection.confirmed)
        settling = asyncio.ensure_future(connection.settle())
        await asyncio.sleep(0)
        assert not settling.done()
        broker.confirm(2)
        await settling
        assert [*found, connection.confirmed] == [0, 4, 4, 4, 6]
        await connection.publish([b"header"], end=2, unique=False)
        broker.confirm(4)
        await connection.settle()
        assert connection.confirmed == 6, "what was confirmed stays so"

    over(scenario)


def test_no_more_is_published_than_may_wait_for_its_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_AHEAD_BYTES", 100)

    async def scenario(connection: _Connection, broker: Played) -> None:
        await connection.publish([bytes(60), bytes(40)], end=1, unique=True)
        third = asyncio.ensure_future(connection.publish([bytes(61)], end=2, unique=True))
        for number in (0, 1):
            await asyncio.sleep(0.01)
            assert not third.done() and len(broker.published) == 2
            broker.confirm(number)
        await third
        broker.confirm(2)
        await connection.settle()
        await connection.publish([bytes(1000)], end=3, unique=True)  # nothing waits, so one message may go
        assert len(broker.published) == 4

    over(scenario)


@pytest.mark.parametrize("waiting", [False, True])
def test_a_connection_that_is_lost_ends_what_waits_and_what_comes(waiting: bool) -> None:
    async def scenario(connection: _Connection, broker: Played) -> None:
        if waiting:
            await connection.publish([b"one"], end=1, unique=True)
        for why in ("first", "second"):
            await asyncio.to_thread(connection.fail, LinkError(why))
        with pytest.raises(LinkError, match=r"^first$"):
            await (connection.settle() if waiting else connection.publish([], end=1, unique=True))

    over(scenario)


def test_a_broker_that_does_not_confirm_or_does_not_take_it_is_told() -> None:
    async def silent(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"one"], end=1, unique=True)
        await connection.settle()

    async def denied(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"denied"], end=1, unique=True)

    async def full(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"one"], end=1, unique=True)
        broker.answers[0].set_exception(ValueError("maximum bytes exceeded"))
        await connection.settle()

    for scenario, said in ((silent, "the broker did not answer"), (denied, "this side has no"), (full, "the broker's")):
        with pytest.raises(LinkError, match=rf"^broker host:5, subject smartedge\.faces\.door: {said}"):
            over(scenario, timeout_s=0.05)


def test_closing_gives_up_what_waits_and_closes_the_client() -> None:
    async def scenario(connection: _Connection, broker: Played) -> None:
        await connection.publish([b"one"], end=1, unique=True)
        await connection.close()
        assert broker.answers[0].cancelled()

    assert over(scenario).closed == 1
