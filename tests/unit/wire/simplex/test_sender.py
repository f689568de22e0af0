"""What the one-way link's sender puts into datagrams, and when; by a clock of the test's own."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.wire.simplex.conftest import frame_of, header_of

from smartedge.errors import LinkError
from smartedge.wire.simplex import sender
from smartedge.wire.simplex.blocks import CONTENT_BYTES, Assembler, Block, unpack_block
from smartedge.wire.simplex.sender import SimplexLink


class Plain:
    """In the place of a sealer: it encrypts nothing, and keeps the contents by their counters."""

    def __init__(self) -> None:
        self.counter = 100
        self.contents: list[bytes] = []

    def seal(self, content: bytes) -> bytes:
        self.counter += 1
        self.contents.append(content)
        return content

    def blocks(self) -> list[Block]:
        assembler = Assembler()
        return [unpack_block(data) for content in self.contents for data in assembler.add(content)]


class Waits(threading.Event):
    """Lets the clock go on by what is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.waited = 1000.0, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(round(timeout or 0.0, 6))
        self.now += timeout or 0.0
        return self.is_set()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where datagrams may go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def sealer() -> Plain:
    return Plain()


def link_over(
    sealer: Any, where: str, monkeypatch: pytest.MonkeyPatch, *, rate: float = 1e12
) -> tuple[SimplexLink, Waits]:
    link, waits = SimplexLink(where, sealer, rate_bits_s=rate, loss=0.0), Waits()
    monkeypatch.setattr(link, "_stopped", waits)
    monkeypatch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: waits.now))
    return link, waits


def test_frames_are_gathered_and_the_end_is_sent_three_times(
    sealer: Plain, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, waits = link_over(sealer, nobody, monkeypatch)
    header, frames = header_of(5, joined=2), [frame_of(seq) for seq in range(5)]
    assert link.open(header) == 0
    sent = []
    for frame in frames:
        link.write(frame)
        sent.append(link.confirmed())
    link.flush()
    link.flush()
    sent.append(link.confirmed())
    link.close()
    assert sent == [0, 2, 2, 4, 4, 5]
    end = Block(header, (), ends=True)
    pairs = [frames[:2], frames[2:4], frames[4:]]
    assert sealer.blocks() == [*(Block(header, tuple(pair), ends=False) for pair in pairs), end, end, end]
    assert [wait for wait in waits.waited if wait >= 0.01] == [0.1, 0.1], "a burst of losses may swallow one"
    numbers = sorted({int.from_bytes(content[:8], "big") for content in sealer.contents})
    first = [100 + at for at, content in enumerate(sealer.contents) if content[:8] != sealer.contents[at - 1][:8]]
    assert numbers == first, "a block has the counter of its first datagram as its number"
    assert link.counters().up == len(sealer.contents) * CONTENT_BYTES
    link.disconnect()


def test_datagrams_keep_to_the_rate_and_what_was_not_sent_is_no_credit(
    sealer: Plain, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 000 bytes a second, with the 28 bytes of UDP and IP around each datagram."""
    link, waits = link_over(sealer, nobody, monkeypatch, rate=8000.0)
    each = (CONTENT_BYTES + 28) / 1000
    link.open(header_of(2))
    for seq in range(2):
        waits.waited.clear()
        link.write(frame_of(seq))
        assert len(waits.waited) > 4
        assert waits.waited == pytest.approx([0, 0, *[each] * (len(waits.waited) - 2)])
        waits.now += 3600.0
    link.disconnect()


def test_what_the_network_says_is_told_unless_nobody_listens(
    sealer: Plain, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Socket:
        fails: OSError | None = None
        closed = 0

        def send(self, datagram: bytes) -> None:
            if self.fails is not None:
                raise self.fails

        def close(self) -> None:
            self.closed += 1

    link, _ = link_over(sealer, nobody, monkeypatch)
    played: Any = Socket()
    monkeypatch.setattr(link, "_connect", lambda before: played)
    link.open(header_of(9))
    link.write(frame_of(0))
    before = link.counters().up
    assert before > 0
    played.fails = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    link.write(frame_of(1))
    assert link.counters().up > before and link.confirmed() == 2
    for error, said in (
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
        (OSError("x"), "x"),
    ):
        played.fails = error
        with pytest.raises(LinkError, match=f"^one-way link to {nobody}: {said}$"):
            link.write(frame_of(2))
        assert link.open(header_of(9)) == 2, "the stream is opened again, and goes on at the frame that was lost"
    played.fails = None
    link.write(frame_of(2))
    assert link.confirmed() == 3
    link.disconnect()
    assert played.closed == 3


def test_a_name_that_cannot_be_looked_up_is_told(sealer: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    link, _ = link_over(sealer, "cloud.invalid:9", monkeypatch)

    def fail(*given: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(LinkError, match=r"^one-way link to cloud\.invalid:9: Name or service not known$"):
        link.open(header_of(1))
    with pytest.raises(LinkError, match=r"^one-way link to cloud\.invalid:9: no stream is open"):
        link.write(frame_of(0))


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
def test_routers_may_divide_datagrams_of_ipv4(sealer: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a link of 576 bytes on the way drops all of them; its router's word does not come where nothing does."""
    link, _ = link_over(sealer, "127.0.0.1:9", monkeypatch)
    link.open(header_of(1))
    assert link._socket is not None and link._socket.getsockopt(socket.IPPROTO_IP, 10) == 0
    link.disconnect()


def test_one_stream_at_a_time(sealer: Plain, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link, _ = link_over(sealer, nobody, monkeypatch)
    link.open(header_of(1))
    with pytest.raises(LinkError, match=f"^one-way link to {nobody}: a stream is open already"):
        link.open(header_of(1))
    link.disconnect()
    for call in (link.close, link.flush, lambda: link.write(frame_of(0))):
        with pytest.raises(LinkError, match=f"^one-way link to {nobody}: no stream is open"):
            call()
    with pytest.raises(LinkError, match=f"^one-way link to {nobody}: disconnected$"):
        link._pause(0.0)


def test_a_block_is_sent_when_64_kib_are_gathered_whatever_was_sent_before(
    sealer: Plain, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = link_over(sealer, nobody, monkeypatch)
    link.open(header_of(100, joined=100))
    head = len(frame_of(0).head)
    for seq, missing in ((0, 0), (2, 1), (4, 1), (6, 0)):
        before = link.counters().up
        link.write(frame_of(seq, 1000))
        link.write(frame_of(seq + 1, 2**16 - 1000 - 2 * head - missing))
        assert (link.counters().up > before) == (not missing)
        link.flush()
    link.disconnect()
