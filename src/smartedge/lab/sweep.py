"""Ordinary runs over a grid of settings and seeds: what is kept of the desired label, and what is hidden of the rest.

The grid is searched by optuna (``GridSampler``, a journal file beside the runs), so a sweep that was stopped goes on
where it was. What counts as done is decided by the run directories alone: a finished run is never made again, whichever
sweep made it. One sweep at a time may work on a folder.

Under the sweep's folder: ``runs/KEY=VALUE,…,seed=N/`` are the runs, ``undefended/…/`` the same network without
protection (made where the points are audited), ``sweep.json`` and ``sweep.csv`` the figures (``docs/sweep-schema.md``),
``study.log`` optuna's journal.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.config import Config, load_config, parse_overrides
from smartedge.errors import ConfigError, RunError
from smartedge.files import write_atomically, write_json_atomically
from smartedge.runs.progress import Bars, Monitor, Update
from smartedge.training import train

if TYPE_CHECKING:
    import optuna

__all__ = ["SCHEMA_VERSION", "folder_of", "parse_axes", "sweep"]

SCHEMA_VERSION = 2

# Settings without a meaning for a front that is not protected: points that differ in them share their undefended run.
_PROTECTION = ("adversary.", "dp.", "model.bottleneck", "model.codebook", "train.distill.")


@dataclass(frozen=True)
class _Point:
    """One run of the sweep."""

    settings: Mapping[str, str]  # key → value as text
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        return self.config.run_dir

    @property
    def name(self) -> str:
        return _name(self.settings, self.seed)


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
            raise ConfigError(f"--vary {key}: given twice; write all values after one --vary")
        if key in ("seed", "run_dir"):
            raise ConfigError(f"--vary {key}: the sweep sets it for each run" + ("; use --seeds" * (key == "seed")))
        place: Any = parse_overrides([f"{key}=[{values}]"])
        for part in key.split("."):
            place = place[part]
        if len({_text(value) for value in place}) < len(place):
            raise ConfigError(f"--vary {text!r}: a value occurs twice")
        axes[key] = tuple(place)
    return axes


def folder_of(config: Config) -> Path:
    """Where a sweep goes unless it is told: beside the settings' ``run_dir``."""
    return config.run_dir.with_name(config.run_dir.name + "-sweep")


def sweep(
    config: str | Path | Mapping[str, Any] | Config,
    axes: Mapping[str, Sequence[Any]],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    folder: Path | None = None,
    seeds: int = 1,
    audit: bool = False,
    budget: float | None = None,
    single_process: bool = False,
    monitor: Callable[[], Monitor] = Bars,
) -> dict[str, Any]:
    """Make every run of a grid, audit it, and put the figures together.

    A point that fails is recorded with its error and the rest goes on; the next call tries it again.

    Args:
        config: the settings that all points share: a YAML file, a mapping, or a :class:`Config`.
        axes: key → the values to try, as for ``--set``; several keys make a grid.
        overrides: as for ``--set``.
        folder: where everything goes; default: beside the settings' ``run_dir``, its name with ``-sweep``.
        seeds: runs of each setting, with the settings' seed and those after it.
        audit: let attackers loose on every run, and make the undefended run to compare with.
        budget: seconds for the audit of one run; None: as long as it takes.
        single_process: as for :func:`smartedge.training.train`.
        monitor: makes what takes progress updates, anew for each run.

    Returns:
        What ``sweep.json`` holds.

    Raises:
        ConfigError: a point's settings are wrong (nothing is started), or optuna is not installed.
        RunError: a folder of the sweep holds a run with other settings.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    base = load_config(config, overrides)
    root = folder or folder_of(base)
    _check_optuna()
    if not axes:
        raise ConfigError("a sweep needs a setting to vary, for example --vary adversary.weight=0,1,3")
    if audit and not base.data.sensitive:
        raise ConfigError("data.sensitive: the audit of a sweep attacks these columns; name at least one")
    every_seed = range(base.seed, base.seed + seeds)
    points = _points(base, axes, every_seed, root)
    for point in points:
        _check_folder(point)
    work = _Work(base, points, axes, root, audit=audit, budget=budget, single_process=single_process, monitor=monitor)
    work.write()
    for (
        seed
    ) in every_seed:  # one seed of every setting first: a sweep that is stopped early still shows the whole range
        work.search(seed)
    return work.write()


class _Work:
    """The state of one sweep: which points are done, and why others failed."""

    def __init__(
        self,
        base: Config,
        points: Sequence[_Point],
        axes: Mapping[str, Sequence[Any]],
        root: Path,
        *,
        audit: bool,
        budget: float | None,
        single_process: bool,
        monitor: Callable[[], Monitor],
    ) -> None:
        self.base = base
        self.points = {(tuple(point.settings.values()), point.seed): point for point in points}
        self.labels = {key: [_text(value) for value in values] for key, values in axes.items()}
        self.root = root
        self.audit = audit
        self.budget = budget
        self.single_process = single_process
        self.monitor = monitor
        self.errors: dict[Path, str] = {}
        root.mkdir(parents=True, exist_ok=True)

    def search(self, seed: int) -> None:
        """Make every point of one seed that is not done."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told in sweep.json
        backend = JournalFileBackend(str(self.root / "study.log"))
        sampler = optuna.samplers.GridSampler(self.labels, seed=0)
        study = optuna.create_study(
            study_name=self._study_name(seed),
            storage=optuna.storages.JournalStorage(backend),
            sampler=sampler,
            directions=["maximize", "minimize"] if self.audit else ["maximize"],
            load_if_exists=True,
        )
        self._ask_again(study, seed)

        def objective(trial: optuna.Trial) -> Sequence[float]:
            labels = tuple(trial.suggest_categorical(key, values) for key, values in self.labels.items())
            point = self.points[labels, seed]
            trial.set_user_attr("run", str(point.folder.relative_to(self.root)))
            return self._make(point)

        while study.get_trials(states=(optuna.trial.TrialState.WAITING,)) or not sampler.is_exhausted(study):
            study.optimize(objective, n_trials=1, catch=(Exception,))
            self.write()

    def write(self) -> dict[str, Any]:
        """Put the figures of all points together, done or not: ``sweep.json``, ``sweep.csv``."""
        entries = [self._entry(point) for point in self.points.values()]
        undefended = [self._undefended_entry(point) for point in self._undefended_points()] if self.audit else []
        found = {
            "schema_version": SCHEMA_VERSION,
            "config": self.base.to_yaml(),
            "axes": [{"key": key, "values": values} for key, values in self.labels.items()],
            "seeds": sorted({point.seed for point in self.points.values()}),
            "audited": self.audit,
            "budget_seconds": self.budget,
            "desired": _columns(self.base),
            "sensitive": list(self.base.data.sensitive),
            "points": entries,
            "undefended": undefended,
            "rows": _rows(entries),
        }
        write_json_atomically(self.root / "sweep.json", found)
        _write_csv(self.root / "sweep.csv", entries)
        return found

    def _make(self, point: _Point) -> tuple[float, ...]:
        """Train and audit one point where that has not been done; returns what the study keeps of it."""
        self.errors.pop(point.folder, None)
        try:
            self._train(point)
            if self.audit:
                reference = self._undefended(point)
                self._train(reference)
                self._audit(point, reference)
        except Exception as error:
            self.errors[point.folder] = f"{type(error).__name__}: {error}"
            raise
        entry = self._entry(point)
        if not self.audit:
            return (entry["desired"],)
        return entry["desired"], max(attribute["best"] for attribute in entry["attributes"].values())

    def _train(self, point: _Point) -> None:
        _check_folder(point)
        if (point.folder / "results.json").exists():
            return
        monitor = self.monitor()
        monitor.update(Update("sweep", "run", text=str(point.folder)))
        begun = (point.folder / "run.json").exists()
        train(point.config, resume=begun, single_process=self.single_process, monitor=monitor)

    def _audit(self, point: _Point, reference: _Point) -> None:
        if _audited(point, self.budget):
            return
        import torch

        from smartedge.lab.audit import suite

        settings = suite.AuditSettings(
            attributes=point.config.data.sensitive,
            # The same for every point, and no part of the trade-off: left to 'smartedge audit' on the point chosen.
            attacks=tuple(name for name in suite.ATTACK_NAMES if name != "reconstruction"),
            budget=self.budget,
            undefended=reference.folder,
        )
        monitor, threads = self.monitor(), torch.get_num_threads()
        torch.set_num_threads(point.config.threads)
        try:
            suite.audit(point.folder, settings, monitor)
        finally:
            monitor.close()
            torch.set_num_threads(threads)
        if not _audited(point, self.budget):
            raise RunError(f"{point.folder}: the audit had no time to attack every sensitive column; give it more")

    def _done(self, point: _Point) -> bool:
        return (point.folder / "results.json").exists() and (not self.audit or _audited(point, self.budget))

    def _ask_again(self, study: optuna.Study, seed: int) -> None:
        """Queue once more what failed, was cut off, or whose run directory is gone."""
        import optuna

        states = optuna.trial.TrialState
        plain = optuna.load_study(study_name=study.study_name, storage=study._storage)  # without the grid's stop rule
        for trial in study.get_trials(states=(states.RUNNING,)):
            plain.tell(trial.number, state=states.FAIL)
        asked = [trial for trial in study.trials if "grid_id" in trial.system_attrs]  # a killed one may have got none
        waiting = {trial.system_attrs["grid_id"] for trial in asked if trial.state == states.WAITING}
        last = {trial.system_attrs["grid_id"]: trial for trial in asked}
        for grid_id, trial in last.items():
            point = self.points.get((tuple(trial.params.get(key, "") for key in self.labels), seed))
            done = trial.state == states.COMPLETE and point is not None and self._done(point)
            if grid_id not in waiting and not done:
                attributes = {key: trial.system_attrs[key] for key in ("grid_id", "search_space")}
                study.add_trial(optuna.create_trial(state=states.WAITING, system_attrs=attributes))

    def _study_name(self, seed: int) -> str:
        about = json.dumps([self.labels, self.audit])
        return f"seed {seed}, grid {hashlib.sha256(about.encode()).hexdigest()[:8]}"

    def _undefended(self, point: _Point) -> _Point:
        """The same network and data without protection."""
        from smartedge.lab.audit.undefended import undefended_config

        kept = {key: value for key, value in point.settings.items() if not key.startswith(_PROTECTION)}
        folder = self.root / "undefended" / _name(kept, point.seed)
        config = load_config(undefended_config(point.config), {"run_dir": str(folder)})
        return _Point(kept, point.seed, config)

    def _undefended_points(self) -> Iterator[_Point]:
        found = {reference.folder: reference for reference in map(self._undefended, self.points.values())}
        return iter(found.values())

    def _undefended_entry(self, point: _Point) -> dict[str, Any]:
        results = _read_json(point.folder / "results.json")
        desired = _final(results)["balanced_accuracy"] if results else None
        run = str(point.folder.relative_to(self.root))
        return {"settings": dict(point.settings), "seed": point.seed, "run": run, "desired": desired}

    def _entry(self, point: _Point) -> dict[str, Any]:
        """One point of ``sweep.json``."""
        results = _read_json(point.folder / "results.json")
        error = self.errors.get(point.folder)
        done = self._done(point)
        audited = _read_json(point.folder / "audit" / "audit.json") if self.audit and done else None
        privacy = (results or {}).get("privacy") or {}
        exit_figures = results["test"]["exit"] if results else None
        return {
            "settings": dict(point.settings),
            "seed": point.seed,
            "run": str(point.folder.relative_to(self.root)),
            "state": "failed" if error else "done" if done else "waiting",
            "error": error,
            "desired": _final(results)["balanced_accuracy"] if results else None,
            "exit": exit_figures["balanced_accuracy"] if exit_figures else None,
            "bytes_up": results["bytes_per_image"]["up"] if results else None,
            "seconds_per_epoch": results["seconds_per_epoch"] if results else None,
            "epsilon": privacy.get("epsilon"),
            "delta": privacy.get("delta"),
            "bound": privacy.get("attribute_bound"),
            "noise_bound": privacy.get("tight_attribute_bound"),
            "attributes": {
                name: _attribute(audited["attributes"][name])
                for name in self.base.data.sensitive
                if audited and audited["attributes"].get(name, {}).get("best")
            },
        }


def _points(base: Config, axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], root: Path) -> list[_Point]:
    """All points, with their settings checked.

    Raises:
        ConfigError: naming every point whose settings do not go together.
    """
    points, problems = [], []
    folders: set[Path] = set()
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            settings = dict(zip(axes, map(_text, values), strict=True))
            folder = root / "runs" / _name(settings, seed)
            folders.add(folder)
            changes: dict[str, Any] = {"seed": seed, "run_dir": str(folder)}
            for key, value in zip(axes, values, strict=True):
                *parents, leaf = key.split(".")
                place = changes
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[leaf] = value
            try:
                points.append(_Point(settings, seed, load_config(base, changes)))
            except ConfigError as error:
                problems.append(f"{_name(settings, seed)}: {error}")
    if problems:
        raise ConfigError("nothing was started, since these points cannot be run:\n" + "\n".join(problems))
    if len(folders) < len(points):
        raise ConfigError("--vary: two points would be kept in the same folder; write their values differently")
    return points


def _check_folder(point: _Point) -> None:
    """Refuse to take another run's figures for this point's."""
    file = point.folder / "config.yaml"
    if file.exists() and load_config(file).identity() != point.config.identity():
        raise RunError(f"{point.folder}: holds a run with other settings; remove it, or choose another --out")


def _name(settings: Mapping[str, str], seed: int) -> str:
    """A folder's name that says what is in it."""
    parts = [*(f"{key}={value}" for key, value in settings.items()), f"seed={seed}"]
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts))


def _text(value: Any) -> str:
    """A value as one would write it after ``--set``."""
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _columns(config: Config) -> list[str]:
    desired = config.data.desired
    return [desired] if isinstance(desired, str) else list(desired)


def _audited(point: _Point, budget: float | None) -> bool:
    """Whether the attackers were let loose on all the columns to hide, with at least such a budget.

    An audit of an older schema does not say with which.
    """
    audited = _read_json(point.folder / "audit" / "audit.json")
    found = audited["attributes"] if audited else {}
    had = audited["settings"].get("stages", {}).get("attributes", {}).get("budget_seconds", 0.0) if audited else 0.0
    if (math.inf if had is None else had) < (math.inf if budget is None else budget):
        return False
    return all(found.get(name, {}).get("best") for name in point.config.data.sensitive)


def _final(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of whose answer counts in the end."""
    figures: Mapping[str, Any] = results["test"]["back"] or results["test"]["exit"]
    return figures


def _attribute(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one audited attribute that a sweep compares, as balanced accuracies."""
    others = ("training_image", "undefended", "floor", "prediction_floor")
    found = {name: entry[name]["balanced_accuracy"] if entry[name] else None for name in others}
    best = entry["best"]
    return {"best": best["balanced_accuracy"], **found, "chance": entry["chance"], "attack": best["attack"]}


def _rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per setting: mean and standard deviation over the seeds that are done."""
    grouped: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for entry in entries:
        grouped.setdefault(tuple(entry["settings"].values()), []).append(entry)
    rows = []
    for same in grouped.values():
        done = [entry for entry in same if entry["state"] == "done"]
        names = list(done[0]["attributes"]) if done else []
        rows.append(
            {
                "settings": same[0]["settings"],
                "runs": len(done),
                "failed": sum(entry["state"] == "failed" for entry in same),
                **{
                    key: _spread([entry[key] for entry in done])
                    for key in ("desired", "exit", "epsilon", "bound", "noise_bound")
                },
                "attributes": {
                    name: {
                        key: _spread([entry["attributes"][name][key] for entry in done])
                        for key in ("best", "training_image", "undefended", "floor", "prediction_floor", "chance")
                    }
                    for name in names
                },
            }
        )
    return rows


def _spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation (None of one value); None where a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else None}


def _write_csv(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """One line per run; figures of the attributes as ``NAME.best`` and so on."""
    lines = []
    for entry in entries:
        line = {**entry["settings"], **{k: v for k, v in entry.items() if k not in ("settings", "attributes")}}
        for name, figures in entry["attributes"].items():
            line.update({f"{name}.{key}": value for key, value in figures.items()})
        lines.append(line)
    heads = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, heads)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); remove the run's folder to make it again") from error
    return found


def _check_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a sweep needs optuna, which is not here ({error}); install the extra that brings it: "
            "pip install 'smartedge[audit]'"
        ) from error
