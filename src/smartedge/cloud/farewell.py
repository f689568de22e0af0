"""The end of a run: the cloud stays until each edge knows that its frames arrived."""

from __future__ import annotations

import time

from smartedge.cloud.ingest import Ingest
from smartedge.runs.progress import Monitor, Update
from smartedge.wire.link import UNNAMED_EDGE

__all__ = ["Farewell"]

_PATIENCE = 120.0  # longer than an edge that lost the cloud waits before it tries again


class Farewell:
    """Waits for edges that sent everything and may not know that it arrived.

    Args:
        ingest: knows them.
        monitor: is told that the cloud waits.
    """

    def __init__(self, ingest: Ingest, monitor: Monitor) -> None:
        self._ingest = ingest
        self._monitor = monitor
        self._until: float | None = None

    def begin_again(self) -> None:
        """Something else came in between."""
        self._until = None

    def over(self) -> bool:
        """Whether all know. An edge that does not come back is not waited for for long. Hold ``handover.changed``."""
        unaware, now = self._ingest.unaware(), time.monotonic()
        if unaware and self._until is None:
            self._until = now + _PATIENCE
            names = "the edge" if unaware == [UNNAMED_EDGE] else ", ".join(unaware)
            text = f"done; waiting up to {_PATIENCE:.0f} s until {names} knows that everything arrived"
            self._monitor.update(Update("cloud", "link", text=text))
        return not unaware or (self._until is not None and now >= self._until)
