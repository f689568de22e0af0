"""A real broker with the settings of 'smartedge fleet broker': who may connect, and what each may publish."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from headers import stream_header
from nats_broker import Broker

from smartedge.cli.app import main
from smartedge.errors import FleetError, LinkError
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import credentials_of, ingest_credentials
from smartedge.wire.credentials import Credentials
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.receiver import JetStreamReceiver, Taking, Timing
from smartedge.wire.jetstream.sender import JetStreamLink

EMPTY = stream_header(frames=0)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    folder = tmp_path / "factory"
    main(["fleet", "init", str(folder)])
    main(["fleet", "add", str(folder), "door", "gate", "hall", "--cloud", "nats://broker.example:4222"])
    main(["fleet", "revoke", str(folder), "hall"])
    main(["fleet", "renew", str(folder), "hall", "--cloud", "nats://broker.example:4222"])
    main(["fleet", "broker", str(folder)])
    return folder


@pytest.fixture
def broker(fleet: Path) -> Broker:
    folder = fleet / "broker"
    text = (folder / "nats.conf").read_text()
    for name in ("server.pem", "server.key", "authority.pem"):
        text = text.replace(f'"{name}"', f'"{folder / name}"')
    text = text.replace('"0.0.0.0:4222"', '"127.0.0.1:PORT"').replace('"store"', '"STORE"')
    text = text.replace("{", "{{").replace("}", "}}").replace("PORT", "{port}").replace("STORE", "{folder}")
    made = Broker(fleet.parent, text)
    yield made
    made.kill()


class Nothing:
    """Takes empty streams."""

    def __init__(self) -> None:
        self.edges: list[str] = []

    def accept(self, edge: str, header: object) -> int:
        self.edges.append(edge)
        return 0

    def finish(self, edge: str, header: object) -> None: ...
    def abort(self, edge: str, header: object) -> None: ...


def opened(address: Address, edge: str, credentials: Credentials) -> None:
    link = JetStreamLink(address, edge, credentials, timeout_s=3.0)
    try:
        link.open(EMPTY)
        link.close()
    finally:
        link.disconnect()


def test_each_edge_publishes_for_itself_alone(fleet: Path, broker: Broker, tmp_path: Path) -> None:
    handler, address = Nothing(), broker.address(n_streams=3)
    receiver = JetStreamReceiver(
        handler, address, Taking(), credentials=ingest_credentials(fleet), timing=Timing(look_s=0.05)
    )
    receiver.start()
    assert receiver.ready.wait(10), receiver.trouble
    door = credentials_of(open_bundle(fleet / "bundles" / "door.bundle"))
    opened(address, "door", door)
    with pytest.raises(LinkError, match="has no permission for it"):
        opened(address, "gate", door)  # as another edge
    left_out = credentials_of(open_bundle(fleet / "bundles" / "hall.bundle"))
    with pytest.raises(LinkError, match="does not admit this side"):
        opened(address, "hall", left_out)
    with pytest.raises(LinkError, match=r"TLS|connection|admit"):
        opened(address, "door", Credentials(ca=door.ca, server_name=door.server_name))
    stranger = tmp_path / "other"
    main(["fleet", "init", str(stranger)])
    main(["fleet", "add", str(stranger), "door", "--cloud", "nats://broker.example:4222"])
    forged = credentials_of(open_bundle(stranger / "bundles" / "door.bundle"))
    with pytest.raises(LinkError, match="certificate is not accepted"):
        opened(address, "door", forged)  # and it does not accept the broker, either
    with pytest.raises(LinkError, match=r"TLS|connection|cannot be used"):
        opened(
            address,
            "door",
            Credentials(ca=door.ca, certificate=forged.certificate, key=forged.key, server_name=door.server_name),
        )
    with pytest.raises(LinkError):
        opened(address, "door", Credentials())  # in clear
    receiver.close()
    assert handler.edges == ["door"]


def test_files_for_the_broker_and_for_ingest(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fleet", "broker", str(fleet)])
    told = capsys.readouterr().out
    assert "edges that may publish: door, gate\n" in told and "hall: left out" in told
    text = (fleet / "broker" / "nats.conf").read_text()
    assert "sync_interval: always" in text and "CN=hall" not in text
    for key in (fleet / "ingest.key", fleet / "broker" / "server.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (fleet / "ingest.key").unlink()
    with pytest.raises(FleetError, match="'smartedge fleet broker' makes those of ingest"):
        ingest_credentials(fleet)
