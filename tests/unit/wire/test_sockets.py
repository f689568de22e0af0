from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from smartedge.locks import lock, lock_at_once, open_lock
from smartedge.wire.sockets import (
    PEER_TIMEOUT_S,
    SocketMeter,
    byte_counts,
    descriptors,
    duplicate,
    own_sockets,
    watch_peer,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the bytes of a socket")


class Pair(NamedTuple):
    """A connection within this process."""

    client: socket.socket
    server: socket.socket


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connect(listener: socket.socket) -> Pair:
    client = socket.create_connection(listener.getsockname(), timeout=10)
    server, _ = listener.accept()
    server.settimeout(10)
    return Pair(client, server)


def transfer(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send and wait until all has arrived, and the acknowledgement with it."""
    remaining = size
    while remaining:
        chunk = min(remaining, 20_000)
        sender.sendall(bytes(chunk))
        remaining -= chunk
        while chunk:
            chunk -= len(receiver.recv(chunk))


@linux
def test_counts_what_passes_and_only_on_its_own_connections(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    meter = SocketMeter("localhost", port)
    other = connect(listener)
    meter.snapshot()
    assert meter.counts() == (0, 0)
    first = connect(listener)
    meter.attach()
    transfer(*other, 1000)
    transfer(*first, 100_000)
    transfer(first.server, first.client, 777)
    assert meter.counts() == (100_000, 777)
    first.client.close()
    meter.release()
    assert meter.counts() == (100_000, 777)
    meter.snapshot()
    second = connect(listener)
    meter.attach()
    transfer(*second, 50)
    assert meter.counts() == (100_050, 777)
    meter.release()
    for connection in (*other, *second, first.server):
        connection.close()


@linux
def test_connections_to_another_host_and_those_of_another_link_are_not_counted_nor_broken(
    listener: socket.socket,
) -> None:
    """The whole process may have others: to the same port of another host, or by a second link to the same one."""
    port = listener.getsockname()[1]
    meter, second = SocketMeter("127.0.0.1", port), SocketMeter("127.0.0.1", port)
    with socket.create_server(("127.0.0.2", port)) as elsewhere:
        meter.snapshot()
        second.snapshot()
        own, other = connect(listener), connect(elsewhere)
        meter.attach()
        second.attach()
        transfer(*own, 1000)
        transfer(*other, 50_000)
        assert (meter.counts(), second.counts()) == ((1000, 0), (0, 0))
        meter.shutdown()
        second.shutdown()
        assert own.server.recv(1) == b""
        transfer(*other, 10)
        meter.release()
        assert not SocketMeter._counted
        for connection in (*own, *other):
            connection.close()


@linux
def test_where_a_name_cannot_be_looked_up_the_port_decides(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for host, looked_up in (("0.0.0.0", socket.getaddrinfo), ("cloud.example", fail)):
        meter = SocketMeter(host, listener.getsockname()[1])
        meter.snapshot()
        pair = connect(listener)
        with monkeypatch.context() as names:
            names.setattr(socket, "getaddrinfo", looked_up)
            meter.attach()
        transfer(*pair, 1000)
        assert meter.counts() == (1000, 0)
        meter.release()
        for connection in pair:
            connection.close()


def test_shutdown_wakes_the_peer(listener: socket.socket) -> None:
    meter = SocketMeter("127.0.0.1", listener.getsockname()[1])
    meter.snapshot()
    client, server = connect(listener)
    meter.attach()
    meter.shutdown()
    assert server.recv(1) == b""
    meter.shutdown()
    meter.release()
    client.close()
    server.close()


def test_own_sockets_are_found_by_either_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    client, server = connect(listener)
    for found, expected in ((own_sockets(peer_port=port), client), (own_sockets(local_port=port), server)):
        assert [each.getsockname() for each in found] == [expected.getsockname()]
        for each in found:
            each.close()
    client.close()
    server.close()


def test_looking_for_sockets_leaves_none_open_and_takes_no_others(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    client, server = connect(listener)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect(listener.getsockname())
    mine = [os.fstat(each.fileno()).st_ino for each in (listener, client, server, datagrams)]

    def open_here() -> list[int]:
        """How many descriptors each of these sockets has. What other threads of this process open does not count."""
        found = descriptors()
        return [len(found[inode]) for inode in mine]

    before = open_here()
    assert own_sockets(peer_port=port, local_port=1) == []
    assert duplicate(0, client.fileno()) is None, "the number belongs to another socket by now"
    assert duplicate(0, -1) is None
    assert open_here() == before
    found = own_sockets(peer_port=port)
    assert [each.getsockname() for each in found] == [client.getsockname()], "and no datagram socket"
    for each in (*found, client, server, datagrams):
        each.close()


@linux
def test_a_silent_peer_is_given_up_after_the_timeout_stated(listener: socket.socket) -> None:
    client, server = connect(listener)
    watch_peer(client)
    get = client.getsockopt
    assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle, interval, count, user = (
        get(socket.IPPROTO_TCP, getattr(socket, name))
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    )
    assert idle + interval * count <= PEER_TIMEOUT_S and user == 1000 * PEER_TIMEOUT_S
    assert (idle, interval, count) == (10, 5, 2)
    client.close()
    server.close()


def test_where_the_time_to_the_first_probe_has_another_name_it_is_set_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: TCP_KEEPALIVE, and no TCP_KEEPIDLE."""
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
        monkeypatch.delattr(socket, name, raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 0x10, raising=False)
    options: list[tuple[int, int, int]] = []

    class Connection:
        def setsockopt(self, level: int, option: int, value: int) -> None:
            options.append((level, option, value))

    watch_peer(Connection())  # type: ignore[arg-type]
    probing = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert options == [probing, (socket.IPPROTO_TCP, 0x10, PEER_TIMEOUT_S // 2)]
    monkeypatch.delattr(socket, "TCP_KEEPALIVE")
    options.clear()
    watch_peer(Connection())  # type: ignore[arg-type]
    assert options == [probing], "with the times that the system has"


@pytest.mark.parametrize(("size", "sent"), [(256, 7), (208, 7), (207, 5)], ids=str)
def test_a_kernel_that_does_not_count_what_was_sent_says_what_was_acknowledged(
    size: int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux counts the former since 4.19. Elsewhere nothing is told."""

    class Connection:
        def getsockopt(self, level: int, option: int, most: int) -> bytes:
            assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
            info = bytearray(256)
            info[120], info[128], info[200] = 5, 6, 7  # bytes acknowledged, received, sent
            return bytes(info[: min(size, most)])

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(socket, "TCP_INFO", 11, raising=False)
    assert byte_counts(Connection()) == (sent, 6)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert byte_counts(Connection()) == (0, 0)  # type: ignore[arg-type]
    assert SocketMeter("127.0.0.1", 9).counts() is None


def test_no_copy_of_another_file_stays_open(tmp_path: Path) -> None:
    """A lock is held as long as a copy of its descriptor is open."""
    file = open_lock(tmp_path / "lock")
    lock(file)
    assert duplicate(os.fstat(file).st_ino, file) is None
    os.close(file)
    other = open_lock(tmp_path / "lock")
    assert lock_at_once(other)
    os.close(other)
