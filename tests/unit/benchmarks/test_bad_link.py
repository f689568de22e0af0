"""The proxy's rate: no byte arrives sooner than the rate allows, and none is lost."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from bad_link import BadLink, Disturbance


@pytest.mark.parametrize("way", ["up", "down"])
def test_nothing_arrives_sooner_than_the_rate_allows(way: str) -> None:
    data, rate = bytes(range(250)) * 200, 100_000.0
    there, proxy = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    link = BadLink(proxy, there.getsockname(), Disturbance(**{way: rate}), seed=0)
    threading.Thread(target=link.run, daemon=True).start()
    here = socket.create_connection(proxy.getsockname(), timeout=20)
    far, _ = there.accept()
    source, sink = (here, far) if way == "up" else (far, here)
    begun, got = time.monotonic(), b""
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    while len(got) < len(data):
        got += sink.recv(1 << 16)
    seconds = time.monotonic() - begun
    sender.join()
    for each in (here, far, there):
        each.close()
    assert got == data
    assert seconds >= 0.95 * len(data) / rate
