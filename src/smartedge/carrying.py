"""Carries the part of a run that may travel from one machine's run directory into the other's.

The edge's side gets ``cloud/``, and the cloud's side gets ``shared/``. Nothing else is read on the other machine. So no
image and no key can travel by mistake.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from smartedge.artifacts.run import EdgeRun, SharedRun
from smartedge.cloud.store import FeatureReader, edges_of, log_folder
from smartedge.config import differences, load_run_config
from smartedge.errors import RunError
from smartedge.logs import plain

__all__ = ["Part", "carry", "unpack_files"]

Part = Literal["cloud", "shared"]

_LINE_END = "\n"
_ON_A_HOST = re.compile(r"([A-Za-z0-9_][\w.@-]*):(.+)")  # no host begins with "-": ssh would take it for an option


def carry(run_dir: Path, source: str) -> Part:
    """Bring the other side's part into a run directory, whole or not at all.

    Args:
        run_dir: of the side that has ended on this machine.
        source: the other side's run directory: a folder, or ``HOST:FOLDER`` that ``ssh`` reaches.

    Returns:
        The name of the folder that came.

    Raises:
        RunError: there is nothing to carry, it cannot be read, or it belongs to another run.
    """
    part = _lacking(run_dir)
    staged = Path(tempfile.mkdtemp(prefix=".collecting-", dir=run_dir))
    try:
        on_host = None if Path(source).is_dir() else _ON_A_HOST.fullmatch(source)
        if on_host is not None:
            _read_over_ssh(on_host[1], on_host[2], part, staged)
        elif (Path(source) / part).is_dir():
            shutil.copytree(Path(source) / part, staged / part, symlinks=True)
        else:
            raise RunError(f"{Path(source) / part}: there is no such folder; give the run directory of the other side")
        _refuse_another_run(run_dir, staged, part)
        (staged / part).rename(run_dir / part)
    except OSError as error:
        raise RunError(f"{source}: cannot be copied ({error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return part


def _lacking(run_dir: Path) -> Part:
    """Which part the side in this run directory needs.

    Raises:
        RunError: no side is there, or it has the part already.
    """
    load_run_config(run_dir)
    part: Part = "cloud" if (run_dir / "edge" / "run.json").exists() else "shared"
    if part == "shared" and not (run_dir / "cloud").is_dir():
        raise RunError(f"{run_dir}: neither the edge nor the cloud has run here; start one of them first")
    if (run_dir / part).exists():
        raise RunError(f"{run_dir / part}: is there already; to collect it again, remove it first")
    return part


def _read_over_ssh(host: str, folder: str, part: Part, staged: Path) -> None:
    command = ["ssh", "-o", "BatchMode=yes", host, f"tar -C {shlex.quote(folder)} -cf - {part}"]
    broken: tarfile.TarError | None = None
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        except FileNotFoundError as error:
            raise RunError("ssh is not installed; copy the folder by other means, and give its path here") from error
        with process:  # at its end: closes the pipe, and waits
            assert process.stdout is not None
            try:
                unpack_files(process.stdout, part, staged)
            except tarfile.TarError as error:
                broken = error
        said.seek(0)
        told = said.read(2000).decode(errors="replace").strip()
    if process.returncode != 0 or broken is not None:
        raise RunError(f"{host}:{folder}: {plain(told, keep=_LINE_END) or broken or 'ssh failed'}")


def unpack_files(stream: IO[bytes], part: Part, into: Path) -> None:
    """Write the files and folders of a tar archive that lie in one folder.

    Raises:
        RunError: it holds something else: a link, a device, or a file outside that folder.
        TarError: it is no archive, or is cut off.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.parts[:1] != (part,) or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise RunError(f"{plain(member.name)}: the other machine sent something that is no file in {part}/")
            target = into.joinpath(*path.parts)
            if member.isdir():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            content = archive.extractfile(member)
            assert content is not None
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)


def _refuse_another_run(run_dir: Path, staged: Path, part: Part) -> None:
    if part == "shared":
        theirs = SharedRun.read(staged / "shared" / "run.json").settings
        changed = differences(load_run_config(run_dir).agreement(), theirs)
        if changed:
            raise RunError(f"{run_dir}: the other side belongs to another run (other settings: {', '.join(changed)})")
        return
    run, cloud = EdgeRun.read(run_dir / "edge" / "run.json").run, staged / "cloud"
    logs = [FeatureReader(log_folder(cloud, edge), edge) for edge in edges_of(cloud)]
    if not any(stream.run == run for log in logs for stream in log.streams):
        raise RunError(f"{run_dir}: the other side belongs to another run: its store has nothing of this edge")
