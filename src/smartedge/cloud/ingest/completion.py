"""Says when a run of several edges is complete: when all have sent everything, at a deadline, or when somebody asks."""

from __future__ import annotations

import time
from pathlib import Path

from smartedge.artifacts.fleet_run import CloudStart
from smartedge.cloud.handover import Handover
from smartedge.cloud.store.marks import asked_to_close
from smartedge.config import Config
from smartedge.runs.progress import Monitor, teller

__all__ = ["Completion"]

_START = "start.json"  # a file in the cloud's folder
_HOUR_S = 3600.0
_NAMED = 10  # of the edges that are missing


class Completion:
    """Whether the cloud goes on with what has come.

    Args:
        config: the run's settings; ``fleet.expect`` and ``fleet.deadline`` matter.
        folder: the cloud's folder of the run.
        handover: knows the edges.
        monitor: is told of which expected edges nothing has come, while everything of the others is in.
        resume: the run was begun before, and its deadline is kept.

    Raises:
        RunError: the file that holds the begin of the run is damaged.
        OSError: it cannot be written.
    """

    def __init__(self, config: Config, folder: Path, handover: Handover, monitor: Monitor, *, resume: bool) -> None:
        self._expected = config.fleet.expect
        self._tell, self._told = teller(monitor, "cloud", "fleet"), ""
        self._folder = folder
        self._handover = handover
        hours = config.fleet.deadline
        self._deadline = None if hours is None else time.monotonic() + _seconds_left(folder, hours, resume=resume)

    def reached(self) -> bool:
        """Whether the run is complete. Hold ``handover.changed``."""
        sent = {edge for edge, intake in self._handover.intakes.items() if intake.sent_all}
        if isinstance(self._expected, tuple):
            all_in = set(self._expected) <= sent
        else:
            all_in = self._expected is not None and len(sent) >= self._expected
        late = self._deadline is not None and time.monotonic() >= self._deadline
        complete = all_in or late or asked_to_close(self._folder)
        if not complete and len(sent) == len(self._handover.intakes):
            self._tell_what_is_missing(sent)
        return complete

    def _tell_what_is_missing(self, sent: set[str]) -> None:
        if isinstance(self._expected, tuple):
            missing = [edge for edge in self._expected if edge not in sent]
            more = len(missing) - _NAMED
            who = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        elif self._expected is None or self._expected == 1:
            return
        else:
            who = f"{self._expected - len(sent)} of {self._expected} edges"
        text = f"waiting for {who}, of which nothing has come (fleet.expect); 'smartedge close' goes on without them"
        if text != self._told:
            self._told = text
            self._tell(text)


def _seconds_left(cloud: Path, hours: float, *, resume: bool) -> float:
    """Seconds until the deadline, ``hours`` after the run's first start. Where it has none yet, that is now.

    Within a process a clock that is set anew changes nothing. Between two processes only the clock is left.
    """
    file, now = cloud / _START, time.time()
    start = CloudStart.read_if_there(file) if resume else None
    if start is None:
        start = CloudStart(started=now)
        start.write(file)
    return _HOUR_S * hours - max(0.0, now - start.started)
