"""The register as the cloud asks it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from smartedge.artifacts.fleet import EdgeEntry, EdgeRegister, Issued
from smartedge.errors import FleetError
from smartedge.fleet.register import Register

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
    ("edge", "serial", "why"),
    [
        ("door", 0xA1, None),
        ("door", None, None),
        ("door", 0xB2, "was revoked"),
        ("door", 0xC3, "has expired"),
        ("door", 0xD4, "not in the fleet's register"),  # the certificate of another edge
        ("gone", None, "was revoked"),
        ("late", None, "has expired"),
        ("tok", None, None),
        ("old", None, "has expired"),
        ("none", None, "was revoked"),
        ("stranger", 0xA1, "is not of this fleet"),
        ("", None, "is not of this fleet"),
    ],
)
def test_who_may_send(put: object, tmp_path: Path, edge: str, serial: int | None, why: str | None) -> None:
    refusal = Register(tmp_path).refusal(edge, serial)
    assert (refusal is None) == (why is None) and (why or "") in (refusal or "")


@pytest.mark.parametrize(
    ("token", "edge"),
    [
        ("tok.secret", "tok"),
        ("tok.secre", None),
        ("tok.secrett", None),
        ("old.secret", None),  # expired
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


def test_the_names_are_those_that_were_not_revoked(put: object, tmp_path: Path) -> None:
    assert Register(tmp_path).names() == ["door", "late", "old", "tok"]


def test_a_change_of_the_file_works_at_once_without_a_restart(
    put: Callable[[dict[str, EdgeEntry]], None], tmp_path: Path
) -> None:
    register = Register(tmp_path)
    assert register.refusal("door") is None
    put({**EDGES, "door": entry(issued("a1", revoked=True))})
    assert "was revoked" in str(register.refusal("door"))


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 1, "edges": {"door": {}}}', None])
def test_a_register_that_cannot_be_read_admits_nobody_until_it_can(
    put: Callable[[dict[str, EdgeEntry]], None], tmp_path: Path, damage: str | None
) -> None:
    register = Register(tmp_path)
    path = tmp_path / "edges.json"
    if damage is None:
        os.unlink(path)
    else:
        path.write_text(damage)
    assert "admits nobody" in str(register.refusal("door")) and register.edge_of("tok.secret") is None
    assert register.names() == []
    put(EDGES)
    assert register.refusal("door") is None and register.edge_of("tok.secret") == "tok"


def test_a_cloud_does_not_start_without_its_register(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"edges\.json: is not there.*smartedge fleet init"):
        Register(tmp_path)
