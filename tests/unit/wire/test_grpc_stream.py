"""A receiver that hangs with its sockets open, and one that only takes its time."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from link_ends import HEADER, Handler, frame, receiving_process

from smartedge.errors import LinkError
from smartedge.wire import grpc_receiver, grpc_stream
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver

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
