"""What others may do to a receiver: it says no, keeps serving, and takes no memory for it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest
from link_ends import HEADER, Fleet, Handler, Links, Raw, frame, send, ups
from tcp_proxy import TcpProxy

import smartedge.wire.admission
import smartedge.wire.grpc_receiver
import smartedge.wire.places
from smartedge.errors import FleetError, LinkError, LogError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json
from smartedge.wire.grpc_link import METHOD
from smartedge.wire.grpc_receiver import GrpcReceiver, Limits
from smartedge.wire.link_pb2 import Down, Frame, Up
from smartedge.wire.parts import MESSAGE_BYTES

SECRET = Credentials(token="secret")


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def listen(handler: Handler) -> Iterator[Callable[..., GrpcReceiver]]:
    """Makes receivers that have started, and closes them in the end."""
    made: list[GrpcReceiver] = []

    def listen(**options: Any) -> GrpcReceiver:
        made.append(GrpcReceiver(handler, "127.0.0.1", **options))
        made[-1].start()
        return made[-1]

    yield listen
    handler.gate.set()
    for event in handler.blocked.values():
        event.set()
    for receiver in made:
        receiver.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.disconnect()


@pytest.fixture
def serving(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> Iterator[GrpcReceiver]:
    """A receiver that needs the token. In the end an honest sender still gets through."""
    receiver = listen(credentials=SECRET)
    yield receiver
    before = handler.finished
    send(links(receiver, credentials=SECRET))
    assert handler.finished == before + 1


@pytest.fixture
def raw(serving: GrpcReceiver) -> Iterator[Raw]:
    client = Raw(serving, "secret")
    yield client
    client.close()


def header(**changes: Any) -> bytes:
    return Up(header=header_to_json(dataclasses.replace(HEADER, **changes))).SerializeToString()


def part(**fields: Any) -> bytes:
    return Up(frame=Frame(**fields)).SerializeToString()


GOOD = list(ups(HEADER, [frame(seq) for seq in range(3)]))
SMALL = {"feature_shape": (1,), "batch_size": 4}
HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "nothing": ([], "the stream ended without one"),
    "no protobuf": ([b"\x00\xffgarbage"], "not readable as a message"),
    "garbage header": ([Up(header=b"\x00\xff").SerializeToString()], "stream header"),
    "oversized header": ([Up(header=GOOD[0] + b" " * 70_000).SerializeToString()], "bytes are more than"),
    "no header": (GOOD[1:], "stream header"),
    "garbage frame": ([GOOD[0], b"\xff\xff\xff"], "not readable as a message"),
    "garbage head": ([GOOD[0], part(head=b"x" * 40, payload=b"p")], "frame"),
    "nothing in a frame": ([GOOD[0], b""], "frame"),
    "wrong seq": ([GOOD[0], GOOD[1], GOOD[3]], "out of order"),
    "repeated seq": ([GOOD[0], GOOD[1], GOOD[1]], "out of order"),
    "too many frames": ([*GOOD, GOOD[3]], "out of order"),
    "too few frames": (GOOD[:2], "ended after 1 of 3"),
    "oversized payload": ([header(**SMALL), part(head=b"h", payload=bytes(1_500_000))], "are possible here"),
    "endless parts": (
        [header(**SMALL), *[part(head=b"h", payload=bytes(70_000), more=True)] * 1000],
        "are possible here",
    ),
    "tiny parts": ([GOOD[0], part(head=b"h", payload=b"p", more=True)], "a part of 1 bytes is continued"),
}


@pytest.mark.parametrize(("messages", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_senders_get_a_clear_error(raw: Raw, handler: Handler, messages: list[bytes], says: str) -> None:
    with pytest.raises(grpc.RpcError, match=says) as caught:
        raw.call(messages)
    assert dict(caught.value.trailing_metadata())["smartedge-code"] == "SE-FRAME"
    assert handler.finished == 0


def test_an_edge_that_sends_garbage_is_not_read_and_others_behind_its_address_are(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the answers, and calls again at once."""
    monkeypatch.setattr(smartedge.wire.admission, "_DELAY_S", 60.0)
    receiver = listen(guard=Fleet())
    broken, garbage = Raw(receiver, "broken"), HOSTILE["garbage head"][0]

    def refused(**options: float) -> None:
        with pytest.raises(grpc.RpcError):
            broken.call(garbage, **options)

    for _ in range(5):
        refused()
    sixth = threading.Thread(target=refused, kwargs={"timeout": 60})
    sixth.start()
    deadline = time.monotonic() + 30
    while receiver.refusals < 6:
        assert time.monotonic() < deadline
        sixth.join(timeout=0.01)
    assert sixth.is_alive(), "its answer comes late"
    for _ in range(2):
        refused(timeout=0.5)
    send(links(receiver, credentials=Credentials(token="sound")))
    assert handler.edges.count("broken") == 6 and handler.finished == 1
    broken.close()
    sixth.join(timeout=30)


def test_what_a_refused_stream_sent_is_let_go_at_once(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the garbage collector comes: endless parts took more memory in every second."""
    monkeypatch.setattr(smartedge.wire.admission, "_DELAY_S", 0.0)
    long = [header(**SMALL), part(head=b"h", payload=bytes(2**20), more=True)]

    def refuse(count: int) -> None:
        for _ in range(count):
            with pytest.raises(grpc.RpcError, match="are possible here"):
                raw.call(long)

    refuse(2)
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        refuse(10)
        assert tracemalloc.get_traced_memory()[0] < 4 * 2**20, "of 10 MiB that came"
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"messages": [bytes(MESSAGE_BYTES + 1)]}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"messages": [bytes(600_000_000)], "compression": grpc.Compression.Gzip}, grpc.StatusCode.UNIMPLEMENTED),
        ({"metadata": [("authorization", "Bearer secret"), ("x", "y" * 20_000)]}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"method": "/smartedge.link.v1.Link/Shutdown"}, grpc.StatusCode.UNIMPLEMENTED),
        ({"method": "/other"}, grpc.StatusCode.UNIMPLEMENTED),
        ({"metadata": []}, grpc.StatusCode.UNAUTHENTICATED),
        ({"metadata": [("authorization", "Bearer wrong")]}, grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=["long message", "bomb", "metadata", "method", "service", "no token", "wrong token"],
)
def test_what_grpc_or_admission_refuses(
    raw: Raw, handler: Handler, options: dict[str, Any], code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    before = psutil.Process().memory_info().rss  # the bomb is in it
    with pytest.raises(grpc.RpcError) as caught:
        raw.call(**{"messages": GOOD, **options})
    assert caught.value.code() == code
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    assert not [record for record in caplog.records if record.name.startswith("grpc")], "a log that anybody can fill"
    assert handler.edges == []


def test_a_call_that_grpc_ends_by_itself_prints_nothing(
    listen: Callable[..., GrpcReceiver], capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = listen()
    client = Raw(receiver)
    with pytest.raises(grpc.RpcError, match="Compression algorithm 'gzip' is disabled"):
        client.call([bytes(20_000_000)], compression=grpc.Compression.Gzip)
    client.close()
    receiver.close()
    assert capsys.readouterr().err == ""


def test_a_secret_is_never_told(raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(grpc.RpcError, match="token is missing or wrong") as caught:
        raw.call(GOOD, metadata=[("authorization", "Bearer wrong")])
    assert "secret" not in caught.value.details().replace("the same secret", "")
    assert "Bearer" not in caplog.text and "wrong;" in caplog.text


def test_another_protocol_does_no_harm(serving: GrpcReceiver) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))


# -- connections


def idle(receiver: GrpcReceiver, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", receiver.port), timeout=10) for _ in range(count)]


def test_idle_connections_give_way(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> None:
    receiver = listen(guard=Fleet(), limits=Limits(connections=20))
    first = links(receiver, credentials=Credentials(token="first"))
    first.open(HEADER)
    connections = idle(receiver, 60)
    for number in range(3):
        send(links(receiver, credentials=Credentials(token=f"e{number}"), connect_timeout_s=20))
    for seq in range(3):  # whoever has proved who it is stays
        first.write(frame(seq))
    first.close()
    assert handler.finished == 4
    ended = 0
    for connection in connections:
        connection.settimeout(0.01)
        with connection, contextlib.suppress(TimeoutError):
            while connection.recv(1000):  # gRPC's greeting
                pass
            ended += 1
    assert ended >= 40


def test_a_connection_that_never_proves_who_it_is_is_closed(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    receiver = listen(credentials=SECRET, limits=Limits(handshake_s=600.0))  # nothing else closes it in time
    receiver._connections._unproven_s = 0.4
    kept = links(receiver, credentials=SECRET)
    kept.open(HEADER)
    (connection,) = idle(receiver, 1)
    connection.settimeout(30)
    while connection.recv(1000):  # gRPC's greeting, then the end
        pass
    connection.close()
    kept.write(frame(0))
    assert kept.confirmed() == 0


def test_only_a_proxy_brings_several_senders_on_one_connection(listen: Callable[..., GrpcReceiver]) -> None:
    assert listen(guard=Fleet())._connections.shared
    assert not listen(credentials=SECRET)._connections.shared


def test_bytes_are_counted_for_each_edge(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    receiver = listen(guard=Fleet())
    sizes = {"a": 1000, "b": 50_000}
    for edge, size in sizes.items():
        link = links(receiver, credentials=Credentials(token=edge))
        send(link, size=size)
        counted = receiver.counters()[edge]
        assert 3 * size < counted.up <= link.counters().up  # gRPC may send more between the two looks
        link.disconnect()
    for edge, size in sizes.items():
        assert 3 * size < receiver.counters()[edge].up < 3 * size + 3000
    assert set(receiver.counters()) == set(sizes)


# -- streams of many edges


def test_a_stalled_edge_holds_nobody_up(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> None:
    receiver = listen(guard=Fleet())
    handler.blocked["slow"] = threading.Event()
    slow = links(receiver, credentials=Credentials(token="slow"))
    slow.open(HEADER)
    slow.write(frame(0))
    many = [
        threading.Thread(target=send, args=(links(receiver, credentials=Credentials(token=f"e{number}")),))
        for number in range(20)
    ]
    for each in many:
        each.start()
    for each in many:
        each.join(timeout=30)
    assert handler.finished == 20
    handler.blocked["slow"].set()
    slow.write(frame(1))
    slow.write(frame(2))
    slow.close()
    assert sorted(handler.edges) == sorted(["slow", *(f"e{number}" for number in range(20))])


def test_a_new_stream_replaces_one_that_is_silent(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = listen()
    first = links(receiver)
    first.open(HEADER)
    with pytest.raises(LinkError, match="takes one at a time"):
        links(receiver, patient=False).open(HEADER)
    monkeypatch.setattr(smartedge.wire.places, "_REPLACED_AFTER_S", 0.0)
    send(links(receiver))
    assert handler.aborted.acquire(timeout=30) and handler.finished == 1
    with pytest.raises(LinkError, match="another stream of the same edge took the place"):
        first.close()


def test_a_handler_that_fails_to_break_off_frees_the_place_of_its_stream(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off = threading.Event()

    def fails(edge: str, header: StreamHeader) -> None:
        broken_off.set()
        raise RuntimeError("as a disk would")

    monkeypatch.setattr(handler, "abort", fails)
    receiver = listen()
    first = links(receiver)
    first.open(HEADER)
    first.disconnect()
    assert broken_off.wait(30)
    send(links(receiver))
    assert handler.finished == 1


def test_a_receiver_may_take_several_streams_of_an_edge(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links
) -> None:
    receiver = listen(limits=Limits(streams_per_edge=2))
    opened = [links(receiver, patient=False) for _ in range(3)]
    opened[0].open(HEADER)
    opened[1].open(HEADER)
    with pytest.raises(LinkError, match="has an open stream"):
        opened[2].open(HEADER)
    assert handler.edges == ["edge", "edge"]


def test_frames_are_confirmed_within_the_stream(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links
) -> None:
    link = links(listen())
    link.open(HEADER)
    link.write(frame(0))
    link.write(frame(1))
    deadline = time.monotonic() + 30
    while link.confirmed() < 2 and time.monotonic() < deadline:
        handler.synced.acquire(timeout=0.1)
    assert link.confirmed() == 2 and handler.finished == 0
    while handler.synced.acquire(blocking=False):  # each frame may have been made durable by itself
        pass
    assert not handler.synced.acquire(timeout=0.7), "nothing new came, so there is nothing to make durable"


def test_a_connection_that_is_cut_does_not_end_its_stream(
    listen: Callable[..., GrpcReceiver], handler: Handler
) -> None:
    """Every frame came, but the sender may not have heard so: only its own end of the stream says that it has.

    The receiver took one cut of eight for an end, so there are 20.
    """
    receiver = listen()

    def messages(until: threading.Event) -> Iterator[bytes]:
        yield from ups(HEADER, [frame(seq) for seq in range(HEADER.frames)])
        until.wait(60)

    for _ in range(20):
        proxy, cut = TcpProxy(receiver.port), threading.Event()
        with grpc.insecure_channel(f"127.0.0.1:{proxy.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.stream_stream(METHOD, response_deserializer=Down.FromString)(messages(cut))
            assert HEADER.end_seq in (down.confirmed for down in call)
            proxy.close()
            aborted = handler.aborted.acquire(timeout=30)
            cut.set()
        assert aborted and handler.finished == 0


def test_a_silent_stream_is_ended(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> None:
    link = links(listen(limits=Limits(idle_s=0.2)))

    def send_nothing() -> None:
        link.open(HEADER)  # a slow sender hears of it here already
        handler.aborted.acquire(timeout=30)
        link.close()

    with pytest.raises(LinkError, match=r"was silent for 0\.2 s"):
        send_nothing()


def test_a_stream_without_a_header_is_ended(listen: Callable[..., GrpcReceiver]) -> None:
    receiver = listen(limits=Limits(header_s=0.2))
    client = Raw(receiver)
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(timeout=30)
        yield from ()

    with pytest.raises(grpc.RpcError, match=r"no header came within 0\.2 s"):
        client.call(nothing())
    ended.set()
    client.close()


def test_a_revoked_edge_loses_its_open_stream(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.0)
    fleet = Fleet()
    receiver = listen(guard=fleet)
    door, gate = (links(receiver, credentials=Credentials(token=name)) for name in ("door", "gate"))
    door.open(HEADER)
    gate.open(HEADER)
    fleet.revoked.add("door")
    assert handler.aborted.acquire(timeout=30)
    with pytest.raises(FleetError, match="edge door was revoked"):
        door.close()
    for seq in range(3):
        gate.write(frame(seq))
    gate.close()
    with pytest.raises(FleetError, match="edge door was revoked"):
        send(links(receiver, credentials=Credentials(token="door")))


def test_a_stream_that_takes_long_to_end_keeps_no_other_revoked_edge(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler is busy with a frame of the door, which was revoked first: its place is not free yet."""
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.0)
    fleet = Fleet()
    receiver = listen(guard=fleet)
    door, gate = (links(receiver, credentials=Credentials(token=name)) for name in ("door", "gate"))
    handler.blocked["door"] = threading.Event()
    door.open(HEADER)
    door.write(frame(0))
    gate.open(HEADER)
    fleet.revoked.add("door")
    deadline = time.monotonic() + 30
    while not any(place.stop.done() for place in receiver._places):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fleet.revoked.add("gate")
    assert handler.aborted.acquire(timeout=30)
    with pytest.raises(FleetError, match="edge gate was revoked"):
        gate.close()
    assert [place.peer.edge for place in receiver._places] == ["door"]


class Unsure(Fleet):
    """A register that cannot be read from some moment on."""

    unreadable = False

    def refusal(self, edge: str, serial: int | None = None) -> SmartEdgeError | None:
        if self.unreadable:
            raise LinkError(f"whether {edge} may send cannot be told")
        return super().refusal(edge, serial)


def test_a_register_that_cannot_be_read_refuses_for_now(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open streams end, each of them, and a new one is refused. Both senders may try again."""
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.0)
    register = Unsure()
    receiver = listen(guard=register)
    opened = {name: links(receiver, credentials=Credentials(token=name)) for name in ("door", "gate")}
    for link in opened.values():
        link.open(HEADER)
    register.unreadable = True
    for name, link in opened.items():
        assert handler.aborted.acquire(timeout=30)
        with pytest.raises(LinkError, match=f"whether {name} may send cannot be told"):
            link.close()
    client = Raw(receiver, "hall")
    with pytest.raises(grpc.RpcError, match="whether hall may send cannot be told") as caught:
        client.call(GOOD)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["smartedge-code"] == "SE-LINK"
    client.close()


def test_the_last_frame_is_made_durable_at_once_and_the_others_together(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_SYNC_S", 1000.0)
    link = links(listen())
    link.open(HEADER)
    for seq in range(3):
        link.write(frame(seq))
        assert handler.came.acquire(timeout=30)
    link.flush()
    assert handler.synced.acquire(blocking=False) and not handler.synced.acquire(blocking=False)
    link.close()
    answered = dataclasses.replace(HEADER, answer_shape=HEADER.feature_shape)
    link.open(answered)
    for seq in range(3):
        link.exchange(frame(seq))
    link.close()
    assert not handler.synced.acquire(blocking=False), "its end makes it durable, which comes next"


def test_a_stream_that_goes_away_while_the_handler_accepts_it_is_broken_off(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepting, accept, accepted = threading.Event(), threading.Event(), handler.accept

    def slow(edge: str, header: StreamHeader) -> int:
        accepting.set()
        accept.wait(timeout=60)
        return accepted(edge, header)

    monkeypatch.setattr(handler, "accept", slow)
    client = Raw(listen())
    call = client.channel.stream_stream(METHOD)(iter(GOOD[:1]))
    assert accepting.wait(timeout=30)
    call.cancel()
    accept.set()
    assert handler.aborted.acquire(timeout=30) and handler.finished == 0
    client.close()


def test_a_rate_is_kept(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    receiver = listen(limits=Limits(bytes_per_second=1_000_000))
    link = links(receiver)
    begun = time.monotonic()
    send(link, dataclasses.replace(HEADER, frames=20), size=100_000)
    assert time.monotonic() - begun > 0.8, "two megabytes, of which one passes at once"


def test_frames_are_taken_while_earlier_ones_become_durable(
    listen: Callable[..., GrpcReceiver], handler: Handler, links: Links
) -> None:
    link = links(listen())
    handler.disk.clear()
    link.open(HEADER)
    link.write(frame(0))
    assert handler.synced.acquire(timeout=30) and handler.came.acquire(timeout=30)
    link.write(frame(1))
    assert handler.came.acquire(timeout=30), "the disk is still busy with the first frame"
    handler.disk.set()
    link.write(frame(2))
    link.close()
    assert link.confirmed() == 3 and handler.finished == 1


def test_a_disk_that_fails_ends_the_stream(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> None:
    link = links(listen())
    handler.sync_failure = LogError("the disk does not take it")
    link.open(HEADER)
    link.write(frame(0))
    assert handler.synced.acquire(timeout=30)
    assert handler.aborted.acquire(timeout=30)
    with pytest.raises(LogError, match="the disk does not take it"):
        link.close()


def test_a_long_frame_comes_in_parts(listen: Callable[..., GrpcReceiver], handler: Handler, links: Links) -> None:
    receiver = listen()
    link = links(receiver)
    big = frame(0, size=9_000_000)
    link.open(dataclasses.replace(HEADER, frames=1, answer_shape=HEADER.feature_shape))
    assert link.exchange(big).batch.payload == big.payload
    link.close()
    assert len(big.payload) > MESSAGE_BYTES


def test_log_lines_are_few_and_plain(
    serving: GrpcReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.admission, "_LONGEST_DELAY_S", 0.1)
    clients = [Raw(serving, "secret") for _ in range(4)]

    def attack(client: Raw) -> None:
        for _ in range(3):
            with pytest.raises(grpc.RpcError):
                client.call([Up(header=b'{"\x1b[31m\\n\x00": 1}').SerializeToString()])

    threads = [threading.Thread(target=attack, args=(client,)) for client in clients]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("smartedge")]
    assert len(lines) == 5 and all(line.isprintable() for line in lines)
    for client in clients:
        client.close()
