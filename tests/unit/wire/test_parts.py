from __future__ import annotations

import dataclasses

import pytest
from google.protobuf.message import DecodeError
from headers import stream_header
from hypothesis import given, settings
from hypothesis import strategies as st

from smartedge.errors import FrameError
from smartedge.wire.frame import MAX_HEAD_BYTES, Message, max_head_bytes, max_payload_bytes
from smartedge.wire.link_pb2 import Down, Frame, Up
from smartedge.wire.parts import MESSAGE_BYTES, MIN_PART_BYTES, Joiner, read_part, split

HEADER = stream_header(feature_shape=(256, 64, 64), batch_size=4)
PART = 2**20


def sent(frame: Frame) -> bytes:
    return Up(frame=frame).SerializeToString()


@settings(max_examples=30)
@given(
    st.sampled_from([0, 1, 1000, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 3 * PART]), st.binary(max_size=30)
)
def test_a_frame_comes_out_as_it_went_in(size: int, head: bytes) -> None:
    joiner = Joiner(HEADER)
    message = Message(head, bytes(range(256)) * (size // 256) + bytes(size % 256))
    for _ in range(2):
        parts = list(split(message))
        assert len(parts) == max(1, -(-size // PART))
        got = [joiner.add(part) for part in parts]
        assert got[:-1] == [None] * (len(parts) - 1) and got[-1] == message


def test_no_message_is_longer_than_the_limit() -> None:
    longest = Message(bytes(MAX_HEAD_BYTES), bytes(3 * PART))
    assert max(map(len, split(longest))) <= MESSAGE_BYTES
    assert min(len(part.payload) for part in map(read_part, split(longest)) if part.more) >= MIN_PART_BYTES


@settings(max_examples=200)
@given(st.binary(max_size=300), st.one_of(st.binary(max_size=300), st.integers(1, 2).map(lambda n: bytes(n * PART))))
def test_parts_are_what_protobuf_writes_and_reads(head: bytes, payload: bytes) -> None:
    parts = list(split(Message(head, payload)))
    for part in parts:
        frame = Up.FromString(part).frame
        assert read_part(part) == (frame.head, frame.payload, frame.more)
        assert Up(frame=frame).SerializeToString() == part == Down(answer=frame).SerializeToString()


@settings(max_examples=500)
@given(st.data())
def test_any_bytes_are_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    good = Up(frame=Frame(head=b"head", payload=bytes(range(200)), more=True)).SerializeToString()
    place = data.draw(st.integers(0, len(good) - 1))
    piece = data.draw(st.binary(max_size=6))
    changed = data.draw(
        st.sampled_from([good[:place] + piece + good[place + len(piece) :], good[:place] + piece, piece])
    )
    try:
        frame = Up.FromString(changed).frame
    except DecodeError:
        with pytest.raises(DecodeError):
            read_part(changed)
    else:
        assert read_part(changed) == (frame.head, frame.payload, frame.more)


def test_a_message_in_another_order_is_read_too() -> None:
    head, payload = Frame(head=b"h").SerializeToString(), Frame(payload=b"p").SerializeToString()
    inner = payload + head
    assert read_part(b"\x12" + bytes([len(inner)]) + inner) == (b"h", b"p", False)


def test_the_payload_is_not_copied() -> None:
    (part,) = split(Message(b"h", bytes(1000)))
    assert isinstance(payload := read_part(part).payload, memoryview) and payload.obj is part


def test_a_part_that_is_continued_is_not_small() -> None:
    with pytest.raises(FrameError, match="a part of 65535 bytes is continued"):
        Joiner(HEADER).add(sent(Frame(head=b"h", payload=bytes(65535), more=True)))
    assert Joiner(HEADER).add(sent(Frame(head=b"h", payload=bytes(65536), more=True))) is None


def test_only_the_first_part_has_a_head() -> None:
    joiner = Joiner(HEADER)
    joiner.add(sent(Frame(head=b"h", payload=bytes(PART), more=True)))
    with pytest.raises(FrameError, match="must have no head"):
        joiner.add(sent(Frame(head=b"h", payload=b"p")))


def test_no_more_is_held_than_the_header_allows() -> None:
    header = dataclasses.replace(HEADER, feature_shape=(1024, 32, 32))  # four float32 images: 16 MiB and a little
    most = max_payload_bytes(header)
    joiner = Joiner(header)
    whole = most // PART
    for _ in range(whole):
        assert joiner.add(sent(Frame(payload=bytes(PART), more=True))) is None
    with pytest.raises(FrameError, match=f"up to {max_head_bytes(header)} and {most} are possible"):
        joiner.add(sent(Frame(payload=bytes(most - whole * PART + 1), more=True)))
    small = dataclasses.replace(HEADER, feature_shape=(8, 4, 4))
    largest = bytes(max_payload_bytes(small))
    assert Joiner(small).add(sent(Frame(head=b"h", payload=largest))) == Message(b"h", largest)
    with pytest.raises(FrameError, match=f"a payload of at least {len(largest) + 1} bytes"):
        Joiner(small).add(sent(Frame(head=b"h", payload=largest + b"x")))
    head = bytes(max_head_bytes(header))
    assert Joiner(header).add(sent(Frame(head=head))) == Message(head, b"")
    with pytest.raises(FrameError, match=f"a head of {len(head) + 1} bytes"):
        Joiner(header).add(sent(Frame(head=head + b"h")))
