"""Brings what the cloud wrote in a run into the edge's run directory, as ``cloud/``. Nothing else is read there.

It comes from a folder, over ssh, or over the link from ``smartedge serve``.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from smartedge.artifacts.run import EdgeRun
from smartedge.artifacts.summary import has_finished
from smartedge.cloud.files_for_edges import place_of
from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder
from smartedge.config import load_run_config
from smartedge.errors import LogError, RunError
from smartedge.files import SMALL_BYTES, disk_error, private_folder, replacing
from smartedge.locks import holding
from smartedge.logs import plain
from smartedge.types import EDGE_NAME
from smartedge.wire.files import fetch, list_files

__all__ = ["Ask", "carry", "check_place", "unpack_files"]

Ask = Callable[[bytes], bytes]  # puts one question to 'smartedge serve'

_PART = "cloud"
_STAGED = ".collecting-"
_SPARE = 2**26  # bytes that stay free on the disk
_LARGE = (".frames", ".safetensors")  # files that are not read into memory at once
_LINE_END = "\n"
_ON_A_HOST = re.compile(r"([A-Za-z0-9_][\w.@-]*):(.+)")  # no host begins with "-": ssh would take it for an option


def carry(run_dir: Path, source: str | Ask) -> Path:
    """Bring what the cloud wrote into the edge's run directory, whole or not at all.

    Args:
        run_dir: of the edge, which has ended on this machine.
        source: the cloud's run directory: a folder, or ``HOST:FOLDER`` that ``ssh`` reaches. Or what asks a server.

    Returns:
        The folder that came.

    Raises:
        RunError: there is nothing to carry, it cannot be read, or it belongs to another run.
        LinkError: the server cannot be reached, or sends something else than it promised.
    """
    run, target = check_place(run_dir), run_dir / _PART
    try:
        with holding(run_dir / "edge" / "run.json"):
            for left in run_dir.glob(f"{_STAGED}*"):  # by a process that was killed
                shutil.rmtree(left)
            check_place(run_dir)  # another process may have collected it meanwhile
            staged = Path(tempfile.mkdtemp(prefix=_STAGED, dir=run_dir))
            try:
                if isinstance(source, str):
                    _copy(source, staged)
                else:
                    _read_over_link(source, run, staged / _PART)
                _refuse_another_run(run_dir, run, staged / _PART)
                (staged / _PART).rename(target)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{run_dir}: {_PART}/ cannot be collected: {disk_error(error)}") from error
    return target


def check_place(run_dir: Path) -> str:
    """Which run the edge in this run directory belongs to.

    Raises:
        RunError: there is no edge, or the cloud's half is there already.
    """
    load_run_config(run_dir)
    edge = run_dir / "edge" / "run.json"
    if not edge.exists():
        raise RunError(
            f"{run_dir}: no edge has run here. 'smartedge collect' brings the cloud's half to the edge's machine. A "
            "server needs nothing of the edge: 'smartedge serve' works on its own run directory"
        )
    if (cloud := run_dir / _PART).exists():
        raise RunError(f"{cloud}: is there already; to collect it again, remove it first")
    return EdgeRun.read(edge).run


def _copy(source: str, staged: Path) -> None:
    on_host = None if Path(source).is_dir() else _ON_A_HOST.fullmatch(source)
    if on_host is not None:
        _read_over_ssh(on_host[1], on_host[2], staged)
    elif (Path(source) / _PART).is_dir():
        _copy_files(Path(source) / _PART, staged / _PART)
    else:
        raise RunError(f"{Path(source) / _PART}: there is no such folder; give the cloud's run directory")


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder of plain files and folders, as files that only their owner can read.

    Raises:
        RunError: it holds something else: a link, a pipe, a device.
    """
    target.mkdir(mode=0o700)
    for entry in source.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _copy_files(entry, target / entry.name)
            continue
        if entry.is_symlink() or not entry.is_file():
            raise RunError(f"{entry}: is neither a file nor a folder, so it is nothing that a cloud wrote")
        with replacing(target / entry.name) as private:
            shutil.copyfile(entry, private)


def _read_over_link(ask: Ask, run: str, staged: Path) -> None:
    """Ask a server for its files. All names and sizes are checked before the first file is asked for."""
    edge, files = list_files(ask, run)
    if not re.fullmatch(EDGE_NAME, edge):
        raise RunError("the cloud calls this edge by something that is no name of an edge; nothing was written")
    places = {place_of(each.name, edge): each for each in files}
    if len(places) != len(files):
        raise RunError("the cloud names a file twice; nothing was written")
    for place, each in places.items():
        if each.size > SMALL_BYTES and place.suffix not in _LARGE:
            raise RunError(f"the cloud's {place} is too large ({each.size / 1e6:.0f} MB); nothing was written")
    wanted, free = sum(each.size for each in files), shutil.disk_usage(staged.parent).free
    if wanted > free - _SPARE:
        raise RunError(
            f"the cloud's files take {wanted / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB, of which "
            f"{_SPARE / 1e6:.0f} MB stay free; make room and collect again"
        )
    for place, each in places.items():
        private_folder((staged / place).parent)
        fetch(ask, run, each, staged / place)
    if not has_finished(staged):
        raise RunError("what the cloud sent is not of a run that has ended; collect again when it has")
    try:
        for damage in FeatureReader(log_folder(staged, edge), edge).damages():
            raise damage
    except LogError as error:
        raise RunError(f"the cloud's own log of this edge cannot be used: {error}") from error


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
