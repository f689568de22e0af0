"""The cloud's end of the one-way link: takes datagrams of many edges, and never sends one."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from smartedge.errors import LinkError, LogError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.addresses import location_of
from smartedge.wire.frame import receive
from smartedge.wire.link import FrameHandler
from smartedge.wire.simplex.blocks import CONTENT_BYTES, Assembler, Block, unpack_block
from smartedge.wire.simplex.seal import OVERHEAD, Opener

__all__ = ["OneWayHandler", "SimplexReceiver"]

_log = logging.getLogger(__name__)

_WAITING = 4096  # contents of datagrams of one edge that may wait for the handler; later ones are lost
_TICK_S = 0.1
_AGAIN_S = 1.0  # until the end of a stream is tried again for which the disk had no room
_ASK_S = 5.0  # how often the keys are asked for: a revoked edge is refused after that
_TELL_S = 600.0  # how often is said of an edge that datagrams in its name are dropped
_BUFFER_BYTES = 8 * 2**20  # of the kernel, for datagrams that come while this process is busy


class OneWayHandler(FrameHandler, Protocol):
    """A handler that can be told of frames that will never come."""

    def accept_one_way(self, edge: str, header: StreamHeader) -> int:
        """As ``accept``; streams before this one may be lost."""

    def lost(self, edge: str, header: StreamHeader, end: int) -> None:
        """The frames from the next one up to ``end`` (not included) are lost. Frame ``end`` may be handed on next."""


class SimplexReceiver:
    """Listens for datagrams, and hands the frames of every edge to a handler, on a thread for each edge.

    Frames that do not arrive are marked by ``handler.lost``. A stream that the handler refuses is dropped; its edge
    cannot be told.

    Args:
        handler: gets the frames.
        keys: gives name of an edge → its key; asked again every few seconds. Datagrams of others are dropped, at the
            cost of looking up eight bytes.
        host: address to listen on.
        port: 0 for any free one.
        patience_s: how long a block waits for the missing datagrams of an older one.

    Raises:
        LinkError: it cannot listen there.
    """

    def __init__(
        self,
        handler: OneWayHandler,
        keys: Callable[[], Mapping[str, bytes]],
        host: str,
        port: int = 0,
        *,
        patience_s: float = 2.0,
    ) -> None:
        self._handler = handler
        self._keys = keys
        self._patience_s = patience_s
        self._opener = Opener(keys())
        self._asked = time.monotonic()
        self._edges: dict[str, _EdgeReceiver] = {}
        self._assemblers: dict[str, Assembler] = {}  # edge -> that of its present key
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.settimeout(_TICK_S)
        try:
            self._socket.bind((host.strip("[]"), port))
        except OSError as error:
            self._socket.close()
            raise LinkError(
                f"cannot listen for datagrams on {location_of(host, port)}: {error.strerror or error}"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.refused = 0  # datagrams that were forged, damaged, repeated, or of nobody who is known
        self._told_at: dict[str, float] = {}  # edge -> when was said that its datagrams are dropped
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="simplex", daemon=True)

    def start(self) -> None:
        """Begin to take datagrams."""
        self._thread.start()

    def close(self) -> None:
        """Take no further datagrams, hand on those that wait, and break off the streams that have not ended."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
        for edge in self._edges.values():
            edge.close()

    def _tell_of_unopened(self) -> None:
        """Say, now and then, in whose name datagrams came that were dropped: nobody can tell the edge."""
        now = time.monotonic()
        for edge, count in self._opener.unopened.items():
            last = self._told_at.get(edge)
            if count and (last is None or now - last >= _TELL_S):
                self._told_at[edge] = now
                _log.warning(
                    "edge %s: %d datagrams in its name were dropped: forged, repeated, or of another bundle. Was its "
                    "bundle renewed, or is it on two devices?",
                    edge,
                    count,
                )
                self._opener.unopened[edge] = 0

    def _receive(self) -> None:
        while not self._stop.is_set():
            if time.monotonic() - self._asked > _ASK_S:
                for edge in self._opener.admit(self._keys()):
                    self._assemblers.pop(edge, None)
                self._asked = time.monotonic()
                self._tell_of_unopened()
            try:
                datagram = self._socket.recv(2**16)
            except TimeoutError:
                continue
            except OSError as error:  # of the machine's network; it may come back
                _log.warning("the one-way link takes nothing at the moment: %s", error.strerror or error)
                self._stop.wait(_ASK_S)
                continue
            opened = self._opener.open(datagram) if len(datagram) == OVERHEAD + CONTENT_BYTES else None
            if opened is None:
                self.refused += 1
                continue
            edge, content = opened
            if edge not in self._edges:
                self._edges[edge] = _EdgeReceiver(self._handler, edge)
            if edge not in self._assemblers:
                self._assemblers[edge] = Assembler(self._patience_s)
            self._edges[edge].put(self._assemblers[edge], content)


class _EdgeReceiver:
    """The streams of one edge."""

    def __init__(self, handler: OneWayHandler, edge: str) -> None:
        self._handler = handler
        self._edge = edge
        self._contents: queue.Queue[tuple[Assembler, bytes] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._header: StreamHeader | None = None  # of the stream that is open
        self._unended: StreamHeader | None = None  # this one, where all has come and the disk had no room for its end
        self._refused: StreamHeader | None = None  # the stream that was refused last
        self._ended: set[StreamHeader] = set()  # of which more may come: their ends are sent several times
        self._next_seq = 0
        self._lacked_room = False  # the last block could not be stored

    def put(self, assembler: Assembler, content: bytes) -> None:
        """Let the thread take the content of a datagram; ``assembler`` is that of the key it came under."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"simplex {self._edge}", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):  # as if the link had lost it
            self._contents.put_nowait((assembler, content))

    def close(self) -> None:
        if self._thread is not None:
            self._contents.put(None)
            self._thread.join()

    def _work(self) -> None:
        assembler: Assembler | None = None
        while True:
            try:
                content = self._contents.get(timeout=self._patience(assembler))
            except queue.Empty:
                blocks = [] if assembler is None else assembler.due()
                if self._unended is not None:
                    with self._going_on():
                        self._finish(self._unended)
            else:
                if content is None:
                    break
                assembler = content[0]
                blocks = assembler.add(content[1])
            for data in blocks:
                self._take(data)
        if self._header is not None:
            self._handler.abort(self._edge, self._header)

    def _patience(self, assembler: Assembler | None) -> float | None:
        """Seconds until something is due although no datagram comes; None: nothing is."""
        if assembler is not None and assembler.waits:
            return _TICK_S
        return None if self._unended is None else _AGAIN_S

    def _take(self, data: bytes) -> None:
        """Hand on the frames of one block. What is wrong with it ends its stream, and costs no other edge anything."""
        with self._going_on():
            block = unpack_block(data)
            if block.header == self._refused or block.header in self._ended:
                return
            if block.header != self._header:
                self._begin(block.header)
            self._hand_on(block)
            self._lacked_room = False

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """No error in the block ends the thread."""
        try:
            yield
        except LogError as error:
            # The disk may have room again: what comes meanwhile is lost, and what comes then is not.
            if not self._lacked_room:
                _log.error("edge %s: frames on the one-way link cannot be stored, and are lost: %s", self._edge, error)
            self._lacked_room = True
        except SmartEdgeError as error:
            _log.warning("edge %s: a stream on the one-way link was refused: %s", self._edge, error)
            self._break_off()
        except Exception:  # the thread must live for later streams
            _log.exception("edge %s: unexpected error in a stream on the one-way link", self._edge)
            self._break_off()

    def _break_off(self) -> None:
        """The rest of the open stream is dropped."""
        if self._header is not None:
            self._refused, self._header, self._unended = self._header, None, None
            self._handler.abort(self._edge, self._refused)

    def _begin(self, header: StreamHeader) -> None:
        if self._header is not None:
            self._finish(self._header)  # its end was lost
        try:
            self._next_seq = self._handler.accept_one_way(self._edge, header)
        except LogError:
            raise
        except SmartEdgeError:
            self._refused = header
            raise
        self._header = header

    def _hand_on(self, block: Block) -> None:
        header = block.header
        for message in block.messages:
            frame = receive(message, header)
            if frame.seq < self._next_seq:  # sent again, after a restart of the edge
                continue
            if frame.seq > self._next_seq:
                self._handler.lost(self._edge, header, frame.seq)
            self._handler.ingest(self._edge, header, frame)
            self._next_seq = frame.seq + 1
        if block.ends:
            self._finish(header)

    def _finish(self, header: StreamHeader) -> None:
        """End a stream. Nobody sends its end later, so this is tried again where the disk has no room."""
        self._unended = header
        if self._next_seq < header.end_seq:
            self._handler.lost(self._edge, header, header.end_seq)
            self._next_seq = header.end_seq
        self._handler.finish(self._edge, header)
        self._header = self._unended = None
        self._ended.add(header)
