"""Calls of a handler on threads, and how much of a stream may wait for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc.aio
import pytest

from smartedge.wire import inbox as inbox_module
from smartedge.wire.admission import Peer
from smartedge.wire.frame import Message
from smartedge.wire.inbox import Ahead, Inbox, Turns, Unsynced, drained
from smartedge.wire.places import OpenStream
from smartedge.wire.slots import Slots

LONG_S = 300.0  # no test waits for this


def after(call: Callable[[], object]) -> str | None:
    """What ``Turns.made(str)`` gives after one call."""

    async def made() -> str | None:
        with ThreadPoolExecutor(1) as pool:
            turns = Turns(pool, Slots(1))
            with contextlib.suppress(ZeroDivisionError):
                await turns.run(call)
            await turns.idle()
            return turns.made(str)

    return asyncio.run(made())


def test_the_last_call_made_what_it_returned() -> None:
    assert after(lambda: "receiver") == "receiver"


@pytest.mark.parametrize("call", [lambda: 3, lambda: None, lambda: 1 // 0], ids=["another kind", "nothing", "failed"])
def test_it_made_nothing_of_the_kind(call: Callable[[], object]) -> None:
    assert after(call) is None


def test_nothing_was_called() -> None:
    async def scenario() -> str | None:
        with ThreadPoolExecutor(1) as pool:
            return Turns(pool, Slots(1)).made(str)

    assert asyncio.run(scenario()) is None


class Joined:
    """Every message of the link is a frame."""

    def add(self, data: bytes) -> Message:
        return Message(b"", data)


class Context:
    """Gives messages of 60 bytes without end; knows the newest one that is still in memory."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Bytes]] = []

    async def read(self) -> Bytes:
        message = Bytes(60)
        self.made.append(weakref.ref(message))
        return message


class Bytes(bytearray):
    """May be referred to weakly."""


def test_all_streams_together_read_no_more_ahead_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them always may read one frame, and none holds what it has handed on."""
    monkeypatch.setattr(inbox_module, "_AHEAD_OF_ALL", 150)

    async def scenario() -> None:
        ahead, contexts = Ahead(), [Context(), Context()]
        inboxes = [Inbox(OpenStream(Peer("a", None), 0.0), float("inf"), ahead) for _ in contexts]
        reading = []
        for inbox, context in zip(inboxes, contexts, strict=True):
            reading.append(asyncio.ensure_future(inbox.fill(context, Joined())))  # type: ignore[arg-type]
            await inbox.came
            for _ in range(5):
                await asyncio.sleep(0)
        assert [len(inbox.messages) for inbox in inboxes] == [3, 1] and ahead.size == 240
        messages, size = inboxes[0].empty()
        assert size == 180 and ahead.size == 60
        handed_on = drained(messages)
        assert len(next(handed_on).payload) == 60 and len(messages) == 2
        assert [each() is None for each in contexts[0].made] == [True, False, False]
        assert len(list(handed_on)) == 2
        assert [each() is None for each in contexts[0].made] == [True] * 3, "the stream is silent, and holds nothing"
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)

    asyncio.run(scenario())


def test_a_stream_whose_frame_is_not_whole_yet_reads_on_whatever_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it waits for room, and nobody can take the frame that would make some."""
    monkeypatch.setattr(inbox_module, "_AHEAD_OF_ALL", 150)

    class InThree:
        parts = 0

        def add(self, data: bytes) -> Message | None:
            self.parts += 1
            return Message(b"", data) if self.parts == 3 else None

    async def scenario() -> None:
        inbox = Inbox(OpenStream(Peer("a", None), 0.0), float("inf"), Ahead(1000))
        reading = asyncio.ensure_future(inbox.fill(Context(), InThree()))  # type: ignore[arg-type]
        await asyncio.wait_for(inbox.came, 30)
        assert len(inbox.messages) == 1
        reading.cancel()
        await asyncio.wait({reading})

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "count"), [(60, 64), (2**20, 2)])
def test_a_stream_reads_64_frames_or_two_mib_ahead(size: int, count: int) -> None:
    class Endless(Context):
        async def read(self) -> Bytes:
            return Bytes(size)

    async def scenario() -> None:
        inbox = Inbox(OpenStream(Peer("a", None), 0.0), float("inf"), Ahead())
        reading = asyncio.ensure_future(inbox.fill(Endless(), Joined()))  # type: ignore[arg-type]
        for _ in range(2 * count):
            await asyncio.sleep(0)
        assert len(inbox.messages) == count and not reading.done()
        reading.cancel()
        await asyncio.wait({reading})
        assert inbox.ended and inbox.came.done(), "who waits for frames hears of the end"

    asyncio.run(scenario())


def test_a_rate_lets_a_second_s_worth_pass_at_once_and_what_was_not_sent_is_no_credit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages of 60 bytes at 100 bytes a second; the clock goes on by what is slept, and once by an hour."""
    clock, waits = SimpleNamespace(now=100.0, monotonic=lambda: clock.now), []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))
        clock.now += seconds

    class Some(Context):
        async def read(self) -> Bytes | object:
            if len(waits) == 5:
                clock.now += 3600.0
            return Bytes(60) if len(waits) < 8 else grpc.aio.EOF

    async def scenario() -> float:
        place = OpenStream(Peer("a", None), 0.0)
        monkeypatch.setattr(inbox_module, "time", clock)
        monkeypatch.setattr(inbox_module.asyncio, "sleep", sleep)
        await Inbox(place, 100.0, Ahead()).fill(Some(), Joined())  # type: ignore[arg-type]
        return place.heard

    heard = asyncio.run(scenario())
    assert waits == [0, 0.2, 0.6, 0.6, 0.6, 0, 0.2, 0.6]
    assert heard == pytest.approx(clock.now - 0.6), "when its last message came"


def test_a_stream_that_is_cancelled_waits_for_the_call_that_runs() -> None:
    """Its handler is used by one thread at a time, so nothing else is called before that has returned."""

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            begun, go = threading.Event(), threading.Event()
            turns = Turns(pool, Slots(1))
            running = asyncio.ensure_future(turns.run(lambda: (begun.set(), go.wait(30))[1]))
            await asyncio.get_running_loop().run_in_executor(None, begun.wait, 30)
            running.cancel()
            await asyncio.wait({running})
            idle = asyncio.ensure_future(turns.idle())
            for _ in range(5):
                await asyncio.sleep(0)
            assert running.cancelled() and not idle.done()
            go.set()
            await asyncio.wait_for(idle, 30)
            assert turns.made(bool) is True

    asyncio.run(scenario())


def test_no_more_than_a_group_waits_for_the_disk() -> None:
    async def scenario() -> None:
        unsynced = Unsynced(100)
        await unsynced.add(60, last=False)
        more = asyncio.ensure_future(unsynced.add(60, last=False))
        done, _ = await asyncio.wait({more}, timeout=0.05)
        assert not done, "a whole group waits already"
        await asyncio.wait_for(unsynced.due(LONG_S), timeout=30)  # a whole group is due at once
        await asyncio.wait_for(more, timeout=30)

    asyncio.run(scenario())


def test_a_group_that_is_just_full_is_due_at_once_and_the_next_frame_waits_for_it() -> None:
    async def scenario() -> None:
        unsynced = Unsynced(100)
        full = asyncio.ensure_future(unsynced.add(100, last=False))
        done, _ = await asyncio.wait({full}, timeout=0.05)
        assert not done
        await asyncio.wait_for(unsynced.due(LONG_S), timeout=30)
        await asyncio.wait_for(full, timeout=30)

    asyncio.run(scenario())


def test_what_is_due_is_less_than_a_group_after_a_time_and_the_last_frame_at_once() -> None:
    async def scenario() -> None:
        unsynced = Unsynced(100)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(unsynced.due(0.0), timeout=0.05)  # nothing is there
        await unsynced.add(1, last=False)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(unsynced.due(LONG_S), timeout=0.05)
        await asyncio.wait_for(unsynced.due(0.01), timeout=30)
        await unsynced.add(1, last=True)
        await asyncio.wait_for(unsynced.due(LONG_S), timeout=30)

    asyncio.run(scenario())


def test_a_cancellation_is_not_lost_where_the_last_frame_comes_at_the_same_moment() -> None:
    """Else the task goes on, and writes into a stream in which another one writes."""

    async def due() -> asyncio.Task[None]:
        unsynced = Unsynced(100)
        task = asyncio.create_task(unsynced.due(LONG_S))
        await unsynced.add(1, last=False)
        for _ in range(5):
            await asyncio.sleep(0)  # it waits for more
        await unsynced.add(1, last=True)
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        return task

    assert asyncio.run(due()).cancelled()


def test_nobody_waits_for_a_disk_that_has_failed() -> None:
    async def scenario() -> None:
        unsynced = Unsynced(100)
        waiting = asyncio.ensure_future(unsynced.add(100, last=False))
        await asyncio.sleep(0)
        unsynced.close()
        await asyncio.wait_for(waiting, timeout=30)
        await asyncio.wait_for(unsynced.add(1000, last=False), timeout=30)

    asyncio.run(scenario())
