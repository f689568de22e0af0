"""Questions of edges at the receiver: who may ask, one at a time, and no stream waits for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from link_ends import HEADER, Fleet, Handler, Links, Raw, send
from tcp_proxy import TcpProxy

import smartedge.wire.grpc_link
import smartedge.wire.grpc_receiver
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.same_run import answer_about_settings
from smartedge.cloud.intake import Intake
from smartedge.config import load_config
from smartedge.errors import FleetError, FrameError, LinkError, RunError
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_link import COLLECT, GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver, Limits
from smartedge.wire.link_pb2 import Ask, Told
from smartedge.wire.parts import MESSAGE_BYTES


class Answers:
    """Answers a question with the edge's name and the question; waits while ``gate`` is closed."""

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), threading.Semaphore(0)
        self.went_on = 0
        self.gate.set()

    def __call__(self, edge: str, question: bytes) -> bytes:
        self.asked.release()
        self.gate.wait(timeout=60)
        self.went_on += 1
        Ask.FromString(question)
        if question == GONE:
            raise RunError("nothing is here for you")
        return edge.encode() + b" " + question


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def listen(answers: Answers) -> Iterator[Callable[..., GrpcReceiver]]:
    made: list[GrpcReceiver] = []

    def listen(**options: Any) -> GrpcReceiver:
        made.append(GrpcReceiver(Handler(), "127.0.0.1", **{"answer": answers, **options}))
        made[-1].start()
        return made[-1]

    yield listen
    answers.gate.set()
    for receiver in made:
        receiver.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.disconnect()


QUESTION, GONE = Ask(run="run").SerializeToString(), Ask(run="gone").SerializeToString()


def shows(token: str) -> Credentials:
    return Credentials(token=token)


def test_each_edge_is_asked_for_by_the_name_that_it_proves(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    fleet = Fleet()
    receiver = listen(guard=fleet)
    door, gate = (links(receiver, credentials=shows(name)) for name in ("door", "gate"))
    assert (door.ask(QUESTION), gate.ask(QUESTION)) == (b"door " + QUESTION, b"gate " + QUESTION)
    fleet.revoked.add("gate")
    with pytest.raises(FleetError, match="edge gate was revoked"):
        gate.ask(QUESTION)
    assert door.ask(QUESTION) == b"door " + QUESTION
    with pytest.raises(RunError, match="nothing is here for you"):
        door.ask(GONE)


def test_nobody_asks_who_has_not_proved_who_it_is(
    listen: Callable[..., GrpcReceiver], links: Links, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FleetError, match="the token is missing or wrong"):
        links(listen(credentials=shows("secret")), credentials=shows("guessed")).ask(QUESTION)
    in_clear = listen()
    assert links(in_clear).ask(QUESTION) == b"edge " + QUESTION
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "is_loopback", lambda host: False)
    with pytest.raises(FleetError, match="must prove who it is"):
        links(in_clear).ask(QUESTION)
    assert answers.asked.acquire(blocking=False) and not answers.asked.acquire(blocking=False)
    links(in_clear).check_admitted("{}")  # link.insecure lets it send, so it may hear that: it could not begin


@pytest.mark.parametrize("answers_more", [True, False])
def test_anybody_hears_whether_it_is_let_in(
    answers_more: bool, listen: Callable[..., GrpcReceiver], links: Links, answers: Answers
) -> None:
    """An edge asks before it trains. It is no question about a run, and proves nothing."""
    fleet = Fleet()
    receiver = listen(guard=fleet, **({} if answers_more else {"answer": None}))
    door = links(receiver, credentials=shows("door"))
    assert Told.FromString(door.ask(b"")) == Told(edge="door")
    door.check_admitted("{}")
    fleet.revoked.add("door")
    with pytest.raises(FleetError, match="edge door was revoked"):
        door.check_admitted("{}")
    in_clear = listen()
    asking = links(in_clear)
    asking.check_admitted("{}")
    in_clear._connections.look()
    assert in_clear.counters() == {}
    asking.ask(QUESTION)
    in_clear._connections.look()
    assert set(in_clear.counters()) == {"edge"}, "an edge that knows the run"


def test_an_edge_hears_before_it_trains_that_the_run_has_other_settings(
    listen: Callable[..., GrpcReceiver], links: Links
) -> None:
    own = load_config({"data": {"desired": "smile"}})
    receiver = listen(answer=answer_about_settings(own, Handover(trains_here=True)))
    link = links(receiver)
    said = own.agreement()
    link.check_admitted(json.dumps(said))
    with pytest.raises(RunError, match=r"different settings \(seed: 7 at the edge, 0 here\)"):
        link.check_admitted(json.dumps({**said, "seed": 7}))
    for nonsense in ("[]", "{", "[" * 5000, "{}"):
        with pytest.raises((FrameError, RunError)):
            link.ask(Ask(settings=nonsense).SerializeToString())
    with pytest.raises(LinkError, match="ask 'smartedge serve'"):
        link.ask(QUESTION)


def test_an_edge_hears_before_it_trains_that_the_cloud_holds_another_run(
    listen: Callable[..., GrpcReceiver], links: Links, tmp_path: Path
) -> None:
    own, handover = load_config({"data": {"desired": "smile"}}), Handover(trains_here=True)
    link = links(listen(answer=answer_about_settings(own, handover)))
    said = json.dumps(own.agreement())
    link.check_admitted(said, "")
    handover.intakes["edge"] = intake = Intake(tmp_path, "edge")
    intake.open_log().begin(HEADER)
    for mine in (HEADER.run, None):  # an edge of an older version does not ask
        link.check_admitted(said, mine)
    for other in ("", "another"):
        with pytest.raises(RunError, match="frames of edge 'edge' came from another run directory before"):
            link.check_admitted(said, other)
    intake.close_log()


def test_a_receiver_that_is_not_there_or_too_old_to_say_lets_everybody_in(
    listen: Callable[..., GrpcReceiver], links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = listen()
    link = links(receiver)
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "COLLECT", "another")
    link.check_admitted("{}")
    receiver.close()
    link.check_admitted("{}")


def test_an_edge_that_only_looks_whether_it_is_let_in_does_not_wait_long(
    listen: Callable[..., GrpcReceiver], links: Links, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.grpc_link, "LOOK_S", 0.2)
    answers.gate.clear()
    links(listen()).check_admitted("{}")
    assert answers.asked.acquire(blocking=False) and answers.went_on == 0


def test_a_question_that_never_comes_is_not_waited_for(listen: Callable[..., GrpcReceiver]) -> None:
    raw, ended = Raw(listen(limits=Limits(header_s=0.2))), threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(timeout=30)
        yield from ()

    with pytest.raises(grpc.RpcError, match=r"no header came within 0\.2 s"):
        raw.call(nothing(), method=COLLECT)
    ended.set()
    raw.close()


def test_a_link_whose_stream_is_open_asks_nothing(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    receiver = listen()
    link = links(receiver)
    link.open(HEADER)
    for ask in (lambda: link.ask(b""), lambda: link.check_admitted("{}")):
        with pytest.raises(LinkError, match=f"^link to 127.0.0.1:{receiver.port}: a stream is open already"):
            ask()


def test_a_receiver_without_answers_says_where_they_are(listen: Callable[..., GrpcReceiver], links: Links) -> None:
    with pytest.raises(LinkError, match="ask 'smartedge serve'"):
        links(listen(answer=None)).ask(QUESTION)


def test_streams_and_other_edges_do_not_wait_for_an_answer(
    listen: Callable[..., GrpcReceiver], links: Links, answers: Answers
) -> None:
    receiver = listen(guard=Fleet())
    answers.gate.clear()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(links(receiver, credentials=shows("door")).ask, QUESTION)
        assert answers.asked.acquire(timeout=30)
        send(links(receiver, credentials=shows("door")))  # of the same edge
        other = pool.submit(links(receiver, credentials=shows("gate")).ask, QUESTION)
        assert answers.asked.acquire(timeout=30)
        assert not slow.done()
        answers.gate.set()
        assert slow.result(timeout=30) == b"door " + QUESTION and other.result(timeout=30)


def test_an_edge_asks_one_thing_at_a_time_also_where_it_hangs_up(
    listen: Callable[..., GrpcReceiver], links: Links, answers: Answers
) -> None:
    receiver = listen(guard=Fleet())
    answers.gate.clear()
    impatient, second = (links(receiver, credentials=shows("door"), patient=False) for _ in range(2))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(impatient.ask, QUESTION)
        assert answers.asked.acquire(timeout=30)
        with pytest.raises(LinkError, match="takes one at a time"):
            second.ask(QUESTION)
        proxy = TcpProxy(receiver.port)
        try:
            third = GrpcLink(f"127.0.0.1:{proxy.port}", shows("gate"), connect_timeout_s=5.0, patient=False)
            cut = pool.submit(third.ask, QUESTION)
            assert answers.asked.acquire(timeout=30)
            proxy.cut()
            with pytest.raises(LinkError):
                cut.result(timeout=30)
            with pytest.raises(LinkError, match="takes one at a time"):  # a thread still works for it
                links(receiver, credentials=shows("gate"), patient=False).ask(QUESTION)
        finally:
            third.disconnect()
            proxy.close()
        answers.gate.set()
        assert asked.result(timeout=30) == b"door " + QUESTION
    assert links(receiver, credentials=shows("gate")).ask(QUESTION) == b"gate " + QUESTION


def test_a_connection_that_broke_is_made_again(listen: Callable[..., GrpcReceiver], answers: Answers) -> None:
    proxy = TcpProxy(listen(guard=Fleet()).port)
    link = GrpcLink(f"127.0.0.1:{proxy.port}", shows("door"), connect_timeout_s=30.0)
    try:
        assert link.ask(QUESTION)
        answers.gate.clear()
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(link.ask, QUESTION)
            assert answers.asked.acquire(timeout=30) and answers.asked.acquire(timeout=30)
            proxy.cut()
            answers.gate.set()
            assert asked.result(timeout=30) == b"door " + QUESTION
    finally:
        link.disconnect()
        proxy.close()


@pytest.mark.parametrize(
    "question", [b"\xff\xff", b"\x0a\x02\xff\xff", bytes(MESSAGE_BYTES + 1)], ids=["", "text", "long"]
)
def test_hostile_clients_get_an_error_and_others_an_answer(
    listen: Callable[..., GrpcReceiver], links: Links, question: bytes
) -> None:
    receiver = listen(guard=Fleet())
    raw = Raw(receiver, "door")
    with pytest.raises(Exception, match=r"not readable as a message|larger than max"):
        raw.call([question], method=COLLECT)
    with pytest.raises(Exception, match="nothing is here for you"):
        raw.call([GONE], method=COLLECT)
    raw.close()
    assert links(receiver, credentials=shows("door")).ask(QUESTION) == b"door " + QUESTION
