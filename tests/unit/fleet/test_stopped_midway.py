"""A command that changes a fleet is killed before each of its writes: the same command, given again, does its work."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from smartedge import files
from smartedge.artifacts.fleet import Bundle, SimplexKeys
from smartedge.cli.app import main
from smartedge.errors import FleetError
from smartedge.fleet.authority import Authority
from smartedge.fleet.broker import write_broker
from smartedge.fleet.credentials import cloud_credentials
from smartedge.fleet.register import Register
from smartedge.wire.handshake import tls_context

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
EDGES = ["door", "gate", "lab"]
Action = Callable[[Path], object]


def killed(before_write: int, folder: Path, action: Action) -> bool:
    """Whether a process that does this was killed before a write; else it has done its work."""
    if (pid := os.fork()) == 0:
        left, put = [before_write], os.replace

        def replace(old: Path, new: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            put(old, new)

        files.os.replace = replace  # type: ignore[attr-defined]
        action(folder)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def may_send(folder: Path, edges: list[str]) -> None:
    """Each edge has a bundle that the register and the keys of the one-way link know."""
    register, keys = Register(folder), SimplexKeys.read(folder / "simplex.json").keys
    Authority(folder).check()
    for edge in edges:
        bundle = Bundle.read(folder / "bundles" / f"{edge}.bundle")
        assert keys[edge] == bundle.simplex_key
        if bundle.token is not None:
            assert register.edge_of(bundle.token) == edge
        else:
            assert bundle.certificate is not None
            shown = x509.load_pem_x509_certificate(bundle.certificate.encode())
            assert register.refusal(edge, shown.serial_number) is None
    assert not list(folder.glob("being-made"))
    tls_context(cloud_credentials(folder))  # the cloud's key belongs to its certificate


def add(folder: Path) -> object:
    return Authority(folder).add(EDGES, cloud="c:1", days=1)


def add_with_tokens(folder: Path) -> object:
    return Authority(folder).add_with_tokens(EDGES, cloud="c:1", days=1)


def renew(folder: Path) -> object:
    return Authority(folder).renew("door", cloud=None, days=1)


def revoke(folder: Path) -> object:
    return Authority(folder).revoke("door")


def renew_cloud(folder: Path) -> object:
    return Authority(folder).renew_cloud(days=1)


def init(folder: Path) -> object:
    return Authority.create(folder, days=1)


def broker(folder: Path) -> object:
    return write_broker(Authority(folder), days=1)


@pytest.mark.parametrize(
    ("before", "action", "writes", "then"),
    [
        ([], init, 7, []),
        ([init], add, 6, EDGES),
        ([init], add_with_tokens, 6, EDGES),
        ([init, add], renew, 4, EDGES),
        ([init, add], revoke, 2, EDGES[1:]),
        ([init, add], renew_cloud, 2, EDGES),
        ([init, add], broker, 7, EDGES),
    ],
)
def test_the_same_command_again_does_what_one_that_was_killed_did_not(
    tmp_path: Path, before: list[Action], action: Action, writes: int, then: list[str]
) -> None:
    start = tmp_path / "start"
    for each in before:
        each(start)
    for number in range(writes + 1):
        folder = tmp_path / str(number)
        if before:
            shutil.copytree(start, folder)
        assert killed(number, folder, action) == (number < writes), "writes of it, in all"
        if number < writes:
            action(folder)
        if action is init:
            add(folder)
        may_send(folder, then or EDGES)
        shutil.rmtree(folder)


def test_a_revocation_that_was_killed_after_its_first_write_counts(tmp_path: Path) -> None:
    init(tmp_path / "fleet")
    add(tmp_path / "fleet")
    assert killed(1, tmp_path / "fleet", revoke)
    assert "was revoked" in str(Register(tmp_path / "fleet").refusal("door"))


def test_nobody_uses_a_fleet_that_is_half_made(tmp_path: Path) -> None:
    for number in (0, 3, 6):
        folder = tmp_path / str(number)
        assert killed(number, folder, init)
        with pytest.raises(FleetError, match="'smartedge fleet init' was stopped"):
            add(folder)
    folder = tmp_path / "mine"
    init(folder)
    (folder / "edges.json").unlink()  # its authority is not made anew
    key = (folder / "authority.key").read_bytes()
    with pytest.raises(FleetError, match="is not empty"):
        init(folder)
    assert (folder / "authority.key").read_bytes() == key


def test_a_full_disk_adds_nobody_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fleet"
    init(folder)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(files.os, "fsync", full)
        for words in (["add", str(folder), "door", "--cloud", "c:1"], ["renew", str(folder)]):
            assert main(["fleet", *words]) == FleetError.exit_code
            assert "the disk is full: free space on it" in capsys.readouterr().err
        assert main(["fleet", "init", str(tmp_path / "other")]) == FleetError.exit_code
        assert "the disk is full: free space on it" in capsys.readouterr().err
    assert Authority(folder).edges() == {}
    assert main(["fleet", "add", str(folder), "door", "--cloud", "c:1"]) == 0
    assert main(["fleet", "init", str(tmp_path / "other")]) == 0
