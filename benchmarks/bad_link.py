"""A TCP proxy that disturbs what passes: resets, delay, loss, a rate. For where the kernel has no ``netem``.

Behind a proxy, both ends still speak TCP to it over a good link. So a loss is shown as TCP shows it to a program: what
was lost, and all that follows, comes later. Where there is a rate, it is one of TCP payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from typing import Literal, NamedTuple

_SEGMENT = 1448  # bytes
_WINDOW = 10  # segments on their way at the same time (RFC 6928)
_RETRANSMIT_S = 0.2  # the least timeout of Linux; twice as long for each further loss
_CHUNK = _SEGMENT * _WINDOW
_QUEUE = 20  # chunks that wait for a rate; then the sender waits
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


Way = Literal["up", "down"]


class Disturbance(NamedTuple):
    """What the proxy does."""

    reset_every: float | None = None  # seconds, after which all connections are reset
    delay: float = 0.0  # seconds, in each direction
    loss: float = 0.0  # share of the segments
    up: float | None = None  # bytes a second towards the target, of all connections together; None: as fast as it goes
    down: float | None = None  # the same, back


def stall(segments: int, loss: float, drawn: random.Random) -> float:
    """Seconds that a window of segments comes later, since some are lost, and maybe sent again more than once."""
    seconds, wait = 0.0, _RETRANSMIT_S
    while (segments := sum(drawn.random() < loss for _ in range(segments))) > 0:
        seconds += wait
        wait *= 2
    return seconds


class BadLink:
    """Passes connections to ``listening`` on to ``target``.

    Args:
        listening: a socket that listens.
        target: host and port of the other end. While nobody listens there, connections are reset.
        disturbance: what is done to what passes.
        seed: of the losses.
    """

    def __init__(self, listening: socket.socket, target: tuple[str, int], disturbance: Disturbance, seed: int) -> None:
        self._listening = listening
        self._target = target
        self._disturbance = disturbance
        self._drawn = random.Random(f"bad link {seed}")
        self._writers: set[asyncio.StreamWriter] = set()
        self._free = {"up": 0.0, "down": 0.0}  # when the bytes before are through

    def run(self) -> int:
        """Serve for ever."""
        asyncio.run(self._serve())
        return 0

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._pass, sock=self._listening, limit=_CHUNK)
        async with server:
            while (every := self._disturbance.reset_every) is not None:
                await asyncio.sleep(every)
                for writer in list(self._writers):
                    _reset(writer)
            await server.serve_forever()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target, limit=_CHUNK)
        except OSError:
            _reset(writer)
            return
        both = {writer, there_writer}
        self._writers |= both
        tasks = [
            asyncio.ensure_future(self._pump(reader, there_writer, "up")),
            asyncio.ensure_future(self._pump(there_reader, writer, "down")),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        self._writers -= both
        for each in both:
            _reset(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Carry one direction, until it ends or breaks."""
        limited = self._rate(way) is not None
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE if limited else 0)
        sending = asyncio.ensure_future(self._send(due, writer, way))
        try:
            with contextlib.suppress(OSError):
                while (data := await reader.read(_CHUNK)) and not sending.done():
                    await due.put((asyncio.get_running_loop().time() + self._disturbance.delay, data))
                await due.put((asyncio.get_running_loop().time() + self._disturbance.delay, b""))
                await sending
        finally:
            sending.cancel()

    def _rate(self, way: Way) -> float | None:
        return self._disturbance.up if way == "up" else self._disturbance.down

    async def _send(self, due: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: Way) -> None:
        loop, loss = asyncio.get_running_loop(), self._disturbance.loss
        while True:
            at, data = await due.get()
            if not data:
                return
            if loss:
                at = max(at, loop.time()) + stall(-(-len(data) // _SEGMENT), loss, self._drawn)
            if rate := self._rate(way):
                at = self._free[way] = max(at, loop.time(), self._free[way]) + len(data) / rate
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
