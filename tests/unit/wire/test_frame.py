from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pytest
from headers import stream_header
from hypothesis import given
from hypothesis import strategies as st

from smartedge.errors import FrameError
from smartedge.types import PROTOCOL, EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import (
    MAX_HEADER_BYTES,
    Message,
    answer_header,
    header_from_json,
    header_to_json,
    max_head_bytes,
    max_payload_bytes,
    max_side_bytes,
    receive,
    serialise,
    settings_in,
)

HEADER = stream_header(
    codec="uint8", feature_shape=(8, 4, 4), outputs=10, batch_size=64, epoch=2, first_seq=5, frames=3, train_steps=7
)


def make_frame(count: int = 3, **batch: Any) -> Frame:
    encoded = EncodedBatch(np.arange(count), np.arange(count), b"payload", b"side")
    return Frame(5, dataclasses.replace(encoded, **batch))


def head(count: int, *, seq: int = 5, ids: list[int] | None = None, labels: bytes | None = None) -> bytes:
    ids = list(range(count)) if ids is None else ids
    return (
        struct.pack("<IH", seq, count - 1)
        + np.array(ids, "<i4").tobytes()
        + (bytes(count) if labels is None else labels)
    )


headers = st.builds(
    StreamHeader,
    protocol=st.just(PROTOCOL),
    run=st.text(min_size=1, max_size=20),
    agreement=st.text(max_size=50),
    codec=st.just("uint8"),
    feature_shape=st.lists(st.integers(1, 64), min_size=1, max_size=4).map(tuple),
    feature_dtype=st.sampled_from(["float32", "uint8"]),
    task_kind=st.sampled_from(["single", "multi"]),
    outputs=st.integers(1, 70_000),
    labels=st.just(True),
    blanks=st.just(False),
    answer_shape=st.sampled_from([None, (2,), (8, 4, 4)]),
    batch_size=st.integers(1, 8),
    epoch=st.integers(0, 1000),
    split=st.sampled_from(["train", "val", "test"]),
    first_seq=st.integers(0, 2**31),
    frames=st.integers(1, 1000),
    joined_frames=st.integers(1, 1000),
    train_steps=st.integers(0, 1000),
)


@given(headers, st.data())
def test_round_trip(header: StreamHeader, data: st.DataObject) -> None:
    assert header_from_json(header_to_json(header)) == header
    count = data.draw(st.integers(1, header.batch_size))
    ids = np.array(data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=count, max_size=count, unique=True)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if header.task_kind == "single":
        labels = random.integers(0, header.outputs, count)
    else:
        labels = random.integers(0, 2, (count, header.outputs), dtype=np.uint8)
    seq = header.first_seq + data.draw(st.integers(0, header.frames - 1))
    payload = data.draw(st.binary(min_size=1, max_size=max_payload_bytes(header)))
    side = data.draw(st.binary(max_size=min(100, max_side_bytes(header))))
    batch = EncodedBatch(ids, labels, payload, side)
    frame = Frame(seq, batch)

    sent = serialise(frame, header)
    got = receive(sent, header)

    assert got.seq == seq and (got.head, got.batch.payload) == sent
    assert got.batch.ids.tolist() == ids.tolist() and got.batch.ids.dtype == np.int64
    assert got.batch.labels.tolist() == labels.tolist() and got.batch.labels.dtype == labels.dtype
    assert (got.batch.payload, got.batch.side) == (batch.payload, batch.side)


@pytest.mark.parametrize(("outputs", "width"), [(2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_labels_are_as_narrow_as_the_task_allows(outputs: int, width: int) -> None:
    header = dataclasses.replace(HEADER, outputs=outputs)
    sizes = [len(serialise(make_frame(count, labels=np.full(count, outputs - 1)), header).head) for count in (1, 2)]
    assert sizes[1] - sizes[0] == 4 + width


def test_labels_of_many_columns_take_a_bit_each() -> None:
    header = dataclasses.replace(HEADER, task_kind="multi", outputs=40)
    frame = make_frame(8, labels=np.ones((8, 40), np.uint8), side=b"")
    assert len(serialise(frame, header).head) == 6 + 8 * 4 + 8 * 5


def test_labels_that_are_lacking_take_a_bit_more() -> None:
    header = dataclasses.replace(HEADER, task_kind="multi", outputs=11, blanks=True)
    labels = np.random.default_rng(0).integers(3, size=(8, 11)).astype(np.uint8)
    message = serialise(make_frame(8, labels=labels, side=b"side"), header)
    assert len(message.head) == 6 + 8 * 4 + 2 * 11 + 4 <= max_head_bytes(header)
    found = receive(message, header)
    assert np.array_equal(found.batch.labels, labels) and found.batch.side == b"side"
    whole = dataclasses.replace(header, blanks=False)
    with pytest.raises(FrameError, match="labels must be uint8 of shape"):
        serialise(make_frame(8, labels=labels), whole)


@pytest.mark.parametrize("change", [{"task_kind": "single"}, {"task_kind": "multi", "labels": False}])
def test_labels_that_cannot_be_lacking(change: dict[str, object]) -> None:
    header = dataclasses.replace(HEADER, blanks=True, **change)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="only labels of a task of several columns may be lacking"):
        header_from_json(header_to_json(header))


WRONG_BATCHES = {
    "too many": {"ids": np.arange(65), "labels": np.zeros(65, np.int64)},
    "none": {"ids": np.arange(0), "labels": np.arange(0)},
    "negative id": {"ids": np.array([0, -1, 2])},
    "huge id": {"ids": np.array([0, 2**31, 2])},
    "repeated id": {"ids": np.array([0, 1, 1])},
    "label out of range": {"labels": np.array([0, 1, 10])},
    "negative label": {"labels": np.array([0, 1, -1])},
    "too few labels": {"labels": np.array([0, 1])},
    "labels of columns": {"labels": np.zeros((3, 10), np.uint8)},
    "labels of another dtype": {"labels": np.zeros(3, np.int32)},
    "no payload": {"payload": b""},
    "payload too long": {"payload": bytes(max_payload_bytes(HEADER) + 1)},
    "side too long": {"side": bytes(max_side_bytes(HEADER) + 1)},
}


@pytest.mark.parametrize("change", WRONG_BATCHES.values(), ids=WRONG_BATCHES.keys())
def test_a_wrong_frame_is_refused_by_what_serialises_or_by_what_receives_it(change: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="frame 5: "):
        receive(serialise(make_frame(**change), HEADER), HEADER)


def test_a_negative_label_is_refused_also_where_it_would_pass_for_the_largest() -> None:
    header = dataclasses.replace(HEADER, outputs=256)
    with pytest.raises(FrameError, match="labels must be int64 of shape"):
        serialise(make_frame(labels=np.array([0, 1, -1])), header)


def test_a_frame_has_no_more_images_than_two_bytes_count() -> None:
    many = make_frame(2**16 + 1, labels=np.zeros(2**16 + 1, np.int64))
    with pytest.raises(FrameError, match="must hold 1 to 65536 images"):
        serialise(many, HEADER)


def test_ids_go_up_to_the_largest_int32() -> None:
    largest = make_frame(ids=np.array([0, 2**31 - 1, 2]))
    assert receive(serialise(largest, HEADER), HEADER).batch.ids.tolist() == [0, 2**31 - 1, 2]
    for wrong in (2**31, 2**32 + 1, -1):
        with pytest.raises(FrameError, match="with ids of 0 to 2147483647"):
            serialise(make_frame(ids=np.array([0, wrong, 2])), HEADER)


@pytest.mark.parametrize(("dtype", "most"), [("uint8", 64 * 128 + 32 + 65_536), ("float32", 64 * 512 + 128 + 65_536)])
def test_a_payload_may_be_as_long_as_raw_and_zstds_worst_case_and_a_kilobyte_per_image(dtype: Any, most: int) -> None:
    header = dataclasses.replace(HEADER, feature_dtype=dtype)
    assert max_payload_bytes(header) == most
    assert len(receive(serialise(make_frame(payload=bytes(most)), header), header).batch.payload) == most
    with pytest.raises(FrameError, match=f"up to {most} are possible"):
        receive(serialise(make_frame(payload=bytes(most + 1)), header), header)


HOSTILE = {
    "seq before": Message(head(3, seq=4), b"payload"),
    "seq after": Message(head(3, seq=8), b"payload"),
    "huge seq": Message(head(3, seq=2**32 - 1), b"payload"),
    "too many images": Message(head(65), b"payload"),
    "count beyond the head": Message(struct.pack("<IH", 5, 59) + bytes(50), b"payload"),
    "huge count": Message(struct.pack("<IH", 5, 2**16 - 1), b"payload"),
    "cut head": Message(head(3)[:-1], b"payload"),
    "tiny head": Message(b"x", b"payload"),
    "empty head": Message(b"", b"payload"),
    "empty payload": Message(head(3), b""),
    "long payload": Message(head(3), bytes(max_payload_bytes(HEADER) + 1)),
    "long side": Message(head(3) + bytes(max_side_bytes(HEADER) + 1), b"payload"),
    "negative id": Message(head(3, ids=[0, -1, 2]), b"payload"),
    "repeated id": Message(head(3, ids=[0, 2, 2]), b"payload"),
    "label out of range": Message(head(3, labels=b"\x00\x0a\x00"), b"payload"),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_messages_are_frame_errors(message: Message) -> None:
    with pytest.raises(FrameError, match=r"^frame"):
        receive(message, HEADER)


@given(st.data())
def test_flipped_bytes_of_a_head_are_noticed_or_make_another_acceptable_frame(data: st.DataObject) -> None:
    head, payload = serialise(make_frame(), HEADER)
    flipped = bytearray(head)
    for _ in range(data.draw(st.integers(1, 3))):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = receive(Message(bytes(flipped), payload), HEADER)
    except FrameError:
        return
    assert frame.seq in (5, 6, 7) and 1 <= len(frame.batch.ids) <= 64


@pytest.mark.parametrize(
    ("kind", "labels", "blanks"),
    [
        ("single", True, False),
        ("single", False, False),
        ("multi", True, True),
        ("multi", True, False),
        ("multi", False, False),
    ],
)
def test_the_longest_head_has_the_length_stated(kind: Any, labels: bool, blanks: bool) -> None:
    header = dataclasses.replace(HEADER, task_kind=kind, outputs=300, labels=labels, blanks=blanks)
    given = np.zeros(64, np.int64) if kind == "single" else np.zeros((64, 300), np.uint8)
    frame = make_frame(ids=np.arange(64), labels=given, side=bytes(max_side_bytes(header)))
    assert len(serialise(frame, header).head) == max_head_bytes(header)
    assert max_side_bytes(header) == 8 * 8 + 16


def changed(**changes: Any) -> bytes:
    fields = json.loads(header_to_json(HEADER)) | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "stream header: JSON: Invalid JSON"),
        (b"\xff\xfe", "stream header: JSON: Invalid JSON"),
        (b"[1, 2]", "stream header"),
        (b"{" * 10_000, "JSON"),
        (b"[" * 60_000, "JSON"),
        (changed(protocol=...), "protocol: Field required"),
        (changed(codec=...), "codec: Field required"),
        (changed(colour="red"), "colour: Extra inputs"),
        (changed(protocol=1), "speaks protocol 1, this side 4"),
        (changed(protocol="1"), "protocol: "),
        (changed(outputs=True), "outputs: "),
        (changed(outputs=1.0), "outputs: "),
        (changed(outputs=0), "outputs: "),
        (changed(batch_size=0), "batch_size: "),
        (changed(frames=-1), "frames: "),
        (changed(first_seq=2**60), "first_seq: "),
        (changed(run=""), "run: "),
        (changed(run="r" * 1000), "run: "),
        (changed(answer_shape=[]), "answer_shape: "),
        (changed(split="holdout"), "split: "),
        (changed(feature_dtype="float64"), "feature_dtype: "),
        (changed(feature_shape=[]), "feature_shape: "),
        (changed(feature_shape=[3, 0]), "feature_shape.1: "),
        (changed(feature_shape=[1] * 5), "feature_shape: "),
        (changed(feature_shape=[2**20, 2**20]), "lower batch_size"),
        (changed(task_kind="multi", outputs=2**20), "ids and labels of 64 images may take .* lower batch_size"),
        (changed(agreement="x" * MAX_HEADER_BYTES), "bytes are more than"),
    ],
    ids=str,
)
def test_malformed_headers_are_frame_errors(data: bytes, says: str) -> None:
    with pytest.raises(FrameError, match=says):
        header_from_json(data)


def test_of_many_problems_five_are_told() -> None:
    with pytest.raises(FrameError, match="both sides need the same version") as caught:
        header_from_json(changed(**{f"unknown{number}": 1 for number in range(20)}))
    assert str(caught.value).count("Extra inputs") == 5
    assert "; unknown4: Extra inputs are not permitted; both sides" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        # 2^30 bytes of payload: raw size, a 256th of it, and a kilobyte for the image
        ({"batch_size": 1, "feature_shape": [1024, 1020, 1024]}, {"feature_shape": [1024, 1021, 1024]}, "1074779136"),
        # 2^19 bytes of head: 6 + 4 for each id + a bit for each label + 80 of side
        ({"task_kind": "multi", "outputs": 65_493}, {"outputs": 65_494}, "524294"),
        # just as much as there may be
        ({"batch_size": 16, "feature_shape": [8192, 8160]}, {"feature_shape": [8192, 8161]}, "1073873408"),
        ({"task_kind": "multi", "batch_size": 8, "outputs": 524_170}, {"outputs": 524_171}, "524289"),
    ],
)
def test_headers_go_up_to_what_a_frame_can_hold(changes: dict[str, Any], more: dict[str, Any], says: str) -> None:
    changes = {"feature_dtype": "uint8", **changes}
    header_from_json(changed(**changes))
    with pytest.raises(FrameError, match=rf"may take\s+{says} bytes"):
        header_from_json(changed(**changes | more))


def test_a_header_may_have_64_kib() -> None:
    data = header_to_json(HEADER)
    assert b" " not in data
    assert header_from_json(data).agreement is header_from_json(data).agreement, "a cloud keeps every header"
    assert header_from_json(data.ljust(MAX_HEADER_BYTES)) == HEADER
    with pytest.raises(FrameError, match="65537 bytes are more than"):
        header_from_json(data.ljust(MAX_HEADER_BYTES + 1))


@pytest.mark.parametrize(("said", "says"), [("{", "not JSON"), ("[" * 30_000, "not JSON"), ("[1]", "not an object")])
def test_settings_of_a_header_may_be_anything(said: str, says: str) -> None:
    with pytest.raises(FrameError, match=says):
        settings_in(said)
    assert settings_in('{"a": 1}') == {"a": 1}


def test_answers_are_float32_of_the_shape_asked_for_and_without_labels() -> None:
    blanks = dataclasses.replace(HEADER, task_kind="multi", blanks=True, feature_dtype="uint8", answer_shape=(10,))
    assert not answer_header(blanks).blanks
    answer = answer_header(dataclasses.replace(HEADER, codec="float16", feature_dtype="uint8", answer_shape=(10,)))
    assert (answer.codec, answer.feature_dtype, answer.feature_shape) == ("float32", "float32", (10,))
    sent = serialise(make_frame(side=b""), answer)
    assert len(sent.head) == 6 + 3 * 4
    labels = receive(sent, answer).batch.labels
    assert labels.tolist() == [0, 0, 0] and labels.dtype == np.int64, "as where labels travel"


def test_a_side_of_an_older_version_is_told_so() -> None:
    older = {"protocol": 2, "run": "run", "agreement": "{}", "method": "hierarchical", "schedule": "joint"}
    with pytest.raises(FrameError, match="speaks protocol 2, this side 4; install the same version"):
        header_from_json(json.dumps(older).encode())
