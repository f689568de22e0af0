from __future__ import annotations

import errno
import os
import resource
import select
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from smartedge.wire.connections import Connections, room_for
from smartedge.wire.sockets import descriptors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at descriptors as Linux shows them")


class Server:
    """Accepts connections, as gRPC does for a receiver."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.sockets: list[socket.socket] = [self.listening]

    def connect(self, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(host, 0))
        accepted, _ = self.listening.accept()
        accepted.settimeout(10)
        self.sockets += [client, accepted]
        return client, accepted


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    for each in made.sockets:
        each.close()


def watch(server: Server, **limits: float) -> Connections:
    wide = {"most": 100, "most_per_host": 100, "most_per_edge": 100, "unproven_s": 1000.0}
    return Connections(server.port, **{**wide, **limits})


def none_to_spare() -> dict[int, list[int]]:
    raise OSError(errno.EMFILE, "too many open files")


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_the_oldest_that_has_not_proved_who_it_is_gives_way(server: Server) -> None:
    connections = watch(server, most=3)
    clients = []
    for number in range(5):
        clients.append(server.connect()[0])
        if number == 0:
            connections.prove(clients[0].getsockname(), "edge")
        connections.look()
    assert [is_open(client) for client in clients] == [True, False, False, True, True]
    connections.close()
    assert not any(map(is_open, clients))


def test_a_host_has_a_share(server: Server) -> None:
    connections = watch(server, most_per_host=2)
    mine = [server.connect()[0] for _ in range(3)]
    connections.look()
    other = server.connect("127.0.0.2")[0]
    connections.look()
    assert [is_open(client) for client in [*mine, other]] == [False, True, True, True]
    connections.close()


def test_edges_behind_one_address_take_nothing_from_each_other(server: Server) -> None:
    connections = watch(server, most_per_host=2)
    edges = [server.connect()[0] for _ in range(5)]
    for number, client in enumerate(edges):
        connections.prove(client.getsockname(), f"edge{number}")
    strangers = [server.connect()[0] for _ in range(3)]
    connections.look()
    assert [is_open(client) for client in [*edges, *strangers]] == [True] * 5 + [False, True, True]
    connections.close()


def test_an_edge_has_a_few_connections_and_keeps_its_oldest_ones(server: Server) -> None:
    connections = watch(server, most_per_edge=2)
    mine, other = [server.connect()[0] for _ in range(3)], server.connect()[0]
    mine[2].sendall(b"seven b")
    for client, edge in zip([*mine, other], ["a", "a", "a", "b"], strict=True):
        connections.prove(client.getsockname(), edge)
    connections.look()
    assert [is_open(client) for client in [*mine, other]] == [True, True, False, True]
    assert connections.counters()["a"].up == 7, "bytes of a closed connection stay counted"
    connections.close()


def test_connections_that_have_ended_are_none_of_the_few(server: Server) -> None:
    """An edge that lost several connections since the last look keeps the one that it has now."""
    connections = watch(server, most_per_edge=2)
    for _ in range(3):
        client, accepted = server.connect()
        connections.prove(client.getsockname(), "edge")
        accepted.close()
    newest, _ = server.connect()
    connections.prove(newest.getsockname(), "edge")
    connections.look()
    assert is_open(newest)
    connections.close()


def test_behind_a_proxy_a_connection_is_nobodys_own(server: Server) -> None:
    """A proxy uses the connections that one sender began for others, too: nobody may make them useless."""
    connections = watch(server, most_per_edge=1, shared=True)
    first, second = server.connect()[0], server.connect()[0]
    for client in (first, second):  # edge b uses the second one by now
        connections.prove(client.getsockname(), "a")
    stranger, accepted = server.connect()
    stranger.sendall(bytes(70_000))
    while len(accepted.recv(100_000, socket.MSG_PEEK)) < 70_000:
        pass
    connections.look()
    assert is_open(first) and is_open(second)
    assert select.select([accepted], [], [], 0)[0], "an edge's call may come on it"
    connections.close()


def test_who_proves_nothing_is_closed_in_time(server: Server) -> None:
    connections = watch(server, unproven_s=0.0)
    first, second = server.connect()[0], server.connect()[0]
    connections.prove(second.getsockname(), "edge")
    connections.look()
    assert not is_open(first) and is_open(second)
    connections.close()


def test_who_sends_much_without_proving_anything_is_not_read_from_until_it_does(server: Server) -> None:
    connections = watch(server)
    pairs = [server.connect() for _ in range(2)]
    for (client, accepted), size in zip(pairs, (70_000, 60_000), strict=True):
        client.sendall(bytes(size))
        while len(accepted.recv(100_000, socket.MSG_PEEK)) < size:
            pass

    def readable() -> list[bool]:
        return [bool(select.select([accepted], [], [], 0)[0]) for _, accepted in pairs]

    assert readable() == [True, True]
    connections.look()
    assert readable() == [False, True]
    connections.look()
    connections.prove(pairs[0][0].getsockname(), "edge")
    assert readable() == [True, True]
    pairs[0][0].sendall(bytes(10_000))
    connections.look()
    assert readable() == [True, True], "an edge may send what it likes"
    left = 80_000
    while left:
        left -= len(pairs[0][1].recv(left))
    assert readable() == [False, True]
    pairs[0][0].sendall(b"1")
    assert select.select([pairs[0][1]], [], [], 10)[0], "a single byte is heard"
    connections.close()


def test_bytes_are_counted_by_edge_over_all_its_connections(server: Server) -> None:
    connections = watch(server)
    clients = {}
    for edge, size in (("a", 1000), ("b", 50), ("a", 200)):
        client, accepted = server.connect()
        clients[edge] = client
        connections.prove(client.getsockname(), edge)
        client.sendall(bytes(size))
        while size:
            size -= len(accepted.recv(size))
        connections.look()
        accepted.sendall(b"four")
        assert client.recv(4) == b"four"
        if edge == "a":
            accepted.close()
            connections.look()
    found = connections.counters()
    assert {edge: (count.up, count.down, count.source) for edge, count in found.items()} == {
        "a": (1200, 8, "kernel tcp_info"),
        "b": (50, 4, "kernel tcp_info"),
    }
    connections.prove(clients["b"].getsockname(), "c")
    assert connections.counters() == found, "a connection belongs to the edge that was the first to prove itself"
    connections.close()
    assert connections.counters() == found


def test_strangers_that_come_again_and_again_cost_no_look_of_their_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at all descriptors for each new connection took a quarter of the receiver's time under a flood."""
    looks = []
    monkeypatch.setattr("smartedge.wire.connections.descriptors", lambda: looks.append(1) or descriptors())
    connections = watch(server, unproven_s=0.0)
    clients = [server.connect()[0] for _ in range(3)]
    for number, client in enumerate(clients):
        connections.prove(client.getsockname(), f"edge{number}")
        connections.prove(client.getsockname(), "another")
    assert not looks and not connections.counters()
    connections.find(clients[1].getsockname())
    assert len(looks) == 1 and set(connections.counters()) == {"edge0", "edge1", "edge2"}
    connections.find(clients[2].getsockname())
    gone = server.connect()
    connections.prove(gone[0].getsockname(), "gone")
    for each in gone:
        each.close()
    connections.look()
    assert len(looks) == 2 and not connections._proofs and all(map(is_open, clients))
    connections.prove(clients[0].getsockname(), "edge0")
    connections.prove(("127.0.0.1", 9), "edge9")
    with monkeypatch.context() as full:
        full.setattr("smartedge.wire.connections.descriptors", none_to_spare)
        connections.find(("127.0.0.1", 9))
    assert set(connections.counters()) == {"edge0", "edge1", "edge2"}
    connections.close()


def test_what_is_known_of_connections_that_have_ended_is_forgotten(server: Server) -> None:
    """Else the memory grows, and a new socket of the same number would be taken for the old one."""
    connections = watch(server)
    made: set[int] = set()
    for prove in (False, True, False, True):
        client, accepted = server.connect()
        made |= {os.fstat(each.fileno()).st_ino for each in (client, accepted)}
        connections.look()
        assert made & connections._known.keys()
        if prove:
            connections.prove(client.getsockname(), "edge")
        for each in (client, accepted):
            each.close()
        connections.look()
    connections.look()
    assert not made & connections._known.keys() and not connections._inodes
    strict = watch(server, unproven_s=0.0)
    client, _ = server.connect()
    strict.look()
    assert not is_open(client) and not strict._inodes, "nor is what was broken off kept by its peer"


def test_a_process_that_has_no_descriptor_to_spare_looks_at_its_connections_again_later(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connections = watch(server, unproven_s=0.0)
    client, _ = server.connect()
    with monkeypatch.context() as full:
        full.setattr("smartedge.wire.connections.descriptors", none_to_spare)
        for _ in range(2):
            connections.look()
            assert is_open(client) and caplog.text.count("cannot look at its connections") == 1
    connections.look()
    assert not is_open(client)
    monkeypatch.setattr("smartedge.wire.connections.descriptors", none_to_spare)
    connections.look()
    assert caplog.text.count("cannot look at its connections") == 2, "it is another time"


def test_a_connection_that_its_owner_closes_is_closed(server: Server) -> None:
    connections = watch(server)
    client, accepted = server.connect()
    connections.prove(client.getsockname(), "edge")
    connections.look()
    accepted.close()
    assert is_open(client), "our own descriptor still holds it"
    connections.look()
    assert not is_open(client)


def test_sockets_of_others_are_left_alone(server: Server) -> None:
    other = Server()
    client, _ = other.connect()
    connections = watch(server, most=0)
    one, two = socket.socketpair()  # of another family: it has no port
    connections.look()
    one.sendall(b"here")
    assert is_open(client) and two.recv(4) == b"here"
    other.sockets += [one, two]
    for each in other.sockets:
        each.close()


def test_as_many_connections_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    files = {resource.RLIMIT_NOFILE: limits}
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(files[which]))
    monkeypatch.setattr(resource, "setrlimit", lambda which, given: files[which].__setitem__(slice(None), given))
    assert room_for(100) == 100 and limits == [1024, 4096]
    assert room_for(200) == 200 and limits == [1256, 4096]  # five for each, and 256
    assert room_for(1024) == 768 and limits == [4096, 4096]
    infinite = resource.RLIM_INFINITY
    for given, found in (([infinite, infinite], [infinite, infinite]), ([1024, infinite], [5376, infinite])):
        limits[:] = given
        assert room_for(1024) == 1024 and limits == found
    limits[:] = [100, 100]
    assert room_for(1024) == 16, "it serves a few all the same"
    for error in (ValueError("not allowed"), PermissionError(1, "not allowed")):
        limits[:] = [1024, 4096]
        monkeypatch.setattr(resource, "setrlimit", refusing(error))
        assert room_for(1024) == 153, "a system that allows less than it says"


def refusing(error: Exception) -> Callable[..., None]:
    def setrlimit(*_: object) -> None:
        raise error

    return setrlimit
