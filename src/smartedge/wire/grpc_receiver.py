"""The cloud's end of the link over gRPC, with TLS and tokens; see :mod:`smartedge.wire.grpc_link`.

All streams are served by one event loop, on a thread of its own. A handler may block, so it is called on other threads,
one at a time for each stream: a stream that waits holds no other one up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc

from smartedge.errors import FleetError, FrameError, LinkError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.addresses import Address, address_of_peer, is_loopback, location_of
from smartedge.wire.admission import Access, Peer, RefusalLog
from smartedge.wire.connections import Connections, room_for
from smartedge.wire.credentials import Credentials, Guard, listens_in_clear
from smartedge.wire.frame import header_from_json
from smartedge.wire.grpc_errors import status_of
from smartedge.wire.grpc_link import COLLECT, METHOD
from smartedge.wire.inbox import Ahead, Inbox, Turns, Unsynced, drained, first_message, no_messages_kept
from smartedge.wire.link import FrameHandler, StreamReceiver
from smartedge.wire.link_pb2 import Ask, Down, Up
from smartedge.wire.loop import Loop
from smartedge.wire.parts import MESSAGE_BYTES, Joiner, split
from smartedge.wire.places import Busy, OpenStream, Places, heartbeat
from smartedge.wire.questions import Questions
from smartedge.wire.slots import Slots
from smartedge.wire.sockets import ByteCount

__all__ = ["GrpcReceiver", "Limits"]

_log = logging.getLogger(__name__)
# gRPC logs and prints a traceback where a call ended before its status could be sent: any peer could fill the log.
logging.getLogger(cygrpc.__name__).setLevel(logging.CRITICAL)
cygrpc.traceback = SimpleNamespace(print_exc=lambda: None)

_SYNC_S = 0.3  # frames are made durable, and confirmed, after this time
_SYNC_BYTES = 16 * 2**20  # or after so many bytes
_ALIVE_S = 30.0  # between two empty messages, by which a sender knows that this side does not hang
_LOOK_S = 0.25  # how often connections are looked at
_WATCH_S = 5.0  # how often is asked whether the senders of open streams still may send
_BUSY_S = 0.1  # until a sender that finds no place hears of it
_LAST_WORD_S = 2.0  # for the statuses of streams when the receiver is closed


@dataclass(frozen=True)
class Limits:
    """What senders may take of the receiver."""

    connections: int = 1024  # open at the same time
    connections_per_host: int = 512  # of those that have not proved who they are
    spare_connections: int = 7  # of an edge, beside one for each of its streams
    streams_per_edge: int = 1  # open at the same time
    bytes_per_second: float = float("inf")  # of each stream
    handshake_s: float = 10.0  # until a connection can carry calls
    header_s: float = 10.0  # from the begin of a call to its header; twice that to prove who a sender is
    idle_s: float = 1800.0  # between two messages of a stream


class _Refused(Exception):
    """A sender may not send; holds the reason."""

    def __init__(self, reason: SmartEdgeError, code: grpc.StatusCode) -> None:
        self.reason, self.code = reason, code


_NOTHING, _USUAL = Credentials(), Limits()


class GrpcReceiver:
    """Listens, and hands the frames of the streams to a handler: many edges at a time, one stream of each.

    It is bound when made, and takes streams from :meth:`start` to :meth:`close`. A sender that does
    something wrong gets an error; the receiver keeps serving.

    Args:
        handler: gets the frames, in threads of the receiver.
        host: address to listen on.
        port: 0 for any free one.
        credentials: what this side shows, and how it checks senders. A certificate turns TLS on. With ``ca`` a sender
            must show a certificate, and is the edge of that name. With ``token`` a sender must show the same token.
        guard: says which edges may send; open streams of an edge that no longer may are broken off within seconds.
            Without TLS, every edge must show a token of its own: for a proxy on this machine that ends TLS. It is asked
            on the thread that serves all edges, so it must answer at once.
        limits: what senders may take.
        insecure: allow an address beyond this machine without TLS, or with TLS and neither token nor ``ca``.
        answer: takes the name of an edge and its question, and gives the answer; None: questions are refused.

    Raises:
        LinkError: when it cannot listen there, a certificate cannot be read, or ``insecure`` would be needed.
    """

    def __init__(
        self,
        handler: FrameHandler,
        host: str,
        port: int = 0,
        *,
        credentials: Credentials = _NOTHING,
        guard: Guard | None = None,
        limits: Limits = _USUAL,
        insecure: bool = False,
        answer: Callable[[str, bytes], bytes] | None = None,
    ) -> None:
        if listens_in_clear(host, credentials, insecure=insecure):
            _log.warning("listening on %s without TLS and token: anybody there can read and send frames", host)
        self._handler = handler
        self._limits = limits
        self._access = Access(credentials, guard)
        self._proxied = guard is not None and credentials.certificate is None
        self._refusals, self._ahead = RefusalLog(), Ahead()
        self._endings: set[asyncio.Task[None]] = set()
        self._watching: Future[None] | None = None
        self._pool = ThreadPoolExecutor(max_workers=self._limits.connections, thread_name_prefix="ingest")
        self._slots = Slots()
        self._places = Places(limits.streams_per_edge)
        self._questions = Questions(self._pool, answer)
        self._loop = Loop("receiver")
        try:
            self.port: int = self._loop.run(self._bind(location_of(host, port), credentials))
        except Exception as error:
            self._stop_threads()
            if isinstance(error, SmartEdgeError):
                raise
            raise LinkError(
                f"cannot listen on {location_of(host, port)} ({error}); is the port taken, the address this machine's, "
                "and the certificate valid?"
            ) from error

    def start(self) -> None:
        """Take streams from now on; returns at once. Senders that came earlier are waiting."""
        self._loop.run(self._server.start())
        self._watching = self._loop.start(self._watch())

    def counters(self) -> dict[str, ByteCount]:
        """Bytes from each edge (``up``) and to it (``down``), as the kernel counted them at the sockets."""
        return self._connections.counters()

    @property
    def refusals(self) -> int:
        """How many calls were refused, or broke off."""
        return self._refusals.total

    def close(self) -> None:
        """Break off open streams, and stop listening. A handler that blocks must be released before.

        A sender whose stream has just been finished still hears of it.
        """
        if not self._loop.closed:
            self._loop.run(self._close())
            self._stop_threads()

    async def _bind(self, where: str, credentials: Credentials) -> int:
        most = room_for(self._limits.connections)
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a port belongs to one receiver
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_metadata_size", 8192),
                ("grpc.absolute_max_metadata_size", 16384),
                ("grpc.compression_enabled_algorithms_bitset", 1),  # none: what is unpacked has no limit of its own
                ("grpc.max_concurrent_streams", max(4, self._limits.streams_per_edge)),  # of one connection
                ("grpc.max_allowed_incoming_connections", most + most // 4 + 4),
                ("grpc.server_handshake_timeout_ms", int(1000 * self._limits.handshake_s)),
                ("grpc.max_connection_idle_ms", 60_000),
                ("grpc.http2.bdp_probe", 0),  # it would let gRPC hold many MiB of each stream
                ("grpc.http2.lookahead_bytes", 2**20),
                ("grpc.tsi.max_frame_size", 4096),  # of what is sent, which is little: TLS keeps a buffer of this size
            ]
        )
        self._server.add_generic_rpc_handlers((_Calls(self._serve),))
        if credentials.certificate is None:
            bound: int = self._server.add_insecure_port(where)
        else:
            pair = (credentials.key, credentials.certificate)
            bound = self._server.add_secure_port(
                where,
                grpc.ssl_server_credentials([pair], credentials.ca, require_client_auth=credentials.ca is not None),
            )
        self._connections = Connections(
            bound,
            most=most,
            most_per_host=self._limits.connections_per_host,
            most_per_edge=self._limits.streams_per_edge + self._limits.spare_connections,
            unproven_s=2 * self._limits.header_s,
            shared=self._proxied,
        )
        return bound

    # -- one stream

    async def _serve(self, method: str, request: Any, context: Any) -> None:
        """Serve one call. It ends well, or with a status that carries the error."""
        who = unquote(context.peer())
        address = address_of_peer(who)
        code = grpc.StatusCode.FAILED_PRECONDITION
        error: SmartEdgeError | None = None
        name: str | None = None  # that it has proved
        try:
            if method not in (METHOD, COLLECT):
                raise _Refused(LinkError("there is no such call here"), grpc.StatusCode.UNIMPLEMENTED)
            peer = self._admit(context)
            if (name := peer.name) is not None:
                await self._refusals.let_in(name)
            with no_messages_kept():
                await (self._take_stream if method == METHOD else self._take_question)(context, address, peer)
        except Busy as busy:
            await asyncio.sleep(_BUSY_S)
            await context.abort(grpc.StatusCode.UNAVAILABLE, *status_of(busy))
        except _Refused as refused:
            code, error = refused.code, refused.reason
        except SmartEdgeError as ours:
            error = ours
        except (grpc.aio.InternalError, grpc.aio.UsageError):
            error = LinkError("the sender went away within the stream")
        except DecodeError:
            error = FrameError("stream: what arrived is not readable as a message of link.proto")
        except Exception:
            _log.exception("stream from %s: unexpected error", who)
            error = SmartEdgeError("the receiver failed unexpectedly; see its log")
        if error is not None:
            await self._refusals.refuse(address[0], who, error, edge=name)
            await context.abort(code, *status_of(error))

    def _admit(self, context: Any) -> Peer:
        try:
            return self._access.admit(dict(context.invocation_metadata() or ()), context.auth_context() or {})
        except LinkError as error:
            raise _Refused(error, grpc.StatusCode.UNAVAILABLE) from error
        except SmartEdgeError as error:
            raise _Refused(error, grpc.StatusCode.UNAUTHENTICATED) from error

    async def _take_question(self, context: Any, address: Address, peer: Peer) -> None:
        if self._access.proves:
            self._connections.prove(address, peer.edge)
        question = await first_message(self._limits.header_s, context.read()) or b""
        if not self._access.proves and not is_loopback(address[0]) and Ask.FromString(question).run:
            raise FleetError("an edge beyond this machine must prove who it is: use --fleet, or link.token_file")
        if await self._questions.take(context, peer, question):
            self._connections.prove(address, peer.edge)  # it knows the run

    async def _take_stream(self, context: Any, address: Address, peer: Peer) -> None:
        if self._access.proves:
            self._connections.prove(address, peer.edge)
        first = await first_message(self._limits.header_s, context.read())
        if first is None:
            await context.write(Down().SerializeToString())  # not possible where the connection was cut
            raise FrameError("stream header: the stream ended without one")
        header = header_from_json(Up.FromString(first).header)
        place = await self._places.claim(peer)
        calls = Turns(self._pool, self._slots)
        syncs = Turns(self._pool, self._slots)  # frames become durable while further ones come
        receiver: StreamReceiver | None = None
        try:
            receiver = await calls.run(functools.partial(StreamReceiver, self._handler, peer.edge, header))
            self._connections.prove(address, peer.edge)
            await context.write(Down(confirmed=receiver.next_seq).SerializeToString())
            async with heartbeat(context, place.writing, _ALIVE_S):
                await self._take_frames(context, place, receiver, header, calls, syncs)
                # Reading ends in the same way where the connection was cut. Then this empty message cannot be written.
                async with place.writing:
                    await context.write(Down().SerializeToString())
                await calls.run(receiver.finish)
            self._connections.find(address)
            await context.write(Down(confirmed=header.end_seq).SerializeToString())
        finally:
            ending = asyncio.create_task(self._end(place, receiver, calls, syncs))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)  # the sender hears of the end when the handler has heard of it

    async def _take_frames(
        self,
        context: Any,
        place: OpenStream,
        receiver: StreamReceiver,
        header: StreamHeader,
        calls: Turns,
        syncs: Turns,
    ) -> None:
        """Take frames to the end of the stream. Those that wait are taken together."""
        inbox = Inbox(place, self._limits.bytes_per_second, self._ahead)
        unsynced = Unsynced(_SYNC_BYTES)
        reading = asyncio.create_task(inbox.fill(context, Joiner(header)))
        confirming = asyncio.create_task(self._confirm(context, receiver, unsynced, syncs, place.writing))
        confirming.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            while inbox.messages or not inbox.ended:
                if not inbox.messages:
                    news: set[asyncio.Future[Any]] = {inbox.came, place.stop, confirming}
                    await asyncio.wait(news, timeout=self._limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
                if place.stop.done():
                    raise place.stop.result()
                if confirming.done():
                    confirming.result()
                if inbox.messages:
                    messages, size = inbox.empty()
                    for answer in await calls.run(functools.partial(receiver.take, drained(messages))):
                        async with place.writing:
                            for part in split(answer):
                                await context.write(part)
                    # the sender waits for the last one
                    await unsynced.add(size, last=receiver.next_seq == header.end_seq and not header.answered)
                elif not inbox.came.done():
                    raise LinkError(f"the stream was silent for {self._limits.idle_s:g} s")
            await reading  # raises what ended it
        finally:
            reading.cancel()
            inbox.empty()
            async with place.writing:  # a write that has begun ends
                confirming.cancel()

    @staticmethod
    async def _confirm(
        context: Any, receiver: StreamReceiver, unsynced: Unsynced, syncs: Turns, writing: asyncio.Lock
    ) -> None:
        """Make frames durable in groups, and confirm them."""
        try:
            while True:
                await unsynced.due(_SYNC_S)
                confirmed = await syncs.run(receiver.sync)
                async with writing:
                    await context.write(Down(confirmed=confirmed).SerializeToString())
        finally:
            unsynced.close()

    async def _end(self, place: OpenStream, receiver: StreamReceiver | None, calls: Turns, syncs: Turns) -> None:
        """Free the place of a stream, once its handler has returned."""
        await calls.idle()
        await syncs.idle()
        receiver = receiver or calls.made(StreamReceiver)
        if receiver is not None:
            with contextlib.suppress(Exception):
                await calls.run(receiver.abort)
        self._places.free(place)

    # -- all streams

    async def _watch(self) -> None:
        asked = time.monotonic()
        while True:
            self._connections.look()
            if time.monotonic() - asked > _WATCH_S:
                asked = time.monotonic()
                self._ask()
            await asyncio.sleep(_LOOK_S)

    def _ask(self) -> None:
        """End the streams of edges that may send no longer."""
        for place in [each for each in self._places if not each.stop.done()]:
            try:
                refusal = self._access.refusal(place.peer)
            except LinkError as error:  # it may come back, and is asked again then
                place.end(error)
                continue
            if refusal is not None:
                _log.warning("edge %s may not send any more; its stream is broken off", place.peer.edge)
                place.end(refusal)

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for place in self._places:
            place.end(Busy("the receiver was closed; it may come back"))
        await self._server.stop(_LAST_WORD_S)  # a stream whose frames are durable still gets its confirmation
        await self._questions.idle()
        self._connections.look()
        self._connections.close()
        while self._endings:
            await asyncio.wait(self._endings)

    def _stop_threads(self) -> None:
        self._loop.close()
        self._pool.shutdown()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Gives every call, known or not, to one function, so that what is unknown is refused in the same way."""

    def __init__(self, serve: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self._serve = serve

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(functools.partial(self._serve, details.method))
