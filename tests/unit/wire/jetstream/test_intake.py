"""What the broker may forget, and what stays with it. Messages have the numbers 0, 1, 2 and so on here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from headers import stream_header

from smartedge.errors import CodecError, LogError, RunError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import serialise
from smartedge.wire.jetstream.intake import EdgeIntake, Settled, Stored
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


def take(intake: EdgeIntake, messages: list[bytes], first: int = 0) -> Settled:
    return intake.take("frames", enumerate(messages, first))


def begun(handler: Handler, stored: Stored = Stored()) -> EdgeIntake:  # noqa: B008 - a constant
    return EdgeIntake(handler, "door", stored)


def test_a_whole_stream_is_forgotten_and_durable(handler: Handler) -> None:
    settled = take(begun(handler), [*stream(), *stream(NEXT)])
    assert settled == Settled({"frames": 8})
    assert handler.durable == 6
    assert handler.calls == ["accept", *["ingest"] * 3, "finish", "accept", *["ingest"] * 3, "finish"]


def test_a_header_and_frames_stay_until_frames_are_durable(handler: Handler) -> None:
    intake = begun(handler)
    assert take(intake, stream()[:1]).before == {"frames": 0}
    assert take(intake, stream()[1:3], 1).before == {"frames": 3} and handler.calls[-1] == "sync"
    handler.failures["sync"] = LogError("disk full")
    long = dataclasses.replace(HEADER, frames=9)
    later = begun(handler, Stored(2, long))
    assert take(later, parts(2), 3) == Settled({"frames": 3}, refusal=handler.failures["sync"]), "not durable yet"
    settled = take(begun(handler), [header_message(long), *parts(2)], 3)
    assert settled == Settled({"frames": 3}, refusal=handler.failures["sync"])


def test_another_process_goes_on_where_one_was_killed(handler: Handler) -> None:
    """The broker gives it what was not removed; the header is in the store."""
    messages = stream()
    assert take(begun(handler), messages[:3]).before == {"frames": 3}
    settled = take(begun(handler, Stored(2, HEADER)), messages[2:], 2)
    assert settled == Settled({"frames": 4}) and handler.held == [0, 1, 2] and handler.durable == 3


def test_what_was_removed_before_the_broker_was_killed_may_come_again(handler: Handler) -> None:
    take(begun(handler), [*stream(), *stream(NEXT)[:2]])
    held = list(handler.held)
    settled = take(begun(handler, Stored(4, NEXT)), [*stream(), *stream(NEXT)])
    assert settled == Settled({"frames": 8}) and handler.held == [*held, 4, 5]


@pytest.mark.parametrize(("durable", "left"), [(2, [2]), (3, [])])
def test_the_store_may_hold_more_than_it_said(handler: Handler, durable: int, left: list[int]) -> None:
    """The process that had the edge before has made more durable meanwhile."""
    handler.held, handler.durable = list(range(durable)), durable
    settled = take(begun(handler, Stored(1, HEADER)), stream()[2:], 2)
    assert settled == Settled({"frames": 4}) and handler.held == [0, 1, 2]
    assert handler.calls == ["accept", *["ingest" for _ in left], "finish"]


def test_what_is_needed_is_told_for_each_stream_of_messages(handler: Handler) -> None:
    """The address of an edge got another number of streams while no frame of its stream was whole."""
    intake, long = begun(handler), parts(0, size=150_000)
    assert intake.take("old", enumerate([header_message(HEADER), *long[:2]], 7)).before == {"old": 7}
    assert intake.take("new", enumerate([header_message(HEADER)], 4)).before == {"old": 7, "new": 5}
    assert intake.take("new", enumerate([long[2]], 5)).before == {"old": 10, "new": 6}


def test_an_edge_that_connects_again_sends_header_and_frames_again(handler: Handler) -> None:
    long = parts(1, size=150_000)
    assert len(long) == 3
    messages = [*stream()[:2], *long[:2], header_message(HEADER), *parts(0), long[0], long[2], *parts(2), *stream()]
    settled = take(begun(handler), messages)
    assert settled == Settled({"frames": len(messages)}) and handler.held == [0, 1, 2]
    assert handler.calls.count("finish") == 2  # the header of a stream that the store holds whole ends at once


def test_what_is_sent_again_behind_a_part_does_not_take_the_part_with_it(handler: Handler) -> None:
    """The broker forgets all up to a number, so nothing behind a message that is needed is forgotten."""
    long = parts(1, size=150_000)
    intake = begun(handler)
    assert take(intake, [*stream()[:2], long[0], *parts(0), header_message(HEADER)]).before == {"frames": 2}
    assert take(intake, long[1:], 5).before == {"frames": 7} and handler.held == [0, 1]


def test_a_stream_without_frames(handler: Handler) -> None:
    assert take(begun(handler), [header_message(dataclasses.replace(HEADER, frames=0))]) == Settled({"frames": 1})
    assert handler.calls == ["accept", "finish"]


def test_an_unfinished_stream_is_given_up_for_another_one(handler: Handler) -> None:
    intake = begun(handler)
    settled = take(intake, [*stream()[:2], header_message(NEXT)])
    assert settled.before == {"frames": 2} and handler.calls == ["accept", "ingest", "sync", "abort", "accept"]
    intake.abort()
    assert handler.calls[-1] == "abort"


def test_parts_of_a_frame_that_never_becomes_whole_are_given_up_with_their_stream(handler: Handler) -> None:
    other = dataclasses.replace(HEADER, epoch=1)
    incomplete = parts(0, size=150_000)[:2]
    messages = [header_message(HEADER), *incomplete, *stream(other)]
    assert take(begun(handler), messages) == Settled({"frames": len(messages)})
    assert handler.held == [0, 1, 2] and handler.calls[-1] == "finish"


@pytest.mark.parametrize("error", [RunError("other settings"), LogError("disk full"), CodecError("no")])
def test_a_stream_that_is_refused_stays_with_the_broker(handler: Handler, error: SmartEdgeError) -> None:
    handler.failures["accept"] = error
    assert take(begun(handler), stream()) == Settled({}, refusal=error)


def test_parts_before_a_stream_that_is_refused_stay(handler: Handler) -> None:
    intake = begun(handler)
    take(intake, [header_message(HEADER), *parts(0, size=150_000)[:2]])
    handler.failures["accept"] = RunError("other settings")
    assert take(intake, [header_message(NEXT)], 3).before == {"frames": 0}


def test_frames_after_one_that_is_missing_stay_with_the_broker(handler: Handler) -> None:
    settled = take(begun(handler), [stream()[0], *parts(0), *parts(2), *parts(0)])
    assert settled.before == {"frames": 2} and not settled.bad and "frame 1 did not" in str(settled.refusal)
    assert handler.held == [0] and handler.durable == 1, "what came before it is durable"


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
def test_what_is_not_sound_is_counted_and_never_reaches_the_handler(handler: Handler, wrong: list[bytes]) -> None:
    settled = take(begun(handler), [stream()[0], *wrong])
    assert settled.bad == len(wrong) and settled.why is not None
    assert settled.before == {"frames": 0} and handler.held == []


def test_what_is_not_sound_is_deleted_with_what_came_before_it(handler: Handler) -> None:
    intake = begun(handler)
    assert take(intake, [stream()[0], b"short", *parts(0), b"short"]).before == {"frames": 4}
    settled = take(intake, [*parts(1), *parts(2, ids=[5, 5], size=150_000), *stream(NEXT)], 4)
    assert (settled.before, settled.bad) == ({"frames": 8}, 3) and settled.refusal is not None
    assert handler.durable == 2


def test_a_payload_that_cannot_be_decoded_is_deleted(handler: Handler) -> None:
    messages = stream()
    intake = begun(handler)
    take(intake, messages[:2])
    handler.failures["ingest"] = CodecError("no zstd")
    settled = take(intake, messages[2:], 2)
    assert (settled.before, settled.bad, settled.refusal) == ({"frames": 3}, 1, handler.failures["ingest"])


@pytest.mark.parametrize("stored", [Stored(), Stored(2, None), Stored(3, HEADER)])
def test_a_frame_without_a_stream_stays(handler: Handler, stored: Stored) -> None:
    """Its header was removed when another store had it: this one may be the wrong one, or empty."""
    settled = take(begun(handler, stored), [*parts(5), *stream(NEXT)])
    assert settled.before == {} and not settled.bad and "Is it the store that took" in str(settled.refusal)
    assert f"ends before frame {stored.frames}." in str(settled.refusal) and handler.calls == []


def test_stored_frames_without_their_stream_are_forgotten(handler: Handler) -> None:
    assert take(begun(handler, Stored(2, None)), [*parts(0), *parts(1)]) == Settled({"frames": 2})
    assert handler.calls == []
