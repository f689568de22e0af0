"""The end of a run: the cloud stays until each edge knows that its frames arrived."""

from __future__ import annotations

import time

from smartedge.cloud.ingest.ingest import Ingest
from smartedge.runs.progress import Monitor, Update
from smartedge.wire.link import UNNAMED_EDGE

__all__ = ["Farewell"]

_HOUR_S = 3600.0
_TELL_S = 2.0  # an edge that is there hears of the end within a second: nobody needs to read that it is waited for


class Farewell:
    """Waits for edges that sent everything and may not know that it arrived.

    Args:
        ingest: knows them.
        monitor: is told that the cloud waits.
        hours: how long it waits, at most.
    """

    def __init__(self, ingest: Ingest, monitor: Monitor, hours: float) -> None:
        self._ingest = ingest
        self._monitor = monitor
        self._seconds = _HOUR_S * hours
        self._since: float | None = None
        self._told = False

    def begin_again(self) -> None:
        """Something else came in between."""
        self._since, self._told = None, False

    def over(self) -> bool:
        """Whether all know, or have been waited for long enough. Hold ``handover.changed``."""
        unaware, now = self._ingest.unaware(), time.monotonic()
        if not unaware:
            return True
        if self._since is None:
            self._since = now
        waited = now - self._since
        if waited >= _TELL_S and not self._told:
            self._told = True
            names = "the edge" if unaware == [UNNAMED_EDGE] else ", ".join(unaware)
            text = (
                f"done, and the results are written; waiting up to {self._seconds / 60:g} min (fleet.farewell) until "
                f"{names} knows that everything arrived"
            )
            self._monitor.update(Update("cloud", "link", text=text))
        return waited >= self._seconds
