"""A receiver that hangs with its sockets open, and one that only takes its time."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time

import pytest
from link_ends import HEADER, Handler, frame, receiving_process

from smartedge.errors import LinkError
from smartedge.wire import grpc_receiver, grpc_stream
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver

ANSWERED = dataclasses.replace(HEADER, answer_shape=HEADER.feature_shape)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_receiver_that_hangs_ends_every_wait_and_goes_on_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel answers for a stopped process, so TCP finds nothing wrong."""
    monkeypatch.setattr(grpc_stream, "SILENCE_S", 0.5)
    quiet = r"has sent nothing for 0\.5 s: it hangs or was stopped"
    with contextlib.ExitStack() as ending:
        process, location = ending.enter_context(receiving_process())
        link = GrpcLink(location, connect_timeout_s=30.0)
        ending.callback(link.disconnect)
        link.open(HEADER)
        link.write(frame(0))
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LinkError, match=quiet):
            link.flush()
        process.send_signal(signal.SIGCONT)
        monkeypatch.setattr(grpc_stream, "SILENCE_S", 60.0)
        wanted = link.open(HEADER)  # the same link, over a new connection
        for seq in range(wanted, 3):
            link.write(frame(seq))
        link.close()
        assert link.confirmed() == 3

        # A connection that is there already, and a new stream over it.
        monkeypatch.setattr(grpc_stream, "SILENCE_S", 0.5)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LinkError, match=quiet):
            link.open(HEADER)
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("header", [HEADER, ANSWERED], ids=["confirmed", "answered"])
def test_a_receiver_that_takes_its_time_is_waited_for(header, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_stream, "SILENCE_S", 1.0)
    monkeypatch.setattr(grpc_receiver, "_ALIVE_S", 0.1)
    handler = Handler()
    handler.gate.clear()
    receiver = GrpcReceiver(handler, "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}")
    try:
        link.open(header)
        begun = time.monotonic()
        threading.Timer(2.0, handler.gate.set).start()
        if header.answered:
            link.exchange(frame(0))
        else:
            for seq in range(3):
                link.write(frame(seq))
            link.flush()
        assert time.monotonic() - begun > 1.5, "nothing but signs of life came in between"
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
