"""Follows the store, or a copy of it, while another process writes it."""

from __future__ import annotations

import time
from pathlib import Path

from smartedge.cloud.handover import Handover
from smartedge.cloud.intake import Intake
from smartedge.cloud.store.copied import CopiedStore
from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder
from smartedge.cloud.store.marks import is_complete
from smartedge.errors import LogError

__all__ = ["StoreFollower"]

_BEING_MADE = 10.0  # seconds in which a log that another process has just made may look damaged


class StoreFollower:
    """Puts into a handover what the store holds on disk. It writes nothing.

    Args:
        cloud: the cloud's folder of the run.
        handover: gets the edges of which a stream is durable, and whether the run is complete.
        max_bytes: where this process will write a log: it takes no more than this.
        copy: read this copy of the store instead; nothing of ``cloud`` is read then.
    """

    def __init__(
        self, cloud: Path, handover: Handover, *, max_bytes: int | None = None, copy: CopiedStore | None = None
    ) -> None:
        self._cloud = cloud
        self._max_bytes = max_bytes
        self._handover = handover
        self._copy = copy
        self._unreadable: dict[str, float] = {}  # edge -> since when its log could not be opened

    @property
    def where(self) -> str:
        """The place of the store, or of its copy."""
        return str(self._cloud / "store") if self._copy is None else self._copy.where

    def refresh(self) -> None:
        """Find what came since.

        Raises:
            LogError: something that was confirmed is missing or damaged.
        """
        intakes, copy = self._handover.intakes, self._copy
        if copy is not None:
            copy.refresh()
        # Looked at first: what came before it is then seen below.
        complete = is_complete(self._cloud) if copy is None else copy.complete
        for edge in edges_of(self._cloud) if copy is None else copy.edges:
            if edge not in intakes:
                intake = self._opened(edge, complete)
                if intake is not None and intake.streams:
                    intakes[edge] = intake
            elif not intakes[edge].writes and (log := intakes[edge].log) is not None:
                log.refresh()
        self._handover.complete = complete

    def has(self, needed: dict[str, int]) -> bool:
        """Whether so many frames of each edge are here."""
        intakes = self._handover.intakes
        return all(edge in intakes and count <= intakes[edge].next_seq for edge, count in needed.items())

    def _opened(self, edge: str, complete: bool) -> Intake | None:
        try:
            log = FeatureReader(log_folder(self._cloud, edge), edge) if self._copy is None else self._copy.reader(edge)
            return Intake(self._cloud, edge, max_bytes=self._max_bytes, reader=log)
        except LogError:
            since = self._unreadable.setdefault(edge, time.monotonic())
            if complete or time.monotonic() - since > _BEING_MADE:
                raise
            return None
