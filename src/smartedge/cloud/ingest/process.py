"""One of the processes that move frames from a broker into the store of a run. It trains nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.completion import Completion
from smartedge.cloud.ingest.group import IngestGroup, SharedStore
from smartedge.cloud.ingest.ingest import Ingest
from smartedge.cloud.ingest.shapes import shapes_of
from smartedge.cloud.store.marks import mark_complete
from smartedge.config import Config
from smartedge.files import private_folder
from smartedge.runs.progress import Monitor, Update
from smartedge.wire.jetstream.intake import Stored
from smartedge.wire.jetstream.receiver import Taking

__all__ = ["IngestProcess"]

_LOOK_S = 0.2


class IngestProcess(Taking):
    """:attr:`ingest` fills the logs of this process's edges, beside other processes with theirs.

    Args:
        config: the run's settings, equal to the edges' in all that both must agree on.
        folder: the cloud's folder of the run; what it holds is continued.
        monitor: takes progress updates.
    """

    def __init__(self, config: Config, folder: Path, monitor: Monitor) -> None:
        private_folder(folder)
        self._folder = folder
        self._monitor = monitor
        self._handover = Handover(trains_here=False)
        self._store = SharedStore(folder, self._handover, max_bytes=config.store.max_bytes)
        self.ingest = Ingest(
            config,
            folder,
            shapes_of(config),
            self._handover,
            monitor,
            begin=lambda edge, header: None,
            learn=None,
            shared=self._store,
        )
        self._completion = Completion(config, folder, self._handover, monitor, resume=True)
        self._group = IngestGroup(folder)

    def mine(self, edges: Collection[str]) -> Collection[str]:
        """See :class:`~smartedge.wire.jetstream.receiver.Taking`."""
        return self._group.share(edges)

    def release(self, edge: str) -> None:
        """See :class:`~smartedge.wire.jetstream.receiver.Taking`."""
        self.ingest.release(edge)
        self._group.release(edge)

    def stored(self, edge: str) -> Stored:
        """See :class:`~smartedge.wire.jetstream.receiver.Taking`."""
        with self._handover.changed:
            self._store.refresh()
            known = self._handover.intakes.get(edge)
            if known is None or known.log is None:
                return Stored()
            durable = known.log.durable
            begun = [header for header in known.streams if header.first_seq < durable]
            return Stored(durable, begun[-1] if begun else None)

    def run(self, stop: threading.Event, check: Callable[[], None]) -> bool:
        """Wait until the run is complete (True) or ``stop`` is set (False). ``check`` raises what went wrong."""
        handover = self._handover
        while not stop.is_set():
            check()
            with handover.changed:
                self._store.refresh()
                reached = self._completion.reached()
                complete = handover.complete
            if reached and not complete:
                self._complete()
                continue
            if complete:
                edges = len(handover.intakes)
                text = f"the run is complete: everything of {edges} edge{'s' * (edges != 1)} is in the store"
                self._monitor.update(Update("cloud", "ingest", text=text))
                return True
            stop.wait(_LOOK_S)
        return False

    def close(self) -> None:
        """Close the logs, and leave the edges to other processes."""
        self.ingest.close()
        self._group.close()

    def _complete(self) -> None:
        """Say that nothing more is taken in. No process appends anything meanwhile."""
        with self._store.closed(), self._handover.changed:
            self._store.refresh()
            if self._completion.reached():
                mark_complete(self._folder, True)
                self._handover.complete = True
                self._handover.changed.notify_all()
