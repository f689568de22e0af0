"""Makes the runs of a sweep, one after the other.

The run directories say what is done: a stopped sweep goes on where it was, and a finished run is never made again,
whichever sweep made it. One sweep at a time may work on a folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from smartedge.artifacts.sweep import Sweep, SweepAxis, SweepPoint
from smartedge.cloud.store.lock import Lock
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError, RunError
from smartedge.lab.sweep.figures import point_entry, rows_of, undefended_entry, write_csv
from smartedge.lab.sweep.points import Point, check_folder, folder_of, grid_points, text_of
from smartedge.launch.run_folder import name_of
from smartedge.runs.progress import Bars, Monitor, Update
from smartedge.training import train

__all__ = ["sweep"]


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

    When a point fails, its error is recorded and the other points are made. The next call tries it again.

    Args:
        config: the settings that all points share: a YAML file, a mapping, or a :class:`Config`.
        axes: key → the values to try, written as for ``--set``; several keys make a grid.
        overrides: as for ``--set``.
        folder: where all files go; default: ``run_dir`` of the settings, or ``runs/`` and the
            settings' name, with ``-sweep`` after it.
        seeds: number of runs of each setting; the first has the settings' seed, the next one more, and so on.
        audit_seconds: time limit in seconds for the audit of each run (``math.inf``: no limit); None: no audit.
            An audited sweep also makes undefended runs to compare with.
        single_process: as for :func:`smartedge.training.train`.
        monitor: makes the monitor of each run, which takes its progress updates.

    Returns:
        The content of ``sweep.json``.

    Raises:
        ConfigError: a point's settings are wrong; nothing is started.
        RunError: a folder of the sweep holds a run with other settings, or another sweep works on the sweep's folder.
        KeyboardInterrupt: the sweep was stopped; the same call continues it.
    """
    base = load_config(config, overrides).without_auto()
    root = folder or folder_of(base, name_of(config))
    if not axes:
        raise ConfigError("a sweep needs a setting to vary, for example --vary adversary.weight=0,1,3")
    if audit_seconds is not None and not base.data.sensitive:
        raise ConfigError("data.sensitive: the audit of a sweep attacks these columns; name at least one")
    points = grid_points(base, axes, range(base.seed, base.seed + seeds), root)
    for point in points:
        check_folder(point)
    work = _Work(base, points, axes, root, audit_seconds=audit_seconds, single_process=single_process, monitor=monitor)
    with closing(Lock(root / "lock", "another sweep works on this folder; wait for it, or choose another --out")):
        found = work.write()
        for point in points:
            work.make(point)
            found = work.write()
    return found


class _Work:
    """The state of one sweep: which points are done, and why others failed."""

    def __init__(
        self,
        base: Config,
        points: Sequence[Point],
        axes: Mapping[str, Sequence[Any]],
        root: Path,
        *,
        audit_seconds: float | None,
        single_process: bool,
        monitor: Callable[[], Monitor],
    ) -> None:
        self.base = base
        self.points = points
        self.axes = tuple(SweepAxis(key=key, values=tuple(map(text_of, values))) for key, values in axes.items())
        self.root = root
        self.audit = audit_seconds is not None
        self.budget = None if audit_seconds == math.inf else audit_seconds
        self.single_process = single_process
        self.monitor = monitor
        self.errors: dict[Path, str] = {}

    def make(self, point: Point) -> None:
        """Train and audit one point where that has not been done. Where it fails, its error is kept."""
        try:
            self._train(point)
            if self.audit:
                reference = point.undefended(self.root)
                self._train(reference)
                self._audit(point, reference)
        except Exception as error:
            self.errors[point.folder] = f"{type(error).__name__}: {error}"

    def write(self) -> Sweep:
        """Write the figures of all points, done or not, to ``sweep.json`` and ``sweep.csv``."""
        entries = [self._entry(point) for point in self.points]
        references = [point.undefended(self.root) for point in self.points] if self.audit else []
        different = {reference.folder: reference for reference in references}.values()  # points share them
        found = Sweep(
            config=self.base.to_yaml(),
            axes=self.axes,
            seeds=tuple(sorted({point.seed for point in self.points})),
            audited=self.audit,
            budget_seconds=self.budget,
            desired=_columns(self.base),
            sensitive=self.base.data.sensitive,
            points=tuple(entries),
            undefended=tuple(undefended_entry(point, self.root) for point in different),
            rows=tuple(rows_of(entries)),
        )
        found.write(self.root / "sweep.json")
        write_csv(self.root / "sweep.csv", entries)
        return found

    def _train(self, point: Point) -> None:
        check_folder(point)
        if point.results() is not None:
            return
        monitor = self.monitor()
        monitor.update(Update("sweep", "run", text=str(point.folder)))
        begun = (point.folder / "run.json").exists()
        train(point.config, resume=begun, single_process=self.single_process, monitor=monitor)

    def _audit(self, point: Point, reference: Point) -> None:
        if point.is_audited(self.budget):
            return
        import torch

        from smartedge.lab.audit import suite

        settings = suite.AuditSettings(
            attributes=point.config.data.sensitive,
            # Reconstruction takes long and is none of the sweep's figures. 'smartedge audit' does it on a chosen run.
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
        if not point.is_audited(self.budget):
            raise RunError(f"{point.folder}: the audit had no time to attack every sensitive column; give it more")

    def _done(self, point: Point) -> bool:
        return point.results() is not None and (not self.audit or point.is_audited(self.budget))

    def _entry(self, point: Point) -> SweepPoint:
        error = self.errors.get(point.folder)
        state: Literal["done", "failed", "waiting"] = "failed" if error else "done" if self._done(point) else "waiting"
        return point_entry(point, self.root, state, error, audited=self.audit)


def _columns(config: Config) -> tuple[str, ...]:
    desired = config.data.desired
    return (desired,) if isinstance(desired, str) else tuple(desired)
