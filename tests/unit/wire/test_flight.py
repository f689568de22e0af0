from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from headers import stream_header
from pyarrow import flight

from smartedge.errors import LinkError, LogError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.flight import FlightLink, uri
from smartedge.wire.flight_receiver import FlightReceiver
from smartedge.wire.frame import JOINED_BYTES, SCHEMA, header_to_json, serialise, to_arrow
from smartedge.wire.sockets import own_sockets

HEADER = stream_header(feature_shape=(256, 32, 32), outputs=10, batch_size=64, frames=3, train_steps=3)
LINUX = sys.platform == "linux"


def frame(seq: int, *, size: int = 1000, header: StreamHeader = HEADER) -> Frame:
    batch = EncodedBatch(np.arange(4), np.arange(4), os.urandom(size), b"")
    return Frame(seq, batch)


class Handler:
    """Counts frames; while ``gate`` is closed, blocks at the first one of a stream."""

    def __init__(self) -> None:
        self.ingested = 0
        self.finished = 0
        self.aborted = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None

    def accept(self, edge: str, header: StreamHeader) -> int:
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame | None:
        if self.failure is not None:
            raise self.failure
        self.gate.wait(timeout=60)
        self.ingested += 1
        return frame if header.answered else None

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.finished += 1

    def abort(self, edge: str, header: StreamHeader) -> None:
        self.aborted.release()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def receiver(handler: Handler) -> Iterator[FlightReceiver]:
    with_token = FlightReceiver(handler, "127.0.0.1", credentials=Credentials(token="secret"))
    with_token.start()
    yield with_token
    handler.gate.set()
    with_token.close()


def send(link: FlightLink, header: StreamHeader = HEADER, **options: Any) -> None:
    link.open(header)
    for seq in range(header.first_seq, header.first_seq + header.frames):
        link.write(frame(seq, header=header, **options))
    link.close()


Connect = Callable[..., FlightLink]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes links to a receiver, and disconnects them in the end."""
    links: list[FlightLink] = []

    def connect(receiver: FlightReceiver, **changes: Any) -> FlightLink:
        arguments = {"credentials": Credentials(token="secret"), "connect_timeout_s": 5.0, **changes}
        links.append(FlightLink(f"127.0.0.1:{receiver.port}", **arguments))
        return links[-1]

    yield connect
    for link in links:
        link.disconnect()


@pytest.fixture
def assert_serves(receiver: FlightReceiver, handler: Handler, connect: Connect) -> Callable[[], None]:
    """Checks that an honest sender gets through, whatever went before."""

    def assert_serves() -> None:
        before = handler.finished
        link = connect(receiver)
        send(link)
        link.disconnect()
        assert handler.finished == before + 1

    return assert_serves


# -- hostile or broken senders, with a plain Flight client


class Raw:
    """A Flight client that may send anything."""

    def __init__(self, receiver: FlightReceiver) -> None:
        self.client = flight.FlightClient(f"grpc://127.0.0.1:{receiver.port}")
        self.options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer secret")])

    def put(self, command: bytes, *batches: pa.RecordBatch, schema: pa.Schema = SCHEMA, path: bool = False) -> None:
        descriptor = flight.FlightDescriptor.for_path(command) if path else flight.FlightDescriptor.for_command(command)
        writer, _ = self.client.do_put(descriptor, schema, self.options)
        with writer:
            for batch in batches:
                writer.write_batch(batch)


@pytest.fixture
def raw(receiver: FlightReceiver) -> Iterator[Raw]:
    client = Raw(receiver)
    yield client
    client.client.close()


def batch_of(seq: int, **options: Any) -> pa.RecordBatch:
    return to_arrow([serialise(frame(seq, **options), HEADER)])


COMMAND = header_to_json(HEADER)
ROW = {"head": [b"x" * 40], "payload": [b"p"]}
HOSTILE: dict[str, tuple[Callable[[Raw], None], str]] = {
    "garbage header": (lambda raw: raw.put(b"\x00\xffgarbage"), "stream header"),
    "path as descriptor": (lambda raw: raw.put(b"a", path=True), "stream header"),
    "oversized header": (lambda raw: raw.put(COMMAND + b" " * 70_000), "bytes are more than"),
    "another schema": (lambda raw: raw.put(COMMAND, schema=pa.schema([("a", pa.int8())])), "schema must be"),
    "dictionary schema": (
        lambda raw: raw.put(COMMAND, schema=pa.schema([("head", pa.dictionary(pa.int8(), pa.binary()))])),
        "schema must be",
    ),
    "nested schema": (lambda raw: raw.put(COMMAND, schema=pa.schema([("head", pa.list_(SCHEMA[0].type))])), "must be"),
    "garbage frame": (lambda raw: raw.put(COMMAND, pa.RecordBatch.from_pydict(ROW, schema=SCHEMA)), "frame"),
    "null": (
        lambda raw: raw.put(COMMAND, pa.RecordBatch.from_arrays([pa.array([None], pa.binary())] * 2, schema=SCHEMA)),
        "null",
    ),
    "many rows": (
        lambda raw: raw.put(
            COMMAND, pa.RecordBatch.from_pydict({k: v * 100_000 for k, v in ROW.items()}, schema=SCHEMA)
        ),
        "has 100000 rows",
    ),
    "no rows": (
        lambda raw: raw.put(COMMAND, pa.RecordBatch.from_pydict({"head": [], "payload": []}, schema=SCHEMA)),
        "has 0 rows",
    ),
    "wrong seq": (lambda raw: raw.put(COMMAND, batch_of(0), batch_of(2)), "out of order"),
    "repeated seq": (lambda raw: raw.put(COMMAND, batch_of(0), batch_of(0)), "out of order"),
    "too many frames": (
        lambda raw: raw.put(COMMAND, *(batch_of(seq) for seq in range(3)), batch_of(2)),
        "out of order",
    ),
    "too few frames": (lambda raw: raw.put(COMMAND, batch_of(0)), "ended after 1 of 3"),
    "oversized payload": (
        lambda raw: raw.put(
            header_to_json(dataclasses.replace(HEADER, feature_shape=(1,), batch_size=4)), batch_of(0, size=30_000_000)
        ),
        "payload of 30000000 bytes",
    ),
}


@pytest.mark.parametrize(("attack", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_senders_get_a_clear_error(
    receiver: FlightReceiver,
    handler: Handler,
    raw: Raw,
    attack: Callable[[Raw], None],
    says: str,
    assert_serves: Callable[[], None],
) -> None:
    with pytest.raises(flight.FlightServerError, match=rf"\[SE-FRAME\] .*{says}"):
        attack(raw)
    assert handler.finished == 0
    assert_serves()


def test_other_calls_and_other_protocols_do_no_harm(
    receiver: FlightReceiver, handler: Handler, raw: Raw, assert_serves: Callable[[], None]
) -> None:
    with pytest.raises(NotImplementedError):
        list(raw.client.list_flights(options=raw.options))
    with pytest.raises(NotImplementedError):
        list(raw.client.do_action("shutdown", raw.options))
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
    assert_serves()


@pytest.mark.parametrize("token", [None, "wrong", "secret "])
def test_the_token_must_be_right(
    receiver: FlightReceiver,
    handler: Handler,
    token: str | None,
    caplog: pytest.LogCaptureFixture,
    connect: Connect,
    assert_serves: Callable[[], None],
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(LinkError, match="token is missing or wrong") as caught:
        connect(receiver, credentials=Credentials(token=token)).open(HEADER)
    assert "secret" not in str(caught.value).replace("the same secret", "") and "Bearer" not in caplog.text
    assert_serves()


def test_a_message_of_another_kind_is_refused(
    receiver: FlightReceiver, handler: Handler, raw: Raw, assert_serves: Callable[[], None]
) -> None:
    answered = dataclasses.replace(HEADER, answer_shape=(256, 32, 32))
    with pytest.raises(flight.FlightServerError, match=r"\[SE-FRAME\] stream: frames of this stream are answered"):
        raw.put(header_to_json(answered))
    writer, _ = raw.client.do_put(flight.FlightDescriptor.for_command(COMMAND), SCHEMA, raw.options)
    writer.write_metadata(pa.py_buffer(b"nothing else"))
    with pytest.raises(flight.FlightServerError, match="without a record batch"):
        writer.close()
    assert_serves()


# -- small frames share messages


def test_small_frames_share_messages_and_arrive_one_by_one(
    receiver: FlightReceiver, handler: Handler, connect: Connect
) -> None:
    up = {}
    for joined in (10, 160):
        link = connect(receiver)
        link.open(dataclasses.replace(HEADER, frames=160, train_steps=160, joined_frames=joined))
        for seq in range(160):
            batch = EncodedBatch(np.arange(64), np.zeros(64, np.int64), bytes(8), b"")
            link.write(Frame(seq, batch))
        link.close()
        up[joined] = link.counters().up
        link.disconnect()
    assert handler.ingested == 320
    content = 160 * (8 + 64 * 5)
    # 10 to a message and 96 to a message; a stream's opening and gRPC's own talk take about 2 kB.
    assert up[10] < content + 160 * 20 + 16 * 270 + 2500
    assert up[160] < content + 160 * 20 + 2 * 270 + 2500


def test_joined_frames_leave_as_soon_as_they_fill_a_message(
    receiver: FlightReceiver, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("smartedge.wire.sockets.sys.platform", "darwin")  # the link counts what it hands to Arrow
    header = dataclasses.replace(HEADER, frames=9, train_steps=9, joined_frames=9)
    head = len(serialise(frame(0), header).head)
    link = connect(receiver)
    link.open(header)
    left = []
    for seq, size in enumerate([JOINED_BYTES - 1, 2 * head, JOINED_BYTES - 1, 2 * head, JOINED_BYTES]):
        before = link.counters().up
        link.write(frame(seq, size=size - head, header=header))
        left.append(link.counters().up > before)
    assert left == [False, True, False, True, True]


# -- one stream at a time, start, close


def test_a_second_stream_waits_for_the_first(receiver: FlightReceiver, handler: Handler, connect: Connect) -> None:
    first = connect(receiver)
    first.open(HEADER)
    begun = time.monotonic()
    with pytest.raises(LinkError, match=r"has an open stream, and takes one at a time.*tried for 0\.3 s"):
        connect(receiver, connect_timeout_s=0.3).open(HEADER)
    assert time.monotonic() - begun < 5
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
    receiver = FlightReceiver(handler, "127.0.0.1")
    with pytest.raises(LinkError, match="not ready yet"):
        connect(receiver, connect_timeout_s=0.2).open(HEADER)
    receiver.start()
    send(connect(receiver))
    assert handler.finished == 1
    receiver.close()
    with pytest.raises(LinkError, match=r"not there.*tried for 0\.2 s"):
        connect(receiver, connect_timeout_s=0.2).open(HEADER)


def test_a_sender_may_come_first(handler: Handler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    link = FlightLink(f"127.0.0.1:{port}", connect_timeout_s=30)
    sending = threading.Thread(target=send, args=(link,))
    sending.start()
    receiver = FlightReceiver(handler, "127.0.0.1", port)
    receiver.start()
    sending.join(timeout=60)
    assert handler.finished == 1
    link.disconnect()
    receiver.close()


def test_disconnecting_ends_the_wait_for_a_receiver() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    link = FlightLink(f"127.0.0.1:{port}", connect_timeout_s=300)
    errors: list[Exception] = []
    begun = threading.Event()

    def open_link() -> None:
        begun.set()
        try:
            link.open(HEADER)
        except LinkError as error:
            errors.append(error)

    opening = threading.Thread(target=open_link)
    opening.start()
    begun.wait(timeout=10)
    while opening.is_alive():  # open() begins with a clean slate, so that a first call may come too early
        link.disconnect()
        opening.join(timeout=0.05)
    assert "disconnected" in str(errors[0])


def test_closing_the_receiver_breaks_an_open_stream_off(handler: Handler, connect: Connect) -> None:
    receiver = FlightReceiver(handler, "127.0.0.1")
    receiver.start()
    link = connect(receiver, credentials=Credentials())
    link.open(HEADER)
    link.write(frame(0))
    receiver.close()
    assert handler.aborted.acquire(timeout=10)
    with pytest.raises(LinkError):
        link.close()


def test_a_bug_in_the_handler_is_told_without_its_details(
    receiver: FlightReceiver,
    handler: Handler,
    caplog: pytest.LogCaptureFixture,
    connect: Connect,
    assert_serves: Callable[[], None],
) -> None:
    handler.failure = ZeroDivisionError("private details")
    with pytest.raises(SmartEdgeError, match="failed unexpectedly") as caught:
        send(connect(receiver))
    assert "private" not in str(caught.value) and "private details" in caplog.text
    assert handler.aborted.acquire(timeout=10)
    handler.failure = None
    assert_serves()


def test_a_long_message_of_the_handler_still_arrives(
    receiver: FlightReceiver, handler: Handler, connect: Connect
) -> None:
    handler.failure = LogError("disk — full. " * 1000)
    with pytest.raises(LogError, match="disk — full"):
        send(connect(receiver))


# -- backpressure, and what happens when one side goes away


def test_a_blocked_handler_stops_the_sender_and_what_is_in_flight_is_bounded(
    receiver: FlightReceiver, handler: Handler, connect: Connect
) -> None:
    size, frames = 1_000_000, 200
    header = dataclasses.replace(HEADER, frames=frames)
    handler.gate.clear()
    link = connect(receiver)
    link.open(header)
    written = threading.Semaphore(0)

    def write_all() -> None:
        for seq in range(frames):
            link.write(frame(seq, size=size, header=header))
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
    receiver: FlightReceiver, handler: Handler, connect: Connect, assert_serves: Callable[[], None]
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
                link.write(frame(seq, size=4_000_000, header=header))
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


def test_disconnecting_does_not_wait_for_a_call(receiver: FlightReceiver, connect: Connect) -> None:
    """The call may be one that nothing wakes, as an attempt to connect; it drops the connection itself."""
    link = connect(receiver)
    with link._calling:
        disconnecting = threading.Thread(target=link.disconnect)
        disconnecting.start()
        disconnecting.join(timeout=5)
        waits = disconnecting.is_alive()
    assert not waits


def write_all(link: FlightLink, header: StreamHeader, *, first: int = 0) -> None:
    for seq in range(first, header.frames):
        link.write(frame(seq, header=header))


SERVER = """
import sys
from smartedge.wire.flight_receiver import FlightReceiver
class Handler:
    def accept(self, edge, header): return header.first_seq
    def ingest(self, edge, header, frame): pass
    def finish(self, edge, header): pass
    def abort(self, edge, header): pass
receiver = FlightReceiver(Handler(), "127.0.0.1")
receiver.start()
print(receiver.port, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_receiver_is_noticed_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        header = dataclasses.replace(HEADER, frames=100_000)
        link = FlightLink(f"127.0.0.1:{int(process.stdout.readline())}")
        link.open(header)
        link.write(frame(0, header=header))
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(LinkError, match="went away"):
            write_all(link, header, first=1)
        assert time.monotonic() - killed < 2
    finally:
        process.kill()
        process.communicate()


def test_a_sender_that_goes_away_is_noticed(
    receiver: FlightReceiver, handler: Handler, connect: Connect, assert_serves: Callable[[], None]
) -> None:
    link = connect(receiver)
    link.open(HEADER)
    link.write(frame(0))
    for connection in own_sockets(peer_port=receiver.port):  # as when its process is killed
        with connection:
            connection.shutdown(socket.SHUT_RDWR)
    assert handler.aborted.acquire(timeout=10) and handler.finished == 0
    with pytest.raises(LinkError):
        link.close()
    assert_serves()


@pytest.mark.skipif(not LINUX, reason="socket options of Linux")
def test_both_ends_watch_for_a_peer_that_vanished(receiver: FlightReceiver, connect: Connect) -> None:
    link = connect(receiver)
    link.open(HEADER)
    ends = own_sockets(peer_port=receiver.port) + own_sockets(local_port=receiver.port)
    assert len(ends) == 2
    for connection in ends:
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    link.disconnect()


# -- bytes


@pytest.mark.skipif(not LINUX, reason="only Linux tells the bytes of a socket")
def test_bytes_are_counted_at_the_socket(receiver: FlightReceiver, connect: Connect) -> None:
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


def test_without_the_kernels_counts_arrows_are_given(
    receiver: FlightReceiver, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("smartedge.wire.sockets.sys.platform", "darwin")
    link = connect(receiver)
    assert link.counters().up == 0
    send(link)
    link.open(dataclasses.replace(HEADER, answer_shape=HEADER.feature_shape, frames=1))
    link.exchange(frame(0))
    link.close()
    counts = link.counters()
    assert counts.source == "payload" and 4000 < counts.up < 8000 and 1000 < counts.down < 1500
    link.disconnect()


# -- TLS


def files_of(folder: Path, *names: str, token: str | None = None) -> Credentials:
    """Credentials from the files ca.pem, cert.pem, key.pem of those names."""
    of = {name: folder / name if name in names else None for name in ("ca.pem", "other.pem", "cert.pem", "key.pem")}
    ca = of["ca.pem"] or of["other.pem"]
    return Credentials.from_files(ca=ca, certificate=of["cert.pem"], key=of["key.pem"], token=token)


def test_tls_with_certificates_on_both_sides(handler: Handler, certificates: Path, connect: Connect) -> None:
    mine = files_of(certificates, "ca.pem", "cert.pem", "key.pem")
    receiver = FlightReceiver(handler, "127.0.0.1", credentials=mine)
    receiver.start()
    link = connect(receiver, credentials=mine)
    send(link)
    assert handler.finished == 1 and link.counters().up > 3000
    link.disconnect()
    for names in (["ca.pem"], ["other.pem", "cert.pem", "key.pem"], []):
        with pytest.raises(LinkError):
            connect(receiver, credentials=files_of(certificates, *names), connect_timeout_s=0.5).open(HEADER)
    assert handler.finished == 1
    receiver.close()


def test_tls_with_a_token_needs_no_certificate_of_the_sender(
    handler: Handler, certificates: Path, connect: Connect
) -> None:
    mine = files_of(certificates, "cert.pem", "key.pem", token="secret")
    receiver = FlightReceiver(handler, "127.0.0.1", credentials=mine)
    receiver.start()
    send(connect(receiver, credentials=files_of(certificates, "ca.pem", token="secret")))
    assert handler.finished == 1
    receiver.close()


def test_nothing_is_sent_in_clear_beyond_this_machine_without_consent(
    certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for credentials in (Credentials(), Credentials(token="t")):
        with pytest.raises(LinkError, match=r"refusing to send to 192\.0\.2\.1.*link\.insecure"):
            FlightLink("192.0.2.1:1", credentials)
        FlightLink("127.0.0.1:1", credentials)
        assert caplog.text == ""
    for credentials in (files_of(certificates, "ca.pem", token="t"), Credentials(token="t", encrypted=True)):
        FlightLink("192.0.2.1:1", credentials)
        assert caplog.text == ""
    FlightLink("192.0.2.1:1", insecure=True)
    assert "sending to 192.0.2.1 in clear" in caplog.text


def test_a_certificate_that_is_none_is_told(handler: Handler) -> None:
    with pytest.raises(LinkError, match="cannot listen"):
        FlightReceiver(handler, "127.0.0.1", credentials=Credentials(certificate=b"nonsense", key=b"nonsense"))


# -- where it listens, and settings


@pytest.mark.parametrize("token", [None, "t"])
def test_an_open_address_needs_protection_or_consent(handler: Handler, token: str | None) -> None:
    with pytest.raises(LinkError, match=r"refusing to listen on 0\.0\.0\.0.*link\.insecure"):
        FlightReceiver(handler, "0.0.0.0", credentials=Credentials(token=token))


def test_consent_is_warned_about(handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    receiver = FlightReceiver(handler, "0.0.0.0", insecure=True)
    assert "without TLS and token" in caplog.text
    receiver.close()


def test_a_protected_open_address_is_fine(handler: Handler, certificates: Path) -> None:
    mine = files_of(certificates, "cert.pem", "key.pem", token="t")
    FlightReceiver(handler, "0.0.0.0", credentials=mine).close()


def test_a_taken_port_is_told(handler: Handler, receiver: FlightReceiver) -> None:
    with pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{receiver.port}"):
        FlightReceiver(handler, "127.0.0.1", receiver.port)


@pytest.mark.parametrize("location", ["", "host", "host:", ":80", "host:http", "host:0", "host:65536"])
def test_a_location_is_host_and_port(location: str) -> None:
    with pytest.raises(LinkError, match="must be HOST:PORT"):
        FlightLink(location)


@pytest.mark.parametrize(("host", "inside"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("edge.lan", "edge.lan")])
def test_an_ipv6_address_stands_in_brackets(host: str, inside: str) -> None:
    assert uri(host, 8815, tls=False) == f"grpc://{inside}:8815"
    assert uri(host, 8815, tls=True) == f"grpc+tls://{inside}:8815"
