"""Ingest's end of the link over a broker: takes the messages of many edges out of the broker's streams."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from smartedge.errors import LinkError, SmartEdgeError
from smartedge.logs import plain
from smartedge.wire.credentials import Credentials
from smartedge.wire.jetstream.client import connect, from_nats_error, refuse_in_clear
from smartedge.wire.jetstream.intake import EdgeIntake, Settled, Stored
from smartedge.wire.jetstream.messages import Address, edge_of, subject_of
from smartedge.wire.jetstream.pulling import pulled
from smartedge.wire.jetstream.streams import check_stream, forget, make_streams
from smartedge.wire.link import FrameHandler
from smartedge.wire.loop import Loop, cancelled

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

__all__ = ["JetStreamReceiver", "Taking", "Timing"]

_log = logging.getLogger(__name__)

_NAME = "INGEST"  # no edge's: theirs have small letters
_THREADS = 16  # that call the handler
_PATIENCE_S = 10.0  # for the broker's answers
_LAST_S = 2.0  # for the broker's last answers when this side ends


@dataclass(frozen=True)
class Timing:
    """How often is looked and tried, in seconds."""

    look_s: float = 1.0  # for edges that are new
    again_s: float = 30.0  # until an edge that the run refuses is tried again
    first_retry_s: float = 0.2  # to connect again; twice as long each time
    longest_retry_s: float = 10.0


class Taking:
    """What this process takes, and what the store holds. Here it is alone, and takes all edges of an empty store."""

    def mine(self, edges: Collection[str]) -> Collection[str]:
        """Those of these edges that this process takes now; asked every few seconds."""
        return edges

    def release(self, edge: str) -> None:
        """This process takes the edge no longer."""

    def stored(self, edge: str) -> Stored:
        """What the store holds of the edge, whichever process took it."""
        return Stored()


_NOTHING, _USUAL = Credentials(), Timing()


class JetStreamReceiver:
    """Hands the frames that lie in a broker to a handler, edge by edge, and removes them when they are durable there.

    It makes the streams that are missing. Where the broker goes away it connects again, for ever. One process takes
    the messages of an edge at a time: it has the edge's consumer. Where two think that an edge is theirs, the store's
    lock decides, and nothing is lost.

    The store alone says where it goes on. Nothing is acknowledged: each look at the broker removes what became durable
    since the last one. What was not removed when a process was killed comes again, and is known by its number.

    Args:
        handler: gets the frames, in threads of the receiver.
        address: of the broker.
        taking: which edges this process takes, and what the store holds of them.
        credentials: what this side shows, and how it checks the broker.
        refusal: why an edge may not send now; None: it may.
        timing: how often is looked and tried.
        insecure: allow a broker beyond this machine without TLS.

    Raises:
        LinkError: ``insecure`` would be needed.
        ModuleNotFoundError: ``nats-py`` is not installed.
    """

    def __init__(
        self,
        handler: FrameHandler,
        address: Address,
        taking: Taking,
        *,
        credentials: Credentials = _NOTHING,
        refusal: Callable[[str], str | None] = lambda edge: None,
        timing: Timing = _USUAL,
        insecure: bool = False,
    ) -> None:
        import nats  # noqa: F401 - whether it is there

        refuse_in_clear(address, credentials, insecure=insecure)
        self._handler, self._address, self._credentials = handler, address, credentials
        self._taking, self._refusal, self._timing = taking, refusal, timing
        self._where = f"broker {address.location}"
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="ingest")
        self._stopping = asyncio.Event()
        self.ready = threading.Event()  # the broker was reached, and its streams are there
        self.bad: Counter[str] = Counter()  # edge -> messages that were not sound, and were deleted
        self.refused: Counter[str] = Counter()  # edge -> times that it was refused
        self.trouble = ""  # why nothing can be taken now
        self._made: dict[str, Any] = {}  # stream -> when it was made
        self._claimed: set[str] = set()  # edges that other processes cannot take until they are released
        self._said: dict[str, str] = {}  # edge -> what was logged of it last
        self._loop = Loop("broker")
        self._running: Any = None

    def start(self) -> None:
        """Begin to take frames; returns at once. :attr:`ready` is set when the broker was reached."""
        self._running = self._loop.start(self._run())

    def raise_failure(self) -> None:
        """Raise what ended the receiver for good."""
        if self._running is not None and self._running.done():
            self._running.result()

    def close(self) -> None:
        """Take nothing more. A handler that blocks must be released before."""
        if self._running is not None:
            self._loop.run(self._stop())
            if not self._running.done():
                self._running.result()
        self._loop.close()
        self._pool.shutdown()

    # -- the connection

    async def _stop(self) -> None:
        self._stopping.set()

    async def _run(self) -> None:
        """Connect again and again, until it is stopped."""
        pause = self._timing.first_retry_s
        while not self._stopping.is_set():
            try:
                await self._serve()
                pause = self._timing.first_retry_s
            except LinkError as error:
                if str(error) != self.trouble:
                    _log.warning("%s; trying again", error)
                self.trouble = str(error)
            if not await self._stopped_within(pause * random.uniform(0.5, 1.5)):
                pause = min(2 * pause, self._timing.longest_retry_s)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _serve(self) -> None:
        """Take frames over one connection, until it is lost.

        Raises:
            LinkError: it cannot be made, or the broker does not do what is needed.
        """
        lost: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()
        client = await connect(self._address, self._credentials, name=_NAME, timeout_s=_PATIENCE_S, lost=lost)
        edges: dict[str, _Taken] = {}
        self._made = {}
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            jetstream = client.jetstream(timeout=_PATIENCE_S)
            await self._unless({lost, stopping}, make_streams(jetstream, self._address))
            self.ready.set()
            if self.trouble:
                _log.info("%s: the broker is reached again", self._where)
            self.trouble = ""
            while not lost.done() and not stopping.done():
                await self._unless({lost, stopping}, self._assign(client, jetstream, edges))
                ends: set[asyncio.Future[Any]] = {lost, stopping, *(taken.task for taken in edges.values())}
                await asyncio.wait(ends, timeout=self._timing.look_s, return_when=asyncio.FIRST_COMPLETED)
                for taken in [taken for taken in edges.values() if taken.task.done()]:
                    taken.task.result()  # raises what ended it
            if lost.done():
                raise lost.result()
            await cancelled(taken.task for taken in edges.values())
            with contextlib.suppress(asyncio.TimeoutError):  # what stays there comes again, and is known
                await asyncio.wait_for(self._unless({lost}, self._forget(jetstream, edges)), _LAST_S)
        except SmartEdgeError:
            raise
        except Exception as error:
            raise from_nats_error(error, self._where) from error
        finally:
            stopping.cancel()
            await cancelled(taken.task for taken in edges.values())
            for edge in sorted(self._claimed):  # else no other process could take it while this one is cut off
                await self._call(functools.partial(self._release, edge))
            lost.cancel()
            await asyncio.wait({asyncio.ensure_future(client.close())}, timeout=_LAST_S)

    @staticmethod
    async def _unless(ends: set[asyncio.Future[Any]], work: Coroutine[Any, Any, None]) -> None:
        """Do something, or give it up when one of ``ends`` is done: a request to a broker that is gone would go on."""
        doing = asyncio.ensure_future(work)
        try:
            await asyncio.wait({doing, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
        finally:
            await cancelled({doing})

    async def _assign(self, client: Client, jetstream: JetStreamContext, edges: dict[str, _Taken]) -> None:
        """Begin with the edges that are this process's now, and end with those that are so no longer."""
        there: dict[str, list[str]] = {}
        for stream in self._address.streams:
            info = await jetstream.stream_info(stream, subjects_filter=subject_of(stream, "*"))
            check_stream(self._address, stream, info.config)  # somebody may have edited it
            made = getattr(info, "created", None)  # older versions of the library do not know it
            if self._made.setdefault(stream, made) != made:
                raise LinkError(f"{self._where}: the stream {stream!r} was deleted, and made again")
            for edge in filter(None, (edge_of(stream, subject) for subject in info.state.subjects or {})):
                there.setdefault(edge, []).append(stream)
        await self._forget(jetstream, edges)
        known = there.keys() | edges.keys()
        mine = await self._call(functools.partial(self._claim, known))
        for edge in self._claimed - mine:
            if edge in edges:
                await cancelled({edges[edge].task})
                del edges[edge]
            await self._call(functools.partial(self._release, edge))
        for edge in sorted(mine & there.keys()):
            if edge in edges:
                if not {*there[edge]} - {*edges[edge].streams}:
                    continue
                await cancelled({edges[edge].task})
            # Elsewhere lies what the edge sent while its address had another count: older frames.
            streams = sorted(there[edge], key=lambda stream: stream == self._address.stream_of(edge))
            before: dict[str, int] = {}
            task = asyncio.create_task(self._take_edge(client, jetstream, edge, streams, before))
            edges[edge] = _Taken(streams, task, before)

    @staticmethod
    async def _forget(jetstream: JetStreamContext, edges: dict[str, _Taken]) -> None:
        """Remove what the store holds from the broker. For many messages at once: it costs the broker an fsync."""
        for edge, taken in edges.items():
            for stream, number in list(taken.before.items()):
                await forget(jetstream, stream, edge, number)
                if taken.before.get(stream) == number:  # else more came meanwhile
                    del taken.before[stream]

    def _claim(self, edges: Collection[str]) -> set[str]:
        mine = set(self._taking.mine(sorted(edges)))
        self._claimed |= mine
        return mine

    def _release(self, edge: str) -> None:
        self._taking.release(edge)
        self._claimed.discard(edge)

    async def _call(self, call: Callable[[], Any]) -> Any:
        """Call on a thread; it ends before this does, also where this is cancelled."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            raise

    # -- one edge

    async def _take_edge(
        self, client: Client, jetstream: JetStreamContext, edge: str, streams: list[str], before: dict[str, int]
    ) -> None:
        """Take the messages of one edge, until it is cancelled. Where the run refuses it, try again later.

        ``before`` gets, for each stream, the number before which the broker may forget everything.
        """
        while True:
            stored = await self._call(functools.partial(self._taking.stored, edge))
            intake = EdgeIntake(self._handler, edge, stored)
            try:
                refusal = self._refusal(edge)
                for stream in streams if refusal is None else []:
                    within_s = self._timing.look_s if stream != streams[-1] else None
                    came = pulled(client, jetstream, edge, stream, within_s=within_s)
                    refusal = await self._take_messages(edge, stream, intake, before, came)
                    if refusal is not None:
                        break
            finally:
                await self._call(intake.abort)
            if refusal is None:  # both will see soon whose it is
                await asyncio.sleep(self._timing.look_s * random.uniform(0.5, 1.5))
                continue
            self.refused[edge] += 1
            self._say(edge, f"takes nothing of edge {edge}; it stays with the broker: {refusal}")
            streams = [*streams[1:], streams[0]]  # its older frames may lie in another one
            await asyncio.sleep(self._timing.again_s)

    async def _take_messages(
        self,
        edge: str,
        stream: str,
        intake: EdgeIntake,
        before: dict[str, int],
        came: AsyncGenerator[list[Msg], None],
    ) -> str | None:
        """Take what comes of a stream. Returns why nothing more is taken, or None where no more comes."""
        async with contextlib.aclosing(came):
            async for messages in came:
                if (refusal := self._refusal(edge)) is not None:  # the edge was revoked meanwhile
                    return refusal
                numbered = [(message.metadata.sequence.stream, message.data) for message in messages]
                settled = await self._call(functools.partial(_taken, intake, stream, numbered))
                before.update(settled.before)
                if settled.bad:
                    self.bad[edge] += settled.bad
                    self._say(edge, f"deleted what edge {edge} has sent: {settled.why}")
                if settled.refusal is not None:
                    return f"[{settled.refusal.code}] {settled.refusal}"
        return None

    def _say(self, edge: str, text: str) -> None:
        """Log it, unless it was the last that was said of this edge."""
        line = plain(text)[:500]
        if self._said.get(edge) != line:
            _log.warning("%s: %s", self._where, line)
        self._said[edge] = line


class _Taken(NamedTuple):
    """An edge that this process takes, from streams one after the other."""

    streams: list[str]
    task: asyncio.Task[None]
    before: dict[str, int]  # stream -> nothing of the edge before this number is needed in it any more


def _taken(intake: EdgeIntake, stream: str, messages: list[tuple[int, bytes]]) -> Settled:
    """What became of the messages. A bug on the way costs this edge alone."""
    try:
        return intake.take(stream, messages)
    except Exception:
        _log.exception("unexpected error")
        return Settled(refusal=SmartEdgeError("ingest failed unexpectedly; see its log"))
