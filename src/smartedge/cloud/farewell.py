"""The end of a run: the cloud stays until each edge knows that its frames arrived."""

from __future__ import annotations

import time

from smartedge.cloud.ingest import Ingest
from smartedge.runs.progress import Monitor, Update
from smartedge.wire.link import UNNAMED_EDGE

__all__ = ["Farewell"]

_SECONDS = 3600.0


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
        self._seconds = _SECONDS * hours
        self._until: float | None = None

    def begin_again(self) -> None:
        """Something else came in between."""
        self._until = None

    def over(self) -> bool:
        """Whether all know, or have been waited for long enough. Hold ``handover.changed``."""
        unaware, now = self._ingest.unaware(), time.monotonic()
        if unaware and self._until is None:
            self._until = now + self._seconds
            names = "the edge" if unaware == [UNNAMED_EDGE] else ", ".join(unaware)
            text = (
                f"done, and the results are written; waiting up to {self._seconds / 60:g} min (fleet.farewell) until "
                f"{names} knows that everything arrived"
            )
            self._monitor.update(Update("cloud", "link", text=text))
        return not unaware or (self._until is not None and now >= self._until)
