"""The one-way link over real UDP sockets, with a proxy that loses datagrams."""

from __future__ import annotations

import dataclasses
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lossy_proxy import LossyProxy
from tests.unit.wire.simplex.conftest import KEYS, Kept, frame_of, header_of

import smartedge.wire.simplex.receiver
from smartedge.errors import FrameError, LinkError, LogError
from smartedge.types import StreamHeader
from smartedge.wire.frame import ReceivedFrame
from smartedge.wire.simplex.blocks import Assembler
from smartedge.wire.simplex.receiver import SimplexReceiver, _EdgeReceiver
from smartedge.wire.simplex.seal import Sealer
from smartedge.wire.simplex.sender import SimplexLink

FAST = 1e9  # bits per second
WAIT_S = 20.0  # longer than anything here takes; only a failing test waits so long

Proxies = Callable[..., LossyProxy]


@pytest.fixture
def link_to(tmp_path: Path) -> Iterator[Callable[..., SimplexLink]]:
    """``link_to(port, edge="cam-1", loss=0.1, rate=FAST)``"""
    made: list[SimplexLink] = []

    def make(port: int, edge: str = "cam-1", loss: float = 0.1, rate: float = FAST) -> SimplexLink:
        sealer = Sealer(edge, KEYS[edge], tmp_path / f"{edge}.counter")
        made.append(SimplexLink(f"127.0.0.1:{port}", sealer, rate_bits_s=rate, loss=loss))
        return made[-1]

    yield make
    for link in made:
        link.disconnect()


def send(link: SimplexLink, frames: range, *, first_seq: int = 0, count: int | None = None, size: int = 5000) -> None:
    link.open(header_of(len(frames) if count is None else count, first_seq=first_seq))
    for seq in frames:
        link.write(frame_of(seq, size))
    link.close()


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.1, 0.2])
def test_all_frames_arrive_at_the_loss_it_was_made_for(
    loss: float, kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], proxies: Proxies
) -> None:
    """A block of these is lost with a probability of 1e-6: of the 21 blocks one in 50 000 tests. The seed is fixed."""
    rng = random.Random(7)
    proxy = proxies(receiver.port, lambda number, datagram: rng.random() < loss)
    link = link_to(proxy.port, loss=loss)
    send(link, range(20))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [("accept", "cam-1", 0), *(("frame", "cam-1", seq) for seq in range(20)), ("finish", "cam-1")]
    assert all(kept.payloads["cam-1", seq] == frame_of(seq).payload for seq in range(20))
    assert (proxy.dropped > 0) == (loss > 0)
    assert proxy.came_back == 0
    proxy.wait_for(link.counters().up)
    assert (link.counters().down, link.counters().source, link.confirmed()) == (0, "udp datagrams", 20)


def test_what_is_lost_is_marked(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], proxies: Proxies
) -> None:
    gone: list[int] = []
    proxy = proxies(receiver.port, lambda number, datagram: bool(gone))
    link = link_to(proxy.port)
    link.open(header_of(8))
    for seq in range(8):
        if seq in (3, 6):  # frames 3, 4 and 6, 7 do not arrive
            gone.append(seq)
        if seq == 5:
            gone.clear()
        link.write(frame_of(seq))
        proxy.wait_for(link.counters().up)
    gone.clear()
    link.close()
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [
        ("accept", "cam-1", 0),
        *(("frame", "cam-1", seq) for seq in range(3)),
        ("lost", "cam-1", 5),
        ("frame", "cam-1", 5),
        ("lost", "cam-1", 8),
        ("finish", "cam-1"),
    ]


def test_later_frames_do_not_wait_for_ever_for_a_lost_one(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], proxies: Proxies
) -> None:
    """Of frame 0 one datagram arrives, frame 1 arrives whole, and then nothing comes any more."""
    first: list[bytes] = []
    proxy = proxies(receiver.port, lambda number, datagram: bool(first) and first.append(datagram) is None)
    link = link_to(proxy.port)
    link.open(header_of(2))
    first.append(b"")
    link.write(frame_of(0))
    proxy.wait_for(link.counters().up)
    proxy.send(first[1])
    first.clear()
    link.write(frame_of(1))
    assert kept.frames.acquire(timeout=WAIT_S)
    assert kept.events == [("accept", "cam-1", 0), ("lost", "cam-1", 1), ("frame", "cam-1", 1)]


def test_a_receiver_that_closes_breaks_off_open_streams(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink]
) -> None:
    link = link_to(receiver.port)
    link.open(header_of(2))
    link.write(frame_of(0))
    assert kept.frames.acquire(timeout=WAIT_S)
    receiver.close()
    assert kept.events == [("accept", "cam-1", 0), ("frame", "cam-1", 0), ("abort", "cam-1")]


def test_a_lost_end_is_seen_at_the_next_stream(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], proxies: Proxies
) -> None:
    link = link_to(receiver.port)
    link.open(header_of(3))
    link.write(frame_of(0))
    link.disconnect()  # as if killed: no end is sent
    send(link, range(3, 5), first_seq=3)
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [
        *(("accept", "cam-1", 0), ("frame", "cam-1", 0), ("lost", "cam-1", 3), ("finish", "cam-1")),
        *(("accept", "cam-1", 3), ("frame", "cam-1", 3), ("frame", "cam-1", 4), ("finish", "cam-1")),
    ]


def test_an_edge_that_starts_again_sends_again(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink]
) -> None:
    first = link_to(receiver.port)
    first.open(header_of(4))
    first.write(frame_of(0))
    first.write(frame_of(1))
    first.disconnect()
    send(link_to(receiver.port), range(4))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [("accept", "cam-1", 0), *(("frame", "cam-1", seq) for seq in range(4)), ("finish", "cam-1")]


def test_forged_and_repeated_datagrams_change_nothing(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], proxies: Proxies
) -> None:
    proxy = proxies(receiver.port)
    link = link_to(proxy.port)
    send(link, range(2))
    proxy.wait_for(link.counters().up)
    assert kept.ended.acquire(timeout=WAIT_S)
    before, sent = list(kept.events), list(proxy.passed)
    for datagram in sent:
        proxy.send(datagram)
        proxy.send(datagram[:-1] + bytes([datagram[-1] ^ 1]))
        proxy.send(datagram[: len(datagram) // 2])
    proxy.send(b"")
    proxy.send(b"\xff" * 1225)
    send(link_to(receiver.port, "cam-2"), range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events[: len(before)] == before
    assert kept.events[len(before) :] == [("accept", "cam-2", 0), ("frame", "cam-2", 0), ("finish", "cam-2")]
    assert receiver.refused == 3 * len(sent) + 2


def test_a_refused_stream_costs_nobody_else_anything(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink]
) -> None:
    kept.refuses.add("other")
    link = link_to(receiver.port)
    link.open(header_of(2, run="other"))
    link.write(frame_of(0))
    link.write(frame_of(1))
    link.close()
    assert kept.ended.acquire(timeout=WAIT_S)
    send(link, range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [("refuse", "cam-1"), ("accept", "cam-1", 0), ("frame", "cam-1", 0), ("finish", "cam-1")]


def test_a_frame_that_contradicts_its_header_ends_the_stream(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink]
) -> None:
    link = link_to(receiver.port)
    link.open(header_of(2))
    link.write(frame_of(0))
    link.write(frame_of(7))  # of no stream that was announced
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events == [("accept", "cam-1", 0), ("frame", "cam-1", 0), ("abort", "cam-1")]


def test_a_disk_without_room_loses_frames_and_not_the_stream(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], caplog: pytest.LogCaptureFixture
) -> None:
    take, full = kept.ingest, [1, 2]

    def ingest(edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        if frame.seq in full:
            full.remove(frame.seq)
            kept.frames.release()
            raise LogError("the disk is full")
        take(edge, header, frame)

    kept.ingest = ingest  # type: ignore[method-assign]
    send(link_to(receiver.port), range(4))
    assert kept.ended.acquire(timeout=WAIT_S)
    frames = [("frame", "cam-1", 0), ("lost", "cam-1", 2), ("lost", "cam-1", 3), ("frame", "cam-1", 3)]
    assert kept.events == [("accept", "cam-1", 0), *frames, ("finish", "cam-1")]
    assert [record.message for record in caplog.records if "are lost: the disk is full" in record.message] == [
        "edge cam-1: frames on the one-way link cannot be stored, and are lost: the disk is full"
    ]


@pytest.mark.parametrize("what", ["lost", "finish"])
def test_the_end_of_a_stream_waits_for_a_disk_without_room(
    what: str,
    kept: Kept,
    receiver: SimplexReceiver,
    link_to: Callable[..., SimplexLink],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The edge sends the end three times within a moment, and then nothing more."""
    monkeypatch.setattr(smartedge.wire.simplex.receiver, "_AGAIN_S", 0.01)
    tried, room, do = threading.Semaphore(0), threading.Event(), getattr(kept, what)

    def full(*arguments: object) -> None:
        tried.release()
        if not room.is_set():
            raise LogError("the disk is full")
        do(*arguments)

    setattr(kept, what, full)
    send(link_to(receiver.port), range(2), count=3)
    for _ in range(6):
        assert tried.acquire(timeout=WAIT_S)
    room.set()
    assert kept.ended.acquire(timeout=WAIT_S)
    frames = [("frame", "cam-1", 0), ("frame", "cam-1", 1), ("lost", "cam-1", 3)]
    assert kept.events == [("accept", "cam-1", 0), *frames, ("finish", "cam-1")]
    assert not kept.ended.acquire(timeout=0.1), "it ends once"


def test_an_error_that_nobody_thought_of_ends_a_stream_and_not_the_service(
    kept: Kept, receiver: SimplexReceiver, link_to: Callable[..., SimplexLink], caplog: pytest.LogCaptureFixture
) -> None:
    take = kept.ingest

    def ingest(edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        if header.run == "strange":
            raise ZeroDivisionError
        take(edge, header, frame)

    kept.ingest = ingest  # type: ignore[method-assign]
    link = link_to(receiver.port)
    link.open(header_of(1, run="strange"))
    link.write(frame_of(0))
    link.close()
    assert kept.ended.acquire(timeout=WAIT_S)
    send(link, range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert kept.events[-2:] == [("frame", "cam-1", 0), ("finish", "cam-1")]
    assert "unexpected error" in caplog.text


def test_datagrams_under_another_key_are_told_now_and_then(
    kept: Kept,
    receiver: SimplexReceiver,
    link_to: Callable[..., SimplexLink],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bundle that was renewed, or whose key was damaged, else says nothing anywhere."""
    monkeypatch.setattr(smartedge.wire.simplex.receiver, "_ASK_S", 0.0)
    told = threading.Event()
    caplog.handler.addFilter(lambda record: told.set() or True if "in its name" in record.getMessage() else True)
    sealer = Sealer("cam-1", bytes(32), tmp_path / "other.counter")
    link = SimplexLink(f"127.0.0.1:{receiver.port}", sealer, rate_bits_s=FAST, loss=0.1)
    send(link, range(1))
    assert told.wait(timeout=WAIT_S)
    send(link, range(1))
    link.disconnect()
    send(link_to(receiver.port), range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert caplog.text.count("datagrams in its name were dropped") == 1 and "edge cam-1: " in caplog.text


def test_a_device_with_a_new_bundle_is_heard_also_where_its_clock_is_an_hour_behind(
    kept: Kept,
    link_to: Callable[..., SimplexLink],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counters begin at the clock. Those of the old device were higher, and belong to its key alone."""
    monkeypatch.setattr(smartedge.wire.simplex.receiver, "_ASK_S", 0.0)
    keys, asked = dict(KEYS), threading.Event()
    receiver = SimplexReceiver(kept, lambda: (asked.set(), dict(keys))[1], "127.0.0.1", patience_s=0.2)
    receiver.start()
    send(link_to(receiver.port), range(2))
    assert kept.ended.acquire(timeout=WAIT_S)
    keys["cam-1"] = bytes(range(2, 34))
    for _ in range(2):  # the first time may have begun before
        asked.clear()
        assert asked.wait(timeout=WAIT_S)
    monkeypatch.setattr("time.time", lambda now=time.time: now() - 3600.0)
    sealer = Sealer("cam-1", keys["cam-1"], tmp_path / "new.counter")
    link = SimplexLink(f"127.0.0.1:{receiver.port}", sealer, rate_bits_s=FAST, loss=0.1)
    try:
        send(link, range(2, 4), first_seq=2)
        assert kept.ended.acquire(timeout=WAIT_S)
    finally:
        link.disconnect()
        receiver.close()
    assert [event[2] for event in kept.events if event[0] == "frame"] == [0, 1, 2, 3]


def test_the_cloud_s_name_is_looked_up_for_each_stream(
    kept: Kept, link_to: Callable[..., SimplexLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, there = socket.getaddrinfo, ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: look_up(there[0], *rest, **more))
    first = SimplexReceiver(kept, lambda: KEYS, "127.0.0.1")
    second = SimplexReceiver(kept, lambda: KEYS, "127.0.0.2", first.port)
    first.start()
    second.start()
    try:
        link = link_to(first.port)
        for seq, there[0] in enumerate(("127.0.0.1", "127.0.0.2", "no such name.invalid")):
            send(link, range(seq, seq + 1), first_seq=seq)
            assert kept.ended.acquire(timeout=WAIT_S)
        assert (len(first._edges), len(second._edges)) == (1, 1)
    finally:
        first.close()
        second.close()


def test_what_an_earlier_process_sent_is_not_sent_again(
    link_to: Callable[..., SimplexLink], receiver: SimplexReceiver
) -> None:
    link = link_to(receiver.port)
    link.assume_confirmed(3)
    link.assume_confirmed(1)
    assert link.confirmed() == 3 and link.open(header_of(4)) == 3
    link.disconnect()
    assert link.open(header_of(2)) == 2, "all of it was sent"


def test_what_was_gathered_before_a_break_does_not_count_after_it(
    link_to: Callable[..., SimplexLink], receiver: SimplexReceiver
) -> None:
    """A block is sent when 64 KiB are gathered, and not a byte before."""
    link = link_to(receiver.port)
    head = len(frame_of(0).head)
    link.open(header_of(100, joined=100))
    link.write(frame_of(0))
    link.disconnect()
    link.open(header_of(100, joined=100))
    link.write(frame_of(0, 2**16 - 1 - head))
    assert link.counters().up == 0
    link.write(frame_of(1, 1))
    assert link.counters().up > 2**16


def test_frames_cannot_be_answered(link_to: Callable[..., SimplexLink], receiver: SimplexReceiver) -> None:
    link = link_to(receiver.port)
    with pytest.raises(FrameError, match="cannot be answered"):
        link.open(dataclasses.replace(header_of(1), answer_shape=(64, 8, 8)))
    link.open(header_of(1))
    with pytest.raises(FrameError, match="cannot be answered"):
        link.exchange(frame_of(0))
    with pytest.raises(LinkError, match="open already"):
        link.open(header_of(1))


def test_nobody_listening_is_no_error(link_to: Callable[..., SimplexLink], receiver: SimplexReceiver) -> None:
    port = receiver.port
    receiver.close()
    link = link_to(port)
    send(link, range(3))
    assert link.confirmed() == 3


def test_a_thread_that_waits_for_the_rate_can_be_stopped(
    link_to: Callable[..., SimplexLink], receiver: SimplexReceiver
) -> None:
    link = link_to(receiver.port, rate=1.0)
    link.open(header_of(1))
    failed: list[BaseException] = []

    def write() -> None:
        try:
            link.write(frame_of(0))
        except LinkError as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while link.counters().up == 0:
        pass
    link.disconnect()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert "disconnected" in str(failed[0])


def test_a_socket_that_is_closed_while_it_sends_was_disconnected(
    link_to: Callable[..., SimplexLink], receiver: SimplexReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(socket.socket):
        def send(self, *arguments: object) -> int:
            link.disconnect()
            return super().send(*arguments)  # type: ignore[arg-type]  # EBADF

    monkeypatch.setattr("smartedge.wire.simplex.sender.socket.socket", Closed)
    link = link_to(receiver.port)
    link.open(header_of(1))
    with pytest.raises(LinkError, match="disconnected"):
        link.write(frame_of(0))


def test_what_is_dropped_is_counted_and_told_every_ten_minutes(
    receiver: SimplexReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, unopened = 1000.0, receiver._opener.unopened
    monkeypatch.setattr(smartedge.wire.simplex.receiver, "time", SimpleNamespace(monotonic=lambda: now))
    for edge, count, passed in (("cam-1", 3, 0.0), ("cam-1", 1, 599.0), ("cam-2", 4, 0.0), ("cam-1", 1, 1.0)):
        unopened[edge] += count
        now += passed
        receiver._tell_of_unopened()
    told = [record.getMessage().partition(" in its name")[0] for record in caplog.records]
    assert told == ["edge cam-1: 3 datagrams", "edge cam-2: 4 datagrams", "edge cam-1: 2 datagrams"]
    assert not any(unopened.values())


def test_a_network_that_fails_for_a_moment_ends_nothing(
    kept: Kept,
    receiver: SimplexReceiver,
    link_to: Callable[..., SimplexLink],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listening, failed = receiver._socket, threading.Event()

    class Failing:
        def recv(self, size: int) -> bytes:
            if not failed.is_set():
                failed.set()
                raise OSError(100, "Network is down")
            return listening.recv(size)

        def close(self) -> None:
            listening.close()

    monkeypatch.setattr(receiver._stop, "wait", lambda seconds: waits.append(seconds))
    waits: list[float] = []
    monkeypatch.setattr(receiver, "_socket", Failing())
    assert failed.wait(WAIT_S)
    send(link_to(receiver.port), range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    assert waits == [5.0] and "takes nothing at the moment: Network is down" in caplog.text


def test_where_it_cannot_listen_is_told(kept: Kept, receiver: SimplexReceiver) -> None:
    said = f"^cannot listen for datagrams on 127.0.0.1:{receiver.port}: Address already in use"
    with pytest.raises(LinkError, match=said):
        SimplexReceiver(kept, lambda: KEYS, "127.0.0.1", receiver.port)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_it_listens_on_an_address_of_ipv6_too(host: str, kept: Kept, tmp_path: Path) -> None:
    listening = SimplexReceiver(kept, lambda: KEYS, host)
    listening.start()
    sealer = Sealer("cam-1", KEYS["cam-1"], tmp_path / "counter")
    link = SimplexLink(f"[::1]:{listening.port}", sealer, rate_bits_s=FAST, loss=0.0)
    send(link, range(1))
    assert kept.ended.acquire(timeout=WAIT_S)
    threads = {thread.name: thread.daemon for thread in threading.enumerate()}
    assert threads["simplex"] and threads["simplex cam-1"], "no thread of it keeps a process alive"
    link.disconnect()
    listening.close()


def test_what_comes_faster_than_it_is_stored_is_lost_and_takes_no_memory(kept: Kept) -> None:
    edge, assembler = _EdgeReceiver(kept, "cam-1"), Assembler()
    edge._thread = threading.current_thread()  # takes nothing
    for _ in range(4100):
        edge.put(assembler, b"content")
    assert edge._contents.qsize() == 4096
