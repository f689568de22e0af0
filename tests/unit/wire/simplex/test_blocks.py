"""Blocks: what is put together from some of its datagrams, and what memory that may take."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.unit.wire.simplex.conftest import header_of

from smartedge.errors import FrameError, LinkError
from smartedge.wire.frame import Message
from smartedge.wire.simplex import blocks
from smartedge.wire.simplex.blocks import (
    MAX_BLOCK_BYTES,
    Assembler,
    Block,
    datagrams_for,
    pack_block,
    split_block,
    unpack_block,
)

HEADER = header_of(9)


def data_of(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8).tobytes()


def test_a_block_comes_back_from_its_bytes() -> None:
    for messages in ((), (Message(b"h", b"payload"),), tuple(Message(b"", data_of(n)) for n in range(5))):
        for ends in (True, False):
            assert unpack_block(pack_block(Block(HEADER, messages, ends))) == Block(HEADER, messages, ends)


def test_no_part_of_a_block_is_taken_for_one() -> None:
    data = pack_block(Block(HEADER, (Message(b"head", b"payload"), Message(b"h", b"p")), False))
    whole = {len(pack_block(Block(HEADER, messages, False))) for messages in ((), (Message(b"head", b"payload"),))}
    for length in range(len(data)):
        if length not in whole:
            with pytest.raises(FrameError):
                unpack_block(data[:length])
    with pytest.raises(FrameError, match="no stream header"):
        unpack_block(b"\x07" + data[1:])


@pytest.mark.parametrize("length", [1, 1175, 1176, 1177, 70_000, 1_000_000])
def test_any_sufficient_part_of_the_datagrams_gives_the_block(length: int) -> None:
    data, loss = data_of(length), 0.2
    sent = split_block(data, 5, loss)
    symbols = -(-length // 1176)
    assert len(sent) == datagrams_for(symbols, loss)
    random.Random(length).shuffle(sent)
    assembler = Assembler()
    given = [found for content in sent[: symbols + 2] for found in assembler.add(content)]
    assert given == [data]
    assert [assembler.add(content) for content in sent[symbols + 2 :]] == [[]] * (len(sent) - symbols - 2)


def test_the_redundancy_is_the_least_that_suffices() -> None:
    """Against SciPy's binomial distribution."""
    stats = pytest.importorskip("scipy.stats")
    for symbols in (1, 5, 56, 700):
        for loss in (0.01, 0.1, 0.3):
            sent = datagrams_for(symbols, loss)
            assert (
                stats.binom.cdf(symbols + 1, sent, 1 - loss) <= 1e-6 < stats.binom.cdf(symbols + 1, sent - 1, 1 - loss)
            )
        assert datagrams_for(symbols, 0.0) == symbols + 2
    with pytest.raises(LinkError, match=r"link\.simplex_loss"):
        datagrams_for(3, 1.0)


def test_blocks_are_given_in_order_and_wait_only_so_long() -> None:
    now = 0.0
    assembler = Assembler(patience_s=2.0, now=lambda: now)
    first, second, third = (data_of(5000, seed) for seed in range(3))
    sent = {number: split_block(data, number, 0.0) for number, data in ((10, first), (20, second), (30, third))}
    assert assembler.add(sent[10][0]) == []
    for content in sent[20] + sent[30]:
        assert assembler.add(content) == []  # they wait for block 10
    assert assembler.waits
    now = 1.0
    assert assembler.add(sent[10][1]) == []  # it still comes
    now = 2.9
    assert assembler.due() == []
    now = 3.0
    assert assembler.due() == [second, third]
    assert not assembler.waits and not assembler._open, "what is given up takes no memory"
    assert [assembler.add(content) for content in sent[10][2:]] == [[]] * (len(sent[10]) - 2)  # too late


def test_a_block_that_comes_in_time_goes_first() -> None:
    assembler = Assembler(patience_s=2.0, now=lambda: 0.0)
    first, second = data_of(5000, 1), data_of(5000, 2)
    a, b = split_block(first, 1, 0.0), split_block(second, 2, 0.0)
    given = [found for content in [a[0], *b, *b, *a[1:]] for found in assembler.add(content)]
    assert given == [first, second]
    third = data_of(5000, 3)
    assert [found for content in split_block(third, 3, 0.0) for found in assembler.add(content)] == [third], (
        "datagrams of the second one that came too many are not waited for"
    )


def test_a_datagram_that_states_another_length_does_not_spoil_its_block() -> None:
    data, other = data_of(5000, 1), data_of(7000, 2)
    right, wrong = split_block(data, 1, 0.0), split_block(other, 1, 0.0)
    assembler = Assembler()
    given = [found for content in [right[0], *wrong, *right[1:]] for found in assembler.add(content)]
    assert given == [data]


def test_blocks_that_are_never_completed_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assembler = Assembler()
    start = blocks._CONTENT
    for number in range(1000):
        assembler.add(start.pack(number, MAX_BLOCK_BYTES) + bytes(4 + 1176))
        assert sum(each.length for each in assembler._open.values()) <= 4 * MAX_BLOCK_BYTES
    for number in range(1000, 3000):
        assembler.add(start.pack(number, 5000) + bytes(4 + 1176))
    assert sorted(assembler._open) == list(range(2936, 3000)), "the oldest ones give way"
    for length in (0, MAX_BLOCK_BYTES + 1, 2**32 - 1):
        assert assembler.add(start.pack(9999, length) + bytes(4 + 1176)) == []
        assert 9999 not in assembler._open


def test_blocks_that_wait_for_an_older_one_do_not_fill_the_memory() -> None:
    """Whoever has the key can keep a block open for ever. Then what was complete took any amount of memory."""
    assembler = Assembler(patience_s=2.0, now=lambda: 0.0)
    older = split_block(data_of(5000), 0, 0.0)[0]
    given = 0
    packets = [n.to_bytes(4, "big") + bytes(1176) for n in range(7134)]
    for number in range(1, 7):
        assembler.add(older)
        for packet in packets:
            given += len(assembler.add(blocks._CONTENT.pack(number, MAX_BLOCK_BYTES) + packet))
        assert sum(map(len, assembler._complete.values())) <= 5 * MAX_BLOCK_BYTES
    assert given == 6 and not assembler._open


def test_contents_that_are_no_packets_are_dropped() -> None:
    assembler = Assembler()
    data = data_of(5000)
    sent = split_block(data, 0, 0.0)
    for junk in (b"", b"x", sent[0][:-1], sent[0] + b"x", sent[0][:12]):
        assert assembler.add(junk) == []
    assert [found for content in sent for found in assembler.add(content)] == [data]


def test_a_block_that_is_too_long() -> None:
    assert len(split_block(bytes(MAX_BLOCK_BYTES), 0, 0.0)) > MAX_BLOCK_BYTES // 1176
    with pytest.raises(LinkError, match="too long for the one-way link"):
        split_block(bytes(MAX_BLOCK_BYTES + 1), 0, 0.1)
