from __future__ import annotations

import dataclasses
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc
from link_ends import HEADER, Handler, Links, frame, receiving_process, send, ups
from ports import held_port

from smartedge.errors import LinkError, LogError, SmartEdgeError
from smartedge.types import StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver, Limits
from smartedge.wire.parts import MESSAGE_BYTES
from smartedge.wire.sockets import PEER_TIMEOUT_S, own_sockets

LINUX = sys.platform == "linux"
SECRET = Credentials(token="secret")
NONE = Credentials()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def receiver(handler: Handler) -> Iterator[GrpcReceiver]:
    made = GrpcReceiver(handler, "127.0.0.1", credentials=SECRET)
    made.start()
    yield made
    handler.gate.set()
    made.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.disconnect()


@pytest.fixture
def connect(links: Links) -> Callable[..., GrpcLink]:
    """Makes a link that has the token."""
    return lambda receiver, **options: links(receiver, **{"credentials": SECRET, **options})


@pytest.fixture
def assert_serves(receiver: GrpcReceiver, handler: Handler, links: Links) -> Callable[[], None]:
    """Checks that an honest sender gets through, whatever went before."""

    def assert_serves() -> None:
        before = handler.finished
        link = links(receiver, credentials=SECRET)
        send(link)
        link.disconnect()
        assert handler.finished == before + 1

    return assert_serves


Connect = Callable[..., GrpcLink]


# -- one stream at a time, start, close


def test_a_second_stream_waits_for_the_first(receiver: GrpcReceiver, handler: Handler, connect: Connect) -> None:
    first = connect(receiver)
    first.open(HEADER)
    with pytest.raises(LinkError, match=r"has an open stream, and takes one at a time.*tried for 1 s"):
        connect(receiver, connect_timeout_s=1.0).open(HEADER)
    second = connect(receiver, connect_timeout_s=30)
    waiting = threading.Thread(target=send, args=(second,))
    waiting.start()
    for seq in range(3):
        first.write(frame(seq))
    first.close()
    waiting.join(timeout=30)
    assert handler.finished == 2
    first.disconnect()
    second.disconnect()


def test_a_receiver_takes_streams_once_started(handler: Handler, connect: Connect) -> None:
    receiver = GrpcReceiver(handler, "127.0.0.1")
    waiting = threading.Thread(target=send, args=(connect(receiver, credentials=NONE),))
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive() and handler.edges == []
    receiver.start()
    waiting.join(timeout=30)
    assert handler.finished == 1
    receiver.close()
    with pytest.raises(LinkError, match=r"not there.*tried for 0\.2 s"):
        connect(receiver, credentials=NONE, connect_timeout_s=0.2).open(HEADER)


def test_a_sender_may_come_first(handler: Handler) -> None:
    with held_port() as port:
        link = GrpcLink(f"127.0.0.1:{port}", connect_timeout_s=30)
        sending = threading.Thread(target=send, args=(link,))
        sending.start()
        receiver = GrpcReceiver(handler, "127.0.0.1", port)
        receiver.start()
        sending.join(timeout=60)
        assert handler.finished == 1
        link.disconnect()
        receiver.close()


def test_a_receiver_that_may_not_have_heard_of_the_end_is_an_error(
    handler: Handler, receiver: GrpcReceiver, connect: Callable[..., GrpcLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the edge for an hour: the edge tells it again, after it was started again."""
    reached, go = threading.Event(), threading.Event()

    def finish(edge: str, header: StreamHeader) -> None:
        reached.set()
        go.wait(timeout=30)

    monkeypatch.setattr(handler, "finish", finish)
    link = connect(receiver)
    link.open(HEADER)
    for seq in range(3):
        link.write(frame(seq))
    told: list[LinkError] = []

    def close() -> None:
        with pytest.raises(LinkError) as caught:
            link.close()
        told.append(caught.value)

    closing = threading.Thread(target=close)
    closing.start()
    assert reached.wait(timeout=30) and link.confirmed() == 3
    for connection in own_sockets(local_port=receiver.port):
        with connection:
            connection.shutdown(socket.SHUT_RDWR)
    closing.join(timeout=30)
    go.set()
    assert len(told) == 1 and link.confirmed() == 3


def test_tries_come_less_and_less_often_and_not_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred edges that try ten times a second keep a slow cloud from ever serving one of them."""

    class Away(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

        def trailing_metadata(self) -> None: ...

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return len(waits) == 10

    def no_call(header: StreamHeader) -> int:
        raise Away

    waits: list[float] = []
    link = GrpcLink("127.0.0.1:1", connect_timeout_s=300)
    monkeypatch.setattr(link, "_open", no_call)
    monkeypatch.setattr(link, "_disconnected", Waits())
    with pytest.raises(LinkError, match="disconnected"):
        link.open(HEADER)
    usual = [min(5.0, 0.1 * 2**number) for number in range(10)]
    assert all(0.5 * mean <= wait <= 1.5 * mean for wait, mean in zip(waits, usual, strict=True))
    assert len({round(wait / mean, 6) for wait, mean in zip(waits, usual, strict=True)}) > 1, "jitter"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
def test_what_does_not_pass_by_itself_is_not_tried_again(
    code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return code

        def trailing_metadata(self) -> None: ...

        def details(self) -> str:
            return "no"

    def no_call(header: StreamHeader) -> int:
        tries.append(header)
        raise Refused

    tries: list[StreamHeader] = []
    link = GrpcLink("127.0.0.1:1", connect_timeout_s=300)
    monkeypatch.setattr(link, "_open", no_call)
    with pytest.raises(LinkError, match=r"link to 127\.0\.0\.1:1: "):
        link.open(HEADER)
    assert len(tries) == 1


def test_disconnecting_ends_the_wait_for_a_receiver() -> None:
    errors: list[Exception] = []
    with held_port() as port:
        link = GrpcLink(f"127.0.0.1:{port}", connect_timeout_s=300)

        def open_link() -> None:
            try:
                link.open(HEADER)
            except LinkError as error:
                errors.append(error)

        opening = threading.Thread(target=open_link)
        opening.start()
        while opening.is_alive():  # open() begins with a clean slate, so that a first call may come too early
            link.disconnect()
            opening.join(timeout=0.05)
    assert "disconnected" in str(errors[0])


def test_closing_the_receiver_breaks_an_open_stream_off(handler: Handler, connect: Connect) -> None:
    receiver = GrpcReceiver(handler, "127.0.0.1")
    receiver.start()
    link = connect(receiver, credentials=NONE)
    link.open(HEADER)
    link.write(frame(0))
    receiver.close()
    assert handler.aborted.acquire(timeout=30)
    with pytest.raises(LinkError):
        link.close()


def test_a_stream_that_is_durable_is_confirmed_even_if_the_receiver_is_closed_at_that_moment(links: Links) -> None:
    durable = threading.Event()

    class Closing(Handler):
        def finish(self, edge: str, header: StreamHeader) -> None:
            durable.set()

    for _ in range(10):
        durable.clear()
        receiver = GrpcReceiver(Closing(), "127.0.0.1")
        receiver.start()
        link = links(receiver)
        sending = threading.Thread(target=send, args=(link,))
        sending.start()
        assert durable.wait(timeout=30)
        receiver.close()
        sending.join(timeout=30)
        assert link.confirmed() == 3


def test_a_bug_in_the_handler_is_told_without_its_details(
    receiver: GrpcReceiver,
    handler: Handler,
    caplog: pytest.LogCaptureFixture,
    connect: Connect,
    assert_serves: Callable[[], None],
) -> None:
    handler.failure = ZeroDivisionError("private details")
    with pytest.raises(SmartEdgeError, match="failed unexpectedly") as caught:
        send(connect(receiver))
    assert "private" not in str(caught.value) and "private details" in caplog.text
    assert handler.aborted.acquire(timeout=30)
    handler.failure = None
    assert_serves()


def test_a_long_message_of_the_handler_still_arrives(
    receiver: GrpcReceiver, handler: Handler, connect: Connect
) -> None:
    handler.failure = LogError("disk — full. " * 1000)
    with pytest.raises(LogError, match="disk — full"):
        send(connect(receiver))


# -- backpressure, and what happens when one side goes away


def test_a_blocked_handler_stops_the_sender_and_what_is_in_flight_is_bounded(
    receiver: GrpcReceiver, handler: Handler, connect: Connect
) -> None:
    size, frames = 1_000_000, 200
    header = dataclasses.replace(HEADER, frames=frames)
    handler.gate.clear()
    link = connect(receiver)
    link.open(header)
    written = threading.Semaphore(0)

    def write_all() -> None:
        for seq in range(frames):
            link.write(frame(seq, size=size))
            written.release()
        link.close()

    sending = threading.Thread(target=write_all)
    sending.start()
    in_flight = 0
    while written.acquire(timeout=1.5):
        in_flight += 1
    assert in_flight * size < 64_000_000, "the sender must wait"
    assert sending.is_alive() and handler.ingested == 0
    handler.gate.set()
    sending.join(timeout=60)
    assert handler.ingested == frames and handler.finished == 1
    link.disconnect()


def test_disconnecting_wakes_a_blocked_sender(
    receiver: GrpcReceiver, handler: Handler, connect: Connect, assert_serves: Callable[[], None]
) -> None:
    header = dataclasses.replace(HEADER, frames=100)
    handler.gate.clear()
    link = connect(receiver)
    link.open(header)
    errors: list[Exception] = []
    begun = threading.Event()

    def write_all() -> None:
        try:
            for seq in range(100):
                link.write(frame(seq, size=4_000_000))
                begun.set()
        except LinkError as error:
            errors.append(error)

    sending = threading.Thread(target=write_all)
    sending.start()
    assert begun.wait(timeout=30)
    link.disconnect()
    sending.join(timeout=30)
    assert len(errors) == 1 and not sending.is_alive()
    handler.gate.set()
    assert handler.aborted.acquire(timeout=30)
    assert_serves()


def test_disconnecting_does_not_wait_for_a_call(receiver: GrpcReceiver, connect: Connect) -> None:
    """The call may be one that nothing wakes, as an attempt to connect; it drops the connection itself."""
    link = connect(receiver)
    with link._calling:
        disconnecting = threading.Thread(target=link.disconnect)
        disconnecting.start()
        disconnecting.join(timeout=5)
        waits = disconnecting.is_alive()
    assert not waits


def write_all(link: GrpcLink, header: StreamHeader, *, first: int = 0) -> None:
    for seq in range(first, header.frames):
        link.write(frame(seq))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_receiver_is_noticed_at_once() -> None:
    with receiving_process() as (process, location):
        header = dataclasses.replace(HEADER, frames=100_000)
        link = GrpcLink(location)
        link.open(header)
        link.write(frame(0))
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(LinkError, match="went away"):
            write_all(link, header, first=1)
        assert time.monotonic() - killed < PEER_TIMEOUT_S / 2


def test_a_sender_that_goes_away_is_noticed(
    receiver: GrpcReceiver, handler: Handler, connect: Connect, assert_serves: Callable[[], None]
) -> None:
    link = connect(receiver)
    link.open(HEADER)
    link.write(frame(0))
    for connection in own_sockets(peer_port=receiver.port):  # as when its process is killed
        with connection:
            connection.shutdown(socket.SHUT_RDWR)
    assert handler.aborted.acquire(timeout=30) and handler.finished == 0
    with pytest.raises(LinkError):
        link.close()
    assert_serves()


@pytest.mark.skipif(not LINUX, reason="socket options of Linux")
def test_both_ends_watch_for_a_peer_that_vanished(receiver: GrpcReceiver, connect: Connect) -> None:
    link = connect(receiver)
    link.open(HEADER)
    receiver._connections.look()  # as it does several times a second
    ends = own_sockets(peer_port=receiver.port) + own_sockets(local_port=receiver.port)
    assert len(ends) == 2
    for connection in ends:
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    link.disconnect()


# -- bytes


@pytest.mark.skipif(not LINUX, reason="only Linux tells the bytes of a socket")
def test_bytes_are_counted_at_the_socket(receiver: GrpcReceiver, connect: Connect) -> None:
    link = connect(receiver)
    send(link)
    opened = link.counters()
    size, frames = 100_000, 20
    send(link, dataclasses.replace(HEADER, frames=frames), size=size)
    sent = link.counters()
    assert sent.source == "kernel tcp_info"
    # The kernel counts what it had to send again, too; on a busy machine that happens even within it.
    assert size * frames < sent.up - opened.up < 1.2 * size * frames + 2000
    assert 0 < sent.down - opened.down < 10_000, "nothing comes back but HTTP/2's own housekeeping"
    link.disconnect()
    assert link.counters() == dataclasses.replace(sent, up=link.counters().up, down=link.counters().down)
    assert link.counters().up >= sent.up


@pytest.mark.skipif(not LINUX, reason="only Linux tells the bytes of a socket, and has 127.0.0.2")
def test_bytes_are_counted_on_a_connection_to_another_address(handler: Handler, links: Links) -> None:
    receiver = GrpcReceiver(handler, "127.0.0.2")
    receiver.start()
    link = GrpcLink(f"127.0.0.2:{receiver.port}")
    send(link)
    assert link.counters().up > 3000
    link.disconnect()
    receiver.close()


def test_without_the_kernels_counts_those_of_messages_are_given(
    receiver: GrpcReceiver, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("smartedge.wire.sockets.sys.platform", "darwin")
    link = connect(receiver)
    assert (link.counters().up, link.counters().down) == (0, 0)
    answered = dataclasses.replace(HEADER, answer_shape=HEADER.feature_shape, frames=1)
    link.open(answered)
    message = frame(0)
    link.exchange(message)
    first = sum(map(len, ups(answered, [message])))
    assert link.counters().up == first and 1000 < link.counters().down < 1500
    link.close()
    assert link.counters().up == first
    link.open(answered)
    assert link.counters().up == first + len(next(ups(answered, [])))
    link.disconnect()
    send(link)
    counts = link.counters()
    assert counts.source == "payload" and 5000 < counts.up < 9000 and 1000 < counts.down < 1500
    link.disconnect()


# -- TLS


def files_of(folder: Path, *names: str, token: str | None = None) -> Credentials:
    """Credentials from the files ca.pem, cert.pem, key.pem of those names."""
    of = {name: folder / name if name in names else None for name in ("ca.pem", "other.pem", "cert.pem", "key.pem")}
    ca = of["ca.pem"] or of["other.pem"]
    return Credentials.from_files(ca=ca, certificate=of["cert.pem"], key=of["key.pem"], token=token)


def test_tls_with_certificates_on_both_sides(handler: Handler, certificates: Path, connect: Connect) -> None:
    mine = files_of(certificates, "ca.pem", "cert.pem", "key.pem")
    receiver = GrpcReceiver(handler, "127.0.0.1", credentials=mine)
    receiver.start()
    link = connect(receiver, credentials=mine)
    send(link)
    assert handler.finished == 1 and link.counters().up > 3000
    assert handler.edges == ["smartedge"], "the common name of the sender's certificate"
    link.disconnect()
    for names in (["ca.pem"], ["other.pem", "cert.pem", "key.pem"], []):
        with pytest.raises(LinkError):
            connect(receiver, credentials=files_of(certificates, *names), connect_timeout_s=0.5).open(HEADER)
    assert handler.finished == 1
    receiver.close()


def test_a_cloud_whose_certificate_is_not_accepted_any_more_is_told_at_every_try(
    handler: Handler, certificates: Path
) -> None:
    """An edge that runs takes it for one that is away. gRPC says no more than that it cannot connect."""
    receiver = GrpcReceiver(handler, "127.0.0.1", credentials=files_of(certificates, "cert.pem", "key.pem"))
    receiver.start()
    where = f"127.0.0.1:{receiver.port}"
    other = files_of(certificates, "other.pem")
    for link in (GrpcLink(where, other, patient=False), GrpcLink(where, other, connect_timeout_s=0.1)):
        with pytest.raises(LinkError, match=rf"^link to {where}: the cloud's certificate is not accepted .*clock"):
            link.open(HEADER)
    receiver.close()
    with pytest.raises(LinkError, match=r"not there, went away, or its TLS does not match"):
        GrpcLink(where, other, patient=False).open(HEADER)


def test_tls_with_a_token_needs_no_certificate_of_the_sender(
    handler: Handler, certificates: Path, connect: Connect
) -> None:
    mine = files_of(certificates, "cert.pem", "key.pem", token="secret")
    receiver = GrpcReceiver(handler, "127.0.0.1", credentials=mine)
    receiver.start()
    send(connect(receiver, credentials=files_of(certificates, "ca.pem", token="secret")))
    assert handler.finished == 1
    receiver.close()


def test_nothing_is_sent_in_clear_beyond_this_machine_without_consent(
    certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for credentials in (Credentials(), Credentials(token="t")):
        with pytest.raises(LinkError, match=r"refusing to send to 192\.0\.2\.1.*link\.insecure"):
            GrpcLink("192.0.2.1:1", credentials)
        GrpcLink("127.0.0.1:1", credentials)
        assert caplog.text == ""
    for credentials in (files_of(certificates, "ca.pem", token="t"), Credentials(token="t", encrypted=True)):
        GrpcLink("192.0.2.1:1", credentials)
        assert caplog.text == ""
    GrpcLink("192.0.2.1:1", insecure=True)
    assert "sending to 192.0.2.1 in clear" in caplog.text


def test_a_certificate_that_is_none_is_told(handler: Handler) -> None:
    with pytest.raises(LinkError, match="cannot listen"):
        GrpcReceiver(handler, "127.0.0.1", credentials=Credentials(certificate=b"nonsense", key=b"nonsense"))


# -- where it listens, and settings


@pytest.mark.parametrize("token", [None, "t"])
def test_an_open_address_needs_protection_or_consent(handler: Handler, token: str | None) -> None:
    with pytest.raises(LinkError, match=r"refusing to listen on 0\.0\.0\.0.*link\.insecure"):
        GrpcReceiver(handler, "0.0.0.0", credentials=Credentials(token=token))


def test_consent_is_warned_about(handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    receiver = GrpcReceiver(handler, "0.0.0.0", insecure=True)
    assert "without TLS and token" in caplog.text
    receiver.close()


def test_a_protected_open_address_is_fine(handler: Handler, certificates: Path) -> None:
    mine = files_of(certificates, "cert.pem", "key.pem", token="t")
    GrpcReceiver(handler, "0.0.0.0", credentials=mine).close()


def test_a_taken_port_is_told(handler: Handler, receiver: GrpcReceiver) -> None:
    with pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{receiver.port}"):
        GrpcReceiver(handler, "127.0.0.1", receiver.port)


@pytest.mark.parametrize("location", ["", "host", "host:", ":80", "host:http", "host:0", "host:65536"])
def test_a_location_is_host_and_port(location: str) -> None:
    with pytest.raises(LinkError, match="must be HOST:PORT"):
        GrpcLink(location)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_stand_in_brackets_or_not(handler: Handler, host: str) -> None:
    receiver = GrpcReceiver(handler, "::1")
    receiver.start()
    link = GrpcLink(f"{host}:{receiver.port}", connect_timeout_s=5)
    send(link)
    link.disconnect()
    receiver.close()
    assert handler.finished == 1


def test_the_limits_of_a_connection_are_the_same_with_tls(
    receiver: GrpcReceiver, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[dict[str, object]] = []
    connecting = grpc.insecure_channel

    def channel(target: str, *arguments: object) -> grpc.Channel:
        options = arguments[-1]
        assert isinstance(options, list)
        used.append(dict(options))
        return connecting(target, options)

    monkeypatch.setattr(grpc, "insecure_channel", channel)
    monkeypatch.setattr(grpc, "secure_channel", channel)
    send(connect(receiver, connect_timeout_s=7.0))
    tls = Credentials(ca=b"an authority", token="secret", server_name="cloud.example")
    send(connect(receiver, credentials=tls, connect_timeout_s=7.0))
    assert used[1] == {**used[0], "grpc.ssl_target_name_override": "cloud.example"}
    assert used[0]["grpc.min_reconnect_backoff_ms"] == 7000
    assert used[0]["grpc.max_receive_message_length"] == MESSAGE_BYTES
    assert (used[0]["grpc.use_local_subchannel_pool"], used[0]["grpc.enable_http_proxy"]) == (1, 0)
    known = Path(cygrpc.__file__).read_bytes()
    assert all(name.encode() + b"\0" in known for name in used[1]), "gRPC passes over options that it does not know"


def test_the_limits_of_a_receiver_reach_grpc(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, object] = {}
    server = grpc.aio.server

    def noted(**given: list[tuple[str, object]]) -> grpc.aio.Server:
        used.update(given["options"])
        return server(**given)

    monkeypatch.setattr(grpc.aio, "server", noted)
    limits = Limits(connections=100, streams_per_edge=9, handshake_s=3.0, header_s=4.0, spare_connections=5)
    receiver = GrpcReceiver(handler, "127.0.0.1", limits=limits)
    connections = receiver._connections
    assert receiver._pool._max_workers == 100, "a handler that waits for one edge holds no other one up"
    receiver.close()
    assert used == {
        "grpc.server_handshake_timeout_ms": 3000,
        "grpc.max_concurrent_streams": 9,
        "grpc.max_allowed_incoming_connections": 129,  # a quarter more, so that ours close the oldest first
        "grpc.max_receive_message_length": MESSAGE_BYTES,
        "grpc.max_metadata_size": 8192,
        "grpc.absolute_max_metadata_size": 16384,
        "grpc.so_reuseport": 0,
        "grpc.http2.bdp_probe": 0,
        "grpc.http2.lookahead_bytes": 2**20,
        "grpc.compression_enabled_algorithms_bitset": 1,  # none
        "grpc.max_connection_idle_ms": 60_000,
        "grpc.tsi.max_frame_size": 4096,
    }
    assert (connections._most_per_edge, connections._unproven_s) == (14, 8.0)
    known = Path(cygrpc.__file__).read_bytes()
    assert all(name.encode() + b"\0" in known for name in used), "gRPC passes over options that it does not know"
