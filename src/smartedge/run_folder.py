"""Which folder a run writes to, where its settings name none: a new one, named after the settings file."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from smartedge.config import AUTO, Config
from smartedge.errors import RunError

__all__ = ["RUNS", "has_begun", "in_folder", "name_of"]

RUNS = Path("runs")
LATEST = "latest"  # in RUNS: a link to the folder that was chosen last
SIDES = ("edge", "cloud")


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


def has_begun(run_dir: Path) -> bool:
    """Whether a side has done work that a new start would lose. A start that failed at the settings has not."""
    return _begun(run_dir, SIDES)


def _begun(run_dir: Path, sides: Iterable[str]) -> bool:
    from smartedge.cloud import store  # with the store's libraries, which not every verb needs

    begun = {"edge": (run_dir / "edge" / "run.json").exists(), "cloud": store.has_begun(run_dir / "cloud")}
    return any(begun[side] for side in sides)


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
