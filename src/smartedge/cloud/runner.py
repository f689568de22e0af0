"""The cloud's side of a run: frames are stored, and the back learns from them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from smartedge.artifacts.fleet_run import Snapshot
from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.cloud.completion import Completion
from smartedge.cloud.edge_figures import figures_of_edges
from smartedge.cloud.ingest import Decoded, Handover, Ingest, Key
from smartedge.cloud.mixing import Mixing, WindowError
from smartedge.cloud.order import Shuffled, next_in_sequence
from smartedge.cloud.store import FeatureLog, has_begun
from smartedge.cloud.trainer import BackTrainer
from smartedge.codec import get_codec, unpack_frame
from smartedge.config import Config
from smartedge.errors import RunError
from smartedge.files import private_folder
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import peak_rss_bytes, pick_device
from smartedge.runs.progress import Monitor, Update
from smartedge.types import EncodedBatch, FeatureBatch, Frame, StreamHeader

__all__ = ["CloudRunner"]


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
        if not resume and has_begun(folder):
            raise RunError(f"{folder}: holds a run already; continue it with --resume, or choose another run_dir")
        self.started = time.time()
        self._method, self._once = get_method(config.method), get_schedule(config.schedule).once
        # Build the network now. So wrong settings are an error before the first edge connects, and no edge waits for
        # imports and warm-up.
        _, feature_shape = self._method.cloud(config, 2)
        private_folder(folder)
        self.config = config
        self.folder = folder
        self.monitor = monitor
        self.resume = resume
        self.inline = inline
        self.trainer: BackTrainer | None = None
        self._handover = Handover()
        self._busy = False  # the training thread is learning
        self._needed = 0  # the first frame that a run resumed from the checkpoint before the newest one would need
        self.ingest = Ingest(
            config,
            folder,
            feature_shape,
            self._handover,
            monitor,
            begin=self._begin,
            learn=self._learn if inline else None,
        )
        self._mixing = Mixing(config, folder, self._handover) if config.several_edges and not self._once else None
        self._completion = Completion(config, folder, self._handover)
        try:
            known = next((intake for intake in self._handover.intakes.values() if intake.streams), None)
            if resume and known is not None:
                self._make_trainer(known.edge, known.streams[0])
        except BaseException:
            self.ingest.close()
            raise
        self._first_epoch = self.trainer.progress.epoch if self.trainer else 0

    @property
    def logs(self) -> dict[str, FeatureLog]:
        """Edge → its log, of the edges that have sent a frame."""
        return {edge: intake.log for edge, intake in self._handover.intakes.items() if intake.log is not None}

    def run(self, stop: threading.Event) -> bool:
        """Train until the run is complete (True) or ``stop`` is set (False)."""
        handover = self._handover
        try:
            while True:
                with handover.changed:
                    while not (stop.is_set() or self._can_learn() or self._done()):
                        handover.changed.wait(timeout=0.2)
                    if stop.is_set() or not self._can_learn():
                        return self._done()
                self._learn(stop)
        except BaseException as error:
            with handover.changed:
                handover.failure = error
                handover.changed.notify_all()
            raise

    def close(self) -> CloudSummary:
        """Write weights and summary, close files; returns the summary."""
        trainer = self.trainer
        summary = CloudSummary(
            finished=bool(trainer and trainer.finished),
            session=Session(
                started=self.started,
                ended=time.time(),
                epochs=trainer.progress.epoch - self._first_epoch if trainer else 0,
            ),
            busy_seconds=trainer.busy if trainer else 0.0,
            test=trainer.test if trainer else None,
            frames=sum(log.next_seq for log in self.logs.values()),
            peak_rss_bytes=None if self.inline else peak_rss_bytes(),
        )
        if trainer is not None:
            save_weights(self.folder / "back.safetensors", trainer.back.state_dict())
            trainer.recorder.close()
            if self.config.several_edges:
                influence = None if self._mixing is None else self._mixing.influence
                figures_of_edges(self._handover, trainer, influence).write(self.folder / "fleet.json")
        if summary.finished and self.config.store.keep == "unconsumed":
            for log in self.logs.values():
                log.forget_before(log.next_seq)
        summary.write(self.folder / "summary.json")
        if self._mixing is not None:
            self._mixing.close()
        self.ingest.close()
        return summary

    # -- a stream begins

    def _begin(self, edge: str, header: StreamHeader) -> None:
        """Prepare for an accepted stream. In split learning the edge may go back to a checkpoint."""
        handover = self._handover
        if self.trainer is None:
            self._make_trainer(edge, header)
        trainer = self.trainer
        assert trainer is not None
        if not header.answered or edge not in handover.intakes:
            return
        handover.wait(lambda: not self._busy)  # a step that the edge does not wait for any longer
        if header.first_seq != trainer.next_seq:
            if not trainer.rewind(header.first_seq):
                raise RunError(
                    f"the edge wants to go on at frame {header.first_seq}, but the cloud has no checkpoint there; "
                    "start a new run"
                )
            handover.intakes[edge].open_log().truncate(header.first_seq)
            handover.go_back(edge, header.first_seq)

    def _make_trainer(self, edge: str, header: StreamHeader) -> None:
        back, _ = self._method.cloud(self.config, header.outputs)
        self.trainer = BackTrainer(
            self.config,
            back,
            device=pick_device(self.config.hardware.cloud_device, "hardware.cloud_device"),
            folder=self.folder,
            monitor=self.monitor,
            resume=self.resume,
        )
        if self._mixing is None:
            self._handover.learned[edge] = self.trainer.next_seq
        else:
            self._mixing.follow(self.trainer)

    # -- learning

    def _done(self) -> bool:
        if self._handover.complete and self.trainer is None:
            raise RunError("the run was closed, but no edge has sent anything; there is nothing to learn from")
        return self._handover.complete and self.trainer is not None and self.trainer.finished

    def _can_learn(self) -> bool:
        """Whether there is something to learn from. In split learning only while the edge is there."""
        handover = self._handover
        if not handover.complete and self._completion.reached():
            handover.complete = True
            handover.changed.notify_all()
        if self.trainer is None or self.trainer.finished:
            return False
        if self._once:
            return handover.complete
        if self._mixing is not None:
            return self._mixing.ready()
        intake = next(iter(handover.intakes.values()), None)
        if intake is None or intake.log is None or (self._method.answered and intake.stream is None):
            return False
        return next_in_sequence(intake.log, self.trainer.next_seq) is not None

    def _learn(self, stop: threading.Event | None = None) -> None:
        """Learn from all frames that are ready."""
        while True:
            with self._handover.changed:
                if not self._can_learn() or (stop is not None and stop.is_set()):
                    return
            assert self.trainer is not None
            if self._once:
                self._learn_from_logs(self.trainer, stop)
            elif self._mixing is not None:
                self._learn_window(self._mixing, self.trainer)
            else:
                self._learn_next(self.trainer, next(iter(self._handover.intakes)))

    def _learn_window(self, mixing: Mixing, trainer: BackTrainer) -> None:
        """Do what the journal says next. Where training fails, go back, and on without the edge whose frame it was."""
        try:
            mixing.take(self._read)
        except WindowError as error:
            trainer.recorder.close()
            self.resume = True
            known = next(intake for intake in self._handover.intakes.values() if intake.streams)
            self._make_trainer(known.edge, known.streams[0])
            assert self.trainer is not None
            for edge, seq in mixing.quarantine(self.trainer, error, self._read):
                text = f"training failed on frame {seq} of edge {edge} ({error}): it is in quarantine, the others go on"
                self.monitor.update(Update("cloud", "quarantine", text=text))

    def _learn_from_logs(self, trainer: BackTrainer, stop: threading.Event | None) -> None:
        """Train all epochs on what the logs hold. A resumed run uses the same frames, whatever came since."""
        train, file = self.config.train, self.folder / "snapshot.json"
        snapshot = Snapshot.read_if_there(file)
        if snapshot is None:
            snapshot = Snapshot(frames={edge: log.next_seq for edge, log in self.logs.items()})
            if self.config.several_edges:
                snapshot.write(file)
        logs = {edge: log for edge, log in self.logs.items() if edge in snapshot.frames}
        frames = Shuffled(logs, self._read, batch_size=train.batch_size, seed=self.config.seed, frames=snapshot.frames)
        trainer.train_from(frames, stop=stop)
        trainer.test_images = frames.images("test")

    def _learn_next(self, trainer: BackTrainer, edge: str) -> None:
        """Learn from the next frame of the one edge's sequence, and answer it where the edge waits."""
        handover, log, seq = self._handover, self.logs[edge], trainer.next_seq
        if not log.came(seq):
            trainer.skip(log.header_of(seq), seq)
            with handover.changed:
                handover.learned[edge] = trainer.next_seq
                handover.changed.notify_all()
            return
        with handover.changed:
            self._busy = True
        header, decoded, epoch = log.header_of(seq), self._decoded((edge, seq)), trainer.progress.epoch
        trainer.busy += decoded.seconds
        try:
            gradient_BF = trainer.consume(header, seq, decoded.batch)
        except (RunError, ValueError, RuntimeError) as error:
            raise RunError(
                f"edge {edge!r}, frame {seq}: the back cannot learn from it ({error}). The frames of an edge are used "
                "in their order, so the run ends here, and would end here again: start a new one, with a lower "
                "train.lr if training has diverged"
            ) from error
        if trainer.progress.epoch != epoch and self.config.store.keep == "unconsumed":
            log.forget_before(self._needed)
            self._needed = trainer.next_seq
        with handover.changed:
            handover.drop((edge, seq))
            handover.learned[edge] = trainer.next_seq
            if gradient_BF is not None:
                payload, side = get_codec("float32").encode(gradient_BF.numpy())
                ids = decoded.batch.ids
                no_labels = np.zeros(len(ids), np.int64)  # none travel with an answer
                handover.answers[seq] = Frame(seq, EncodedBatch(ids, no_labels, payload, side))
            self._busy = False
            handover.changed.notify_all()

    def _read(self, key: Key) -> FeatureBatch:
        return self._decoded(key).batch

    def _decoded(self, key: Key) -> Decoded:
        """A decoded frame: from memory where it is kept, else from the log."""
        edge, seq = key
        with self._handover.changed:
            if (kept := self._handover.kept(key)) is not None:
                return kept
        begun = time.perf_counter()
        log = self.logs[edge]
        batch = unpack_frame(log.frame(seq), log.header_of(seq))
        return Decoded(batch, time.perf_counter() - begun)
