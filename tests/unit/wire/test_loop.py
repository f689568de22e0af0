"""An event loop on a thread of its own, and how its tasks end."""

from __future__ import annotations

import asyncio
import threading

from smartedge.wire.loop import Loop, cancelled


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


def test_the_thread_of_a_loop_keeps_no_process_alive() -> None:
    loop = Loop("a broker's")
    (found,) = [thread for thread in threading.enumerate() if thread.name == "a broker's"]
    assert found.daemon
    loop.close()
    assert not found.is_alive()
