"""Bytes at the socket, as the kernel counted them, and how soon the kernel notices that a peer is gone.

gRPC, on which Arrow Flight is built, shows neither its sockets nor its counters, and pyarrow cannot set its keepalive.
But the sockets are this process's own: psutil finds them by their ports, and a duplicate of the file descriptor
reaches the same kernel socket.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
from dataclasses import dataclass

import psutil

__all__ = ["PEER_TIMEOUT_S", "ByteCount", "SocketMeter", "is_loopback", "own_sockets", "watch_peer"]

PEER_TIMEOUT_S = 20  # a peer that is suddenly gone (power, cable) is noticed within this time

# Offsets in Linux's struct tcp_info.
_BYTES_ACKED = 120  # since Linux 4.1
_BYTES_RECEIVED = 128
_BYTES_SENT = 200  # since Linux 4.19


@dataclass(frozen=True)
class ByteCount:
    """Bytes since the link was made, over all its connections.

    ``source`` is ``"kernel tcp_info"`` where the kernel counted what passed through the TCP socket: everything above
    TCP (TLS, HTTP/2, gRPC, Arrow), and retransmissions in ``up``, but not the headers of TCP and IP. It is
    ``"payload"`` where only Arrow messages and stream headers were counted, without gRPC, TLS and TCP.
    """

    up: int
    down: int
    source: str


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def own_sockets(*, local_port: int | None = None, peer_port: int | None = None) -> list[socket.socket]:
    """This process's established TCP connections with those ports.

    Each is the same kernel socket under a new descriptor, which the caller must close.
    """
    found = []
    for connection in psutil.Process().net_connections(kind="tcp"):
        if connection.status != psutil.CONN_ESTABLISHED:
            continue
        ports = (connection.laddr.port, connection.raddr.port)
        if local_port in (None, ports[0]) and peer_port in (None, ports[1]):
            try:
                duplicate = socket.socket(fileno=os.dup(connection.fd))
                if _ports(duplicate) == ports:
                    found.append(duplicate)
                else:
                    duplicate.close()  # the descriptor was closed and given to another one in between
            except OSError:  # closed in between
                continue
    return found


def _ports(connection: socket.socket) -> tuple[int, int]:
    return connection.getsockname()[1], connection.getpeername()[1]


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
    """Counts the bytes of a client's connections to one port, one connection after the other.

    Call :meth:`snapshot` before connecting, :meth:`attach` afterwards, and :meth:`release` when done.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self._known: set[tuple[int, int]] = set()
        self._closed_up = 0
        self._closed_down = 0

    def snapshot(self) -> None:
        """Remember which connections to the port are not ours."""
        self._known.clear()
        for connection in own_sockets(peer_port=self._port):
            with connection:
                self._known.add(_ports(connection))

    def attach(self) -> None:
        """Count, and watch over, the connections that were made since the snapshot."""
        for connection in own_sockets(peer_port=self._port):
            if _ports(connection) in self._known:
                connection.close()
            else:
                self._known.add(_ports(connection))
                watch_peer(connection)
                self._sockets.append(connection)

    def shutdown(self) -> None:
        """Break the connections. Threads that wait on them, here or at the peer, get an error."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # the peer may be faster
                connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Keep the counts of the connections and close them."""
        for connection in self._sockets:
            up, down = _tcp_info(connection)
            self._closed_up += up
            self._closed_down += down
            connection.close()
        self._sockets.clear()

    def counts(self) -> tuple[int, int] | None:
        """Bytes (up, down) over all connections so far, or None where the kernel does not tell."""
        if sys.platform != "linux":
            return None
        open_counts = [_tcp_info(connection) for connection in self._sockets]
        return self._closed_up + sum(up for up, _ in open_counts), self._closed_down + sum(d for _, d in open_counts)


def _tcp_info(connection: socket.socket) -> tuple[int, int]:
    """Bytes (sent, received) over a connection; zeros where the kernel does not tell."""
    if sys.platform != "linux":
        return 0, 0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent_at = _BYTES_SENT if len(info) >= _BYTES_SENT + 8 else _BYTES_ACKED
    (sent,) = struct.unpack_from("=Q", info, sent_at)
    (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
    return sent, received
