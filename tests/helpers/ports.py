"""Ports of this machine at which nobody listens, and which no other program gets meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["held_port", "hold_port"]


def hold_port() -> socket.socket:
    """A socket that is bound to a free port, and does not listen: the port is not given to others until it is closed.

    Connections to the port are refused. Who is told its number can listen there, and can do so again later: two sockets
    may have one port where both allow it (``SO_REUSEADDR``, as servers do) and one of them listens. A port that was
    only free a moment ago may be another test's by now.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """The number of a port that is held while the block runs."""
    with hold_port() as held:
        yield held.getsockname()[1]
