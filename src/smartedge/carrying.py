"""Brings ``cloud/``, what the cloud wrote in a run, into the edge's run directory. Nothing else is read there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

from smartedge.artifacts.run import EdgeRun
from smartedge.cloud.store import FeatureReader, edges_of, log_folder
from smartedge.config import load_run_config
from smartedge.errors import RunError
from smartedge.logs import plain

__all__ = ["carry", "unpack_files"]

_PART = "cloud"
_LINE_END = "\n"
_ON_A_HOST = re.compile(r"([A-Za-z0-9_][\w.@-]*):(.+)")  # no host begins with "-": ssh would take it for an option


def carry(run_dir: Path, source: str) -> Path:
    """Bring what the cloud wrote into the edge's run directory, whole or not at all.

    Args:
        run_dir: of the edge, which has ended on this machine.
        source: the cloud's run directory: a folder, or ``HOST:FOLDER`` that ``ssh`` reaches.

    Returns:
        The folder that came.

    Raises:
        RunError: there is nothing to carry, it cannot be read, or it belongs to another run.
    """
    run, target = _own_run(run_dir), run_dir / _PART
    staged = Path(tempfile.mkdtemp(prefix=".collecting-", dir=run_dir))
    try:
        on_host = None if Path(source).is_dir() else _ON_A_HOST.fullmatch(source)
        if on_host is not None:
            _read_over_ssh(on_host[1], on_host[2], staged)
        elif (Path(source) / _PART).is_dir():
            shutil.copytree(Path(source) / _PART, staged / _PART, symlinks=True)
        else:
            raise RunError(f"{Path(source) / _PART}: there is no such folder; give the cloud's run directory")
        _refuse_another_run(run_dir, run, staged / _PART)
        (staged / _PART).rename(target)
    except OSError as error:
        raise RunError(f"{source}: cannot be copied ({error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def _own_run(run_dir: Path) -> str:
    """Which run the edge in this run directory belongs to.

    Raises:
        RunError: there is no edge, or what the cloud wrote is there already.
    """
    load_run_config(run_dir)
    edge = run_dir / "edge" / "run.json"
    if not edge.exists():
        raise RunError(
            f"{run_dir}: no edge has run here. 'smartedge collect' brings the cloud's half to the edge's machine. A "
            "server needs nothing of the edge: 'smartedge serve' works on its own run directory"
        )
    if (run_dir / _PART).exists():
        raise RunError(f"{run_dir / _PART}: is there already; to collect it again, remove it first")
    return EdgeRun.read(edge).run


def _read_over_ssh(host: str, folder: str, staged: Path) -> None:
    command = ["ssh", "-o", "BatchMode=yes", host, f"tar -C {shlex.quote(folder)} -cf - {_PART}"]
    broken: tarfile.TarError | None = None
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        except FileNotFoundError as error:
            raise RunError("ssh is not installed; copy the folder by other means, and give its path here") from error
        with process:  # at its end: closes the pipe, and waits
            assert process.stdout is not None
            try:
                unpack_files(process.stdout, staged)
            except tarfile.TarError as error:
                broken = error
        said.seek(0)
        told = said.read(2000).decode(errors="replace").strip()
    if process.returncode != 0 or broken is not None:
        raise RunError(f"{host}:{folder}: {plain(told, keep=_LINE_END) or broken or 'ssh failed'}")


def unpack_files(stream: IO[bytes], into: Path) -> None:
    """Write the files and folders of a tar archive that lie in the folder ``cloud``.

    Raises:
        RunError: it holds something else: a link, a device, or a file outside that folder.
        TarError: it is no archive, or is cut off.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.parts[:1] != (_PART,) or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise RunError(f"{plain(member.name)}: the other machine sent something that is no file in {_PART}/")
            target = into.joinpath(*path.parts)
            if member.isdir():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            content = archive.extractfile(member)
            assert content is not None
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)


def _refuse_another_run(run_dir: Path, run: str, cloud: Path) -> None:
    logs = [FeatureReader(log_folder(cloud, edge), edge) for edge in edges_of(cloud)]
    if not any(stream.run == run for log in logs for stream in log.streams):
        raise RunError(f"{run_dir}: the other side belongs to another run: its store has nothing of this edge")
