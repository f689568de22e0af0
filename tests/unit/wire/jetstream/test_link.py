"""Sender and receiver with a real broker between them: faults, hostile edges, and the broker's own end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
from headers import stream_header
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, PersistMode, RetentionPolicy, StorageType, StreamConfig, SubjectTransform
from nats_broker import Broker

from smartedge.errors import FrameError, LinkError, RunError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import Message, serialise
from smartedge.wire.jetstream.client import _READ_BYTES, connect, from_nats_error
from smartedge.wire.jetstream.intake import Stored
from smartedge.wire.jetstream.messages import Address, header_message, pieces_of, subject_of
from smartedge.wire.jetstream.receiver import JetStreamReceiver, Taking, Timing
from smartedge.wire.jetstream.sender import JetStreamLink
from smartedge.wire.jetstream.streams import check_stream

HEADER = stream_header(feature_shape=(256, 32, 32), batch_size=4, frames=4)
TIMING = Timing(look_s=0.05, again_s=0.05, first_retry_s=0.05)


class Handler:
    """A store in memory. What is not synced is lost with :meth:`forget`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held: dict[str, list[bytes]] = {}
        self.durable: dict[str, int] = {}
        self.headers: dict[str, StreamHeader] = {}
        self.ended: list[str] = []
        self.refuses: SmartEdgeError | None = None

    def accept(self, edge: str, header: StreamHeader) -> int:
        if self.refuses is not None:
            raise self.refuses
        del self.held.setdefault(edge, [])[self.durable.get(edge, 0) :]
        return min(max(header.first_seq, self.durable.get(edge, 0)), header.end_seq)

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> None:
        assert frame.seq == len(self.held[edge])
        self.held[edge].append(bytes(frame.batch.payload))
        with self.changed:
            self.changed.notify_all()

    def sync(self, edge: str, header: StreamHeader) -> int:
        self.headers[edge] = header
        self.durable[edge] = len(self.held[edge])
        return self.durable[edge]

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.sync(edge, header)
        with self.changed:
            self.ended.append(edge)
            self.changed.notify_all()

    def abort(self, edge: str, header: StreamHeader) -> None:
        pass

    def has(self, until: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 60
        with self.changed:
            while not until() and time.monotonic() < deadline:
                self.changed.wait(timeout=0.05)  # what others count is not told
            return until()


class Stores(Taking):
    """Takes all edges, and says what a handler holds."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def stored(self, edge: str) -> Stored:
        return Stored(self.handler.durable.get(edge, 0), self.handler.headers.get(edge))


@pytest.fixture
def address(broker: Broker) -> Address:
    return broker.address(f"t{uuid.uuid4().hex}")


@contextlib.contextmanager
def taking(
    handler: Handler, address: Address, which: Taking | None = None, **options: Any
) -> Iterator[JetStreamReceiver]:
    receiver = JetStreamReceiver(handler, address, which or Stores(handler), **{"timing": TIMING, **options})
    receiver.start()
    try:
        assert receiver.ready.wait(60)
        yield receiver
    finally:
        receiver.close()


@contextlib.contextmanager
def sending(address: Address, edge: str = "door", **options: Any) -> Iterator[JetStreamLink]:
    link = JetStreamLink(address, edge, **{"timeout_s": 10.0, **options})
    try:
        yield link
    finally:
        link.disconnect()


def frame(seq: int, size: int = 2000) -> Message:
    payload = np.random.default_rng(seq).bytes(size)
    return serialise(Frame(seq, EncodedBatch(np.arange(2), np.zeros(2, np.int64), payload, b"")), HEADER)


def send(link: JetStreamLink, header: StreamHeader = HEADER, *, size: int = 2000) -> None:
    for seq in range(link.open(header), header.end_seq):
        link.write(frame(seq, size))
    link.close()


def write_all(link: JetStreamLink, seqs: range) -> None:
    """Write frames, and close the stream. That a broker is gone is noticed somewhere on the way."""
    for seq in seqs:
        link.write(frame(seq))
    link.close()


def test_frames_that_came_before_ingest_and_are_longer_than_a_message(address: Address) -> None:
    """Two edges; nobody takes at first. Every frame has three parts."""
    handler = Handler()
    with taking(handler, address):
        pass
    with sending(address) as one, sending(address, "gate") as other:
        send(one, size=2_500_000)
        send(other)
        assert one.confirmed() == 4
    with taking(handler, address):
        assert handler.has(lambda: len(handler.ended) == 2)
    assert [len(each) for each in handler.held["door"]] == [2_500_000] * 4
    assert handler.held["gate"] == [bytes(frame(seq).payload) for seq in range(4)]


def test_a_broker_without_the_stream_says_who_makes_it(broker: Broker, address: Address) -> None:
    with sending(address) as link, pytest.raises(LinkError, match="'smartedge ingest' makes it when it first starts"):
        link.open(HEADER)


def test_the_library_reads_as_much_at_a_time_as_it_is_told(address: Address) -> None:
    async def limit() -> int:
        lost = asyncio.get_running_loop().create_future()
        client: Any = await connect(address, Credentials(), name="door", timeout_s=10, lost=lost)
        found: int = client._transport._io_reader._limit
        assert client.options["name"] == "door", "what the broker's own lists of connections show"
        await client.close()
        return found

    assert asyncio.run(limit()) == _READ_BYTES


def test_the_same_frame_of_another_run_is_another_one(address: Address) -> None:
    """The broker drops what it has had within two minutes: it would confirm the frame, and nobody would get it."""
    handler = Handler()
    with taking(handler, address):
        pass
    for run in ("first", "first", "second"):
        with sending(address) as link:
            link.open(dataclasses.replace(HEADER, run=run))
            link.write(frame(0))
            link.flush()
    state = at_the_broker(address, lambda jetstream: jetstream.stream_info(address.stream)).state
    assert state.messages == 3 + 2, "a header each time, and the frame of each run once"


def test_a_broker_without_room_says_so_and_nothing_is_lost(tmp_path: Path) -> None:
    settings = """
        listen: "127.0.0.1:{port}"
        jetstream {{ store_dir: {folder}, sync_interval: always, max_file_store: 150KB }}
    """
    broker, handler = Broker(tmp_path, settings), Handler()
    handler.refuses = RunError("not now")

    said: list[str] = []  # of each try, until one is taken

    def sent() -> bool:
        if "" not in said:
            try:
                send(link, size=100_000)
                said.append("")
            except LinkError as error:
                said.append(str(error))
        return not said[-1]

    try:
        with taking(handler, broker.address()) as receiver, sending(broker.address()) as link:
            assert not sent() and "no room left" in said[0] and "max_file_store" in said[0]
            assert handler.has(lambda: receiver.refused["door"] > 0)
            handler.refuses = None
            assert handler.has(sent)  # as ingest makes room
            assert handler.has(lambda: "door" in handler.ended)
    finally:
        broker.kill()
    assert handler.held["door"] == [bytes(frame(seq, 100_000).payload) for seq in range(4)]


def test_a_broker_without_jetstream_is_told_as_such(tmp_path: Path) -> None:
    broker, handler = Broker(tmp_path, 'listen: "127.0.0.1:{port}"'), Handler()
    receiver = JetStreamReceiver(handler, broker.address(), Stores(handler), timing=TIMING)
    receiver.start()
    try:
        assert handler.has(lambda: "start the broker with JetStream" in receiver.trouble), receiver.trouble
    finally:
        receiver.close()
        broker.kill()


def test_a_broker_whose_disk_is_full_does_not_answer() -> None:
    assert "its disk may be full" in str(from_nats_error(TimeoutError(), "broker"))


def test_no_broker_is_an_error_after_one_try() -> None:
    with sending(Address("127.0.0.1", 9, "frames")) as link, pytest.raises(LinkError, match=r"broker 127\.0\.0\.1:9"):
        link.open(HEADER)


def test_split_learning_is_refused_and_told_why(address: Address) -> None:
    with sending(address) as link, pytest.raises(FrameError, match="nothing goes back over a broker"):
        link.open(dataclasses.replace(HEADER, answer_shape=(256, 32, 32)))


def test_beyond_this_machine_only_with_tls() -> None:
    for make in (
        lambda: JetStreamLink(Address("broker.example", 4222, "frames")),
        lambda: JetStreamReceiver(Handler(), Address("broker.example", 4222, "frames"), Taking()),
    ):
        with pytest.raises(LinkError, match="without TLS"):
            make()
    JetStreamLink(Address("broker.example", 4222, "frames"), insecure=True)
    JetStreamLink(Address("broker.example", 4222, "frames"), credentials=Credentials(encrypted=True))


def test_a_link_goes_on_after_what_an_earlier_process_had_confirmed(address: Address) -> None:
    handler = Handler()
    with taking(handler, address):
        with sending(address) as link:
            link.open(HEADER)
            for seq in (0, 1):
                link.write(frame(seq))
            link.flush()
            assert link.confirmed() == 2
        with sending(address) as link:
            link.assume_confirmed(2)
            assert link.open(HEADER) == 2
            for seq in (2, 3):
                link.write(frame(seq))
            link.close()
        assert handler.has(lambda: handler.ended == ["door"])


def test_what_a_run_refuses_stays_with_the_broker_and_is_taken_later(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    handler.refuses = RunError("started with different settings")
    with taking(handler, address) as receiver, sending(address) as link:
        send(link)
        assert handler.has(lambda: receiver.refused["door"] >= 3)
        handler.refuses = None
        assert handler.has(lambda: handler.ended == ["door"])
        assert not receiver.bad
    said = [record.message for record in caplog.records if "different settings" in record.message]
    assert len(said) == 1 and "edge door; it stays with the broker" in said[0]  # once, not at every try


def test_the_register_refuses_an_edge(address: Address) -> None:
    handler = Handler()
    with (
        taking(handler, address, refusal=lambda edge: "revoked" if edge == "gate" else None) as receiver,
        sending(address) as one,
        sending(address, "gate") as other,
    ):
        send(other)
        send(one)
        assert handler.has(lambda: handler.ended == ["door"])
        assert handler.has(lambda: receiver.refused["gate"] > 0)
        assert "gate" not in handler.held


def test_an_edge_that_is_revoked_while_its_frames_are_taken_is_refused(address: Address) -> None:
    handler, revoked = Handler(), threading.Event()
    with (
        taking(handler, address, refusal=lambda edge: "revoked" if revoked.is_set() else None) as receiver,
        sending(address) as link,
    ):
        link.open(HEADER)
        link.write(frame(0))
        assert handler.has(lambda: len(handler.held.get("door", ())) == 1)
        revoked.set()
        link.write(frame(1))
        assert handler.has(lambda: receiver.refused["door"] > 0)
        assert len(handler.held["door"]) == 1


def test_a_bug_that_one_edge_meets_costs_no_other_one(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(Handler):
        def accept(self, edge: str, header: StreamHeader) -> int:
            return super().accept(edge, header) // (edge != "gate")

    handler = Buggy()
    with taking(handler, address) as receiver, sending(address) as one, sending(address, "gate") as other:
        send(other)
        assert handler.has(lambda: receiver.refused["gate"] > 1)
        send(one)
        assert handler.has(lambda: handler.ended == ["door"])
    assert "ZeroDivisionError" in caplog.text
    said = [record.message for record in caplog.records if "takes nothing of edge gate" in record.message]
    assert len(said) == 1 and "[SE] ingest failed unexpectedly; see its log" in said[0]


def publish(address: Address, subject: str, messages: list[tuple[bytes, bytes]]) -> None:
    """Publish as somebody who sends what he likes: lines of headers, and bodies."""
    with socket.create_connection((address.host, address.port)) as connection, connection.makefile("rb") as answers:
        answers.readline()
        connection.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        for lines, body in messages:
            sizes = f"{len(lines)} {len(lines) + len(body)}"
            connection.sendall(f"HPUB {subject} {sizes}\r\n".encode() + lines + body + b"\r\n")
        connection.sendall(b"PING\r\n")
        assert answers.readline() == b"PONG\r\n"


def test_an_edge_that_sends_junk_costs_itself_alone(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    """Headers that the client's library cannot read would end its connection, again and again."""
    handler = Handler()
    header, first = header_message(HEADER), next(pieces_of(frame(0), 100_000))
    junk = [
        (b"NATS/1.0 \xff\xfe\xfd junk\xff\r\n\r\n", b"junk"),
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b""),
        (b"NATS/1.0\r\n: :\r\n\xff\r\n\r\n", header[:-3]),
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", header),
        (b"NATS/1.0\r\na: b\r\n\r\n", first[:24]),
    ]
    with taking(handler, address) as receiver, sending(address) as link:
        publish(address, subject_of(address.stream, "evil"), junk)
        publish(address, subject_of(address.stream, "Not-An-Edge"), junk)
        send(link)
        assert handler.has(lambda: handler.ended == ["door"])
        assert handler.has(lambda: receiver.bad["evil"] >= 4)
        assert set(receiver.bad) == {"evil"}
    assert handler.held.get("evil", []) == []
    assert not [record for record in caplog.records if "connection" in record.message]


def test_a_broker_that_is_killed_loses_nothing_that_it_confirmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "smartedge")
    broker = Broker(tmp_path)
    address, handler = broker.address(), Handler()
    many = dataclasses.replace(HEADER, frames=40)
    try:
        with taking(handler, address), sending(address) as link:
            assert link.open(many) == 0
            seq = 0
            for stop in (13, 29, 40):
                while seq < stop:
                    link.write(frame(seq))
                    seq += 1
                if stop == 40:
                    link.close()
                    break
                broker.kill()
                with pytest.raises(LinkError):
                    write_all(link, range(seq, 40))
                confirmed = link.confirmed()
                assert confirmed <= seq
                broker.start()
                seq = link.open(many)
                assert seq == confirmed
            assert handler.has(lambda: handler.ended == ["door"])
        assert handler.held["door"] == [bytes(frame(seq).payload) for seq in range(40)]
    finally:
        broker.kill()


def test_another_process_takes_an_edge_over(address: Address) -> None:
    """Whose an edge is changes while it sends. The second one finds the header, and what is not durable."""
    handler = Handler()
    owner, claims = ["one"], dict[str, str]()
    many = dataclasses.replace(HEADER, frames=30)

    class InTurn(Stores):
        def __init__(self, name: str) -> None:
            super().__init__(handler)
            self.name = name

        def mine(self, edges: Collection[str]) -> Collection[str]:
            return [edge for edge in edges if owner == [self.name] == [claims.setdefault(edge, self.name)]]

        def release(self, edge: str) -> None:
            del claims[edge]

    with (
        taking(handler, address, InTurn("one")),
        taking(handler, address, InTurn("two")),
        sending(address) as link,
    ):
        link.open(many)
        for seq in range(30):
            link.write(frame(seq))
            if seq in (9, 19):
                assert handler.has(lambda seq=seq: len(handler.held.get("door", [])) == seq + 1)
                owner[:] = ["two"] if seq == 9 else ["one"]
        link.close()
        assert handler.has(lambda: handler.ended == ["door"])
    assert handler.held["door"] == [bytes(frame(seq).payload) for seq in range(30)]


def test_a_process_that_loses_the_broker_leaves_its_edges_to_others(
    own_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is back, another one may have them by right: with the claim kept, nobody would take them."""
    handler, claimed, address = Handler(), set[str](), own_broker.address()

    class Claims(Stores):
        def mine(self, edges: Collection[str]) -> Collection[str]:
            mine = [] if away else edges
            claimed.update(mine)
            return mine

        def release(self, edge: str) -> None:
            claimed.discard(edge)

    away = False
    with taking(handler, address, Claims(handler)) as receiver, sending(address) as link:
        send(link)
        assert handler.has(lambda: handler.ended == ["door"])
        assert claimed == {"door"}
        away = True
        own_broker.kill()
        assert handler.has(lambda: bool(receiver.trouble))
        assert handler.has(lambda: not claimed)
        with caplog.at_level("INFO"):
            own_broker.start()
            assert handler.has(lambda: not receiver.trouble)
    assert f"broker {address.location}: the broker is reached again" in caplog.messages


def at_the_broker(address: Address, work: Callable[[JetStreamContext], Awaitable[Any]]) -> Any:
    """Do something at the broker, as its owner would."""

    async def main() -> Any:
        client = await nats.connect(f"nats://{address.location}")
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"storage": StorageType.MEMORY}, "storage is not file"),
        ({"persist_mode": PersistMode.ASYNC}, "persist_mode async"),
        ({"retention": RetentionPolicy.WORK_QUEUE}, "retention is not limits"),
        ({"discard": DiscardPolicy.OLD}, "discard is not new"),
        ({"max_msgs_per_subject": 10}, "discard_new_per_subject"),  # it confirms twenty messages, and keeps ten
        ({"max_age": 3600.0}, "it has a max_age"),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs"),
        ({"deny_purge": True}, "deny_purge"),
        ({"subject_transform": SubjectTransform(src=">", dest="other.>")}, "renames subjects"),
        ({"subjects": ["elsewhere.*"]}, "its subject is not"),
        ({}, ""),
    ],
    ids=str,
)
def test_a_stream_that_would_lose_frames_is_refused(address: Address, changes: dict[str, Any], said: str) -> None:
    sound = {"storage": StorageType.FILE, "retention": RetentionPolicy.LIMITS, "discard": DiscardPolicy.NEW}
    wanted = {"name": address.stream, "subjects": [subject_of(address.stream, "*")], **sound, **changes}
    at_the_broker(address, lambda jetstream: jetstream.add_stream(StreamConfig(**wanted)))
    handler = Handler()
    receiver = JetStreamReceiver(handler, address, Stores(handler), timing=TIMING)
    receiver.start()
    try:
        assert handler.has(lambda: receiver.ready.is_set() or "would lose frames" in receiver.trouble)
        assert receiver.ready.is_set() == (not changes)
        assert said in receiver.trouble and ";" not in receiver.trouble
    finally:
        receiver.close()


def test_a_stream_that_is_edited_while_ingest_runs_is_seen(address: Address) -> None:
    async def edit(jetstream: JetStreamContext) -> None:
        config = (await jetstream.stream_info(address.stream)).config
        await jetstream.update_stream(config, discard=DiscardPolicy.OLD, discard_new_per_subject=False)

    handler = Handler()
    with taking(handler, address) as receiver:
        at_the_broker(address, edit)
        assert handler.has(lambda: "discard is not new; its limit for each subject" in receiver.trouble)


def test_what_ingest_makes_in_the_broker_loses_nothing_and_one_edge_cannot_fill_it(address: Address) -> None:
    handler = Handler()
    with taking(handler, address), sending(address) as link:
        send(link)
        assert handler.has(lambda: handler.ended == ["door"])
        stream = at_the_broker(address, lambda jetstream: jetstream.stream_info(address.stream)).config
        consumer = at_the_broker(address, lambda jetstream: jetstream.consumer_info(address.stream, "door")).config
    assert (stream.storage, stream.retention, stream.discard) == ("file", "limits", "new")
    assert (stream.max_msgs_per_subject, stream.discard_new_per_subject) == (65536, True)
    assert stream.duplicate_window == 120, "an edge that connects again sends some again"
    assert (consumer.filter_subject, consumer.ack_policy, consumer.deliver_policy) == (
        subject_of(address.stream, "door"), "none", "all",
    )  # fmt: skip
    assert consumer.mem_storage


def messages_in(address: Address) -> list[int]:
    """How many messages lie in each stream."""

    async def count(jetstream: JetStreamContext) -> list[int]:
        return [(await jetstream.stream_info(stream)).state.messages for stream in address.streams]

    return at_the_broker(address, count)


def test_what_is_durable_is_removed_at_the_end_and_comes_again_where_it_was_not(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that never comes again: the one thing that removes is the end."""

    async def killed_before(*args: object) -> None:
        pass

    handler, once = Handler(), Timing(look_s=60)
    with taking(handler, address):
        pass
    with sending(address) as link:
        send(link)
    with monkeypatch.context() as patched:
        patched.setattr("smartedge.wire.jetstream.receiver.forget", killed_before)
        with taking(handler, address, timing=once):
            assert handler.has(lambda: handler.ended == ["door"])
    assert messages_in(address) == [5]
    with taking(handler, address, timing=once), sending(address, "gate") as link:
        assert handler.has(lambda: handler.ended == ["door", "door"])
    assert messages_in(address) == [0] and len(handler.held["door"]) == 4


def test_a_stream_that_was_deleted_and_made_again_has_new_numbers(
    address: Address, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be removed was said in the numbers of the old one. Both happens between two looks of ingest."""
    held, looking, go_on = threading.Event(), threading.Event(), threading.Event()

    def checked(*args: Any) -> None:
        check_stream(*args)
        if held.is_set():
            looking.set()
            assert go_on.wait(60)

    async def again(jetstream: JetStreamContext) -> None:
        config = (await jetstream.stream_info(address.stream)).config
        await jetstream.delete_stream(address.stream)
        await jetstream.add_stream(config)

    monkeypatch.setattr("smartedge.wire.jetstream.receiver.check_stream", checked)
    handler = Handler()
    with taking(handler, address), sending(address) as link:
        link.open(HEADER)
        link.write(frame(0))
        assert handler.has(lambda: handler.durable.get("door") == 1)
        held.set()
        assert looking.wait(60)
        at_the_broker(address, again)
        go_on.set()
        assert handler.has(lambda: any("was deleted, and made again" in record.message for record in caplog.records))
        write_all(link, range(1, 4))
        assert handler.has(lambda: handler.ended == ["door"])


def test_frames_of_another_store_stay_and_are_taken_by_the_right_one(address: Address) -> None:
    right, empty = Handler(), Handler()
    with taking(right, address), sending(address) as link:
        link.open(HEADER)
        link.write(frame(0))
        assert right.has(lambda: right.durable.get("door") == 1)
    with sending(address) as link:
        link.assume_confirmed(1)
        assert link.open(HEADER) == 1
        write_all(link, range(1, 4))
    at_the_broker(address, lambda jetstream: jetstream.purge_stream(address.stream, seq=4))  # the second header
    with taking(empty, address) as receiver:
        assert empty.has(lambda: receiver.refused["door"] > 0)
        assert not receiver.bad and not empty.held
    with taking(right, address):
        assert right.has(lambda: right.ended == ["door"])
    assert right.held["door"] == [bytes(frame(seq).payload) for seq in range(4)]


def test_edges_publish_to_several_streams_and_ingest_takes_from_all_of_them(own_broker: Broker) -> None:
    handler, address, edges = Handler(), own_broker.address(n_streams=3), ["yard", "door", "gate"]
    assert [address.stream_of(edge) for edge in edges] == address.streams
    with taking(handler, address):
        pass
    for number, edge in enumerate(edges, 1):
        with sending(address, edge) as link:
            send(link, dataclasses.replace(HEADER, frames=number))
    assert messages_in(address) == [2, 3, 4]  # a header each
    with taking(handler, address) as receiver:
        assert handler.has(lambda: sorted(handler.ended) == sorted(edges))
        assert handler.has(lambda: messages_in(address) == [0, 0, 0])
        assert not receiver.refused
    assert [len(handler.held[edge]) for edge in edges] == [1, 2, 3]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("taken_between", [False, True])
def test_an_edge_whose_address_gets_another_number_of_streams_loses_nothing(
    own_broker: Broker, before: int, after: int, taken_between: bool
) -> None:
    """The stream's header stays where its first frames were. So the second half is in another stream than that."""
    handler, address = Handler(), own_broker.address(n_streams=3)
    with taking(handler, address):
        pass
    with contextlib.ExitStack() as stack:
        if taken_between:
            stack.enter_context(taking(handler, address))
        with sending(own_broker.address(n_streams=before)) as link:
            link.open(HEADER)
            for seq in (0, 1):
                link.write(frame(seq))
            link.flush()
        assert not taken_between or handler.has(lambda: handler.durable.get("door") == 2)
        with sending(own_broker.address(n_streams=after)) as link:
            link.assume_confirmed(2)
            assert link.open(HEADER) == 2
            for seq in (2, 3):
                link.write(frame(seq))
            link.close()
        if not taken_between:
            stack.enter_context(taking(handler, address))
        assert handler.has(lambda: handler.ended == ["door"])
        assert handler.has(lambda: messages_in(address) == [0, 0, 0])
    assert handler.held["door"] == [bytes(frame(seq).payload) for seq in range(4)]


def test_tries_to_reach_a_broker_come_less_and_less_often_until_one_is_reached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = JetStreamReceiver(
        Handler(), Address("127.0.0.1", 9, "frames"), Taking(), timing=Timing(longest_retry_s=3.0)
    )
    waits: list[float] = []

    async def serve() -> None:
        if len(waits) != 7:
            raise LinkError("no broker")

    async def stopped_within(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 10:
            receiver._stopping.set()
        return len(waits) == 10

    monkeypatch.setattr(receiver, "_serve", serve)
    monkeypatch.setattr(receiver, "_stopped_within", stopped_within)
    asyncio.run(receiver._run())
    receiver.close()
    usual = [0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0, 0.2, 0.4, 0.8]
    assert all(0.5 * mean <= wait <= 1.5 * mean for wait, mean in zip(waits, usual, strict=True))
    assert len({round(wait / mean, 6) for wait, mean in zip(waits, usual, strict=True)}) > 1, "jitter"
    assert receiver.trouble == "no broker"
    assert [record.getMessage() for record in caplog.records] == ["no broker; trying again"], "it is said once"


def test_each_side_connects_by_its_own_name(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its permissions at the broker are for that name."""
    told: list[tuple[Any, Any, str, float]] = []

    async def noted(address: Address, credentials: Credentials, *, name: str, timeout_s: float, lost: Any) -> Any:
        told.append((address, credentials, name, timeout_s))
        return await connect(address, credentials, name=name, timeout_s=timeout_s, lost=lost)

    monkeypatch.setattr("smartedge.wire.jetstream.receiver.connect", noted)
    monkeypatch.setattr("smartedge.wire.jetstream.sender.connect", noted)
    handler, mine = Handler(), Credentials(token="not asked for")
    with taking(handler, address, credentials=mine), sending(address, credentials=mine, timeout_s=9.0) as link:
        send(link)
        assert handler.has(lambda: handler.ended == ["door"])
    assert sorted(told, key=lambda each: each[2]) == [(address, mine, "INGEST", 10.0), (address, mine, "door", 9.0)]
