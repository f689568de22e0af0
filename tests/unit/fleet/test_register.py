"""The register as the cloud asks it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

import smartedge.fleet.register
from smartedge.artifacts.fleet import EdgeEntry, EdgeRegister, Issued, SimplexKeys
from smartedge.errors import FleetError, LinkError, SmartEdgeError
from smartedge.fleet.register import Register, SimplexRegister

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)


def issued(serial: str, *, until: datetime = NOW + DAY, revoked: bool = False) -> Issued:
    return Issued(serial=serial, until=until, revoked=revoked)


def entry(*certificates: Issued) -> EdgeEntry:
    return EdgeEntry(shows="certificate", certificates=certificates, added=NOW)


def with_token(secret: str | None, until: datetime | None) -> EdgeEntry:
    digest = None if secret is None else hashlib.sha256(secret.encode()).hexdigest()
    return EdgeEntry(shows="token", token_sha256=digest, token_until=until, added=NOW)


EDGES = {
    "door": entry(issued("a1"), issued("b2", revoked=True), issued("c3", until=NOW - DAY)),
    "gone": entry(issued("d4", revoked=True)),
    "late": entry(issued("e5", until=NOW - DAY)),
    "tok": with_token("tok.secret", NOW + DAY),
    "old": with_token("old.secret", NOW - DAY),
    "none": with_token(None, None),
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[dict[str, EdgeEntry]], None]:
    def put(edges: dict[str, EdgeEntry]) -> None:
        EdgeRegister(edges=edges).write(tmp_path / "edges.json")

    put(EDGES)
    return put


@pytest.mark.parametrize(
    ("edge", "serial", "kind", "why"),
    [
        ("door", 0xA1, None, ""),
        ("door", None, None, ""),
        ("door", 0xB2, FleetError, "was revoked"),
        ("door", 0xC3, LinkError, "has expired"),
        ("door", 0xD4, FleetError, "not in the fleet's register"),  # the certificate of another edge
        ("gone", None, FleetError, "was revoked"),
        ("late", None, LinkError, "has expired"),
        ("tok", None, None, ""),
        ("old", None, LinkError, "has expired"),
        ("none", None, FleetError, "was revoked"),
        ("stranger", 0xA1, FleetError, "is not of this fleet"),
        ("", None, FleetError, "is not of this fleet"),
    ],
)
def test_who_may_send(
    put: object, tmp_path: Path, edge: str, serial: int | None, kind: type[SmartEdgeError] | None, why: str
) -> None:
    """What has expired by this machine's clock, which may be wrong, is an outage for the edge and ends nothing."""
    refusal = Register(tmp_path).refusal(edge, serial)
    assert type(refusal) is (kind or type(None)) and why in str(refusal)


@pytest.mark.parametrize(
    ("token", "edge"),
    [
        ("tok.secret", "tok"),
        ("tok.secre", None),
        ("tok.secrett", None),
        ("old.secret", "old"),  # expired
        ("none.", None),
        ("none.secret", None),
        ("door.a1", None),  # that edge shows a certificate
        ("tok", None),
        ("", None),
        ("stranger.secret", None),
    ],
)
def test_a_token_names_its_edge(put: object, tmp_path: Path, token: str, edge: str | None) -> None:
    assert Register(tmp_path).edge_of(token) == edge


def test_a_change_of_the_file_works_at_once_without_a_restart(
    put: Callable[[dict[str, EdgeEntry]], None], tmp_path: Path
) -> None:
    register = Register(tmp_path)
    assert register.refusal("door") is None
    put({**EDGES, "door": entry(issued("a1", revoked=True))})
    assert "was revoked" in str(register.refusal("door"))


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 2, "edges": {"door": {}}}', None])
def test_while_a_register_cannot_be_read_the_last_one_counts_for_a_minute_and_then_nobody_is_admitted(
    put: Callable[[dict[str, EdgeEntry]], None], tmp_path: Path, damage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody copies the file at this moment, or it is damaged: no edge is told that it was refused for good."""
    now = [100.0]
    monkeypatch.setattr(smartedge.fleet.register, "time", SimpleNamespace(monotonic=lambda: now[0]))
    register = Register(tmp_path)
    path = tmp_path / "edges.json"
    if damage is None:
        os.unlink(path)
    else:
        path.write_text(damage)
    for now[0] in (100.0, 159.0):
        assert register.refusal("door") is None and register.edge_of("tok.secret") == "tok"
        assert "was revoked" in str(register.refusal("gone"))
    now[0] = 160.0
    for ask in (lambda: register.refusal("door"), lambda: register.edge_of("tok.secret")):
        with pytest.raises(LinkError, match=r"admits nobody for now \(.*edges\.json"):
            ask()
    put({**EDGES, "tok": with_token(None, None)})
    assert register.refusal("door") is None and register.edge_of("tok.secret") is None


def test_whose_datagrams_are_dropped_is_said_once(
    put: Callable[[dict[str, EdgeEntry]], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An edge without a way back cannot hear that its certificate has expired: all that it sent was lost in silence."""
    SimplexKeys(keys=dict.fromkeys(("door", "late"), "ab" * 32)).write(tmp_path / "simplex.json")
    register = SimplexRegister(tmp_path)
    for _ in range(2):
        assert list(register.keys()) == ["door"]
    said = (
        "datagrams of edge late are dropped: the certificate of edge 'late' has expired; the fleet's owner makes a new"
    )
    assert caplog.text.count(said) == 1 == caplog.text.count("dropped")
    put({**EDGES, "late": EDGES["door"], "door": EDGES["late"]})
    assert list(register.keys()) == ["late"] and caplog.text.count("edge door are dropped") == 1
    put({**EDGES, "late": EDGES["gone"]})
    SimplexKeys(keys={}).write(tmp_path / "simplex.json")  # revoking an edge removes its key, too
    for _ in range(2):
        assert register.keys() == {}
    assert caplog.text.count("datagrams of edge late are dropped: the certificate of edge 'late' was revoked") == 1
    assert caplog.text.count("datagrams of edge door are dropped: it has no key in simplex.json any more") == 0


@pytest.mark.parametrize("name", ["edges.json", "simplex.json"])
def test_while_keys_of_the_one_way_link_cannot_be_read_the_last_ones_count_and_the_cloud_says_so(
    put: Callable[[dict[str, EdgeEntry]], None],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    monkeypatch.setattr(smartedge.fleet.register, "time", SimpleNamespace(monotonic=lambda: now[0]))
    keys = {"door": "ab" * 32, "gone": "cd" * 32}
    SimplexKeys(keys=keys).write(tmp_path / "simplex.json")
    register = SimplexRegister(tmp_path)
    assert list(register.keys()) == ["door"]
    (tmp_path / name).write_text("{}")
    for now[0] in (100.0, 159.0):
        assert list(register.keys()) == ["door"]
    assert caplog.text.count(name) == 1 and "counts for 60 s" in caplog.text
    for now[0] in (160.0, 170.0):
        assert register.keys() == {}
    assert caplog.text.count("no datagram is taken") == 1
    put(EDGES)
    SimplexKeys(keys=keys).write(tmp_path / "simplex.json")
    assert list(register.keys()) == ["door"]
    (tmp_path / "simplex.json").chmod(0o640)
    now[0] += 60
    assert list(register.keys()) == ["door"]
    now[0] += 60
    assert register.keys() == {}, "others may read them"


def test_a_cloud_does_not_start_without_its_register(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"edges\.json: is not there.*smartedge fleet init"):
        Register(tmp_path)
