"""Shows how far each side is: bars for people, JSON lines for the process that started this one."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from smartedge.logs import plain

if TYPE_CHECKING:
    from rich.progress import TaskID

    from smartedge.artifacts.results import Figures

__all__ = [
    "EPOCH",
    "WARNINGS",
    "Bars",
    "JsonLines",
    "LogLines",
    "Monitor",
    "Quiet",
    "Update",
    "epoch_line",
    "parse_update",
    "teller",
]

_log = logging.getLogger(__name__)

EPOCH = "epoch"  # phase of the line that a side writes after each epoch
_EVERY_S = 10.0  # between two log lines of the same counted work
WARNINGS = ("link", "privacy", "quarantine")  # phases whose news is that something is not as it should be


@dataclass(frozen=True)
class Update:
    """One piece of news from one side."""

    side: str  # "edge" or "cloud"
    phase: str  # the kind of work: "train", "release", "upload", …
    done: int = 0  # steps done of the whole phase
    total: int = 0
    text: str = ""  # beside the bar, or a line of its own where total is 0
    port: int = 0  # the cloud's port, once it listens


def epoch_line(side: str, epoch: int, epochs: int, split: str, figures: Figures) -> Update:
    """What a side reached after an epoch, counted from 0, on the images of a split: one line for people and logs."""
    text = (
        f"epoch {epoch + 1}/{epochs}, {split}: loss {figures.loss:.3f}, balanced accuracy "
        f"{100 * figures.balanced_accuracy:.1f} %"
    )
    return Update(side, EPOCH, text=text)


class Monitor(Protocol):
    """Takes updates."""

    def update(self, update: Update) -> None:
        """Show an update, or pass it on."""

    def close(self) -> None:
        """No more updates will come."""


def teller(monitor: Monitor, side: str, phase: str) -> Callable[[str], None]:
    """A function that gives a monitor lines of news of one side and one kind of work."""
    return lambda text: monitor.update(Update(side, phase, text=text))


class Quiet:
    """Shows nothing."""

    def update(self, update: Update) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class JsonLines:
    """One JSON object a line, for :func:`parse_update` at the other end of a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def update(self, update: Update) -> None:
        """Write one line at once."""
        self.stream.write(json.dumps(asdict(update)) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Nothing to do."""


def parse_update(line: str) -> Update | None:
    """The update in one line of :class:`JsonLines`; ``None`` where the line is something else."""
    try:
        fields = json.loads(line)
        return Update(**fields)
    except (ValueError, TypeError):
        return None


class LogLines:
    """Log lines, for a process that nobody looks at: all news, and of what is counted one line every ten seconds."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def update(self, update: Update) -> None:
        """Log the news."""
        kind = f"{update.side} {update.phase}"
        fields: dict[str, object] = {"side": update.side, "phase": update.phase}
        if update.total == 0:
            if update.text:
                level = logging.WARNING if update.phase in WARNINGS else logging.INFO
                _log.log(level, "%s: %s", update.side, update.text, extra={"kind": kind, "fields": fields})
            return
        now, said = time.monotonic(), self._said.get((update.side, update.phase))
        if said is None or now - said >= _EVERY_S or update.done == update.total:
            self._said[update.side, update.phase] = now
            fields |= {"done": update.done, "total": update.total}
            values = (update.side, update.phase, update.done, update.total, update.text)
            _log.info("%s: %s %d/%d %s", *values, extra={"kind": kind, "fields": fields})

    def close(self) -> None:
        """Nothing to do."""


class _Unneeded:
    """A stream for what nobody needs to see: where it was closed, or its disk is full, the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            self._stream.flush()


class Bars:
    """A progress bar for each side and phase. On a terminal they move; elsewhere each bar prints one line when done."""

    def __init__(self) -> None:
        # Here, since a process that answers images shows no bars and does without rich.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console(file=cast("TextIO", _Unneeded(sys.stderr)))
        self.bars: dict[tuple[str, str], TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.fields[side]:>5} {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=4,
        )
        self.progress.start()

    def update(self, update: Update) -> None:
        """Move the bar, or print the text where there is nothing to count."""
        if update.total == 0:
            if update.text and not (update.phase == EPOCH and self.console.is_terminal):  # the bar says it too
                self.progress.console.print(f"{update.side:>5} {plain(update.text)}", markup=False, highlight=False)
            return
        key = (update.side, update.phase)
        if key not in self.bars:
            self.bars[key] = self.progress.add_task(update.phase, side=update.side, text="", total=update.total)
        self.progress.update(self.bars[key], completed=update.done, total=update.total, text=update.text)
        if not self.console.is_terminal and update.done == update.total:
            line = f"{update.side:>5} {update.phase} {update.done}/{update.total} {update.text}"
            self.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        self.progress.stop()
