"""Over real TLS: an edge of the fleet gets in under its own name, and nobody else does. The edge is told why."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest
from headers import stream_header
from ports import held_port

import smartedge.fleet.register
import smartedge.wire.grpc_receiver
from smartedge.artifacts.fleet import Bundle
from smartedge.config import load_config
from smartedge.errors import ConfigError, FleetError, LinkError, SmartEdgeError
from smartedge.fleet.authority import Authority
from smartedge.fleet.bundle import open_bundle
from smartedge.launch.links import check_receiver, link_to, named_credentials, receiver_for, sender_to
from smartedge.types import StreamHeader
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver

HEADER = stream_header(frames=2)
CONFIG = load_config({"link": {"connect_timeout": 5.0}})


class Names:
    """Keeps who opened a stream; wants no frame."""

    def __init__(self) -> None:
        self.edges: list[str] = []
        self.aborted = threading.Event()

    def accept(self, edge: str, header: StreamHeader) -> int:
        self.edges.append(edge)
        return header.end_seq

    def sync(self, edge: str, header: StreamHeader) -> int:
        return header.end_seq

    def finish(self, edge: str, header: StreamHeader) -> None: ...

    def abort(self, edge: str, header: StreamHeader) -> None:
        self.aborted.set()


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def fleet(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet", days=30)


@pytest.fixture
def listen(names: Names, fleet: Authority) -> Iterator[Callable[..., str]]:
    """``listen()``: a cloud of the fleet; gives its address."""
    opened: list[GrpcReceiver] = []

    def listen(**options: bool) -> str:
        receiver = receiver_for(CONFIG, names, "127.0.0.1", 0, fleet=fleet.folder, **options)  # type: ignore[arg-type]
        opened.append(receiver)
        receiver.start()
        return f"127.0.0.1:{receiver.port}"

    yield listen
    for receiver in opened:
        receiver.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., GrpcLink]]:
    links: list[GrpcLink] = []

    def connect(location: str, bundle: Bundle | None) -> GrpcLink:
        links.append(link_to(CONFIG, location, bundle, unheard))
        return links[-1]

    yield connect
    for link in links:
        link.disconnect()


def unheard(text: str) -> None:
    """What is said of a cloud that is not there."""


def send(link: GrpcLink) -> None:
    link.open(HEADER)
    link.close()
    link.disconnect()


Listen, Connect = Callable[..., str], Callable[..., GrpcLink]


def test_edges_are_the_names_in_their_certificates(
    fleet: Authority, listen: Listen, names: Names, connect: Connect
) -> None:
    where = listen()
    for path in fleet.add(["door", "gate"], cloud=where, days=1):
        bundle = open_bundle(path)
        send(connect(bundle.cloud, bundle))
    assert names.edges == ["door", "gate"]


def refused(connect: Connect, where: str, bundle: Bundle | None) -> str:
    with pytest.raises((LinkError, FleetError)) as caught:
        send(connect(where, bundle))
    return str(caught.value)


def test_whoever_is_not_of_the_fleet_is_refused_and_told_why(
    fleet: Authority, listen: Listen, names: Names, connect: Connect, tmp_path: Path
) -> None:
    where = listen()
    mine = open_bundle(fleet.add(["door"], cloud=where, days=1)[0])
    stranger = Authority.create(tmp_path / "stranger", days=1)
    theirs = open_bundle(stranger.add(["door"], cloud=where, days=1)[0])
    assert "the cloud's certificate is not accepted" in refused(connect, where, theirs)
    forged = theirs.model_copy(update={"authority": mine.authority})  # trusts the cloud, but was signed elsewhere
    assert "refuses this edge's certificate" in refused(connect, where, forged)
    without = mine.model_copy(update={"certificate": None, "key": None})
    assert "asks for a certificate; give --bundle" in refused(connect, where, without)
    cloud = {
        name: (fleet.folder / f"cloud.{end}").read_text() for name, end in (("certificate", "pem"), ("key", "key"))
    }
    assert "refuses this edge's certificate" in refused(connect, where, mine.model_copy(update=cloud))
    assert "the cloud uses TLS, and this side does not" in refused(connect, where, None)
    assert names.edges == []


def test_a_certificate_of_the_authority_whose_edge_is_not_in_the_register_is_refused(
    fleet: Authority, listen: Listen, names: Names, connect: Connect
) -> None:
    before = (fleet.folder / "edges.json").read_text()
    bundle = open_bundle(fleet.add(["door"], cloud="c:1", days=1)[0])
    (fleet.folder / "edges.json").write_text(before)
    assert "edge 'door' is not of this fleet" in refused(connect, listen(), bundle)
    assert names.edges == []


def test_an_expired_certificate_is_refused(
    fleet: Authority, listen: Listen, names: Names, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Long(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2020, 1, 1, tzinfo=timezone.utc)

    with monkeypatch.context() as past:
        past.setattr("smartedge.fleet.certificates.datetime", Long)
        path = fleet.add(["door"], cloud="c:1", days=1)[0]
    with pytest.raises(FleetError, match="expired on 2020-01-02"):
        open_bundle(path)
    changed = Bundle.read(path).model_copy(update={"until": datetime(2100, 1, 1, tzinfo=timezone.utc)})
    assert "it has expired" in refused(connect, listen(), changed)
    assert names.edges == []


def test_a_revoked_edge_is_refused_and_its_open_stream_is_ended_without_a_restart(
    fleet: Authority, listen: Listen, names: Names, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.05)
    where = listen()
    bundle = open_bundle(fleet.add(["door"], cloud=where, days=1)[0])
    link = connect(where, bundle)
    link.open(HEADER)  # and says nothing more
    fleet.revoke("door")
    assert names.aborted.wait(timeout=20)
    with pytest.raises(SmartEdgeError):
        link.close()
    assert "the certificate of edge 'door' was revoked" in refused(connect, where, bundle)
    assert names.edges == ["door"]


def test_a_clock_of_the_cloud_that_jumps_ahead_is_an_outage_and_no_refusal(
    fleet: Authority, listen: Listen, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For open streams, and for the next one of a connection whose certificate TLS has checked before the jump."""
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.05)
    where, ahead = listen(), timedelta(0)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + ahead

    monkeypatch.setattr(smartedge.fleet.register, "datetime", Jumping)
    bundle = open_bundle(fleet.add(["door"], cloud=where, days=1)[0])
    impatient = load_config({"link": {"connect_timeout": 0.1}})
    link = link_to(impatient, where, bundle, unheard, patient=False)
    link.open(HEADER)
    ahead = timedelta(days=2)
    assert names.aborted.wait(timeout=20)
    with pytest.raises(LinkError, match=r"'door' has expired.*Is the cloud's clock right"):
        link.close()
    ahead = timedelta(0)
    send(link)
    assert names.edges == ["door", "door"]


def test_a_register_that_cannot_be_read_is_an_outage_and_no_refusal(
    fleet: Authority, listen: Listen, names: Names, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smartedge.wire.grpc_receiver, "_WATCH_S", 0.05)
    monkeypatch.setattr(smartedge.fleet.register, "_LAST_S", 0.0)
    where = listen()
    bundle = open_bundle(fleet.add(["door"], cloud=where, days=1)[0])
    link = connect(where, bundle)
    link.open(HEADER)
    before = (fleet.folder / "edges.json").read_text()
    (fleet.folder / "edges.json").write_text("")  # as in the middle of a copy
    assert names.aborted.wait(timeout=20)
    link.disconnect()
    impatient = load_config({"link": {"connect_timeout": 0.5}})
    with pytest.raises(LinkError, match=r"admits nobody for now \(.*edges\.json"):
        link_to(impatient, where, bundle, unheard, patient=False).open(HEADER)
    (fleet.folder / "edges.json").write_text(before)
    send(connect(where, bundle))
    assert names.edges == ["door", "door"]


def test_behind_a_proxy_each_edge_shows_its_token(
    fleet: Authority, listen: Listen, names: Names, connect: Connect
) -> None:
    where = listen(behind_proxy=True)
    door, gate = (Bundle.read(path) for path in fleet.add_with_tokens(["door", "gate"], cloud=where, days=1))

    def behind(bundle: Bundle) -> GrpcLink:  # the proxy passes the token on, in clear
        from smartedge.wire.credentials import Credentials

        return GrpcLink(where, Credentials(token=bundle.token), connect_timeout_s=5)

    send(behind(door))
    send(behind(gate))
    assert names.edges == ["door", "gate"]
    for token in ("door.wrong", str(door.token) + "x", str(gate.token).replace("gate", "door")):
        with pytest.raises((LinkError, FleetError), match="token is missing, wrong or revoked"):
            send(behind(door.model_copy(update={"token": token})))
    fleet.revoke("gate")
    with pytest.raises((LinkError, FleetError), match="token is missing, wrong or revoked"):
        send(behind(gate))
    assert names.edges == ["door", "gate"]


@pytest.mark.parametrize(
    ("method", "waits"),
    [("hierarchical", "The edge goes on, and its frames wait here"), ("split", "The edge waits for it")],
)
def test_a_cloud_that_is_not_there_yet_is_no_refusal(fleet: Authority, method: str, waits: str) -> None:
    told: list[str] = []
    with held_port() as port:
        bundle = open_bundle(fleet.add(["door"], cloud=f"127.0.0.1:{port}", days=1)[0])
        sender_to(load_config({"method": method}), None, bundle, told.append).disconnect()
    reason = "(Connection refused); is it started, and is this its address?"
    assert told == [f"the cloud at 127.0.0.1:{port} cannot be reached yet {reason} {waits}"]


def test_an_edge_that_is_not_let_in_hears_it_before_it_trains(fleet: Authority, listen: Listen, names: Names) -> None:
    """The front may be trained for hours before the first stream."""
    where, told = listen(), list[str]()
    door, gate = (open_bundle(path) for path in fleet.add(["door", "gate"], cloud=where, days=1))
    fleet.revoke("door")
    with pytest.raises(FleetError, match="edge 'door' was revoked"):
        sender_to(CONFIG, None, door, told.append)
    sender_to(CONFIG, None, gate, told.append).disconnect()
    assert told == [] and names.edges == []


def test_settings_and_fleet_do_not_both_say_who_may_send(fleet: Authority, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" a secret of words \nand a note\n")
    token.chmod(0o600)
    config = load_config({"link": {"token_file": str(token)}})
    assert named_credentials(config).token == "a secret of words"
    with pytest.raises(ConfigError, match="--fleet says who may send"):
        receiver_for(config, None, "127.0.0.1", 0, fleet=fleet.folder)  # type: ignore[arg-type]
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        link_to(config, "127.0.0.1:1", None, unheard)
    token.write_text("\nsecret")
    token.chmod(0o600)
    with pytest.raises(ConfigError, match=r"link\.token_file: the first line of .*token is empty; write a secret"):
        named_credentials(config)
    token.unlink()
    with pytest.raises(ConfigError, match=r"link\.token_file: .*token cannot be read \(No such file"):
        named_credentials(config)


def test_a_cloud_whose_key_is_of_another_certificate_says_so(fleet: Authority) -> None:
    """It said that the port might be taken. Two that renew it at once, or a power failure, could leave it so."""
    shutil.copy(fleet.folder / "cloud.key", fleet.folder / "kept")
    fleet.renew_cloud(days=1)
    shutil.copy(fleet.folder / "kept", fleet.folder / "cloud.key")
    with pytest.raises(LinkError, match=r"do not belong together.*smartedge fleet renew DIR"):
        check_receiver(CONFIG, "127.0.0.1", 0, fleet=fleet.folder)
    fleet.renew_cloud(days=1)
    check_receiver(CONFIG, "127.0.0.1", 0, fleet=fleet.folder)


def test_the_clouds_certificate_is_renewed_by_one_at_a_time(fleet: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, held = Authority._alone, []

    @contextmanager
    def noted(authority: Authority) -> Iterator[None]:
        with alone(authority):
            held.append(authority)
            yield

    monkeypatch.setattr(Authority, "_alone", noted)
    fleet.renew_cloud(days=1)
    assert held == [fleet]
