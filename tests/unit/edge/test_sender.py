"""Between training and the link: order, bounds, errors, and a clean end."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from headers import stream_header

from smartedge.artifacts.results import Distortion
from smartedge.codec import get_codec
from smartedge.edge.sender import Sender, Traffic
from smartedge.errors import LinkError, RunError
from smartedge.privacy.mechanisms import Unprotected
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.types import Frame, ReleaseEvent, StreamHeader
from smartedge.wire.memory import MemoryLink

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


def sender(receiver: Receiver, *, threaded: bool = True, queue_frames: int = 2) -> Sender:
    gate = Gate(Unprotected((2, 2, 2)), Recorded(), Noise(bytes(32)), task=None)
    return Sender(
        MemoryLink(receiver),
        get_codec("float32"),
        gate,
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
    box.open(dataclasses.replace(HEADER, split="val", first_seq=4, frames=1))
    send(box, 4)
    box.close_stream()
    box.finish(threading.Event())
    assert [frame.seq for frame in receiver.frames] == list(range(5))
    assert confirmed == [(4, 0)], "its frames are durable, and the receiver does not know yet that this is the end"
    assert [header.split for header in receiver.finished] == ["train", "val"]
    assert box.next_seq == 5
    assert box.traffic.images == {"train": 12, "val": 3}
    assert box.traffic.up["train"] > 4 * 96
    assert box.traffic.codec_error == Distortion(max_abs=0.0, rmse=0.0, energy_kept=1.0), "float32 loses nothing"
    assert Traffic.of(box.traffic.totals()) == box.traffic
    recorded = box.gate.ledger.debits
    assert recorded == [("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 4)], (
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


@pytest.mark.parametrize("synced", [True, False])
def test_an_end_that_was_not_heard_costs_the_last_stream_alone_another_try(synced):
    """An earlier stream whose frames are durable has ended for the receiver when the next one begins."""

    class Deaf(Receiver):
        def finish(self, edge: str, header: StreamHeader) -> None:
            raise LinkError("the cable was pulled")

        def sync(self, edge: str, header: StreamHeader) -> int:
            return header.end_seq if synced else header.first_seq

    box = sender(Deaf(), threaded=False)
    box.open(HEADER)
    send_many(box, 4)
    box.close_stream()
    later = dataclasses.replace(HEADER, split="val", first_seq=4, frames=0)
    if not synced:
        with pytest.raises(LinkError, match="cable"):
            box.open(later)
        return
    box.open(later)
    with pytest.raises(LinkError, match="cable"):
        box.finish(threading.Event())


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


def test_abort_ends_the_thread_whatever_waits():
    gate = threading.Event()
    box = sender(Receiver(gate=gate), queue_frames=4)
    box.open(HEADER)
    for seq in range(3):
        send(box, seq)
    threading.Timer(0.2, gate.set).start()
    box.abort()
    assert not box._thread.is_alive()
