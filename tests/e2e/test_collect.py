"""``smartedge collect``: the device gets what the cloud wrote, and nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from smartedge.cli.app import main
from smartedge.cloud import carrying
from smartedge.errors import RunError
from smartedge.runs.progress import Quiet
from smartedge.training import train

FAKE_SSH = """#!/bin/sh
# ssh -o BatchMode=yes HOST COMMAND: runs COMMAND here
[ "$3" = away ] && { echo "ssh: cannot reach away" >&2; exit 255; }
exec sh -c "$4"
"""


@pytest.fixture(scope="module")
def trained() -> list[Path]:
    """The run directory of a run, once a test has made one."""
    return []


@pytest.fixture
def machines(tiny_config, trained, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The run directories of the device and of the server, after a run on two machines; ``ssh`` reaches this one."""
    if not trained:
        config = tiny_config("trained", epochs=1)
        train(config, single_process=True, monitor=Quiet())
        trained.append(config.run_dir)
    shutil.copytree(trained[0], tmp_path / "run")
    door, server = tmp_path / "door side", tmp_path / "server"
    for folder, parts in ((door, ("edge", "shared")), (server, ("cloud",))):
        for part in parts:
            shutil.copytree(trained[0] / part, folder / part)
        for file in ("config.yaml", "run.json"):
            shutil.copy(trained[0] / file, folder / file)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(FAKE_SSH)
    (tmp_path / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return door, server


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("over", ["", "me@server.example:"])
def test_the_device_gets_the_cloud_and_has_results_and_report(machines, over, tmp_path, capsys):
    door, server = machines
    assert main(["collect", str(door), f"{over}{server}"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(door / "cloud"), str(door / "report.html")]
    assert files(door / "cloud") == files(server / "cloud")
    of_both = json.loads((tmp_path / "run" / "results.json").read_text())
    assert json.loads((door / "results.json").read_text())["test"] == of_both["test"]
    assert not list(door.glob(".collecting*"))


def test_another_run_is_refused_and_nothing_stays(machines, capsys):
    door, server = machines
    edge = door / "edge" / "run.json"
    edge.write_text(json.dumps({**json.loads(edge.read_text()), "run": "another"}))
    before = files(door)
    assert main(["collect", str(door), str(server)]) == RunError.exit_code
    assert "nothing of this edge" in capsys.readouterr().err
    assert files(door) == before and not list(door.glob(".collecting*"))


@pytest.mark.parametrize(
    ("here", "source", "why"),
    [
        ("door", "nowhere", "there is no such folder"),
        ("door", "away:runs/faces", "ssh: cannot reach away"),
        ("door", "there.example:runs/nowhere", "runs/nowhere"),
        ("door", "-oProxyCommand=touch x:runs", "there is no such folder"),
        ("nowhere", "server", "holds no run"),
        ("server", "door", "no edge has run here"),
        ("both", "server", "is there already"),
    ],
)
def test_what_cannot_be_carried_is_said(machines, here, source, why, tmp_path, monkeypatch, capsys):
    door, server = machines
    monkeypatch.chdir(tmp_path)
    places = {"door": door, "server": server, "both": tmp_path / "run", "nowhere": tmp_path / "nowhere"}
    source = str(server) if source == "server" else source
    assert main(["collect", str(places[here]), source]) == RunError.exit_code
    assert why in capsys.readouterr().err
    assert not (door / "cloud").exists() and not (tmp_path / "x").exists()


def test_from_a_folder_too_come_plain_files_alone_and_others_cannot_read_them(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "store").mkdir(mode=0o755, parents=True)
    (source / "store" / "log").write_bytes(b"x" * 100)
    (source / "store" / "log").chmod(0o644)
    before = os.umask(0)
    try:
        carrying._copy_files(source, target)
    finally:
        os.umask(before)
    assert files(target) == {"store/log": b"x" * 100}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (target, target / "store", target / "store" / "log")] == [
        *(0o700, 0o700, 0o600)
    ]
    for number, make in enumerate([lambda path: path.symlink_to("/dev/zero"), os.mkfifo]):
        make(source / "odd")
        with pytest.raises(RunError, match="odd: is neither a file nor a folder"):
            carrying._copy_files(source, tmp_path / f"other{number}")
        (source / "odd").unlink()


def archive(*members: tarfile.TarInfo) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for member in members:
            opened.addfile(member, io.BytesIO(b"x" * member.size))
    stream.seek(0)
    return stream


def member(name: str, *, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, to, 1 if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        member("cloud/../../out"),
        member("/cloud/out"),
        member("edge/noise.key"),
        member("cloud/link", kind=tarfile.SYMTYPE, to="/etc"),
        member("cloud/link", kind=tarfile.LNKTYPE, to="cloud/a"),
        member("cloud/pipe", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda hostile: f"{hostile.name} {hostile.type!r}",
)
def test_an_archive_with_something_else_is_refused(hostile, tmp_path):
    with pytest.raises(RunError, match="no file in cloud/"):
        carrying.unpack_files(archive(member("cloud/a"), hostile), tmp_path / "into")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


def test_an_archive_that_is_cut_off_is_an_error(tmp_path):
    whole = archive(member("cloud/a")).getvalue()
    with pytest.raises(tarfile.TarError):
        carrying.unpack_files(io.BytesIO(whole[:300]), tmp_path)
