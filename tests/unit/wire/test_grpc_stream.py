"""A receiver that hangs with its sockets open, and one that only takes its time."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Iterable, Iterator

import grpc
import numpy as np
import pytest
from link_ends import HEADER, Handler, frame, receiving_process, ups

from smartedge.errors import LinkError, RunError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame
from smartedge.wire import grpc_receiver, grpc_stream
from smartedge.wire.frame import answer_header, serialise
from smartedge.wire.grpc_errors import status_of
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.grpc_stream import Stream
from smartedge.wire.link_pb2 import Down
from smartedge.wire.parts import split

ANSWERED = dataclasses.replace(HEADER, answer_shape=HEADER.feature_shape)


class Clock:
    """The sender's clock. It stands still, but for the steps that some threads make: a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps: dict[str, float] = {}  # name of a thread -> seconds at each of its looks
        self.went_on = threading.Condition()

    def monotonic(self) -> float:
        with self.went_on:
            self.now += self.steps.get(threading.current_thread().name, 0.0)
            self.went_on.notify_all()
            return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """In the place of the sender's; by it a receiver may be silent for 0.3 s."""
    monkeypatch.setattr(grpc_stream, "SILENCE_S", 0.3)
    monkeypatch.setattr(grpc_stream, "time", made := Clock())
    yield made
    made.steps = {"link watch": 1000.0}  # ends the threads that still look


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_receiver_that_hangs_ends_every_wait_and_goes_on_when_it_is_back(clock: Clock) -> None:
    """Its kernel answers for a stopped process, so TCP finds nothing wrong."""
    quiet = r"has sent nothing for 0\.3 s: it hangs or was stopped"
    with contextlib.ExitStack() as ending:
        process, location = ending.enter_context(receiving_process())
        link = GrpcLink(location, connect_timeout_s=30.0)
        ending.callback(link.disconnect)
        link.open(HEADER)
        link.write(frame(0))
        process.send_signal(signal.SIGSTOP)
        clock.steps = {"link watch": 1.0}
        with pytest.raises(LinkError, match=quiet):
            link.flush()
        process.send_signal(signal.SIGCONT)
        clock.steps = {}
        wanted = link.open(HEADER)  # the same link, over a new connection
        for seq in range(wanted, 3):
            link.write(frame(seq))
        link.close()
        assert link.confirmed() == 3

        # A connection that is there already, and a new stream over it.
        process.send_signal(signal.SIGSTOP)
        clock.steps = {"link watch": 1.0}
        with pytest.raises(LinkError, match=quiet):
            link.open(HEADER)
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("header", [HEADER, ANSWERED], ids=["confirmed", "answered"])
def test_a_receiver_that_takes_its_time_is_waited_for(header, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but signs of life comes until ten times as long has passed as it may be silent. Each takes 0.2 s."""
    monkeypatch.setattr(grpc_receiver, "_ALIVE_S", 0.1)
    clock.steps = {"link": 0.2}
    handler = Handler()
    handler.gate.clear()

    def go_on_later() -> None:
        with clock.went_on:
            clock.went_on.wait_for(lambda: clock.now > 3.0, timeout=60)
        handler.gate.set()

    receiver = GrpcReceiver(handler, "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}")
    try:
        link.open(header)
        later = threading.Thread(target=go_on_later)
        later.start()
        if header.answered:
            link.exchange(frame(0))
        else:
            for seq in range(3):
                link.write(frame(seq))
            link.flush()
        assert clock.now > 3.0
        later.join(timeout=60)
    finally:
        handler.gate.set()
        link.disconnect()
        receiver.close()


def test_a_sender_that_only_waits_for_confirmations_hears_of_the_end() -> None:
    """As one whose spool is full, and which has sent all of it: without this it would wait for ever."""
    handler = Handler()
    handler.disk.clear()
    receiver = GrpcReceiver(handler, "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}")
    try:
        link.open(HEADER)
        link.write(frame(0))
        assert handler.synced.acquire(timeout=30)
        assert link.confirmed() == 0
        stream = link._stream
        assert stream is not None
        threading.Timer(0.1, handler.disk.set).start()
        handler.sync_failure = LinkError("the disk went away")
        assert stream._ended.wait(timeout=30)
        with pytest.raises(LinkError, match="the disk went away"):
            link.confirmed()
        assert link.confirmed() == 0, "the stream is gone, and what was confirmed is known"
    finally:
        handler.disk.set()
        link.disconnect()
        receiver.close()


class Ended(grpc.RpcError):
    """How a call ends: with an error of the receiver, or because the connection was cut."""

    def __init__(self, error: SmartEdgeError | None = None) -> None:
        self._details, self._metadata = ("cut", ()) if error is None else status_of(error)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


class Call:
    """In the place of a call: it takes all messages, then says what a test gives, and ends as that wants."""

    def __init__(self, *said: bytes, ends: Exception | None = None) -> None:
        self._said, self._ends, self.sent, self.cancelled = said, ends, list[bytes](), 0

    def __call__(self, messages: Iterable[bytes], metadata: list[tuple[str, str]]) -> Call:
        self._messages, self.metadata = messages, metadata
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield FIRST
        self.sent += self._messages
        yield from self._said
        if self._ends is not None:
            raise self._ends

    def cancel(self) -> None:
        self.cancelled += 1


FIRST, TWO, ALL = (Down(confirmed=seq).SerializeToString() for seq in (0, 2, 3))
MINE = [("authorization", "Bearer mine")]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_stream, "_HEAR_S", 0.01)  # these calls confirm when the stream has ended, and not before


def test_everything_is_sent_in_order_and_counted() -> None:
    call, messages = Call(ALL), [frame(seq) for seq in range(3)]
    stream = Stream(HEADER, call, MINE)
    assert stream.heard.wait(30) and stream.confirmed == 0 and not stream.broke_off
    for message in messages:
        stream.send(split(message))
    stream.finish()
    assert call.sent == list(ups(HEADER, messages)) and call.metadata == MINE
    assert (stream.up, stream.down) == (sum(map(len, call.sent)), len(FIRST) + len(ALL))
    assert stream.confirmed == 3 and not stream.broke_off
    stream.flush()


@pytest.mark.parametrize(
    ("header", "said", "error", "ends_well"),
    [
        (ANSWERED, ALL, None, True),  # the confirmation was the receiver's answer to the end
        (ANSWERED, TWO, None, False),
        (ANSWERED, ALL, RunError("refused"), False),
        (HEADER, ALL, None, False),  # the receiver may not know that this side has heard it
    ],
)
def test_an_end_that_is_cut_off_counts_where_all_is_known(header, said, error, ends_well) -> None:
    stream = Stream(header, Call(said, ends=Ended(error)), [])
    with contextlib.nullcontext() if ends_well else pytest.raises(Ended):
        stream.finish()


def test_answers_come_in_order_and_then_the_end_as_often_as_it_is_asked_for() -> None:
    answers = [serialise(frame_of_zeros(seq), answer_header(ANSWERED)) for seq in range(2)]
    said = [part for answer in answers for part in split(answer)]
    stream = Stream(ANSWERED, Call(*said), [])
    stream.send([None])
    assert [stream.answer() for _ in range(4)] == [*answers, None, None]
    broken = Stream(ANSWERED, Call(ends=Ended()), [])
    broken.send([None])
    for _ in range(2):
        with pytest.raises(Ended):
            broken.answer()


def frame_of_zeros(seq: int) -> Frame:
    return Frame(seq, EncodedBatch(np.arange(2), np.zeros(2, np.int64), bytes(100), b""))


def test_what_is_not_readable_ends_the_call() -> None:
    call = Call(b"\xff")
    stream = Stream(HEADER, call, [])
    stream.send([None])
    with pytest.raises(LinkError, match="not readable; is the other side a smartedge cloud"):
        stream.flush()
    assert stream.broke_off and call.cancelled == 1
    with pytest.raises(LinkError, match="not readable"):
        stream.send([b"more"])


def test_a_stream_that_the_receiver_ends_too_early_takes_nothing_more() -> None:
    stream = Stream(HEADER, Call(), [])
    stream.send([None])
    with pytest.raises(LinkError, match="before it confirmed the last frame"):
        stream.flush()
    with pytest.raises(LinkError, match="before the last frame"):
        stream.send([b"more"])
    stream.finish()  # says nothing: what is not confirmed is the link's to tell


def test_no_thread_of_a_link_keeps_a_process_alive() -> None:
    receiver = GrpcReceiver(Handler(), "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}")
    try:
        link.open(HEADER)
        ours = {thread.name: thread.daemon for thread in threading.enumerate()}
        assert ours["link"] and ours["link watch"] and ours["receiver"]
        assert any(name.startswith("ingest_") for name in ours)
    finally:
        link.disconnect()
        receiver.close()
