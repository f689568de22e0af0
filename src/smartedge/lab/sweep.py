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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.artifacts.audit import AttributeBlock, Audit
from smartedge.artifacts.results import Results
from smartedge.artifacts.sweep import (
    PointAttribute,
    RowAttribute,
    Spread,
    Sweep,
    SweepAxis,
    SweepPoint,
    SweepRow,
    UndefendedPoint,
)
from smartedge.config import Config, load_config, parse_overrides
from smartedge.errors import ConfigError, RunError
from smartedge.files import write_atomically
from smartedge.runs.progress import Bars, Monitor, Update
from smartedge.training import train

if TYPE_CHECKING:
    import optuna

__all__ = ["folder_of", "parse_axes", "sweep"]

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

    def results(self) -> Results | None:
        """None where the run has not finished."""
        return Results.read_if_there(self.folder / "results.json")

    def audit(self) -> Audit | None:
        """None where there is no audit, or none that this program can read: it is made again then."""
        try:
            return Audit.read_if_there(self.folder / "audit" / "audit.json")
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
    audit_seconds: float | None = None,
    single_process: bool = False,
    monitor: Callable[[], Monitor] = Bars,
) -> Sweep:
    """Make every run of a grid, audit it, and put the figures together.

    A point that fails is recorded with its error and the rest goes on; the next call tries it again.

    Args:
        config: the settings that all points share: a YAML file, a mapping, or a :class:`Config`.
        axes: key → the values to try, as for ``--set``; several keys make a grid.
        overrides: as for ``--set``.
        folder: where everything goes; default: beside the settings' ``run_dir``, its name with ``-sweep``.
        seeds: runs of each setting, with the settings' seed and those after it.
        audit_seconds: audit every run, for so many seconds at most (``math.inf``: as long as it takes), and make the
            undefended run to compare with; None: no audit.
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
    if audit_seconds is not None and not base.data.sensitive:
        raise ConfigError("data.sensitive: the audit of a sweep attacks these columns; name at least one")
    every_seed = range(base.seed, base.seed + seeds)
    points = _points(base, axes, every_seed, root)
    for point in points:
        _check_folder(point)
    work = _Work(base, points, axes, root, audit_seconds=audit_seconds, single_process=single_process, monitor=monitor)
    work.write()
    for seed in every_seed:  # one seed of every setting first: a sweep stopped early still shows the whole range
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
        audit_seconds: float | None,
        single_process: bool,
        monitor: Callable[[], Monitor],
    ) -> None:
        self.base = base
        self.points = {(tuple(point.settings.values()), point.seed): point for point in points}
        self.labels = {key: [_text(value) for value in values] for key, values in axes.items()}
        self.root = root
        self.audit = audit_seconds is not None
        self.budget = None if audit_seconds == math.inf else audit_seconds
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

    def write(self) -> Sweep:
        """Put the figures of all points together, done or not: ``sweep.json``, ``sweep.csv``."""
        entries = [self._entry(point) for point in self.points.values()]
        undefended = [self._undefended_entry(point) for point in self._undefended_points()] if self.audit else []
        found = Sweep(
            config=self.base.to_yaml(),
            axes=tuple(SweepAxis(key=key, values=tuple(values)) for key, values in self.labels.items()),
            seeds=tuple(sorted({point.seed for point in self.points.values()})),
            audited=self.audit,
            budget_seconds=self.budget,
            desired=_columns(self.base),
            sensitive=self.base.data.sensitive,
            points=tuple(entries),
            undefended=tuple(undefended),
            rows=tuple(_rows(entries)),
        )
        found.write(self.root / "sweep.json")
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
        assert entry.desired is not None
        if not self.audit:
            return (entry.desired,)
        return entry.desired, max(attribute.best for attribute in entry.attributes.values())

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

    def _undefended_entry(self, point: _Point) -> UndefendedPoint:
        return UndefendedPoint(
            settings=dict(point.settings),
            seed=point.seed,
            run=str(point.folder.relative_to(self.root)),
            desired=_desired(point.results()),
        )

    def _entry(self, point: _Point) -> SweepPoint:
        """One point of ``sweep.json``."""
        results = point.results()
        error = self.errors.get(point.folder)
        done = self._done(point)
        audited = point.audit() if self.audit and done else None
        blocks = audited.attributes if audited else {}
        privacy = results.privacy if results else None
        at_exit = results.test.exit if results else None
        return SweepPoint(
            settings=dict(point.settings),
            seed=point.seed,
            run=str(point.folder.relative_to(self.root)),
            state="failed" if error else "done" if done else "waiting",
            error=error,
            desired=_desired(results),
            exit=at_exit.balanced_accuracy if at_exit else None,
            bytes_up=results.bytes_per_image.up if results else None,
            seconds_per_epoch=results.seconds_per_epoch if results else None,
            epsilon=privacy.epsilon if privacy else None,
            delta=privacy.delta if privacy else None,
            bound=privacy.attribute_bound if privacy else None,
            noise_bound=privacy.tight_attribute_bound if privacy else None,
            attributes={
                name: found
                for name in self.base.data.sensitive
                if name in blocks and (found := _attribute(blocks[name])) is not None
            },
        )


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


def _columns(config: Config) -> tuple[str, ...]:
    desired = config.data.desired
    return (desired,) if isinstance(desired, str) else tuple(desired)


def _audited(point: _Point, budget: float | None) -> bool:
    """Whether the attackers were let loose on all the columns to hide, with at least such a budget."""
    audit = point.audit()
    effort = audit.settings.stages.get("attributes") if audit else None
    if audit is None or effort is None:
        return False
    had, wanted = (math.inf if seconds is None else seconds for seconds in (effort.budget_seconds, budget))
    blocks = (audit.attributes.get(name) for name in point.config.data.sensitive)
    return had >= wanted and all(block is not None and block.best is not None for block in blocks)


def _desired(results: Results | None) -> float | None:
    """Balanced accuracy of the answer that counts in the end."""
    figures = results and (results.test.back or results.test.exit)
    return figures.balanced_accuracy if figures else None


def _attribute(block: AttributeBlock) -> PointAttribute | None:
    """The figures of one audited attribute that a sweep compares, as balanced accuracies; None where none was made."""
    if block.best is None:
        return None
    others = {name: getattr(block, name) for name in ("training_image", "undefended", "prediction_floor")}
    return PointAttribute(
        best=block.best.balanced_accuracy,
        floor=block.floor.balanced_accuracy,
        chance=block.chance,
        attack=block.best.attack,
        **{name: figures.balanced_accuracy if figures else None for name, figures in others.items()},
    )


def _rows(entries: Sequence[SweepPoint]) -> list[SweepRow]:
    """One row per setting: mean and standard deviation over the seeds that are done."""
    grouped: dict[tuple[str, ...], list[SweepPoint]] = {}
    for entry in entries:
        grouped.setdefault(tuple(entry.settings.values()), []).append(entry)
    rows = []
    for same in grouped.values():
        done = [entry for entry in same if entry.state == "done"]
        rows.append(
            SweepRow(
                settings=same[0].settings,
                runs=len(done),
                failed=sum(entry.state == "failed" for entry in same),
                desired=Spread.of([entry.desired for entry in done]),
                exit=Spread.of([entry.exit for entry in done]),
                epsilon=Spread.of([entry.epsilon for entry in done]),
                bound=Spread.of([entry.bound for entry in done]),
                noise_bound=Spread.of([entry.noise_bound for entry in done]),
                attributes={
                    name: _row_attribute([entry.attributes[name] for entry in done])
                    for name in (done[0].attributes if done else {})
                },
            )
        )
    return rows


def _row_attribute(found: Sequence[PointAttribute]) -> RowAttribute:
    return RowAttribute(
        **{name: Spread.of([getattr(point, name) for point in found]) for name in RowAttribute.model_fields}
    )


def _write_csv(path: Path, entries: Sequence[SweepPoint]) -> None:
    """One line per run; figures of the attributes as ``NAME.best`` and so on."""
    lines: list[dict[str, object]] = []
    for entry in entries:
        line = {**entry.settings, **entry.model_dump(exclude={"settings", "attributes"})}
        for name, figures in entry.attributes.items():
            line.update({f"{name}.{key}": value for key, value in figures.model_dump().items()})
        lines.append(line)
    heads = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, heads)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue())


def _check_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a sweep needs optuna, which is not here ({error}); install the extra that brings it: "
            "pip install 'smartedge[audit]'"
        ) from error
