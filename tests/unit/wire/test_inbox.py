"""Calls of a handler on threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from smartedge.wire.inbox import Turns


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
