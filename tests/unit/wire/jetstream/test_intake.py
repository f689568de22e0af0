"""What the broker may forget, and what stays with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from headers import stream_header

from smartedge.errors import CodecError, LogError, RunError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import serialise
from smartedge.wire.jetstream.intake import EdgeIntake, Settled
from smartedge.wire.jetstream.messages import MIN_PART_BYTES, header_message, pieces_of

HEADER = stream_header(feature_shape=(64, 64, 64), batch_size=4, frames=3)
NEXT = dataclasses.replace(HEADER, split="val", first_seq=3)


class Handler:
    """A store in memory, durable when synced."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: list[int] = []
        self.durable = 0
        self.failures: dict[str, SmartEdgeError] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def accept(self, edge: str, header: StreamHeader) -> int:
        self._called("accept")
        return min(max(header.first_seq, self.durable), header.end_seq)

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> None:
        self._called("ingest")
        if frame.seq == len(self.held):
            self.held.append(frame.seq)

    def sync(self, edge: str, header: StreamHeader) -> int:
        self._called("sync")
        self.durable = len(self.held)
        return self.durable

    def finish(self, edge: str, header: StreamHeader) -> None:
        self._called("finish")
        self.durable = len(self.held)

    def abort(self, edge: str, header: StreamHeader) -> None:
        self._called("abort")


@pytest.fixture
def handler() -> Handler:
    return Handler()


def parts(seq: int, *, size: int = 100, header: StreamHeader = HEADER, ids: object = None) -> list[bytes]:
    batch = EncodedBatch(np.arange(2) if ids is None else np.asarray(ids), np.zeros(2, np.int64), bytes(size), b"")
    return list(pieces_of(serialise(Frame(seq, batch), header), MIN_PART_BYTES + 8))


def stream(header: StreamHeader = HEADER) -> list[bytes]:
    return [header_message(header), *(part for seq in range(header.first_seq, header.end_seq) for part in parts(seq))]


def take(intake: EdgeIntake[int], messages: list[bytes]) -> Settled[int]:
    return intake.take(enumerate(messages))


def test_a_whole_stream_is_done_and_durable(handler: Handler) -> None:
    settled = take(EdgeIntake(handler, "door"), [*stream(), *stream(NEXT)])
    assert sorted(settled.done) == list(range(8)) and not settled.bad and settled.refusal is None
    assert handler.durable == 6
    assert handler.calls == ["accept", *["ingest"] * 3, "finish", "accept", *["ingest"] * 3, "finish"]


def test_the_header_of_an_open_stream_is_not_done_and_its_frames_are_only_when_synced(handler: Handler) -> None:
    intake: EdgeIntake[int] = EdgeIntake(handler, "door")
    assert take(intake, stream()[:3]).done == [1, 2] and handler.calls[-1] == "sync"
    handler.failures["sync"] = LogError("disk full")
    two = dataclasses.replace(HEADER, frames=9)
    intake = EdgeIntake(handler, "door")
    settled = take(intake, [header_message(two), *parts(2)])
    assert settled.done == [] and isinstance(settled.refusal, LogError)


def test_another_process_goes_on_where_one_was_killed(handler: Handler) -> None:
    """The broker gives it what is not done: the header, and frames after the durable ones, or some of them again."""
    messages = stream()
    done = take(EdgeIntake(handler, "door"), messages[:3]).done
    left = [message for number, message in enumerate(messages) if number not in done]
    settled = take(EdgeIntake(handler, "door"), [left[0], messages[2], *left[1:]])
    assert sorted(settled.done) == [0, 1, 2] and handler.held == [0, 1, 2] and handler.durable == 3


def test_an_edge_that_connects_again_sends_header_and_frames_again(handler: Handler) -> None:
    long = parts(1, size=150_000)
    assert len(long) == 3
    messages = [*stream()[:2], *long[:2], header_message(HEADER), *parts(0), long[0], long[2], *parts(2), *stream()]
    settled = take(EdgeIntake(handler, "door"), messages)
    assert sorted(settled.done) == list(range(len(messages))) and handler.held == [0, 1, 2]
    assert handler.calls.count("finish") == 2  # the header of a stream that the store holds whole ends at once


def test_a_stream_without_frames(handler: Handler) -> None:
    assert take(EdgeIntake(handler, "door"), [header_message(dataclasses.replace(HEADER, frames=0))]).done == [0]
    assert handler.calls == ["accept", "finish"]


def test_an_unfinished_stream_is_given_up_for_another_one(handler: Handler) -> None:
    intake: EdgeIntake[int] = EdgeIntake(handler, "door")
    settled = take(intake, [*stream()[:2], header_message(NEXT)])
    assert settled.done == [1, 0] and handler.calls == ["accept", "ingest", "sync", "abort", "accept"]
    intake.abort()
    assert handler.calls[-1] == "abort"


def test_parts_of_a_frame_that_never_becomes_whole_are_given_up_with_their_stream(handler: Handler) -> None:
    other = dataclasses.replace(HEADER, epoch=1)
    incomplete = parts(0, size=150_000)[:2]
    messages = [header_message(HEADER), *incomplete, *stream(other)]
    settled = take(EdgeIntake(handler, "door"), messages)
    assert sorted(settled.done) == list(range(len(messages))) and not settled.bad
    assert len(settled.done) == len(messages), "each once"
    assert handler.held == [0, 1, 2] and handler.calls[-1] == "finish"


@pytest.mark.parametrize("error", [RunError("other settings"), LogError("disk full"), CodecError("no")])
def test_a_stream_that_is_refused_stays_with_the_broker(handler: Handler, error: SmartEdgeError) -> None:
    handler.failures["accept"] = error
    settled = take(EdgeIntake(handler, "door"), stream())
    assert (settled.done, settled.bad, settled.refusal) == ([], [], error)


def test_frames_after_one_that_is_missing_stay_with_the_broker(handler: Handler) -> None:
    settled = take(EdgeIntake(handler, "door"), [stream()[0], *parts(0), *parts(2)])
    assert settled.bad == [] and "frame 1 did not" in str(settled.refusal)
    assert handler.held == [0]


@pytest.mark.parametrize(
    "wrong",
    [
        parts(0, ids=[5, 5]),
        parts(0, ids=[5, 5], size=150_000),  # in three parts
        parts(3),  # the first after the stream
        parts(7),
        [b"short"],
        [header_message(dataclasses.replace(HEADER, outputs=0))],
        [header_message(dataclasses.replace(HEADER, answer_shape=(2, 2, 2)))],
        [bytes.fromhex("00000000ffff0000") + b"\xff{"],
    ],
)
def test_what_is_not_sound_is_deleted_and_never_reaches_the_handler(handler: Handler, wrong: list[bytes]) -> None:
    settled = take(EdgeIntake(handler, "door"), [stream()[0], *wrong])
    assert settled.bad == list(range(1, 1 + len(wrong))) and settled.why is not None
    assert settled.done == [] and handler.held == []


def test_a_payload_that_cannot_be_decoded_is_deleted(handler: Handler) -> None:
    handler.failures["ingest"] = CodecError("no zstd")
    settled = take(EdgeIntake(handler, "door"), stream())
    assert settled.bad == [1] and settled.done == [] and isinstance(settled.refusal, CodecError)


def test_a_frame_without_a_stream_is_deleted(handler: Handler) -> None:
    settled = take(EdgeIntake(handler, "door"), parts(0))
    assert settled.bad == [0] and "no stream" in str(settled.why)


def test_a_stored_frame_without_its_stream_is_done(handler: Handler) -> None:
    """A broker that was killed forgot that these frames were done, and remembered it of their header."""
    settled = take(EdgeIntake(handler, "door", stored=2), [*parts(0), *parts(1), *parts(2)])
    assert settled.done == [0, 1] and settled.bad == [2]
