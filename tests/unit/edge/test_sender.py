"""Between training and the link: order, bounds, errors, and a clean end."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from headers import stream_header

from smartedge.artifacts.results import Distortion
from smartedge.codec import get_codec
from smartedge.edge.sender import Sender, Traffic
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.errors import LinkError, RunError, SmartEdgeError
from smartedge.privacy.mechanisms import Unprotected
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.stopping import Interrupted
from smartedge.types import EncodedBatch, Frame, ReleaseEvent, StreamHeader
from smartedge.wire.memory import MemoryLink
from smartedge.wire.sockets import ByteCount

HEADER = stream_header(batch_size=3, frames=4, train_steps=4)


class Recorded:
    """In a ledger's place: keeps which frames were debited."""

    def __init__(self) -> None:
        self.debits: list[tuple[str, int]] = []

    def debit(self, split: str, ids: np.ndarray, event: ReleaseEvent, *, seq: int, **rest: object) -> bool:
        self.debits.append((split, seq))
        return True


class Receiver:
    """Keeps what it gets; waits at a gate, or fails at a frame, where asked to."""

    def __init__(self, *, gate: threading.Event | None = None, fail_at: int | None = None) -> None:
        self.frames: list[Frame] = []
        self.finished: list[StreamHeader] = []
        self.gate = gate
        self.fail_at = fail_at
        self.wanted = self.synced = 0

    def accept(self, edge: str, header: StreamHeader) -> int:
        return max(self.wanted, header.first_seq)

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> None:
        if self.gate is not None:
            assert self.gate.wait(timeout=30)
        if frame.seq == self.fail_at:
            raise LinkError("the cable was pulled")
        self.frames.append(frame)

    def sync(self, edge: str, header: StreamHeader) -> int:
        self.synced = len(self.frames)
        return header.end_seq

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.finished.append(header)

    def abort(self, edge: str, header: StreamHeader) -> None: ...


def plain_gate() -> Gate:
    return Gate(
        Unprotected((2, 2, 2)),
        Recorded(),
        Noise(bytes(32)),
        task=None,
        label_epsilon=None,
        training_only=False,
        front_is_final=True,
    )


def sender(receiver: Receiver, *, threaded: bool = True, queue_frames: int = 2) -> Sender:
    return Sender(
        MemoryLink(receiver),
        get_codec("float32"),
        plain_gate(),
        next_seq=0,
        queue_frames=queue_frames,
        threaded=threaded,
        traffic=Traffic(),
    )


def send(box: Sender, seq: int) -> None:
    box.send(np.arange(3), np.full((3, 2, 2, 2), seq, np.float32), np.array([0, 1, 0]))


def send_many(box: Sender, count: int) -> None:
    for seq in range(count):
        send(box, seq)


@pytest.mark.parametrize("threaded", [True, False])
def test_frames_arrive_in_order_and_are_counted(threaded):
    receiver = Receiver()
    box = sender(receiver, threaded=threaded)
    confirmed = []
    box.open(HEADER)
    for seq in range(4):
        send(box, seq)
    box.close_stream()
    box.when_durable(lambda: confirmed.append((receiver.synced, len(receiver.finished))))
    box.open(dataclasses.replace(HEADER, split="test", first_seq=4, frames=1))
    send(box, 4)
    box.close_stream()
    box.when_durable(lambda: confirmed.append((receiver.synced, len(receiver.finished))))
    box.finish(threading.Event())
    assert [frame.seq for frame in receiver.frames] == list(range(5))
    assert confirmed == [(0, 1), (5, 1)], "after the last stream frames are durable, and the receiver may not end yet"
    assert [header.split for header in receiver.finished] == ["train", "test"]
    assert box.next_seq == 5
    assert box.traffic.images == {"train": 12, "test": 3}
    assert box.traffic.up["train"] > 4 * 96
    assert box.traffic.codec_error == Distortion(max_abs=0.0, rmse=0.0, energy_kept=1.0), "float32 loses nothing"
    assert Traffic.of(box.traffic.totals()) == box.traffic
    recorded = box.gate.ledger.debits
    assert recorded == [("train", 0), ("train", 1), ("train", 2), ("train", 3), ("test", 4)], (
        "every frame, under its seq"
    )


def test_a_stream_that_an_earlier_process_sent_is_ended_again():
    receiver = Receiver()
    box = sender(receiver, threaded=False)
    receiver.wanted = 4
    box.end_again(HEADER)
    assert (receiver.finished, receiver.frames) == ([HEADER], [])
    receiver.wanted = 3
    with pytest.raises(RunError, match="wants frame 3, but had confirmed all before 4"):
        box.end_again(HEADER)
    assert receiver.finished == [HEADER]
    receiver.wanted = 4
    box.end_again(HEADER)


def test_a_stream_whose_end_was_not_heard_has_not_ended():
    """In split learning the cloud writes its checkpoint before the end: without it the edge could not go on there."""

    class Deaf(Receiver):
        def finish(self, edge: str, header: StreamHeader) -> None:
            raise LinkError("the cable was pulled")

    for split, last in (("val", False), ("test", True)):
        box = sender(Deaf(), threaded=False)
        box.open(dataclasses.replace(HEADER, split=split))
        send_many(box, 4)
        if last:  # the edge first writes down what it needs to finish
            box.close_stream()
        with pytest.raises(LinkError, match="cable"):
            box.finish(threading.Event()) if last else box.close_stream()


def test_frames_that_the_receiver_holds_are_released_again_but_not_sent():
    receiver = Receiver()
    receiver.wanted = 2
    box = sender(receiver)
    box.open(HEADER)
    send_many(box, 4)
    box.close_stream()
    box.finish(threading.Event())
    assert [frame.seq for frame in receiver.frames] == [2, 3]
    assert box.gate.ledger.debits == [("train", 0), ("train", 1), ("train", 2), ("train", 3)]


def test_training_waits_where_the_queue_is_full():
    gate = threading.Event()
    receiver = Receiver(gate=gate)
    box = sender(receiver, queue_frames=1)
    box.open(HEADER)
    sent = []

    def train() -> None:
        for seq in range(4):
            send(box, seq)
            sent.append(seq)

    training = threading.Thread(target=train)
    training.start()
    training.join(timeout=1.0)
    assert training.is_alive(), "one frame at the gate, one in the queue: the next one waits"
    assert len(sent) <= 2
    gate.set()
    training.join(timeout=30)
    box.close_stream()
    box.finish(threading.Event())
    assert [frame.seq for frame in receiver.frames] == [0, 1, 2, 3]


def test_what_fails_on_the_sending_thread_is_raised_in_training():
    box = sender(Receiver(fail_at=1))
    box.open(HEADER)
    with pytest.raises(LinkError, match="the cable was pulled"):
        send_many(box, 1000)
    with pytest.raises(LinkError, match="the cable was pulled"):
        box.finish(threading.Event())
    box.abort()
    assert not box._thread.is_alive()


def test_abort_ends_the_thread_whatever_waits_and_drops_it(monkeypatch):
    gate, begun = threading.Event(), threading.Event()

    class Begun(Receiver):
        def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> None:
            begun.set()
            super().ingest(edge, header, frame)

    receiver = Begun(gate=gate)
    box = sender(receiver, queue_frames=4)
    box.open(HEADER)
    send_many(box, 3)
    assert begun.wait(timeout=30)
    disconnect = box.link.disconnect
    monkeypatch.setattr(box.link, "disconnect", lambda: (gate.set(), disconnect()))  # the first frame goes on
    box.abort()
    assert not box._thread.is_alive()
    assert [frame.seq for frame in receiver.frames] == [0]


def test_a_stop_ends_what_waits_for_room_or_for_the_end_of_the_queue():
    gate, stop = threading.Event(), threading.Event()
    box = sender(Receiver(gate=gate), queue_frames=4)
    assert box._thread.daemon, "an edge that breaks off does not wait for it"
    box.open(HEADER)
    send_many(box, 2)
    stop.set()
    assert not box.finish(stop), "what waits is not sent"
    with box.until(stop, cut_off=False), pytest.raises(Interrupted):
        send(box, 2)
    gate.set()
    box.abort()
    with pytest.raises(SmartEdgeError, match="the run was stopped"):
        send(box, 3)


def test_a_stop_is_heard_while_a_batch_waits_for_room():
    gate, stop = threading.Event(), threading.Event()
    box = sender(Receiver(gate=gate), queue_frames=1)
    box.open(HEADER)
    timers = [threading.Timer(0.1, stop.set), threading.Timer(60.0, gate.set)]  # the second one ends a failed test
    for timer in timers:
        timer.start()
    with box.until(stop, cut_off=False), pytest.raises(Interrupted):
        send_many(box, 4)
    assert not gate.is_set(), "there was no room yet"
    timers[1].cancel()
    gate.set()
    box.abort()


def test_an_answer_is_waited_for_and_counted_as_time_of_the_link(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("smartedge.edge.sender.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))

    class Answering(Receiver):
        def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame:
            super().ingest(edge, header, frame)
            gradient_BF = np.full((3, 2, 2, 2), 10 + frame.seq, np.float32)
            return Frame(frame.seq, EncodedBatch(frame.batch.ids, None, gradient_BF.tobytes(), b""))

    receiver = Answering()
    box = sender(receiver, threaded=False)
    box.open(dataclasses.replace(HEADER, answer_shape=(2, 2, 2), frames=2))
    for seq in range(2):
        found = box.exchange(np.arange(3), np.full((3, 2, 2, 2), seq, np.float32), np.array([0, 1, 0]))
        assert found.shape == (3, 2, 2, 2) and found.dtype == np.float32 and (found == 10 + seq).all()
    assert (box.next_seq, box.traffic.link_seconds, box.traffic.images) == (2, 2.0, {"train": 6})
    assert receiver.finished == []
    box.close_stream()
    assert len(receiver.finished) == 1, "its answers are complete, so it ends at once"
    assert box.traffic.down["train"] > 2 * 96


@pytest.mark.parametrize(("cut_off", "stopped"), [(True, True), (True, False), (False, True)])
def test_a_link_that_was_cut_off_to_stop_is_no_error_and_any_other_one_is(cut_off, stopped):
    box, stop = sender(Receiver(), threaded=False), threading.Event()
    if stopped:
        stop.set()
    with pytest.raises(Interrupted if cut_off and stopped else LinkError), box.until(stop, cut_off=cut_off):
        raise LinkError("the cable was pulled")


def test_who_waits_for_an_answer_is_cut_off_when_the_run_stops(monkeypatch):
    box, stop, cut = sender(Receiver(), threaded=False), threading.Event(), threading.Event()
    monkeypatch.setattr(box.link, "disconnect", cut.set)
    with box.until(stop, cut_off=True):
        assert not cut.is_set()
        stop.set()
        assert cut.wait(timeout=30)


def test_seconds_and_errors_are_those_of_their_parts(monkeypatch):
    """A clock that goes on by one at each look. The error is that of the first frame of the training images."""
    clock = itertools.count()
    monkeypatch.setattr("smartedge.edge.sender.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    box = sender(Receiver(), threaded=False)
    box.codec = get_codec("uint8")
    box.open(HEADER)
    random = np.random.default_rng(0)
    errors = []
    for scale in (1, 100, 100, 100):
        features = scale * random.standard_normal((3, 2, 2, 2)).astype(np.float32)
        box.send(np.arange(3), features, np.array([0, 1, 0]))
        errors.append(box.traffic.codec_error)
    assert errors[0].max_abs > 0 and errors == errors[:1] * 4
    assert (box.traffic.release_seconds, box.traffic.encode_seconds, box.traffic.link_seconds) == (4, 4, 4)
    box.close_stream()
    assert box.inline_seconds == 4 + 4 + 5
    box.open(dataclasses.replace(HEADER, split="val", first_seq=4, frames=1))
    box.send(np.arange(3), 100 * np.ones((3, 2, 2, 2), np.float32), np.array([0, 1, 0]))
    assert box.traffic.codec_error == errors[0]
    box.finish(threading.Event())
    assert box.traffic.link_seconds == 5 + 1 + 1, "the end of each stream, and a frame"
    other = sender(Receiver())
    other.traffic.link_seconds = 9.0
    assert other.inline_seconds == 0.0, "on a thread of its own it takes none of the caller's"
    other.finish(threading.Event())


def test_bytes_of_streams_are_those_of_the_link(monkeypatch):
    """A link that carries ten bytes up and three down between each look and the next."""
    looks = itertools.count()
    box = sender(Receiver(), threaded=False)

    def counters() -> ByteCount:
        look = next(looks)
        return ByteCount(10 * look, 3 * look, "payload")

    monkeypatch.setattr(box.link, "counters", counters)
    for split, first in (("train", 0), ("val", 4), ("train", 5)):
        box.open(dataclasses.replace(HEADER, split=split, first_seq=first, frames=1 if first else 4))
        send_many(box, 1 if first else 4)
        box.close_stream()
    box.finish(threading.Event())
    assert box.traffic.up.keys() == box.traffic.down.keys() == {"train", "val"}
    assert all(10 * box.traffic.down[split] == 3 * up > 0 for split, up in box.traffic.up.items())
    assert sum(box.traffic.up.values()) <= 10 * next(looks)


def test_a_stream_that_is_closed_is_durable_in_the_spool(tmp_path):
    """What a checkpoint says of frames is written after that."""
    link, traffic = MemoryLink(Receiver()), Traffic()
    spool = Spool(tmp_path / "spool", waiting=lambda why: None)
    shipper = Shipper(spool, link, tmp_path / "shipped.json", traffic, tell=lambda text: None)  # it has not begun
    box = Sender(
        link,
        get_codec("float32"),
        plain_gate(),
        next_seq=0,
        queue_frames=2,
        threaded=True,
        traffic=traffic,
        shipper=shipper,
    )
    durable, looked = [], threading.Event()
    box.open(HEADER)
    send_many(box, 4)
    box.close_stream()
    box.when_durable(lambda: (durable.append(spool._log.durable), looked.set()))
    assert looked.wait(timeout=30) and durable == [4]
    box.abort()
