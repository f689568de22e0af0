"""The cloud's side of a run whose back is trained by workers of their own: it takes frames in, and waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.artifacts.summary import has_finished
from smartedge.cloud.back import build_back
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.completion import Completion
from smartedge.cloud.ingest.farewell import Farewell
from smartedge.cloud.ingest.ingest import Ingest
from smartedge.cloud.store.feature_log import check_begun
from smartedge.cloud.store.marks import mark_complete
from smartedge.config import Config
from smartedge.errors import RunError
from smartedge.files import private_folder
from smartedge.methods.schedules import get_schedule
from smartedge.runs.progress import Monitor

__all__ = ["Receiving"]


class _Workers(Protocol):
    def ended(self) -> bool: ...
    def stop(self) -> None: ...


class Receiving:
    """:attr:`ingest` fills the store. Workers in other processes read it, train, and write the weights.

    Args:
        config: the run's settings, equal to the edges' in all that both must agree on.
        folder: the cloud's folder of the run.
        monitor: takes progress updates.
        resume: continue with the store that ``folder`` holds.
        start: starts the workers. None: somebody else starts them.

    Raises:
        RunError: ``folder`` holds a run already and ``resume`` is not set.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        monitor: Monitor,
        *,
        resume: bool,
        start: Callable[[], _Workers] | None,
    ) -> None:
        check_begun(folder, resume=resume)
        _, shapes = build_back(config, 2)
        private_folder(folder)
        self._config = config
        self._folder = folder
        self._start = start
        self._workers: _Workers | None = None
        self._once = get_schedule(config.schedule).once
        self._dropped = False  # the frames that no resumed run needs
        self._handover = Handover(trains_here=False)
        self.ingest = Ingest(
            config, folder, shapes, self._handover, monitor, begin=lambda edge, header: None, learn=None
        )
        self._completion = Completion(config, folder, self._handover, monitor, resume=resume)
        self._farewell = Farewell(self.ingest, monitor, config.fleet.farewell)
        mark_complete(folder, False)

    def run(self, stop: threading.Event) -> bool:
        """Take frames in until the workers are done and all edges know it, or ``stop`` is set. True: they are done.

        Raises:
            SmartEdgeError: training has failed.
        """
        handover = self._handover
        with handover.in_use():
            while not stop.is_set():
                with handover.changed:
                    handover.changed.wait(timeout=0.2)
                    self._look_whether_complete()
                    finished = has_finished(self._folder)
                    if finished:
                        self._drop_used_frames()  # now: this process may be killed while it waits for an edge
                    all_know = finished and self._farewell.over()
                    ready = handover.complete if self._once else any(each.streams for each in handover.intakes.values())
                if self._workers is None and self._start is not None and ready:
                    self._workers = self._start()
                ended = self._workers is not None and self._workers.ended()
                if all_know:
                    return True
                if ended and not has_finished(self._folder):
                    raise RunError("the workers have ended, but the run is not complete; continue it with --resume")
            return has_finished(self._folder)

    def close(self) -> None:
        """Stop the workers, add to the figures what they do not know, close the logs."""
        if self._workers is not None:
            self._workers.stop()
        if has_finished(self._folder):
            self._drop_used_frames()
            self._add_to_figures()
        self.ingest.close()

    def _drop_used_frames(self) -> None:
        if self._config.store.keep == "unconsumed" and not self._dropped:
            self.ingest.forget_everything()
            self._dropped = True

    def _look_whether_complete(self) -> None:
        """Where nothing more is taken in, tell the workers. What came before is durable then."""
        handover = self._handover
        if handover.complete or not self._completion.reached():
            return
        handover.complete = True
        self.ingest.sync_everything()
        mark_complete(self._folder, True)
        handover.changed.notify_all()

    def _add_to_figures(self) -> None:
        """What came and what was refused since the start is known here alone."""
        file = self._folder / "fleet.json"
        found = FleetFigures.read_if_there(file)
        if found is None:
            return
        for edge, intake in self._handover.intakes.items():
            if edge in found.edges:
                known = {"images": intake.images, "refused": intake.refused}
                found.edges[edge] = found.edges[edge].model_copy(update=known)
        found.write(file)
