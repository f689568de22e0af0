"""Bounds the connections of a receiver, and counts their bytes by edge.

gRPC accepts connections by itself, and can only refuse the newest where there are too many. Then one host with enough
idle connections would keep everybody out. :class:`Connections` closes the oldest connection instead that has not
proved who it is. An edge proves it within milliseconds, so it gets through. From then on its connection counts for the
edge, and no longer for its host: a site with many edges may have one address.

gRPC answers some calls by itself, such as compressed ones. A sender that repeats them never waits for us. So who sends
much without proving who it is is not read from any more, until its connection is closed for its age.

Finding a connection takes a look at all descriptors of the process. So one look finds all that came since the last
one: strangers that connect again and again must not take the receiver's time.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

from smartedge.wire.addresses import Address, address_of
from smartedge.wire.sockets import ByteCount, byte_counts, descriptors, duplicate, watch_peer

__all__ = ["Connections", "room_for"]

_log = logging.getLogger(__name__)

_DESCRIPTORS = 5  # of a connection: gRPC's, ours to count its bytes, and the three files of its edge's log
_SPARE_DESCRIPTORS = 256  # for the rest of the process
_UNPROVEN_BYTES = 2**16  # that a connection sends before it proves who it is; usually it takes a tenth
_MEASURE_S = 1.0  # between two looks at how much such a connection has sent
_UNREAD_BYTES = 2**20  # that must wait before gRPC hears of what such a connection sends


def room_for(connections: int) -> int:
    """How many connections the process can hold, ``connections`` at most. Raises its limit of open files for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS * connections + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # the system allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        connections = min(connections, max(16, (soft - _SPARE_DESCRIPTORS) // _DESCRIPTORS))
    return connections


@dataclass
class _Connection:
    peer: Address
    since: float
    descriptor: int
    edge: str | None = None  # once it has proved who it is
    held: bool = False  # gRPC does not hear of what it sends
    measure_at: float = 0.0  # when to look at how much it has sent
    counted: socket.socket | None = None  # a duplicate, kept while the edge is connected


class Connections:
    """The connections to one port of this process. Call :meth:`look` several times a second.

    Args:
        port: the port listened on.
        most: connections in total.
        most_per_host: connections from one host that have not proved who they are.
        most_per_edge: connections of one edge. The oldest ones stay, since an edge's working stream may be there.
        unproven_s: seconds after which a connection is closed that has not proved who it is.
        shared: a proxy stands before the port, and may bring calls of several senders on one connection. Then it counts
            for no edge, and is read from whatever it sends: else one sender could keep others out.
    """

    def __init__(
        self,
        port: int,
        *,
        most: int,
        most_per_host: int,
        most_per_edge: int,
        unproven_s: float,
        shared: bool = False,
    ) -> None:
        self.shared = shared
        self._port = port
        self._most = most
        self._most_per_host = most_per_host
        self._most_per_edge = most if shared else most_per_edge
        self._unproven_s = unproven_s
        self._known: dict[int, _Connection | None] = {}  # by inode; None: a socket of something else
        self._inodes: dict[Address, int] = {}  # of the connections, by peer
        self._proofs: dict[Address, str] = {}  # edges, by peer, whose connection came after the last look
        self._ended: dict[str, tuple[int, int]] = {}  # by edge: bytes (up, down) of connections that have ended
        self._blind = False  # the last look failed
        self._lock = threading.Lock()

    def look(self) -> None:
        """Find new connections, forget ended ones, and close what is too much.

        Does nothing where the process has no descriptor to spare, which passes.
        """
        with self._lock:
            try:
                found, self._blind = descriptors(), False
            except OSError as error:
                if not self._blind:
                    _log.error("the receiver cannot look at its connections at the moment: %s", error)
                self._blind = True
                return
            self._meet_new(found)
            for inode, known in self._known.items():
                if known and known.counted and found.get(inode) == [known.counted.fileno()]:  # gRPC has closed it
                    self._settle(known)
                    del found[inode]  # so that it is not counted below as one of its edge
            for inode in self._known.keys() - found.keys():
                self._forget(inode)
            self._close_what_is_too_much()

    def prove(self, peer: Address, edge: str) -> None:
        """The connection from ``peer`` belongs to ``edge``: from now on it is kept, and its bytes are counted.

        One that came after the last look belongs to it from the next one on, or from :meth:`find` on.
        """
        with self._lock:
            if (inode := self._inodes.get(peer)) is None:
                self._proofs.setdefault(peer, edge)
            else:
                self._give(inode, edge)

    def find(self, peer: Address) -> None:
        """Look at once for a connection that has proved who it is: it may end before the next look, and is counted."""
        with self._lock, contextlib.suppress(OSError):  # no descriptor to spare: nothing is counted
            if peer in self._proofs:
                self._meet_new(descriptors())

    def counters(self) -> dict[str, ByteCount]:
        """Bytes from each edge (up) and to it (down) so far, as the kernel counted them."""
        with self._lock:
            totals = dict(self._ended)
            for known in self._known.values():
                if known and known.edge is not None and known.counted:
                    up, down = totals.get(known.edge, (0, 0))
                    sent, received = byte_counts(known.counted)
                    totals[known.edge] = (up + received, down + sent)
        return {edge: ByteCount(up, down, "kernel tcp_info") for edge, (up, down) in totals.items()}

    def close(self) -> None:
        """Break every connection."""
        with self._lock:
            for inode, known in list(self._known.items()):
                if known:
                    self._break(inode, known)

    def _meet_new(self, found: dict[int, list[int]]) -> None:
        for inode, numbers in found.items():
            if inode not in self._known:
                self._known[inode] = met = self._meet(inode, numbers[0])
                if met is not None:
                    self._inodes[met.peer] = inode
                    if (edge := self._proofs.get(met.peer)) is not None:
                        self._give(inode, edge)
        self._proofs.clear()  # the others have ended

    def _give(self, inode: int, edge: str) -> None:
        known = self._known[inode]
        if known and known.edge is None:
            known.edge = edge
            if known.held:  # from now on it is heard
                self._release(inode, known)
            known.counted = duplicate(inode, known.descriptor)

    def _forget(self, inode: int) -> None:
        known = self._known.pop(inode)
        if known is not None and self._inodes.get(known.peer) == inode:
            del self._inodes[known.peer]

    def _meet(self, inode: int, descriptor: int) -> _Connection | None:
        connection = duplicate(inode, descriptor)
        if connection is None:
            return None
        with connection:
            try:
                if connection.getsockname()[1] != self._port:
                    return None
                peer = address_of(connection.getpeername())
                watch_peer(connection)
            except (OSError, IndexError):  # it listens, is of another family, or is closed already
                return None
        return _Connection(peer, time.monotonic(), descriptor)

    def _close_what_is_too_much(self) -> None:
        """Close unproven connections: those that are too old, and the oldest where there are too many.

        Of the connections of an edge, the newest ones are closed.
        """
        now = time.monotonic()
        by_age = [(inode, known) for inode, known in self._known.items() if known]  # the oldest were met first
        total = len(by_age)
        unproven = Counter(known.peer[0] for _, known in by_age if known.edge is None)
        of_edge: Counter[str] = Counter()
        for inode, known in by_age:
            host = known.peer[0]
            if known.edge is not None:
                of_edge[known.edge] += 1
                too_much = of_edge[known.edge] > self._most_per_edge
            else:
                many = total > self._most or unproven[host] > self._most_per_host
                too_much = many or now - known.since > self._unproven_s
                unproven[host] -= too_much
                if not (too_much or known.held or self.shared) and now >= known.measure_at:
                    known.measure_at = now + _MEASURE_S
                    self._hold_if_it_sends_much(inode, known)
            if too_much:
                self._break(inode, known)
                total -= 1

    def _hold_if_it_sends_much(self, inode: int, known: _Connection) -> None:
        connection = duplicate(inode, known.descriptor)
        if connection is not None:
            with connection:
                known.held = byte_counts(connection)[1] > _UNPROVEN_BYTES
                if known.held:
                    _hear_after(connection, _UNREAD_BYTES)

    @staticmethod
    def _release(inode: int, known: _Connection) -> None:
        connection = duplicate(inode, known.descriptor)
        if connection is not None:
            with connection:
                _hear_after(connection, 1)

    def _break(self, inode: int, known: _Connection) -> None:
        self._settle(known)
        if self._inodes.get(known.peer) == inode:
            del self._inodes[known.peer]
        connection = duplicate(inode, known.descriptor)
        if connection is not None:
            with connection, contextlib.suppress(OSError):  # the peer may be faster
                connection.shutdown(socket.SHUT_RDWR)
        self._known[inode] = None

    def _settle(self, known: _Connection) -> None:
        """Keep the counts of a connection that has ended, and close our duplicate."""
        if known.edge is not None and known.counted is not None:
            sent, received = byte_counts(known.counted)
            up, down = self._ended.get(known.edge, (0, 0))
            self._ended[known.edge] = (up + received, down + sent)
            known.counted.close()
            known.counted = None


def _hear_after(connection: socket.socket, size: int) -> None:
    """Let the kernel say that something came only when so many bytes wait."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
