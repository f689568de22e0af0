from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from smartedge.errors import FleetError, FrameError, LinkError, SmartEdgeError
from smartedge.wire.admission import _LONGEST_DELAY_S, Access, Peer, RefusalLog
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_receiver import Limits
from smartedge.wire.x509 import serial_of

_SPARE_S = 2.0  # for handshake and call


class Fleet:
    """A guard: tokens of edges, and who was revoked."""

    def __init__(self, tokens: dict[str, str], revoked: set[str] | None = None) -> None:
        self.tokens, self.revoked = tokens, revoked or set()
        self.asked: list[tuple[str, int | None]] = []
        self.shown: list[str] = []

    def refusal(self, edge: str, serial: int | None = None) -> FleetError | None:
        self.asked.append((edge, serial))
        return FleetError(f"edge {edge} was revoked") if edge in self.revoked else None

    def edge_of(self, token: str) -> str | None:
        self.shown.append(token)
        return self.tokens.get(token)


def test_a_token_names_the_edge() -> None:
    fleet = Fleet({"one": "camera-1", "two": "camera-2"})
    access = Access(Credentials(), fleet)
    assert access.proves
    assert access.admit({"authorization": "Bearer one"}, {}) == Peer("camera-1", None)
    assert access.admit({"authorization": "Bearer two"}, {}) == Peer("camera-2", None)
    for shown in ({}, {"authorization": "Bearer three"}, {"authorization": b"Bearer one"}):
        with pytest.raises(FleetError, match="token is missing, wrong or revoked"):
            access.admit(shown, {})  # type: ignore[arg-type]
    assert fleet.shown == ["one", "two", "", "three", "b'Bearer one'"]


def test_a_secret_that_all_share_names_nobody() -> None:
    access = Access(Credentials(token="secret"), None)
    assert access.proves
    assert access.admit({"authorization": "Bearer secret"}, {}) == Peer("edge", None)
    wrong = ("Bearer other", "secret", "Bearer é", "Bearer secre", "Bearer secret2", "Bearer Secret")
    for shown in ({}, *({"authorization": each} for each in wrong)):
        with pytest.raises(FleetError, match="token is missing or wrong"):
            access.admit(shown, {})


def test_nobody_need_prove_anything_where_nothing_is_set() -> None:
    access = Access(Credentials(), None)
    assert not access.proves
    assert access.admit({}, {}) == Peer("edge", None)
    assert access.refusal(Peer("edge", None)) is None


def test_a_certificate_names_the_edge(certificates: Path) -> None:
    pem = (certificates / "cert.pem").read_bytes()
    fleet = Fleet({})
    access = Access(Credentials(ca=b"ca"), fleet)
    assert access.proves
    auth = {"x509_common_name": [b"camera-1"], "x509_pem_cert": [pem]}
    assert access.admit({}, auth) == Peer("camera-1", serial_of(pem))
    assert fleet.asked == [("camera-1", serial_of(pem))]
    fleet.revoked.add("camera-1")
    with pytest.raises(FleetError, match="camera-1 was revoked"):
        access.admit({}, auth)
    assert str(access.refusal(Peer("camera-1", 7))) == "edge camera-1 was revoked"
    assert fleet.asked[-1] == ("camera-1", 7)
    for known in ({**auth, "x509_pem_cert": []}, {"x509_common_name": [b"camera-1"]}):
        assert Access(Credentials(ca=b"ca"), None).admit({}, known) == Peer("camera-1", None)
    with pytest.raises(FleetError, match="no name of an edge"):
        access.admit({}, {"x509_pem_cert": [pem]})


@pytest.mark.parametrize(
    "names",
    [[], [b""], [b"../x"], [b"a/b"], [b".hidden"], ["é".encode()], [b"x" * 65], [b"a\n"], [b"\xff"], [b"a", b"b"]],
)
def test_a_name_must_be_fit_for_a_folder(certificates: Path, names: list[bytes]) -> None:
    auth = {"x509_common_name": names, "x509_pem_cert": [(certificates / "cert.pem").read_bytes()]}
    for guard in (Fleet({}), None):  # without a fleet they would all write into one log
        with pytest.raises(FleetError, match="no name of an edge"):
            Access(Credentials(ca=b"ca"), guard).admit({}, auth)


def test_a_token_is_still_needed_beside_a_certificate(certificates: Path) -> None:
    auth = {"x509_common_name": [b"a"], "x509_pem_cert": [(certificates / "cert.pem").read_bytes()]}
    access = Access(Credentials(ca=b"ca", token="one"), None)
    with pytest.raises(FleetError, match="token"):
        access.admit({}, auth)
    assert access.admit({"authorization": "Bearer one"}, auth).edge == "a"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """``[now, slept]``."""
    found = [1000.0, 0.0]

    async def sleep(seconds: float) -> None:
        found[1] += seconds

    monkeypatch.setattr("smartedge.wire.admission.asyncio.sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: found[0])
    return found


def refuse(log: RefusalLog, host: str, text: str = "no", *, edge: str | None = None) -> None:
    asyncio.run(log.refuse(host, f"ipv4:{host}:1", FrameError(text), edge=edge))


def test_a_host_gets_five_lines_a_minute_and_waits_from_then_on(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = RefusalLog()
    waited = []
    for _ in range(2600):
        before = clock[1]
        refuse(log, "10.0.0.1")
        waited.append(clock[1] - before)
        clock[0] += 0.01
    assert len(caplog.records) == 5
    assert waited[:12] == [pytest.approx(0.01)] * 5 + [1, 2, 4, 8, 16, 16, 16] and waited[-1] == 16
    before = clock[1]
    refuse(log, "10.0.0.2")
    assert len(caplog.records) == 6 and clock[1] - before < 0.02
    clock[0] += 59
    refuse(log, "10.0.0.1")
    assert [record.getMessage() for record in caplog.records[6:]] == [
        "10.0.0.1: 2595 more refusals within a minute",
        "stream from ipv4:10.0.0.1:1: [SE-FRAME] no",
    ]
    before = clock[1]
    refuse(log, "10.0.0.1")
    assert clock[1] - before == 16, "it was never quiet for a minute"
    clock[0] += 61
    before = clock[1]
    refuse(log, "10.0.0.1")
    assert clock[1] - before < 0.02
    assert len(caplog.records) == 10, "what was said once is not said again"
    assert log.total == 2604


def test_an_edge_does_not_wait_for_others_behind_its_address(clock: list[float]) -> None:
    """An edge is refused again and again, from several addresses; strangers and another edge come from there, too."""
    log = RefusalLog()
    waited = []
    for number in range(8):
        before = clock[1]
        refuse(log, f"10.0.0.{number % 2}", edge="broken")
        waited.append(clock[1] - before)
        clock[0] += 1
    assert waited == [pytest.approx(0.01)] * 5 + [1, 2, 4], "the address makes no difference"
    for edge in (None, "sound"):
        before = clock[1]
        refuse(log, "10.0.0.0", edge=edge)
        assert clock[1] - before < 0.03


def test_the_next_stream_of_an_edge_waits_also_where_it_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = RefusalLog()

    def refused(error: SmartEdgeError, edge: str = "broken") -> None:
        monkeypatch.setattr("smartedge.wire.admission.asyncio.sleep", hung_up)
        asyncio.run(log.refuse("10.0.0.1", "ipv4:10.0.0.1:1", error, edge=edge))

    async def hung_up(seconds: float) -> None: ...

    def waits(edge: str = "broken") -> float:
        monkeypatch.setattr("smartedge.wire.admission.asyncio.sleep", sleep)
        before = now
        asyncio.run(log.let_in(edge))
        return now - before

    assert waits() == 0
    for _ in range(30):
        refused(LinkError("the sender went away within the stream"))
    assert waits() == pytest.approx(0.2), "a bad link is nobody's fault"
    assert waits() == 0
    for _ in range(5):
        refused(FrameError("no"))
    assert [waits(), waits()] == [pytest.approx(0.2), 0], "five times are few"
    for _ in range(2):
        refused(FrameError("no"))
    refused(LinkError("the sender went away within the stream"))  # makes nothing shorter
    assert waits("sound") == 0
    assert waits() == pytest.approx(2.0)
    assert waits() == pytest.approx(1.0), "streams that waited beside it come one by one"
    now += 61
    refused(FrameError("no"))
    assert waits() == pytest.approx(0.2)


def test_all_hosts_together_get_a_hundred_answers_a_second(clock: list[float]) -> None:
    log = RefusalLog()
    waits = []
    for number in range(1000):
        before = clock[1]
        refuse(log, f"10.0.{number // 256}.{number % 256}")
        waits.append(clock[1] - before)
    assert waits == pytest.approx([(1 + number) / 100 for number in range(1000)])
    clock[0] += 10
    before = clock[1]
    refuse(log, "10.9.9.9")
    assert clock[1] - before == pytest.approx(1 / 100), "those before have had their answers"


def test_a_flood_leaves_no_longer_delay_than_any_sender_has(clock: list[float]) -> None:
    """A caller that hangs up at once does not wait for its answer, so it may call much more often than 100 times."""
    log = RefusalLog()

    async def flood() -> None:
        for number in range(20_000):
            await log.refuse(f"10.0.{number // 256}.{number % 256}", "a stranger", FrameError("no"))

    asyncio.run(flood())
    before = clock[1]
    refuse(log, "192.0.2.1")
    assert clock[1] - before <= 16
    clock[0] += 17
    before = clock[1]
    refuse(log, "192.0.2.2")
    assert clock[1] - before == pytest.approx(1 / 100)


def test_who_is_refused_hears_why_before_its_connection_is_closed_for_its_age() -> None:
    """Else it would take the cloud for lost, and try again for ever."""
    assert 2 * Limits().header_s >= _LONGEST_DELAY_S + _SPARE_S


def test_many_hosts_get_a_hundred_lines_a_minute_and_are_forgotten(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = RefusalLog()
    for number in range(5000):
        refuse(log, f"10.0.{number // 256}.{number % 256}")
        if number in (0, 3000):
            refuse(log, "10.8.8.8")
    assert len(caplog.records) == 100 and len(log._hosts) == 4096
    assert {"10.0.0.0", "10.8.8.8", "10.0.19.135"} & log._hosts.keys() == {"10.8.8.8", "10.0.19.135"}, "the oldest go"
    clock[0] += 61
    for number in range(150):
        refuse(log, f"10.9.9.{number}")
    assert len(caplog.records) == 200


def test_what_comes_from_a_peer_is_one_harmless_line(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    refuse(RefusalLog(), "10.0.0.1", "\x1b[31mred\nsecond line\r\x00\u202e" + "x" * 1000)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.isprintable() and r"\x1b[31mred\nsecond line\r\x00\u202e" in message and len(message) < 600
