"""The open streams of a receiver, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from smartedge.errors import LinkError
from smartedge.wire import places as places_module
from smartedge.wire.admission import Peer
from smartedge.wire.places import Busy, OpenStream, Places

A, B = Peer("a", None), Peer("b", None)


class Clock:
    """Stands still until the test moves it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def with_places(most: int, scenario: Callable[[Places, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(places_module, "time", clock)
            await scenario(Places(most), clock)

    asyncio.run(run())


@pytest.mark.parametrize("most", [1, 2])
def test_an_edge_has_so_many_streams_and_others_theirs(most: int) -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        mine = [await places.claim(A) for _ in range(most)]
        with pytest.raises(Busy, match="edge a has an open stream"):
            await places.claim(A)
        other = await places.claim(B)
        assert [*places] == [*mine, other] and other.heard == 100.0
        places.free(mine[0])
        assert mine[0].ended.is_set() and not other.ended.is_set()
        again = await places.claim(A)
        assert {*places} == {*mine[1:], other, again}
        for place in (*mine[1:], other, again):
            places.free(place)
        assert [*places] == []

    with_places(most, scenario)


def test_only_a_stream_that_was_silent_for_long_gives_way_and_the_longest_of_them() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        first, second = await places.claim(A), await places.claim(A)
        first.heard = 104.0
        clock.now = 105.0
        with pytest.raises(Busy):
            await places.claim(A)
        assert not first.stop.done() and not second.stop.done(), "just five seconds are not too long"
        clock.now = 105.1
        claiming = asyncio.ensure_future(places.claim(A))
        assert isinstance(await asyncio.wait_for(asyncio.shield(second.stop), 20), LinkError)
        assert not first.stop.done() and not claiming.done(), "its handler has not returned"
        places.free(second)
        third = await asyncio.wait_for(claiming, 20)
        assert [*places] == [first, third] and third.heard == 105.1

    with_places(2, scenario)


def test_a_stream_that_does_not_end_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.wire.places._GRACE_S", 0.01)

    async def scenario(places: Places, clock: Clock) -> None:
        place = await places.claim(A)
        clock.now += 6
        with pytest.raises(Busy):
            await places.claim(A)
        assert place.stop.done() and [*places] == [place]

    with_places(1, scenario)


def test_a_stream_ends_for_the_reason_that_was_given_first() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        place: OpenStream = await places.claim(A)
        first = LinkError("first")
        place.end(first)
        place.end(LinkError("second"))
        assert place.stop.result() is first

    with_places(1, scenario)
