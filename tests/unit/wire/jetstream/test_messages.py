"""Frames are cut into messages for a broker, and come together again whatever the order and however often they came."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import numpy as np
import pytest
from headers import stream_header
from hypothesis import given, settings
from hypothesis import strategies as st

from smartedge.errors import FrameError, LinkError
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import Message, serialise
from smartedge.wire.jetstream.messages import (
    MIN_PART_BYTES,
    Address,
    Assembler,
    edge_of,
    header_message,
    message_id,
    pieces_of,
    read_piece,
    subject_of,
)

HEADER = stream_header(feature_shape=(64, 64, 64), batch_size=4, frames=3)
MOST = MIN_PART_BYTES + 8  # bytes of a message


def message(size: int, seq: int = 0) -> Message:
    return serialise(
        Frame(seq, EncodedBatch(np.arange(4), np.zeros(4, np.int64), bytes(range(256)) * (size // 256 + 1), b"")),
        HEADER,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300_000), st.integers(0, 99), st.lists(st.integers(0, 5), max_size=4))
def test_parts_come_together_in_any_order_and_however_often_they_come(size: int, seed: int, again: list[int]) -> None:
    sent = message(size)
    pieces = list(pieces_of(sent, MOST))
    assert all(len(piece) <= MOST for piece in pieces)
    last = pieces.pop()
    pieces += [pieces[number] for number in again if number < len(pieces)]
    random.Random(seed).shuffle(pieces)
    assembler = Assembler(HEADER)
    found = [assembler.add(read_piece(piece)) for piece in [*pieces, last]]
    whole = next(each for each in found if each is not None)
    assert (whole.head, bytes(whole.payload)) == (sent.head, bytes(sent.payload))


def test_a_frame_that_is_sent_again_in_other_parts_is_whole() -> None:
    """The broker's limit was changed in between."""
    sent = message(100_000)
    assembler = Assembler(HEADER)
    assert assembler.add(read_piece(next(pieces_of(sent, MOST)))) is None
    (only,) = pieces_of(sent, 2**20)
    whole = assembler.add(read_piece(only))
    assert whole is not None and bytes(whole.payload) == bytes(sent.payload)


def test_an_assembler_holds_no_more_than_the_header_allows() -> None:
    assembler = Assembler(stream_header(feature_shape=(2, 2, 2), batch_size=4))
    with pytest.raises(FrameError, match="more than the"):
        assembler.add(read_piece(next(pieces_of(message(100_000), MOST))))


def test_a_part_that_comes_again_and_again_counts_once() -> None:
    sent = message(150_000)
    first, *others = pieces_of(sent, MOST)
    assembler = Assembler(HEADER)
    for _ in range(200):
        assert assembler.add(read_piece(first)) is None
    assert assembler._size == MIN_PART_BYTES
    assert [assembler.add(read_piece(piece)) is None for piece in others] == [True, False]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(7), "shorter than"),
        (bytes.fromhex("0000000005000400") + bytes(10), "part 5 of 5"),
        (bytes.fromhex("0000000000000400") + bytes(10), "a part has 10 bytes"),
        (bytes.fromhex("0000000000000000") + b"\xff\xff\xff\xffhead", "longer than the frame"),
        (bytes.fromhex("0000000000000000") + b"\x02\x00\x00\x00he", "another frame, or none"),
        (bytes.fromhex("0000000000000000"), "longer than the frame"),
        (bytes.fromhex("0000000000000000") + b"\x11\x00\x00\x00" + bytes(16), "longer than the frame"),
        (bytes.fromhex("0100000000000000") + b"".join([b"\x10\x00\x00\x00", bytes(16)]), "another frame, or none"),
    ],
)
def test_what_is_not_sound_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        Assembler(HEADER).add(read_piece(data))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_give_a_frame_or_a_frame_error(datas: list[bytes]) -> None:
    assembler = Assembler(HEADER)
    for data in datas:
        with contextlib.suppress(FrameError):
            assembler.add(read_piece(data))


def test_a_broker_with_tiny_messages_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(LinkError, match="set max_payload to 1MB"):
        list(pieces_of(message(10), 1000))


def test_a_frame_has_no_more_parts_than_their_number_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.wire.jetstream.messages.MIN_PART_BYTES", 1)
    head = message(0).head
    around = 4 + len(head)
    assert sum(1 for _ in pieces_of(Message(head, bytes(65_535 - around)), 9)) == 65_535
    with pytest.raises(LinkError, match="more than 65535 parts"):
        next(pieces_of(Message(head, bytes(65_536 - around)), 9))


def test_the_id_of_a_message_is_of_edge_run_and_content() -> None:
    """Else an edge could use another one's id first, and the broker would drop the other one's frame."""
    (one,), (other,) = pieces_of(message(10), MOST), pieces_of(message(10, seq=1), MOST)
    ids = [
        message_id("a", "run", one),
        message_id("b", "run", one),
        message_id("a", "run2", one),
        message_id("a", "run", other),
    ]
    assert len(set(ids)) == 4
    assert message_id("a", "run", one) != message_id("ar", "un", one)
    assert ids[0] == message_id("a", "run", one)
    long = bytearray(300_000)
    (first,) = {message_id("a", "run", bytes(long))}
    for place in (0, 70_000, 299_999):
        changed = long.copy()
        changed[place] = 1
        assert message_id("a", "run", bytes(changed)) != first
    assert message_id("a", "run", bytes(long[:-1])) != first


def test_a_header_is_told_from_a_part() -> None:
    piece = read_piece(header_message(HEADER))
    assert piece.is_header and bytes(piece.body).startswith(b"{")


@pytest.mark.parametrize(
    ("location", "host", "port", "streams"),
    [
        ("nats://broker", "broker", 4222, ["frames"]),
        ("nats://broker/", "broker", 4222, ["frames"]),
        ("nats://127.0.0.1:5", "127.0.0.1", 5, ["frames"]),
        ("nats://[::1]:5/faces-2/", "::1", 5, ["faces-2"]),
        ("nats://broker/frames/1", "broker", 4222, ["frames"]),
        ("nats://broker/frames/3", "broker", 4222, ["frames", "frames+2", "frames+3"]),
    ],
)
def test_addresses(location: str, host: str, port: int, streams: list[str]) -> None:
    address = Address.parse(location)
    assert (address.host, address.port, address.streams) == (host, port, streams)
    assert address.stream_of("door") in streams


def test_subjects_of_edges() -> None:
    assert subject_of("frames", "door") == "smartedge.frames.door"
    assert edge_of("frames+2", subject_of("frames+2", "door")) == "door"
    assert edge_of("frames", "smartedge.frames+2.door") is None
    assert edge_of("frames", subject_of("frames", "Door")) is None


def test_edges_are_spread_over_the_streams_and_few_move_when_there_is_one_more() -> None:
    edges = [f"edge{number}" for number in range(1000)]
    before, after = ({e: Address("b", 1, "frames", n).stream_of(e) for e in edges} for n in (4, 5))
    assert Counter(before.values()) == {"frames": 267, "frames+2": 224, "frames+3": 242, "frames+4": 267}
    moved = {e for e in edges if before[e] != after[e]}
    assert {after[e] for e in moved} == {"frames+5"} and 150 < len(moved) < 250


@pytest.mark.parametrize(
    "location",
    [
        "broker:4222",
        "tls://broker",
        "nats://",
        "nats://me:secret@broker",
        "nats://b/Frames",
        "nats://b/a.b",
        "nats://b/a+2",
        "nats://b/a/0",
        "nats://b/a/100",
        "nats://b/a/04",
        "nats://b/a/4/4",
        "nats://b//4",
        "nats://b:x",
        "nats://b/a?q",
        "nats://b/a#f",
    ],
)
def test_another_form_of_address_is_refused(location: str) -> None:
    with pytest.raises(LinkError, match="must be nats://HOST:PORT"):
        Address.parse(location)
