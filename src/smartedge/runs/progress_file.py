"""Keeps the latest progress of a side in its folder, for ``smartedge watch``."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from pathlib import Path

from smartedge.artifacts.progress import News, SideProgress, Work
from smartedge.errors import SmartEdgeError
from smartedge.runs.progress import WARNINGS, Monitor, Update

__all__ = ["PROGRESS", "ProgressFile"]

PROGRESS = "progress.json"  # in a side's folder
_LINES = 200
_FAILURE = "error"
_EVERY_S = 2.0  # between two files


class ProgressFile:
    """Passes updates on to a monitor, and writes ``SIDE/progress.json`` where the side has a folder already.

    A file that cannot be written is left out: watching a run never stops it. Nothing waits for the disk.

    Args:
        monitor: gets every update.
        run_dir: of the run.
    """

    def __init__(self, monitor: Monitor, run_dir: Path) -> None:
        self._monitor, self._run_dir = monitor, run_dir
        self._sides: dict[str, _Side] = {}
        self._lock = threading.Lock()

    def update(self, update: Update) -> None:
        """Pass it on, and keep it."""
        self._monitor.update(update)
        with self._lock:
            side = self._sides.setdefault(update.side, _Side(update.side, self._run_dir / update.side))
            side.note(update)

    def note_failure(self, side: str, error: Exception) -> None:
        """Keep why the side ends. It is not passed on: the command that ends prints it itself."""
        what = f"error [{error.code}]" if isinstance(error, SmartEdgeError) else type(error).__name__
        with self._lock:
            noted = self._sides.setdefault(side, _Side(side, self._run_dir / side))
            noted.note(Update(side, _FAILURE, text=f"{what}: {error}"))

    def close(self) -> None:
        """Write the last state, and close the monitor."""
        with self._lock:
            for side in self._sides.values():
                side.write(ended=True)
        self._monitor.close()


class _Side:
    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._works: dict[str, Work] = {}
        self._news: deque[News] = deque(maxlen=_LINES)
        self._written = 0.0
        with contextlib.suppress(Exception):  # of an earlier session of the run; a damaged one is forgotten
            before = SideProgress.read(folder / PROGRESS)
            self._news.extend(before.news)

    def note(self, update: Update) -> None:
        if update.total:
            self._works[update.phase] = Work(phase=update.phase, done=update.done, total=update.total, text=update.text)
        elif update.text:
            warning = update.phase in (*WARNINGS, _FAILURE)
            self._news.append(News(at=time.time(), phase=update.phase, text=update.text, warning=warning))
        if time.monotonic() - self._written >= _EVERY_S or (update.total and update.done == update.total):
            self.write(ended=False)

    def write(self, *, ended: bool) -> None:
        """Put the file in place. It is not synced: after a crash of the machine nobody needs it."""
        if not self._folder.is_dir():
            return
        now = SideProgress(
            side=self._name,
            updated=time.time(),
            ended=ended,
            works=tuple(self._works.values()),
            news=tuple(self._news),
        )
        file = self._folder / PROGRESS
        temporary = file.with_name(f".{PROGRESS}.{os.getpid()}")
        with contextlib.suppress(OSError):
            with os.fdopen(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            ) as opened:
                json.dump(now.as_json(), opened)
            os.replace(temporary, file)
        self._written = time.monotonic()
