"""Calls of a handler on threads, and how much of a stream may wait for the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from smartedge.wire.inbox import Turns, Unsynced

LONG_S = 300.0  # no test waits for this


def after(call: Callable[[], object]) -> str | None:
    """What ``Turns.made(str)`` gives after one call."""

    async def made() -> str | None:
        with ThreadPoolExecutor(1) as pool:
            turns = Turns(pool)
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
    with ThreadPoolExecutor(1) as pool:
        assert Turns(pool).made(str) is None


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
