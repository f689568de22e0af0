"""A bundle is read only where it is whole, valid, and its owner's alone."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from smartedge.artifacts.fleet import Bundle
from smartedge.errors import FleetError
from smartedge.fleet import credentials
from smartedge.fleet.authority import Authority
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import cloud_credentials, credentials_of


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("folder") / "fleet", days=30)


@pytest.fixture(scope="module")
def path(fleet: Authority) -> Path:
    return fleet.add(["door"], cloud="cloud.example:8815", days=3)[0]


def test_it_gives_what_the_edge_shows(fleet: Authority, path: Path) -> None:
    made = credentials_of(open_bundle(path))
    assert made.certificate is not None and b"BEGIN CERTIFICATE" in made.certificate
    assert made.key is not None and b"BEGIN PRIVATE KEY" in made.key
    assert made.ca == fleet.certificate().encode() and made.tls and made.token is None


def test_a_token_goes_over_tls_also_where_the_machine_s_own_list_checks_the_proxy(fleet: Authority) -> None:
    [path] = fleet.add_with_tokens(["gate"], cloud="c:1", days=1)
    made = credentials_of(open_bundle(path))
    assert made.token is not None and made.token.startswith("gate.") and made.ca is None and made.tls


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_one_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    try:
        with pytest.raises(FleetError, match=f"chmod 600 {path}"):
            open_bundle(path)
    finally:
        path.chmod(0o600)


def test_one_whose_time_has_ended_says_so(path: Path) -> None:
    later = datetime.now(timezone.utc) + timedelta(days=4)
    with pytest.raises(FleetError, match=r"edge 'door' expired on .*fleet renew.*clock"):
        open_bundle(path, now=later)


@pytest.mark.parametrize("changes", [{"key": None}, {"token": "door.x"}, {"certificate": None, "key": None}])
def test_one_that_holds_half_a_pair_or_both_kinds_is_refused(
    path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    changed = tmp_path / "changed"
    Bundle.read(path).model_copy(update=changes).write(changed)
    with pytest.raises(FleetError, match="either a certificate with its key, or a token"):
        open_bundle(changed)


def test_a_missing_one_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"is not there; 'smartedge fleet add DIR EDGE' writes it"):
        open_bundle(tmp_path / "missing")


def test_the_cloud_needs_four_files_and_its_key_for_itself(fleet: Authority, tmp_path: Path) -> None:
    folder = tmp_path / "cloud"
    folder.mkdir()
    for name in ("authority.pem", "cloud.pem", "cloud.key"):
        with pytest.raises(FleetError, match=r"cannot be read.*authority\.pem, cloud\.pem, cloud\.key"):
            cloud_credentials(folder)
        (folder / name).write_bytes((fleet.folder / name).read_bytes())
    if os.name == "posix":
        (folder / "cloud.key").chmod(0o644)
        with pytest.raises(FleetError, match="chmod 600"):
            cloud_credentials(folder)
    (folder / "cloud.key").chmod(0o600)
    assert cloud_credentials(folder).ca == fleet.certificate().encode()


@pytest.mark.parametrize(("days", "refused"), [(29, False), (31, True)])
def test_a_cloud_whose_certificate_has_expired_does_not_start(
    fleet: Authority, monkeypatch: pytest.MonkeyPatch, days: int, refused: bool
) -> None:
    fleet.renew_cloud(days=30)
    later = datetime.now(timezone.utc) + timedelta(days=days)
    monkeypatch.setattr(credentials, "datetime", SimpleNamespace(now=lambda zone: later))
    told = pytest.raises(
        FleetError, match=r"cloud\.pem: was valid until .* UTC; 'smartedge fleet renew DIR' makes a new"
    )
    with told if refused else nullcontext():
        cloud_credentials(fleet.folder)
