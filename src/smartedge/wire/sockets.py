"""Bytes at the socket, as the kernel counted them, and how soon the kernel notices that a peer is gone.

gRPC shows neither its sockets nor their counters. But the sockets are this process's own: they are among its open
descriptors, and a duplicate of a descriptor reaches the same kernel socket.

gRPC's own keepalive is not used: its ping waits behind the data that the kernel has taken, which on a slow link is
more than any reasonable time. The kernel counts what the peer acknowledges.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import struct
import sys
import threading
from dataclasses import dataclass
from typing import ClassVar

from smartedge.wire.addresses import address_of

__all__ = [
    "PEER_TIMEOUT_S",
    "ByteCount",
    "SocketMeter",
    "byte_counts",
    "descriptors",
    "duplicate",
    "own_sockets",
    "watch_peer",
]

PEER_TIMEOUT_S = 20  # a peer that is suddenly gone (power, cable) is noticed within this time

_DESCRIPTORS = "/dev/fd"  # of this process; on Linux and macOS

# Offsets in Linux's struct tcp_info.
_BYTES_ACKED = 120  # since Linux 4.1
_BYTES_RECEIVED = 128
_BYTES_SENT = 200  # since Linux 4.19


@dataclass(frozen=True)
class ByteCount:
    """Bytes since the link was made, over all its connections.

    ``source`` is ``"kernel tcp_info"`` where the kernel counted what passed through the TCP socket: everything above
    TCP (TLS, HTTP/2, gRPC), and retransmissions in ``up``, but not the headers of TCP and IP. It is
    ``"payload"`` where only frames and stream headers were counted, without gRPC, TLS and TCP.
    """

    up: int
    down: int
    source: str


def descriptors() -> dict[int, list[int]]:
    """This process's open sockets: inode -> descriptors. Duplicates share an inode, and nothing else does."""
    found: dict[int, list[int]] = {}
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # closed in between
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.setdefault(status.st_ino, []).append(int(name))
    return found


def duplicate(inode: int, descriptor: int) -> socket.socket | None:
    """The same kernel socket under a new descriptor, which the caller must close. None: it was closed in between."""
    try:
        copied = os.dup(descriptor)
    except OSError:
        return None
    try:
        connection = socket.socket(fileno=copied)
    except OSError:  # the number is another file's now, perhaps of one that is locked as long as it is open
        os.close(copied)
        return None
    if os.fstat(connection.fileno()).st_ino == inode:
        return connection
    connection.close()  # the descriptor was closed and given to another socket in between
    return None


def own_sockets(*, local_port: int | None = None, peer_port: int | None = None) -> list[socket.socket]:
    """This process's established TCP connections with those ports.

    Each is the same kernel socket under a new descriptor, which the caller must close.
    """
    found = []
    for inode, numbers in descriptors().items():
        connection = duplicate(inode, numbers[0])
        if connection is not None:
            ports = _ports(connection)
            if ports and local_port in (None, ports[0]) and peer_port in (None, ports[1]):
                found.append(connection)
            else:
                connection.close()
    return found


def _ports(connection: socket.socket) -> tuple[int, int] | None:
    """Own port and the peer's; None where it is no TCP socket, or not connected."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return None
    try:
        return connection.getsockname()[1], connection.getpeername()[1]
    except OSError:
        return None


def watch_peer(connection: socket.socket) -> None:
    """Let the kernel break the connection when the peer has been silent for :data:`PEER_TIMEOUT_S`.

    Silent means that its kernel answers neither data nor probes; a peer that is merely busy is not silent.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
    for option, value in (
        (idle, PEER_TIMEOUT_S // 2),
        (getattr(socket, "TCP_KEEPINTVL", None), PEER_TIMEOUT_S // 4),
        (getattr(socket, "TCP_KEEPCNT", None), 2),
        (getattr(socket, "TCP_USER_TIMEOUT", None), PEER_TIMEOUT_S * 1000),  # the same for data without an answer
    ):
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class SocketMeter:
    """Counts the bytes of a client's connections to one address, one connection after the other.

    Call :meth:`snapshot` before connecting, :meth:`attach` afterwards, and :meth:`release` when done.

    Args:
        host: name or address of the peer. Connections of this process to the same port of others are not ours.
        port: the peer's.
    """

    _claiming: ClassVar[threading.Lock] = threading.Lock()
    _counted: ClassVar[set[int]] = set()  # inodes of the sockets that any meter counts: each has one

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._sockets: dict[int, socket.socket] = {}  # inode -> a duplicate
        self._others: set[int] = set()
        self._closed_up = 0
        self._closed_down = 0

    def snapshot(self) -> None:
        """Remember which connections to the port are not ours."""
        self._others.clear()
        for connection in own_sockets(peer_port=self._port):
            with connection:
                self._others.add(_inode(connection))

    def attach(self) -> None:
        """Count, and watch over, the connections that were made since the snapshot."""
        with self._claiming:
            for connection in own_sockets(peer_port=self._port):
                inode = _inode(connection)
                if inode in self._others or inode in self._counted or not self._leads_to_peer(connection):
                    self._others.add(inode)
                    connection.close()
                else:
                    watch_peer(connection)
                    self._sockets[inode] = connection
                    self._counted.add(inode)

    def _leads_to_peer(self, connection: socket.socket) -> bool:
        """Whether the host is at the other end. Where its name cannot be looked up now, the port alone decides."""
        try:
            there = connection.getpeername()
        except OSError:  # closed in between
            return False
        try:
            found = socket.getaddrinfo(self._host, None)
        except OSError:
            return True
        hosts = {address_of((str(address[0]), 0))[0] for *_, address in found}
        return address_of(there)[0] in hosts or any(ipaddress.ip_address(host).is_unspecified for host in hosts)

    def shutdown(self) -> None:
        """Break the connections. Threads that wait on them, here or at the peer, get an error."""
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):  # the peer may be faster
                connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Keep the counts of the connections and close them."""
        for connection in self._sockets.values():
            up, down = byte_counts(connection)
            self._closed_up += up
            self._closed_down += down
            connection.close()
        self._counted.difference_update(self._sockets)
        self._sockets.clear()

    def counts(self) -> tuple[int, int] | None:
        """Bytes (up, down) over all connections so far, or None where the kernel does not tell."""
        if sys.platform != "linux":
            return None
        open_counts = [byte_counts(connection) for connection in self._sockets.values()]
        return self._closed_up + sum(up for up, _ in open_counts), self._closed_down + sum(d for _, d in open_counts)


def _inode(connection: socket.socket) -> int:
    return os.fstat(connection.fileno()).st_ino


def byte_counts(connection: socket.socket) -> tuple[int, int]:
    """Bytes (sent, received) over a connection; zeros where the kernel does not tell."""
    if sys.platform != "linux":
        return 0, 0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent_at = _BYTES_SENT if len(info) >= _BYTES_SENT + 8 else _BYTES_ACKED
    (sent,) = struct.unpack_from("=Q", info, sent_at)
    (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
    return sent, received
