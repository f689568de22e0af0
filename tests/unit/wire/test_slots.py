"""Few calls of a handler work at a time. One that waits for others holds none of them up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from smartedge.wire import slots as slots_module
from smartedge.wire.inbox import Turns
from smartedge.wire.slots import Slots, about_to_wait


def work_beside(wait: object, *, lasting: int) -> set[str]:
    """The threads of 50 short calls over two slots, beside calls of ``wait`` that last until these are over."""

    async def scenario() -> set[str]:
        with ThreadPoolExecutor(100) as pool:
            slots, moment = Slots(2), threading.Event()
            waiting = [asyncio.ensure_future(Turns(pool, slots).run(wait)) for _ in range(lasting)]  # type: ignore[arg-type]
            names = await asyncio.gather(
                *(
                    Turns(pool, slots).run(lambda: (moment.wait(0.01), threading.current_thread().name)[1])
                    for _ in range(50)
                )
            )
            released.set()
            assert await asyncio.gather(*waiting) == [True] * lasting
            return set(names)

    released.clear()
    return asyncio.run(scenario())


released = threading.Event()


def test_short_calls_of_many_streams_share_few_threads() -> None:
    names = work_beside(lambda: released.wait(60), lasting=0)
    assert len(names) < 10, "a thread may not yet be idle when its call has ended"


def test_calls_that_say_that_they_wait_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_SLOT_S", 1000.0)

    def wait() -> bool:
        about_to_wait()
        about_to_wait()
        return released.wait(60)

    assert len(work_beside(wait, lasting=5)) < 15, "a second time gives no second slot back"


def test_a_call_that_waits_without_a_word_holds_others_up_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_SLOT_S", 0.05)
    work_beside(lambda: released.wait(60), lasting=2)


def test_a_slot_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_SLOT_S", 1000.0)

    async def scenario() -> None:
        slots = Slots(1)
        slot = await slots.take()
        slot.give()
        slot.give()
        await slots.take()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slots.take(), 0.01)

    asyncio.run(scenario())


def test_whoever_waits_outside_of_a_call_has_no_slot_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_SLOT_S", 1000.0)

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            slots = Slots(1)
            await Turns(pool, slots).run(lambda: None)
            slot = await slots.take()
            await asyncio.get_running_loop().run_in_executor(pool, about_to_wait)  # the same thread
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(slots.take(), 0.01)
            slot.give()

    about_to_wait()
    asyncio.run(scenario())
