"""Datagrams of anybody, and of an edge that was stolen: nothing lasting, no memory, and later streams arrive whole."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.wire.simplex.conftest import KEYS, Kept, frame_of, header_of

from smartedge.wire.simplex import blocks
from smartedge.wire.simplex.blocks import CONTENT_BYTES, Block, pack_block, split_block
from smartedge.wire.simplex.receiver import SimplexReceiver
from smartedge.wire.simplex.seal import OVERHEAD, Sealer
from smartedge.wire.simplex.sender import SimplexLink

WAIT_S = 20.0

Say = Callable[[bytes], None]


@pytest.fixture
def say(receiver: SimplexReceiver) -> Iterator[Say]:
    """Sends a datagram to the receiver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        yield lambda datagram: sending.sendto(datagram, ("127.0.0.1", receiver.port)) and None


def arrives(kept: Kept, receiver: SimplexReceiver, sealer: Sealer) -> None:
    """A stream of cam-1 comes whole, and nothing else has come."""
    link = SimplexLink(f"127.0.0.1:{receiver.port}", sealer, rate_bits_s=1e9, loss=0.3)
    link.open(header_of(2))
    for seq in range(2):
        link.write(frame_of(seq))
    link.close()
    link.disconnect()
    assert kept.ended.acquire(timeout=WAIT_S)
    frames = [("frame", "cam-1", 0), ("frame", "cam-1", 1)]
    assert kept.events == [("accept", "cam-1", 0), *frames, ("finish", "cam-1")]


def test_what_strangers_send_leaves_nothing(kept: Kept, receiver: SimplexReceiver, say: Say, tmp_path: Path) -> None:
    mine = Sealer("cam-1", KEYS["cam-1"], tmp_path / "cam-1.counter")
    drawn = random.Random(1)
    real = mine.seal(bytes(CONTENT_BYTES))
    stranger = Sealer("cam-1", bytes(32), tmp_path / "stranger.counter")
    other = Sealer("cam-2", KEYS["cam-1"], tmp_path / "other.counter")  # under a key that is another edge's
    head = struct.Struct(">B8sQ")
    version, number, _ = head.unpack_from(real)
    said = [b"", real[:1], real[:17], real[:-1], real + b"\0", bytes(65507), drawn.randbytes(65507)]
    said += [drawn.randbytes(drawn.randrange(3000)) for _ in range(300)]
    said += [head.pack(version, number, drawn.choice([0, 1, 2**63, 2**64 - 1])) + real[17:] for _ in range(100)]
    said += [seals.seal(drawn.randbytes(CONTENT_BYTES)) for seals in (stranger, other) for _ in range(100)]
    for _ in range(300):
        flipped = bytearray(real)
        flipped[drawn.randrange(len(real))] ^= 1 << drawn.randrange(8)
        said.append(bytes(flipped))
    for at in range(0, len(said), 50):
        for datagram in said[at : at + 50]:
            say(datagram)
    arrives(kept, receiver, mine)
    assert receiver.refused == len(said)
    assert set(receiver._edges) == {"cam-1"}


def test_what_a_stolen_edge_sends_ends_no_thread(
    kept: Kept, receiver: SimplexReceiver, say: Say, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A packet that named another part of its block ended the edge's thread, and the cloud could not end any more."""
    mine, drawn = Sealer("cam-1", KEYS["cam-1"], tmp_path / "cam-1.counter"), random.Random(2)
    content = blocks._CONTENT
    block = split_block(pack_block(Block(header_of(1, run="x"), (frame_of(0),), True)), 5, 0.0)
    for part in (0, 1, 2, 255):
        for symbol in (0, 1, 2**24 - 1):
            packet = bytes([part]) + symbol.to_bytes(3, "big") + drawn.randbytes(1176)
            for number, length in ((3, 1), (4, 5000), (mine.counter, 8 * 2**20), (0, 0), (9, 2**32 - 1)):
                say(mine.seal(content.pack(number, length) + packet))
    for _ in range(50):
        say(mine.seal(drawn.randbytes(CONTENT_BYTES)))
        mixed = bytearray(drawn.choice(block))
        mixed[drawn.randrange(len(mixed))] ^= 1 << drawn.randrange(8)
        say(mine.seal(bytes(mixed)))
        say(mine.seal(drawn.randbytes(drawn.randrange(100))))
    worker = receiver._edges
    kept.events.clear()
    while kept.ended.acquire(blocking=False):
        pass
    other = Sealer("cam-2", KEYS["cam-2"], tmp_path / "cam-2.counter")
    link = SimplexLink(f"127.0.0.1:{receiver.port}", other, rate_bits_s=1e9, loss=0.3)
    link.open(header_of(1))
    link.write(frame_of(0))
    link.close()
    link.disconnect()
    assert kept.ended.acquire(timeout=WAIT_S)
    assert ("finish", "cam-2") in kept.events
    assert all(edge._thread is not None and edge._thread.is_alive() for edge in worker.values())
    assert set(worker) == {"cam-1", "cam-2"}
    assert "panicked" not in capfd.readouterr().err


def test_a_datagram_of_another_size_is_not_even_opened(
    receiver: SimplexReceiver, say: Say, kept: Kept, tmp_path: Path
) -> None:
    """4 096 that wait for one edge would take 268 MB."""
    mine = Sealer("cam-1", KEYS["cam-1"], tmp_path / "cam-1.counter")
    long, opened = mine.seal(bytes(60_000)), []
    receiver._opener.open = lambda datagram: opened.append(len(datagram))  # type: ignore[method-assign,assignment]
    say(long)
    say(mine.seal(bytes(CONTENT_BYTES)))
    while receiver.refused < 2:
        pass
    assert opened == [OVERHEAD + CONTENT_BYTES]
