"""Hosts and ports: as people and settings write them, as gRPC does, and as the system does."""

from __future__ import annotations

import errno
import ipaddress
import socket

from smartedge.errors import LinkError

__all__ = [
    "Address",
    "address_of",
    "address_of_peer",
    "is_loopback",
    "location_of",
    "refuse_if_taken",
    "split_location",
]

Address = tuple[str, int]  # host and port


def split_location(location: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        LinkError: it has another form.
    """
    host, _, port = location.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise LinkError(f"the cloud's location must be HOST:PORT, as in 192.168.0.7:8815, got {location!r}")
    return host.strip("[]"), int(port)


def location_of(host: str, port: int) -> str:
    """``host:port`` as :func:`split_location` takes it: an address of IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refuse_if_taken(host: str, port: int) -> None:
    """Look whether a program could listen there. Port 0 is any free one.

    Raises:
        LinkError: another one does, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise LinkError(
                    f"cannot listen on {location_of(host, port)} ({error.strerror}); is the port taken, and the "
                    "address this machine's?"
                ) from error


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """Host and port of a socket's end. A host of IPv4 has one form, also where the socket is of IPv6."""
    host = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped:
        host = host.ipv4_mapped
    return str(host), address[1]


def address_of_peer(peer: str) -> Address:
    """Host and port of gRPC's name of a peer, such as ipv4:127.0.0.1:4711 or ipv6:[::1]:4711."""
    host, _, port = peer.partition(":")[2].rpartition(":")
    return address_of((host.strip("[]"), int(port)))
