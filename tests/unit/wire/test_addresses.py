"""Hosts and ports, read and written."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest
from ports import held_port

from smartedge.errors import LinkError
from smartedge.wire.addresses import address_of, is_loopback, location_of, refuse_if_taken, split_location


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.parametrize(
    ("location", "found"),
    [("cloud.example:1", ("cloud.example", 1)), ("[::1]:65535", ("::1", 65535)), ("10.0.0.7:8815", ("10.0.0.7", 8815))],
)
def test_a_location_is_a_host_and_a_port(location: str, found: tuple[str, int]) -> None:
    assert split_location(location) == found
    assert location_of(*found) == location


@pytest.mark.parametrize(
    "location", ["cloud:0", "cloud:65536", "cloud:-1", "cloud:x", "cloud:", "cloud", ":8815", "http://cloud:80", ""]
)
def test_anything_else_is_no_location(location: str) -> None:
    with pytest.raises(LinkError, match="must be HOST:PORT"):
        split_location(location)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5)),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
        (("fe80::1%eth0", 5, 0, 2), ("fe80::1", 5)),
    ],
)
def test_a_host_has_one_name(address: tuple[str, int], found: tuple[str, int]) -> None:
    assert address_of(address) == found


def test_a_port_is_taken_while_somebody_listens_there(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    with pytest.raises(LinkError, match=rf"cannot listen on {host}:{port} \(.*is the port taken"):
        refuse_if_taken(host, port)
    with pytest.raises(LinkError, match="address this machine's"):
        refuse_if_taken("192.0.2.1", 0)  # reserved for documentation
    with held_port() as free:
        refuse_if_taken(host, free)
    refuse_if_taken("localhost", 0)
    if socket.has_ipv6:
        refused = pytest.raises(LinkError, match=r"cannot listen on \[::1\]:")
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other, refused:
            refuse_if_taken("::1", other.getsockname()[1])


@pytest.mark.parametrize(("code", "told"), [(errno.EACCES, True), (errno.EINVAL, False)])
def test_only_what_listening_itself_would_say_is_told_before(
    code: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Probe(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(code, "so it is")

    monkeypatch.setattr(socket, "socket", Probe)
    with pytest.raises(LinkError, match="so it is") if told else contextlib.nullcontext():
        refuse_if_taken("127.0.0.1", 80)
