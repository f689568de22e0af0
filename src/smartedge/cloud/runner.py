"""The cloud's side of a run: frames are stored, and the back learns from them."""

from __future__ import annotations

import threading
from pathlib import Path

from smartedge.artifacts.summary import CloudSummary
from smartedge.cloud.back import build_back
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.completion import Completion
from smartedge.cloud.ingest.farewell import Farewell
from smartedge.cloud.ingest.ingest import Ingest
from smartedge.cloud.learning import Job, Learning
from smartedge.cloud.store.feature_log import check_begun
from smartedge.cloud.trainer import BackTrainer
from smartedge.config import Config
from smartedge.files import private_folder
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.machine import peak_rss_bytes
from smartedge.runs.progress import Monitor
from smartedge.stopping import Interrupted

__all__ = ["CloudRunner"]

# Decoded features in memory; what has no room is read from the log and decoded again.
_KEPT_BYTES = 64 * 2**20  # where every epoch uses them
_WAITING_BYTES = 4 * 2**20  # where they are used once. They wait where training is slower than the edges


class CloudRunner:
    """The cloud's side of a run: :attr:`ingest` fills the feature logs, and the trainer learns from them.

    Args:
        config: the run's settings, equal to the edges' in all that both must agree on.
        folder: the cloud's folder of the run.
        monitor: takes progress updates.
        resume: continue with the logs and the newest checkpoint that ``folder`` holds.
        inline: train while frames are taken in (one process, one edge). Otherwise :meth:`run` trains, in the thread
            that calls it, while the link's threads take frames in.

    Raises:
        RunError: ``folder`` holds a run already and ``resume`` is not set.
    """

    def __init__(self, config: Config, folder: Path, monitor: Monitor, *, resume: bool, inline: bool) -> None:
        check_begun(folder, resume=resume)
        # Build the network now. So wrong settings are an error before the first edge connects, and no edge waits for
        # imports and warm-up.
        _, shapes = build_back(config, 2)
        private_folder(folder)
        self.config = config
        self.folder = folder
        self.inline = inline
        once = get_schedule(config.schedule).once
        self._handover = handover = Handover(_KEPT_BYTES if once else _WAITING_BYTES)
        self.ingest = Ingest(
            config,
            folder,
            shapes,
            handover,
            monitor,
            begin=lambda edge, header: self.learning.begin(edge, header),
            learn=self._learn if inline else None,
        )
        self._written = False  # the results of a run that is done, while an edge may come back
        self._farewell = Farewell(self.ingest, monitor, config.fleet.farewell)
        try:
            self._completion = Completion(config, folder, handover, monitor, resume=resume)
            self.learning = Learning(config, folder, handover, monitor, resume=resume)
            known = next((intake for intake in handover.intakes.values() if intake.streams), None)
            if resume and known is not None:
                self.learning.make_trainer(known.edge, known.streams[0])
        except BaseException:
            self.ingest.close()
            raise

    @property
    def trainer(self) -> BackTrainer | None:
        """Trains the back; None: no frame has come yet."""
        return self.learning.trainer

    def run(self, stop: threading.Event) -> bool:
        """Train until the run is complete and all edges know it, or ``stop`` is set. True: it is complete."""
        with self._handover.in_use():
            try:
                while self._await_work(stop):
                    self._learn(stop)
                return self.learning.done
            except Interrupted:
                return False

    def _await_work(self, stop: threading.Event) -> bool:
        """Wait until there is something to learn from (True), or this process may end (False).

        While a run that is done waits for an edge to hear of it, its results are on the disk already.
        """
        handover = self._handover
        while True:
            with handover.changed:
                if stop.is_set():
                    return False
                if self._next():
                    return True
                if self.learning.done:
                    if self.ingest.unaware() and not self._written:
                        self._write()  # with the lock: an edge that goes back takes the summary away, before or after
                        if not get_method(self.config.method).answered:  # such an edge may go back
                            self._drop_used_frames()
                    elif self._farewell.over():
                        return False
                handover.changed.wait(timeout=0.2)

    def _write(self) -> CloudSummary:
        self._written = True
        return self.learning.write(peak_rss_bytes=None if self.inline else peak_rss_bytes())

    def close(self) -> CloudSummary:
        """Write weights and summary, close files; returns the summary."""
        summary = self._write()
        self.learning.close()
        if summary.finished:
            self._drop_used_frames()
        self.ingest.close()
        return summary

    def _drop_used_frames(self) -> None:
        if self.config.store.keep == "unconsumed":
            self.ingest.forget_everything()

    def _next(self) -> Job | None:
        """What there is to learn from. Hold ``handover.changed``."""
        handover = self._handover
        if not handover.complete and self._completion.reached():
            self.ingest.sync_everything()  # no edge could send again what is lost after this
            handover.complete = True
            handover.changed.notify_all()
        job = self.learning.next()
        if job is not None:
            self._farewell.begin_again()
            self._written = False
        return job

    def _learn(self, stop: threading.Event | None = None) -> None:
        """Learn from all frames that are ready."""
        while True:
            with self._handover.changed:
                job = self._next()
            if job is None or (stop is not None and stop.is_set()):
                return
            self.learning.do(job, stop)
