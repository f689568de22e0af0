"""The folder of a run: which one it is, what it says about the run, and whether it may be used again.

Where the settings name no folder it is a new one, named after the settings file.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from smartedge.artifacts.run import RunFacts, Speed
from smartedge.artifacts.summary import has_finished
from smartedge.config import AUTO, Config, changes_in_words, load_config
from smartedge.errors import ConfigError, RunError
from smartedge.files import final_name, private_folder, try_folder, write_atomically

__all__ = ["RUNS", "check_place", "has_begun", "in_folder", "name_of", "note_facts", "prepare_run", "refuse_begun"]

RUNS = Path("runs")
LATEST = "latest"  # in RUNS: a link to the folder that was chosen last
SIDES = ("edge", "cloud")
# What may be in a folder in which no run has begun: what a start that failed leaves, or a run that was carried there in
# part, and the folder that a file system makes of its own.
_OF_A_RUN = frozenset(
    {
        *SIDES,
        "config.yaml",
        "run.json",
        "data",
        "shared",
        "tensorboard",
        "metrics.jsonl",
        "results.json",
        "report.html",
        "predictions.safetensors",
        "lost+found",
    }
)


def in_folder(config: Config, name: str, sides: Iterable[str] = SIDES, *, resume: bool = False) -> Config:
    """The settings with a folder for the run. If they name one, they stay as they are.

    The folders of settings called ``faces`` are ``runs/faces``, ``runs/faces-2`` and so on. A new run takes the first
    in which none of its sides has begun. So two sides that are started one by one on one machine meet in one folder.

    Args:
        config: settings, where ``run_dir`` may be ``auto``.
        name: of the settings.
        sides: that will run: ``edge``, ``cloud`` or both.
        resume: take the last folder in which one of them has begun.

    Raises:
        RunError: ``resume``, and there is no such folder.
    """
    if config.run_dir != AUTO:
        return config
    wanted = tuple(sides)
    if resume:
        begun = [folder for folder in itertools.takewhile(Path.exists, _folders(name)) if _begun(folder, wanted)]
        if not begun:
            raise RunError(f"{RUNS / name}: there is no run to resume; start it without --resume")
        chosen = _at(config, begun[-1])
    else:
        places = (_at(config, folder) for folder in _folders(name))
        chosen = next(place for place in places if not _begun(place.run_dir, wanted) and _is_free_or_ours(place))
    _point_latest_to(chosen.run_dir)
    return chosen


def name_of(source: object) -> str:
    """The name of settings: that of their file, else ``run``."""
    return Path(source).stem if isinstance(source, (str, Path)) else "run"


def refuse_begun(run_dir: Path, side: str) -> None:
    """Refuse to start a side anew where it has begun.

    Raises:
        RunError: it has.
    """
    if _begun(run_dir, [side]):
        raise RunError.begun_before(run_dir / side)


def has_begun(run_dir: Path) -> bool:
    """Whether a side has done work that a new start would lose. A start that failed at the settings has not."""
    return _begun(run_dir, SIDES)


def _begun(run_dir: Path, sides: Collection[str]) -> bool:
    if "edge" in sides and (run_dir / "edge" / "run.json").exists():
        return True
    if "cloud" not in sides:
        return False
    from smartedge.cloud.store import feature_log  # with the store's libraries, which not every verb needs

    return feature_log.has_begun(run_dir / "cloud")


def _folders(name: str) -> Iterator[Path]:
    yield RUNS / name
    for number in itertools.count(2):
        yield RUNS / f"{name}-{number}"


def _at(config: Config, folder: Path) -> Config:
    return config.model_copy(update={"run_dir": folder})


def _is_free_or_ours(config: Config) -> bool:
    """Whether the other side, where it has begun in this folder, was started with the same settings."""
    kept = config.run_dir / "config.yaml"
    return not has_begun(config.run_dir) or (kept.exists() and kept.read_text(encoding="utf-8") == config.to_yaml())


def _point_latest_to(folder: Path) -> None:
    """Let the link ``runs/latest`` lead to a folder in ``runs``. Where the system has no links, there is none."""
    link, temporary = RUNS / LATEST, RUNS / f".{LATEST}-{secrets.token_hex(4)}"
    if link.exists() and not link.is_symlink():  # somebody's own folder
        return
    with contextlib.suppress(OSError, NotImplementedError):
        RUNS.mkdir(exist_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, link)


def prepare_run(config: Config, *, resume: bool, speed: Speed | None = None) -> RunFacts:
    """Make the run directory, or check that it holds this run; returns facts for the results."""
    if config.several_edges:
        raise ConfigError(
            "fleet.expect: 'smartedge train' runs one edge; start 'smartedge cloud', and 'smartedge edge' on each "
            "device"
        )
    run_dir = config.run_dir
    facts_file = run_dir / "run.json"
    if facts_file.exists() and has_begun(run_dir):
        if not resume:
            raise RunError(
                f"{run_dir}: holds a run already; continue it with --resume, or choose another run_dir "
                "(--set run_dir=...)"
            )
        _refuse_other_settings(config)
        edge_done = has_finished(run_dir / "edge")
        if not edge_done:
            shutil.rmtree(run_dir / "cloud" / "closed", ignore_errors=True)  # the cloud must wait for the edge again
        return RunFacts.read(facts_file)
    if resume and not facts_file.exists() and run_dir.exists():
        raise RunError(f"{run_dir}: there is no run to resume; start it without --resume")
    return _write_facts(config, speed)


def _write_facts(config: Config, speed: Speed | None = None) -> RunFacts:
    """Write the settings and the machine into the run directory."""
    from smartedge.runs.machine import describe_machine, versions

    run_dir = config.run_dir
    facts_file, config_file = run_dir / "run.json", run_dir / "config.yaml"
    check_place(run_dir)
    private_folder(run_dir)
    write_atomically(config_file, config.to_yaml())
    facts = RunFacts(
        machine=describe_machine(),
        versions=versions(),
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        speed=speed,
    )
    facts.write(facts_file)
    return facts


def check_place(run_dir: Path) -> None:
    """Refuse a place that is there and holds something else than a run, or a start of one that failed.

    Raises:
        RunError: it is no folder, or somebody else's files are in it, or the audit of a run that was removed.
        OSError: a new run cannot be written there.
    """
    if (file := next((each for each in run_dir.parents if each.is_file()), None)) is not None:
        raise RunError(f"{file}: is a file; a run needs a folder there: choose another place, or move the file away")
    if has_begun(run_dir):
        return
    if not run_dir.exists():
        try_folder(run_dir)
        return
    if (run_dir / "audit").exists():
        raise RunError(
            f"{run_dir / 'audit'}: is the audit of a run that is not there any more, and would be taken for that of "
            "the new one; remove it, or choose another run_dir (--set run_dir=...)"
        )
    if (run_dir / "run.json").exists():
        return
    if not run_dir.is_dir():
        raise RunError(f"{run_dir}: is a file; a run needs a folder: choose another run_dir (--set run_dir=...)")
    foreign = sorted(entry.name for entry in run_dir.iterdir() if final_name(entry.name) not in _OF_A_RUN)
    if foreign:
        raise RunError(
            f"{run_dir}: holds other files ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}) and no run; "
            "choose a new or empty folder as run_dir (--set run_dir=...)"
        )
    config_file = run_dir / "config.yaml"
    if config_file.exists():  # of somebody else, or of a start that failed
        try:
            load_config(config_file)
        except ConfigError as error:
            raise RunError(
                f"{config_file}: is there, and is no settings file of a run, which would overwrite it; choose another "
                "run_dir"
            ) from error


def note_facts(config: Config, *, edge: bool) -> None:
    """For a side that runs alone: write settings and machine, or compare the settings with those of the run.

    The cloud need not know the sensitive columns or the paths of the data. So only settings that matter to it are
    compared.
    """
    if has_begun(config.run_dir):
        _refuse_other_settings(config, edge=edge)
        return
    file = config.run_dir / "config.yaml"
    kept = file.read_text(encoding="utf-8") if (config.run_dir / "run.json").exists() and file.exists() else None
    if kept != config.to_yaml():  # there are none, or a first start failed
        _write_facts(config)


def _refuse_other_settings(config: Config, *, edge: bool = True) -> None:
    """Refuse settings that would change the results of a run that has begun."""
    file = config.run_dir / "config.yaml"
    if not file.exists():
        raise RunError(f"{config.run_dir}: a run has begun there, but its settings are gone; restore {file}")
    before = load_config(file)
    ours = (before.identity(), config.identity()) if edge else (before.cloud_identity(), config.cloud_identity())
    if changes := changes_in_words(*ours):
        raise RunError(
            f"{config.run_dir}: the run began with other settings ({changes}); resume it with {file}, or start a new "
            "run in another run_dir"
        )
