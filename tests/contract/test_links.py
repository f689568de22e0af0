"""What every link must do, seen by the sender and by the handler behind the receiver.

Over a broker the sender hears of nothing behind it, and the handler is called later. So tests wait until the handler
was called, and those that need a way back from the handler run over the others.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from headers import stream_header

from smartedge.errors import FrameError, LinkError, LogError, RunError
from smartedge.types import PROTOCOL, EncodedBatch, Frame, StreamHeader
from smartedge.wire import grpc_stream
from smartedge.wire.frame import Message, serialise
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.jetstream.receiver import JetStreamReceiver, Taking, Timing
from smartedge.wire.jetstream.sender import JetStreamLink
from smartedge.wire.link import UNNAMED_EDGE, FrameSender
from smartedge.wire.memory import MemoryLink

HEADER = stream_header(
    codec="uint8", feature_shape=(8, 4, 4), outputs=10, epoch=2, split="val", first_seq=5, frames=3, train_steps=7
)
ANSWERED = dataclasses.replace(HEADER, answer_shape=(8, 4, 4))
NOT_OPEN = r"^(link|link to .*|broker .*): no stream is open"
# What the handler hears of a stream that breaks off. Behind a broker it hears nothing: the edge may go on at any time.
ABORT: dict[type, list[str]] = {MemoryLink: ["abort"], GrpcLink: ["abort"], JetStreamLink: []}


def frame(header: StreamHeader, seq: int, *, payload: bytes = b"payload") -> Frame:
    count = 1 + seq % header.batch_size
    labels = np.arange(count) if header.task_kind == "single" else np.eye(count, header.outputs, dtype=np.uint8)
    batch = EncodedBatch(np.arange(count) + 100 * seq, labels, payload, b"side")
    return Frame(seq, batch)


def message(header: StreamHeader, seq: int, **facts: bytes) -> Message:
    return serialise(frame(header, seq, **facts), header)


def frames(header: StreamHeader) -> list[Frame]:
    return [frame(header, header.first_seq + index) for index in range(header.frames)]


def plain(value: Frame) -> tuple[object, ...]:
    """All of a frame, comparable."""
    batch = value.batch
    arrays = (batch.ids.tolist(), batch.ids.dtype, batch.labels.tolist(), batch.labels.dtype)
    return (value.seq, *arrays, batch.payload, batch.side)


class Handler:
    """Keeps what came; raises ``failure`` in the method named ``fails``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.edges: list[str] = []
        self.headers: list[StreamHeader] = []
        self.held = 0  # how many frames of a stream are held when it is opened
        self.frames: list[Frame] = []
        self.fails = ""
        self.failure: Exception = RuntimeError("a bug in the handler")
        self.aborted = threading.Event()
        self.finished = threading.Event()
        self.synced = threading.Semaphore(0)
        self._called_now = threading.Condition()
        self.reply: Callable[[Frame], Frame | None] = lambda frame: (
            dataclasses.replace(frame, batch=dataclasses.replace(frame.batch, payload=b"gradient", side=b""))
            if self.headers[-1].answered
            else None
        )

    def was_called(self, *names: str) -> bool:
        """Whether these calls came, and no others; waits for them."""
        with self._called_now:
            self._called_now.wait_for(lambda: self.calls == list(names), timeout=30)
        return self.calls == list(names)

    def _called(self, name: str) -> None:
        with self._called_now:
            self.calls.append(name)
            self._called_now.notify_all()
        if self.fails == name:
            raise self.failure

    def accept(self, edge: str, header: StreamHeader) -> int:
        self.edges.append(edge)
        self.headers.append(header)
        self._called("accept")
        return header.first_seq + self.held

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame | None:
        assert (edge, header) == (self.edges[-1], self.headers[-1])
        self.frames.append(frame)
        self._called("ingest")
        return self.reply(frame)

    def sync(self, edge: str, header: StreamHeader) -> int:
        assert (edge, header) == (self.edges[-1], self.headers[-1])
        self.synced.release()
        return self.frames[-1].seq + 1

    def finish(self, edge: str, header: StreamHeader) -> None:
        assert (edge, header) == (self.edges[-1], self.headers[-1])
        self._called("finish")
        self.finished.set()

    def abort(self, edge: str, header: StreamHeader) -> None:
        assert (edge, header) == (self.edges[-1], self.headers[-1])
        self._called("abort")
        self.aborted.set()


@pytest.fixture
def handler() -> Handler:
    return Handler()


with_a_way_back = pytest.mark.parametrize("link", ["memory", "grpc"], indirect=True)


@pytest.fixture(params=["memory", "grpc", "jetstream", "jetstream, 3 streams"])
def link(request: pytest.FixtureRequest, handler: Handler) -> Iterator[FrameSender]:
    if request.param == "memory":
        yield MemoryLink(handler)
        return
    if request.param.startswith("jetstream"):
        name, several = f"t{uuid.uuid4().hex}", "streams" in request.param
        address = request.getfixturevalue("broker").address(name, n_streams=3 if several else 1)
        taking = JetStreamReceiver(handler, address, Taking(), timing=Timing(look_s=0.05))
        taking.start()
        assert taking.ready.wait(30)
        publishing = JetStreamLink(address, timeout_s=30)
        yield publishing
        publishing.disconnect()
        taking.close()
        return
    receiver = GrpcReceiver(handler, "127.0.0.1")
    receiver.start()
    sender = GrpcLink(f"127.0.0.1:{receiver.port}", connect_timeout_s=30)
    yield sender
    sender.disconnect()
    receiver.close()


def send(link: FrameSender, header: StreamHeader, seqs: Iterable[int] | None = None) -> None:
    wanted = link.open(header)
    for seq in range(wanted, header.end_seq) if seqs is None else seqs:
        link.write(message(header, seq))
    link.close()


def test_frames_arrive_as_they_were_sent(link: FrameSender, handler: Handler) -> None:
    multi = dataclasses.replace(HEADER, task_kind="multi", outputs=13, first_seq=8, frames=1, split="test")
    send(link, HEADER)
    send(link, multi)
    assert handler.was_called("accept", *["ingest"] * 3, "finish", "accept", "ingest", "finish")
    assert [plain(each) for each in handler.frames] == [plain(each) for each in frames(HEADER) + frames(multi)]
    assert handler.headers == [HEADER, multi]


@with_a_way_back
@pytest.mark.parametrize("header", [HEADER, ANSWERED], ids=["one-way", "answered"])
def test_a_stream_goes_on_at_the_frame_that_the_receiver_wants(
    link: FrameSender, handler: Handler, header: StreamHeader
) -> None:
    assert link.confirmed() == 0
    for held in (0, 2, 3):
        handler.held = held
        handler.frames.clear()
        assert link.open(header) == link.confirmed() == 5 + held
        for each in frames(header)[held:]:
            (link.exchange if header.answered else link.write)(serialise(each, header))
        link.close()
        assert link.confirmed() == 8
        assert [each.seq for each in handler.frames] == [5, 6, 7][held:]
    assert set(handler.edges) == {UNNAMED_EDGE}


@with_a_way_back
def test_a_frame_that_the_receiver_holds_is_out_of_order(link: FrameSender, handler: Handler) -> None:
    handler.held = 1
    with pytest.raises(FrameError, match="frame 5: out of order, 6 is next"):
        send(link, HEADER, (5, 6, 7))
    assert handler.calls == ["accept", "abort"]


def test_a_stream_may_be_empty(link: FrameSender, handler: Handler) -> None:
    send(link, dataclasses.replace(HEADER, frames=0))
    assert handler.was_called("accept", "finish")


@with_a_way_back
def test_exchange_gives_the_reply(link: FrameSender, handler: Handler) -> None:
    link.open(ANSWERED)
    for each in frames(ANSWERED):
        reply = link.exchange(serialise(each, ANSWERED))
        assert reply.batch.payload == b"gradient" and reply.seq == each.seq
    link.close()
    assert handler.calls == ["accept", *["ingest"] * 3, "finish"]
    assert link.counters().down > 0


def test_what_is_not_answered_is_written(link: FrameSender, handler: Handler) -> None:
    link.open(HEADER)
    with pytest.raises(FrameError, match=r"not answered; send them by write\(\)"):
        link.exchange(message(HEADER, 5))


@with_a_way_back
def test_what_is_answered_is_exchanged(link: FrameSender, handler: Handler) -> None:
    link.open(ANSWERED)
    with pytest.raises(FrameError, match=r"answered; send them by exchange\(\)"):
        link.write(message(ANSWERED, 5))


@with_a_way_back
@pytest.mark.parametrize(
    "error", [RunError("another run"), FrameError("frames are missing — é"), LogError("disk full")]
)
def test_a_refusal_is_raised_by_open(link: FrameSender, handler: Handler, error: Exception) -> None:
    handler.fails, handler.failure = "accept", error
    for header in (HEADER, ANSWERED):
        with pytest.raises(type(error), match=str(error)):
            link.open(header)
    assert handler.calls == ["accept", "accept"]
    handler.fails = ""
    send(link, HEADER)


@with_a_way_back
@pytest.mark.parametrize("fails", ["ingest", "finish"])
def test_the_handlers_error_reaches_the_sender(link: FrameSender, handler: Handler, fails: str) -> None:
    handler.fails, handler.failure = fails, LogError("disk full: make room")
    with pytest.raises(LogError, match=r"^disk full: make room$"):
        send(link, HEADER)
    assert handler.calls[-1] == ("abort" if fails == "ingest" else "finish")
    handler.fails = ""
    send(link, HEADER)


@with_a_way_back
def test_the_handlers_error_reaches_who_waits_for_a_reply(link: FrameSender, handler: Handler) -> None:
    link.open(ANSWERED)
    handler.fails, handler.failure = "ingest", LogError("disk full")
    with pytest.raises(LogError, match=r"^disk full$"):
        link.exchange(message(ANSWERED, 5))


@with_a_way_back
def test_flush_returns_when_all_is_durable_and_the_receiver_does_not_know_of_the_end(
    link: FrameSender, handler: Handler
) -> None:
    link.open(HEADER)
    for seq in range(5, 8):
        link.write(message(HEADER, seq))
    link.flush()
    assert handler.synced.acquire(blocking=False) and link.confirmed() == 8
    assert handler.calls == ["accept", *["ingest"] * 3]
    link.close()
    assert handler.calls == ["accept", *["ingest"] * 3, "finish"]
    handler.held = 3
    link.open(HEADER)
    link.flush()  # there was nothing to send
    link.close()


@with_a_way_back
def test_flush_raises_where_the_receiver_fails(link: FrameSender, handler: Handler) -> None:
    handler.fails, handler.failure = "ingest", LogError("disk full: make room")

    def send_and_flush() -> None:
        link.open(HEADER)
        for seq in range(5, 8):
            link.write(message(HEADER, seq))
        link.flush()

    with pytest.raises(LogError, match=r"^disk full: make room$"):
        send_and_flush()
    link.disconnect()
    with pytest.raises(LinkError, match=NOT_OPEN):
        link.flush()


def test_close_refuses_a_stream_that_lacks_frames(
    link: FrameSender, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_stream, "_HEAR_S", 0.2)  # a confirmation of all frames never comes
    link.open(HEADER)
    link.write(message(HEADER, 5))
    with pytest.raises(FrameError, match="ended after 1 of 3 frames"):
        link.close()
    assert handler.was_called("accept", "ingest", *ABORT[type(link)])


@pytest.mark.parametrize("seqs", [(5, 7), (5, 5), (6,)])
def test_frames_must_be_in_order(link: FrameSender, handler: Handler, seqs: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="out of order"):
        send(link, HEADER, seqs)
    assert handler.was_called("accept", *["ingest"] * (len(seqs) - 1), *ABORT[type(link)])


@with_a_way_back
@pytest.mark.parametrize(
    "change",
    [{"seq": 4}, {"seq": 8}, {"ids": np.array([7, 7])}, {"labels": np.array([0, 10])}, {"payload": b""}],
    ids=lambda change: next(iter(change)),
)
def test_a_frame_must_go_with_the_header(link: FrameSender, handler: Handler, change: dict[str, object]) -> None:
    """The receiver checks it, so that a one-way sender may hear of it a little later: when it closes at the latest."""
    good = frame(HEADER, 5)
    assert len(good.batch.ids) == 2
    seq, batch = change.get("seq", 5), {key: value for key, value in change.items() if key != "seq"}
    lenient = dataclasses.replace(HEADER, outputs=256)
    link.open(HEADER)

    def send_wrong() -> None:
        link.write(serialise(Frame(seq, dataclasses.replace(good.batch, **batch)), lenient))  # type: ignore[arg-type]
        link.close()

    with pytest.raises(FrameError, match="frame"):
        send_wrong()
    with pytest.raises(LinkError, match=NOT_OPEN):
        link.write(message(HEADER, 5))
    assert handler.aborted.wait(timeout=30) and handler.frames == []


@with_a_way_back
@pytest.mark.parametrize("change", [{"seq": 6}, {"ids": np.array([1, 2])}, None])
def test_a_reply_must_be_to_the_frame(link: FrameSender, handler: Handler, change: dict[str, object] | None) -> None:
    def reply(got: Frame) -> Frame | None:
        if change is None:
            return None
        if "ids" in change:
            return dataclasses.replace(got, batch=dataclasses.replace(got.batch, ids=got.batch.ids[::-1] + 1))
        return dataclasses.replace(got, **change)  # type: ignore[arg-type]

    handler.reply = reply
    link.open(ANSWERED)
    with pytest.raises(FrameError, match="frame 5"):
        link.exchange(message(ANSWERED, 5))
    assert handler.aborted.wait(timeout=30)


@with_a_way_back
def test_a_one_way_frame_must_not_be_replied_to(link: FrameSender, handler: Handler) -> None:
    handler.reply = lambda frame: frame
    with pytest.raises(FrameError, match="must not be replied to"):
        send(link, HEADER)


def test_a_header_that_means_nothing_is_refused_before_the_handler(link: FrameSender, handler: Handler) -> None:
    for change in (
        {"protocol": PROTOCOL + 1},
        {"outputs": 0},
        {"feature_shape": ()},
        {"split": "all"},
        {"batch_size": 2**40},
    ):
        with pytest.raises(FrameError, match="stream header"):
            link.open(dataclasses.replace(HEADER, **change))  # type: ignore[arg-type]
    assert handler.calls == []


def test_disconnect_breaks_the_stream_off(link: FrameSender, handler: Handler) -> None:
    link.open(HEADER)
    link.write(message(HEADER, 5))
    link.disconnect()
    link.disconnect()
    assert isinstance(link, JetStreamLink) or handler.aborted.wait(timeout=30)
    assert "finish" not in handler.calls
    for call in (
        link.close,
        lambda: link.write(message(HEADER, 6)),
        lambda: link.exchange(message(HEADER, 6)),
    ):
        with pytest.raises(LinkError, match=NOT_OPEN):
            call()
    send(link, HEADER)
    assert handler.finished.wait(timeout=30)
    assert [each.seq for each in handler.frames[-3:]] == [5, 6, 7]


def test_one_stream_at_a_time(link: FrameSender) -> None:
    link.open(HEADER)
    with pytest.raises(LinkError, match=r"^(link|link to .*|broker .*): a stream is open already"):
        link.open(HEADER)


def test_counters_grow_with_what_is_sent(link: FrameSender) -> None:
    assert (link.counters().up, link.counters().down) == (0, 0)
    previous = 0
    for seq, size in ((5, 1000), (9, 4000)):
        header = dataclasses.replace(HEADER, first_seq=seq, frames=1)
        link.open(header)
        link.write(message(header, seq, payload=bytes(size)))
        link.close()
        up = link.counters().up
        assert size < up - previous < size + 3000
        previous = up
    link.disconnect()
    assert link.counters().up >= previous
    send(link, dataclasses.replace(HEADER, first_seq=13))
    assert link.counters().up > previous
