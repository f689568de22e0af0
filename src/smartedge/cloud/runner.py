"""The cloud's side of a run: frames are stored, and the back learns from them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.cloud.ingest import Decoded, Handover, Ingest
from smartedge.cloud.order import Shuffled, next_in_sequence
from smartedge.cloud.store import FeatureLog, has_begun, log_folder
from smartedge.cloud.trainer import BackTrainer
from smartedge.codec import get_codec, unpack_frame
from smartedge.config import Config
from smartedge.errors import RunError
from smartedge.files import private_folder
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import peak_rss_bytes, pick_device
from smartedge.runs.progress import Monitor
from smartedge.types import EncodedBatch, FeatureBatch, Frame, StreamHeader

__all__ = ["CloudRunner"]


class CloudRunner:
    """The cloud's side of a run: the feature log, :attr:`ingest` that fills it, and the trainer that learns from it.

    Args:
        config: the run's settings, equal to the edge's in all that both must agree on.
        folder: the cloud's folder of the run.
        monitor: takes progress updates.
        resume: continue with the log and the newest checkpoint that ``folder`` holds.
        inline: train while frames are taken in (one process). Otherwise :meth:`run` trains, in the thread that calls
            it, while the link's threads take frames in.

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
        self.log = FeatureLog(log_folder(folder))
        self.trainer: BackTrainer | None = None
        self._handover = Handover()
        self._busy = False  # the training thread is learning
        self.ingest = Ingest(
            config,
            folder,
            self.log,
            feature_shape,
            self._handover,
            monitor,
            begin=self._begin,
            learn=self._learn if inline else None,
        )
        if resume and self.log.streams:
            self._make_trainer(self.log.streams[0])
        self._first_epoch = self.trainer.progress.epoch if self.trainer else 0

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
            frames=self.log.next_seq,
            peak_rss_bytes=None if self.inline else peak_rss_bytes(),
        )
        if trainer is not None:
            save_weights(self.folder / "back.safetensors", trainer.back.state_dict())
            trainer.recorder.close()
        summary.write(self.folder / "summary.json")
        self.log.close()
        return summary

    # -- a stream begins

    def _begin(self, header: StreamHeader) -> None:
        """Prepare for an accepted stream. In split learning the edge may go back to a checkpoint."""
        handover = self._handover
        if self.trainer is None:
            self._make_trainer(header)
        trainer = self.trainer
        assert trainer is not None
        if not header.answered:
            return
        handover.wait(lambda: not self._busy)  # a step that the edge does not wait for any longer
        if header.first_seq != trainer.next_seq:
            if not trainer.rewind(header.first_seq):
                raise RunError(
                    f"the edge wants to go on at frame {header.first_seq}, but the cloud has no checkpoint there; "
                    "start a new run"
                )
            self.log.truncate(header.first_seq)
            handover.go_back(header.first_seq)

    def _make_trainer(self, header: StreamHeader) -> None:
        back, _ = self._method.cloud(self.config, header.outputs)
        self.trainer = BackTrainer(
            self.config,
            back,
            device=pick_device(self.config.hardware.cloud_device, "hardware.cloud_device"),
            folder=self.folder,
            monitor=self.monitor,
            resume=self.resume,
        )
        self._handover.learned = self.trainer.next_seq

    # -- learning

    def _done(self) -> bool:
        return self._handover.closed and self.trainer is not None and self.trainer.finished

    def _can_learn(self) -> bool:
        """Whether there is something to learn from. In split learning only while the edge is there."""
        if self.trainer is None or self.trainer.finished:
            return False
        if self._once:
            return self._handover.closed
        if self._method.answered and self._handover.stream is None:
            return False
        return next_in_sequence(self.log, self.trainer.next_seq) is not None

    def _learn(self, stop: threading.Event | None = None) -> None:
        """Learn from all frames that are ready."""
        while self._can_learn() and not (stop is not None and stop.is_set()):
            assert self.trainer is not None
            if self._once:
                train = self.config.train
                frames = Shuffled(self.log, self._read, batch_size=train.batch_size, seed=self.config.seed)
                self.trainer.train_from(frames, stop=stop)
            else:
                self._learn_next()

    def _learn_next(self) -> None:
        """Learn from the next frame of the sequence, and answer it where the edge waits."""
        trainer, handover = self.trainer, self._handover
        assert trainer is not None
        seq = trainer.next_seq
        with handover.changed:
            self._busy = True
        header, decoded = self.log.header_of(seq), self._decoded(seq)
        trainer.busy += decoded.seconds
        gradient_BF = trainer.consume(header, seq, decoded.batch)
        with handover.changed:
            handover.drop(seq)
            handover.learned = trainer.next_seq
            if gradient_BF is not None:
                payload, side = get_codec("float32").encode(gradient_BF.numpy())
                ids = decoded.batch.ids
                no_labels = np.zeros(len(ids), np.int64)  # none travel with an answer
                handover.answers[seq] = Frame(seq, EncodedBatch(ids, no_labels, payload, side))
            self._busy = False
            handover.changed.notify_all()

    def _read(self, seq: int) -> FeatureBatch:
        return self._decoded(seq).batch

    def _decoded(self, seq: int) -> Decoded:
        """A decoded frame: from memory where it is kept, else from the log."""
        with self._handover.changed:
            if (kept := self._handover.kept(seq)) is not None:
                return kept
        begun = time.perf_counter()
        batch = unpack_frame(self.log.frame(seq), self.log.header_of(seq))
        return Decoded(batch, time.perf_counter() - begun)
