"""One bit that turns in any file of a fleet or bundle: the same content comes back, or an error names the file."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartedge.artifacts.fleet import Bundle, EdgeRegister, SimplexKeys
from smartedge.cli.app import main as command_line
from smartedge.errors import FleetError
from smartedge.fleet.authority import Authority
from smartedge.fleet.broker import write_broker
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import cloud_credentials, ingest_credentials
from smartedge.fleet.guarded import parse_guarded
from smartedge.fleet.register import SimplexRegister
from smartedge.fleet.signing import read_trust_key, sign


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Authority.create(tmp_path_factory.mktemp("damage") / "fleet", days=30)
    made.add(["door"], cloud="c:1", days=3)
    made.add_with_tokens(["gate"], cloud="c:1", days=3)
    write_broker(made, days=3)
    return made.folder


def flips(data: bytes) -> Iterator[bytes]:
    """The content with each of its bits turned, one at a time."""
    changed = bytearray(data)
    for at in range(len(changed)):
        for bit in range(8):
            changed[at] ^= 1 << bit
            yield bytes(changed)
            changed[at] ^= 1 << bit


def check(path: Path, damaged: bytes, parse: Callable[[bytes, Path], object], whole: object) -> None:
    with contextlib.suppress(FleetError):
        assert parse(damaged, path) == whole
        return
    with pytest.raises(FleetError, match=re.escape(path.name)):
        parse(damaged, path)


def text_of(data: bytes, path: Path) -> object:
    return parse_guarded(data, path, "restore it")


FILES: dict[str, Callable[[bytes, Path], object]] = {
    "bundles/door.bundle": Bundle.parse,  # certificate, its key, the cloud's address, the key of the one-way link
    "bundles/gate.bundle": Bundle.parse,  # a token
    "edges.json": EdgeRegister.parse,
    "simplex.json": SimplexKeys.parse,
    **dict.fromkeys(
        [
            "authority.pem",
            "authority.key",
            "cloud.pem",
            "cloud.key",
            "front.key",
            "front.pub",
            "ingest.pem",
            "ingest.key",
        ],
        text_of,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_no_bit_turns_in_silence(fleet: Path, name: str) -> None:
    parse, data, path = FILES[name], (fleet / name).read_bytes(), fleet / name
    whole = parse(data, path)
    for damaged in flips(data):
        check(path, damaged, parse, whole)


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_cut_short_in_silence(fleet: Path, name: str) -> None:
    parse, data, path = FILES[name], (fleet / name).read_bytes(), fleet / name
    whole = parse(data, path)
    for length in range(len(data)):
        check(path, data[:length], parse, whole)


def test_there_is_no_other_file_that_smartedge_reads(fleet: Path) -> None:
    """Those of the broker are read by the broker alone; SHA256SUMS guards them."""
    there = {str(path.relative_to(fleet)) for path in fleet.rglob("*") if path.is_file()}
    summed = {line.split()[1] for line in (fleet / "broker" / "SHA256SUMS").read_text().splitlines()}
    assert {f"broker/{name}" for name in (*summed, "SHA256SUMS")} == there - FILES.keys() - {"changing.lock"}


USES: list[tuple[str, Callable[[Path], object]]] = [
    ("authority.pem", cloud_credentials),
    ("cloud.pem", cloud_credentials),
    ("cloud.key", cloud_credentials),
    ("authority.pem", ingest_credentials),
    ("ingest.pem", ingest_credentials),
    ("ingest.key", ingest_credentials),
    ("simplex.json", SimplexRegister),
    ("edges.json", Authority),
    ("bundles/door.bundle", lambda folder: open_bundle(folder / "bundles" / "door.bundle")),
    ("front.key", lambda folder: sign(b"", folder / "front.key")),
    *[
        (name, lambda folder: Authority(folder).add(["new"], cloud="c:1", days=1))
        for name in ("authority.key", "authority.pem", "front.key", "simplex.json", "edges.json")
    ],
    ("front.pub", lambda folder: read_trust_key(folder / "front.pub")),
    *[(name, lambda folder: Authority(folder).check()) for name in FILES],
]


@pytest.mark.parametrize(("name", "use"), USES)
def test_whatever_uses_a_file_notices_and_changes_nothing(
    fleet: Path, tmp_path: Path, name: str, use: Callable[[Path], object]
) -> None:
    folder = tmp_path / "fleet"
    shutil.copytree(fleet, folder)
    use(shutil.copytree(fleet, tmp_path / "whole"))  # as it is, it can be used
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    before = (folder / "edges.json").read_bytes()
    with pytest.raises(FleetError, match=Path(name).name.replace(".", r"\.")):
        use(folder)
    assert (folder / "edges.json").read_bytes() == before


def test_a_damaged_bundle_can_be_renewed_where_the_address_is_given(fleet: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fleet, tmp_path / "fleet")
    path = folder / "bundles" / "door.bundle"
    path.write_bytes(path.read_bytes().replace(b"c:1", b"c:0"))
    with pytest.raises(FleetError, match="give --cloud"):
        Authority(folder).renew("door", cloud=None, days=1)
    assert open_bundle(Authority(folder).renew("door", cloud="c:2", days=1)).cloud == "c:2"


def test_the_list_of_a_fleet_names_what_is_damaged(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(fleet, tmp_path / "fleet")
    assert command_line(["fleet", "list", str(folder)]) == 0
    (folder / "cloud.key").write_text((folder / "cloud.key").read_text().replace("A", "B", 1))
    assert command_line(["fleet", "list", str(folder)]) != 0
    said = capsys.readouterr()
    assert "door  may send until" in said.out and "cloud.key: is damaged" in said.err


def test_a_file_that_is_no_bundle_is_told_before_who_may_read_it(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data: {path: drawn}\n")
    (tmp_path / "run.yaml").chmod(0o644)
    with pytest.raises(FleetError, match="is damaged: it is not JSON"):
        open_bundle(tmp_path / "run.yaml")
    bundle = next((fleet / "bundles").glob("*.bundle"))
    bundle.chmod(0o644)
    with pytest.raises(FleetError, match="users other than its owner may read"):
        open_bundle(bundle)
