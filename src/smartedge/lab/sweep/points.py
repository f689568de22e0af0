"""The points of a sweep: one run each, with its settings, its seed and its folder."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smartedge.artifacts.audit import Audit
from smartedge.artifacts.results import Results
from smartedge.config import AUTO, Config, load_config, parse_overrides
from smartedge.errors import ConfigError, RunError
from smartedge.launch.run_folder import RUNS

__all__ = ["Point", "check_folder", "folder_of", "grid_points", "parse_axes", "text_of"]

_TOLD = 3  # points of a grid that cannot be run; a misspelt key makes all of them such points
# An undefended front ignores these settings. Points that differ only in them share one undefended run.
_PROTECTION = ("adversary.", "dp.", "model.bottleneck", "model.codebook", "train.distill.")

_File = TypeVar("_File", Results, Audit)


@dataclass(frozen=True)
class Point:
    """One run of the sweep."""

    settings: Mapping[str, str]  # key → value as text
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.config.run_dir

    def undefended(self, root: Path) -> Point:
        """The run with the same network and data, but without protection."""
        from smartedge.lab.audit.undefended import undefended_config

        kept = {key: value for key, value in self.settings.items() if not key.startswith(_PROTECTION)}
        folder = root / "undefended" / name_of(kept, self.seed)
        return Point(kept, self.seed, load_config(undefended_config(self.config), {"run_dir": str(folder)}))

    def results(self) -> Results | None:
        """The run's results; None where it has not finished, or this program can read none: they are then made anew."""
        return _readable(Results, self.folder / "results.json")

    def audit(self) -> Audit | None:
        """The run's audit; None where this program can read none. The sweep then makes a new one."""
        return _readable(Audit, self.folder / "audit" / "audit.json")

    def is_audited(self, budget: float | None) -> bool:
        """Whether every sensitive column was attacked, with at least this time budget in seconds (None: no limit)."""
        audit = self.audit()
        effort = audit.settings.stages.get("attributes") if audit else None
        if audit is None or effort is None:
            return False
        had, wanted = (math.inf if seconds is None else seconds for seconds in (effort.budget_seconds, budget))
        blocks = (audit.attributes.get(name) for name in self.config.data.sensitive)
        return had >= wanted and all(block is not None and block.best is not None for block in blocks)


def _readable(kind: type[_File], path: Path) -> _File | None:
    try:
        return kind.read_if_there(path)
    except RunError:
        return None


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """``["adversary.weight=0,1,3"]`` → ``{"adversary.weight": (0, 1, 3)}``; values are read as YAML.

    Raises:
        ConfigError: an axis is not written as ``key=value,value``, occurs twice, or repeats a value.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, found, values = text.partition("=")
        key = key.strip()
        if not found or not key or not values.strip():
            raise ConfigError(f"--vary {text!r}: write it as key=value,value, for example adversary.weight=0,1,3")
        if key in axes:
            raise ConfigError(f"--vary {key}: is given twice; write all values after one --vary")
        if key in ("seed", "run_dir"):
            raise ConfigError(f"--vary {key}: the sweep sets it for each run" + ("; use --seeds" * (key == "seed")))
        place: Any = parse_overrides([f"{key}=[{values}]"])
        for part in key.split("."):
            place = place[part]
        if len({text_of(value) for value in place}) < len(place):
            raise ConfigError(f"--vary {text!r}: a value occurs twice")
        axes[key] = tuple(place)
    return axes


def folder_of(config: Config, name: str) -> Path:
    """The default folder of a sweep: it lies beside the settings' ``run_dir``, or beside ``runs/NAME``."""
    run_dir = RUNS / name if config.run_dir == AUTO else config.run_dir
    return run_dir.with_name(run_dir.name + "-sweep")


def grid_points(base: Config, axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], root: Path) -> list[Point]:
    """All points of the grid, with their settings checked.

    Points of one seed stand together: a sweep that is stopped early has then run every setting with the first seed.

    Raises:
        ConfigError: some settings do not go together, or two have the same; the message names the first ones.
    """
    points, problems = list[Point](), list[str]()
    folders: set[Path] = set()
    alike: dict[str, str] = {}  # settings, all but the folder → name of the first point that has them
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            settings = dict(zip(axes, map(text_of, values), strict=True))
            name = name_of(settings, seed)
            folder = root / "runs" / name
            folders.add(folder)
            changes: dict[str, Any] = {"seed": seed, "run_dir": str(folder)}
            for key, value in zip(axes, values, strict=True):
                *parents, leaf = key.split(".")
                place = changes
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[leaf] = value
            try:
                point = Point(settings, seed, load_config(base, changes))
            except ConfigError as error:
                problems.append(f"{name}: {error}")
                continue
            points.append(point)
            first = alike.setdefault(point.config.model_dump_json(exclude={"run_dir"}), name)
            if first != name:
                problems.append(f"{name}: has the same settings as {first}; leave one of the two values out")
    if problems:
        raise _cannot_be_run(problems)
    if len(folders) < len(points):
        raise ConfigError("--vary: two points would be kept in the same folder; write their values differently")
    return points


def _cannot_be_run(problems: Sequence[str]) -> ConfigError:
    more = [f"and {len(problems) - _TOLD} more points"] if len(problems) > _TOLD else []
    lines = "\n".join([*problems[:_TOLD], *more])
    return ConfigError(f"nothing was started, because these points cannot be run:\n{lines}")


def check_folder(point: Point) -> None:
    """Refuse a folder that holds a run with other settings, or with settings that cannot be read.

    Raises:
        RunError: the folder holds such a run.
    """
    file, advice = point.folder / "config.yaml", "remove it, or choose another --out"
    try:
        known = not file.exists() or load_config(file).identity() == point.config.identity()
    except ConfigError as error:
        raise RunError(f"{point.folder}: holds a run whose settings cannot be read ({error}); {advice}") from error
    if not known:
        raise RunError(f"{point.folder}: holds a run with other settings; {advice}")


def name_of(settings: Mapping[str, str], seed: int) -> str:
    """A folder name that holds the settings and the seed."""
    parts = [*(f"{key}={value}" for key, value in settings.items()), f"seed={seed}"]
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts))


def text_of(value: Any) -> str:
    """A value as it is written after ``--set``."""
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
