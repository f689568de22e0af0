"""The authority: what it issues, what it writes, and what it refuses."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smartedge.artifacts import base
from smartedge.artifacts.fleet import Bundle, EdgeRegister, SimplexKeys
from smartedge.errors import FleetError
from smartedge.fleet import authority as authority_module
from smartedge.fleet.authority import Authority
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.certificates import AUTHORITY, AUTHORITY_KEY, SERVER_NAME, self_signed
from smartedge.fleet.guarded import write_guarded
from smartedge.fleet.register import Register


@pytest.fixture
def fleet(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet", days=30)


def certificate(pem: str | bytes | None) -> x509.Certificate:
    assert pem is not None
    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)


def test_a_certificate_is_for_its_side_only_and_names_it(fleet: Authority) -> None:
    [path] = fleet.add(["door-1"], cloud="cloud.example:8815", days=7)
    bundle = Bundle.read(path)
    assert (bundle.edge, bundle.cloud, bundle.token) == ("door-1", "cloud.example:8815", None)
    authority = certificate((fleet.folder / "authority.pem").read_bytes())
    cloud = certificate((fleet.folder / "cloud.pem").read_bytes())
    edge = certificate(bundle.certificate)
    assert bundle.authority == fleet.certificate()
    for signed, usage in ((edge, ExtendedKeyUsageOID.CLIENT_AUTH), (cloud, ExtendedKeyUsageOID.SERVER_AUTH)):
        signed.verify_directly_issued_by(authority)
        assert list(signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert edge.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "door-1"
    names = cloud.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME] == [bundle.server_name]
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca and constraints.path_length == 0
    for end, days in ((bundle.until, 7), (edge.not_valid_after_utc, 7), (cloud.not_valid_after_utc, 30)):
        assert abs(end - datetime.now(timezone.utc) - timedelta(days=days)) < timedelta(minutes=5)
    for signed in (edge, cloud, authority):
        early = datetime.now(timezone.utc) - signed.not_valid_before_utc
        assert abs(early - timedelta(hours=1)) < timedelta(minutes=5), "clocks of devices differ"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_secrets_are_for_their_owner_alone(fleet: Authority) -> None:
    before = os.umask(0)
    try:
        [bundle] = fleet.add(["door"], cloud="c:1", days=1)
    finally:
        os.umask(before)
    for path in (bundle, fleet.folder / "authority.key", fleet.folder / "cloud.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (fleet.folder, bundle.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (fleet.folder / "authority.key").chmod(0o640)
    with pytest.raises(FleetError, match="chmod 600"):
        Authority(fleet.folder)


def test_the_register_holds_no_secret(fleet: Authority) -> None:
    [door] = fleet.add(["door"], cloud="c:1", days=1)
    [gate] = fleet.add_with_tokens(["gate"], cloud="c:1", days=1)
    register = (fleet.folder / "edges.json").read_text()
    for secret in (Bundle.read(gate).token, Bundle.read(door).simplex_key, Bundle.read(door).key):
        assert secret and secret not in register
    assert Bundle.read(gate).certificate is None
    name, _, secret = str(Bundle.read(gate).token).partition(".")
    assert name == "gate" and len(secret) == 43, "256 bits in base64"


@pytest.mark.parametrize(
    "name", ["", "Door", "../x", "a/b", ".", "-door", "a b", "ä", "a\n", "a" * 64, "a.b", "NUL", "door\x00"]
)
def test_a_name_that_is_no_folder_is_refused_and_nothing_is_added(fleet: Authority, name: str) -> None:
    with pytest.raises(FleetError, match="small letters"):
        fleet.add(["fine", name], cloud="c:1", days=1)
    assert fleet.edges() == {}


def test_a_name_is_given_once(fleet: Authority) -> None:
    fleet.add(["door", "a" * 63, "0_-"], cloud="c:1", days=1)
    with pytest.raises(FleetError, match="door: belongs to this fleet already"):
        fleet.add(["new", "door"], cloud="c:1", days=1)
    with pytest.raises(FleetError, match="given twice"):
        fleet.add(["new", "new"], cloud="c:1", days=1)
    assert sorted(fleet.edges()) == ["0_-", "a" * 63, "door"]


def test_a_revoked_edge_is_out_until_it_is_renewed_and_then_in_by_the_new_certificate_alone(fleet: Authority) -> None:
    [path] = fleet.add(["door"], cloud="c:1", days=1)
    old = certificate(Bundle.read(path).certificate).serial_number
    fleet.revoke("door")
    assert not path.exists() and fleet.edges()["door"].until is None
    with pytest.raises(FleetError, match="give --cloud"):
        fleet.renew("door", cloud=None, days=1)
    new = certificate(Bundle.read(fleet.renew("door", cloud="c:2", days=1)).certificate).serial_number
    register = Register(fleet.folder)
    assert register.refusal("door", new) is None
    assert "revoked" in str(register.refusal("door", old))


def test_what_is_over_is_kept_no_longer(fleet: Authority) -> None:
    """The key of a revoked edge's one-way link, and a certificate whose time has ended."""
    for path in fleet.add(["door", "gate"], cloud="c:1", days=1):
        path.unlink()
    fleet.revoke("door")
    assert list(SimplexKeys.read(fleet.folder / "simplex.json").keys) == ["gate"]
    entry = fleet.edges()["gate"]
    [issued] = entry.certificates
    ended = issued.model_copy(update={"serial": "1", "until": datetime.now(timezone.utc) - timedelta(seconds=1)})
    known = {"door": fleet.edges()["door"], "gate": entry.model_copy(update={"certificates": (ended, issued)})}
    EdgeRegister(edges=known).write(fleet.folder / "edges.json")
    fleet.renew("gate", cloud="c:1", days=1)
    kept = [each.serial for each in fleet.edges()["gate"].certificates]
    assert len(kept) == 2 and kept[0] == issued.serial and "1" not in kept


def test_a_renewed_edge_keeps_address_and_kind_and_its_older_certificate_until_its_end(
    fleet: Authority,
) -> None:
    [door] = fleet.add(["door"], cloud="c:1", days=1)
    [gate] = fleet.add_with_tokens(["gate"], cloud="c:3", days=1)
    old_door, old_gate = Bundle.read(door), Bundle.read(gate)
    new_door = Bundle.read(fleet.renew("door", cloud=None, days=5))
    new_gate = Bundle.read(fleet.renew("gate", cloud=None, days=5))
    assert (new_door.cloud, new_gate.cloud) == ("c:1", "c:3")
    assert new_door.key != old_door.key and new_gate.token != old_gate.token
    register = Register(fleet.folder)
    for bundle in (old_door, new_door):
        assert register.refusal("door", certificate(bundle.certificate).serial_number) is None
    assert new_gate.token and register.edge_of(new_gate.token) == "gate"
    assert old_gate.token and register.edge_of(old_gate.token) is None
    assert fleet.edges()["gate"].token_until == new_gate.until
    assert abs(new_gate.until - datetime.now(timezone.utc) - timedelta(days=5)) < timedelta(minutes=5)
    fleet.revoke("gate")
    assert (fleet.edges()["gate"].token_sha256, fleet.edges()["gate"].token_until) == (None, None)


def test_a_proxy_is_checked_by_the_certificates_that_were_given_last(fleet: Authority, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    for file in (one, other):
        file.write_text(f"{file.stem}\n")
    [gate] = fleet.add_with_tokens(["gate"], cloud="c:3", days=1, proxy_ca=one)
    given = [Bundle.read(gate).authority]
    given += [Bundle.read(fleet.renew("gate", cloud=None, days=1, proxy_ca=ca)).authority for ca in (None, other, None)]
    assert given == ["one\n", "one\n", "other\n", "other\n"]


def test_a_fleet_that_is_whole_stays_so_after_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is being made is on the disk before anything else, and that it is made at the end."""
    synced: list[tuple[bool, bool]] = []

    def sync(folder: Path) -> None:
        synced.append(((folder / "being-made").exists(), (folder / AUTHORITY_KEY).exists()))

    monkeypatch.setattr(authority_module, "sync_folder", sync)
    Authority.create(tmp_path / "fleet", days=1)
    assert synced == [(True, False), (False, True)]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FleetError, match="is not empty"):
        Authority.create(tmp_path, days=1)
    assert os.listdir(tmp_path) == ["mine"]


def test_without_the_key_of_the_authority_nothing_can_be_signed(fleet: Authority) -> None:
    (fleet.folder / "authority.key").unlink()
    with pytest.raises(FleetError, match=r"authority\.key: cannot be used.*where the fleet was made"):
        Authority(fleet.folder).add(["door"], cloud="c:1", days=1)
    assert fleet.edges() == {}


def test_nothing_is_signed_beyond_the_end_of_the_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "_AUTHORITY_DAYS", 5)
    fleet = Authority.create(tmp_path / "fleet", days=30)
    [door] = fleet.add(["door"], cloud="c:1", days=30)
    end = certificate(fleet.certificate()).not_valid_after_utc
    assert Bundle.read(door).until == end == fleet.cloud_until() == fleet.edges()["door"].until
    ended = self_signed("smartedge fleet", 0)
    for name, text in ((AUTHORITY, ended.pem), (AUTHORITY_KEY, ended.key)):
        write_guarded(fleet.folder / name, text)
    with pytest.raises(FleetError, match=r"authority\.pem: was valid until .*'smartedge fleet init'"):
        fleet.add(["gate"], cloud="c:1", days=1)
    assert list(fleet.edges()) == ["door"]


def test_without_cryptography_the_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(FleetError, match=r"openssl.*pip install .*\[fleet\]"):
        Authority.create(tmp_path / "fleet", days=1)
    assert not (tmp_path / "fleet").exists()


def test_who_adds_an_edge_does_not_undo_a_revocation_meanwhile(
    fleet: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One terminal revokes between the moments when another one reads the register and writes it."""
    fleet.add(["door"], cloud="c:1", days=1)
    write, others = EdgeRegister.write, [threading.Thread(target=Authority(fleet.folder).revoke, args=("door",))]

    def revoke_before(register: EdgeRegister, path: Path) -> None:
        if others and threading.current_thread() is threading.main_thread():
            other = others.pop()
            other.start()
            other.join(timeout=0.3)
            started.append(other)
        write(register, path)

    started: list[threading.Thread] = []
    monkeypatch.setattr(EdgeRegister, "write", revoke_before)
    fleet.add(["gate"], cloud="c:1", days=1)
    started[0].join(timeout=30)
    refusals = {edge: Register(fleet.folder).refusal(edge) for edge in ("door", "gate")}
    assert refusals["gate"] is None and "was revoked" in str(refusals["door"])


@pytest.mark.parametrize("tokens", [False, True])
def test_many_edges_are_added_with_one_write_of_the_register_and_of_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: bool
) -> None:
    """Each edge wrote both files, with all edges before it: ten thousand took hours."""
    fleet, written = Authority.create(tmp_path / "fleet", days=30), Counter[str]()
    write = base.write_json_atomically

    def counted(path: Path, value: object) -> None:
        written[path.suffix if path.suffix == ".bundle" else path.name] += 1
        write(path, value)

    monkeypatch.setattr(base, "write_json_atomically", counted)
    names = [f"camera-{number}" for number in range(20)]
    files = (fleet.add_with_tokens if tokens else fleet.add)(names, cloud="c:1", days=3)
    assert written == {"edges.json": 1, "simplex.json": 1, ".bundle": 20}
    assert [open_bundle(file).edge for file in files] == names
    keys = SimplexKeys.read(fleet.folder / "simplex.json").keys
    assert {name: open_bundle(file).simplex_key for name, file in zip(names, files, strict=True)} == keys
    assert len(set(keys.values())) == 20, "each edge has a key of its own"
