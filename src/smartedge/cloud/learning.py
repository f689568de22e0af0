"""Decides what the back learns from next, and lets the trainer do it.

Where the back is trained by several workers, the first one asks :meth:`Learning.next`, and all of them do what it says
(:meth:`Learning.do`).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from torch import nn

from smartedge.artifacts.fleet_run import OrderLine, Snapshot
from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.cloud.back import build_back, save_back
from smartedge.cloud.batches import features_of, sent_by
from smartedge.cloud.edge_figures import figures_of_edges
from smartedge.cloud.handover import Decoded, FrameGone, FrameKey, Handover
from smartedge.cloud.order.ahead import reading_threads
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.order.journal import Journal, JournalCopy
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.store.feature_log import FeatureReader
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training import in_sequence
from smartedge.cloud.training.from_edges import Mixing, WindowError
from smartedge.cloud.training.from_logs import TrainingFromLogs
from smartedge.cloud.workers.group import ALONE, Group
from smartedge.codec import get_codec, unpack
from smartedge.config import Config
from smartedge.errors import LogError, RunError
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.models.entrances import Entrances
from smartedge.models.fixed import kept_as_it_is
from smartedge.models.gradients import what_stays_untrained
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.weights_facts import weights_facts
from smartedge.stopping import Interrupted
from smartedge.types import EncodedBatch, FeatureBatch, Frame, StreamHeader

__all__ = ["Job", "Learning"]


class Job(BaseModel):
    """What is learned from next. One of the first three fields is set.

    Attributes:
        frame: edge, and number of a frame: of the one edge's sequence.
        line: the next line of the journal: of several edges.
        snapshot: the frames from which all epochs learn: where each image was sent once.
        needed: edge → how many of its frames must be there.
    """

    frame: FrameKey | None = None
    line: OrderLine | None = None
    snapshot: Snapshot | None = None
    needed: dict[str, int]


class Learning:
    """The trainer, and the order of what it learns from.

    Args:
        config: the run's settings.
        folder: the cloud's folder of the run.
        handover: knows the edges and their logs.
        monitor: takes progress updates.
        resume: continue with the newest checkpoint that ``folder`` holds.
        group: the workers that train the back.

    Raises:
        LogError: the journal of the order is damaged.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        handover: Handover,
        monitor: Monitor,
        *,
        resume: bool,
        group: Group = ALONE,
    ) -> None:
        self._started, self._begun = time.time(), time.monotonic()
        self.config = config
        self.folder = folder
        self.monitor = monitor
        self.resume = resume
        self.trainer: BackTrainer | None = None
        self.group = group
        self._handover = handover
        self._method, self._once = get_method(config.method), get_schedule(config.schedule).once
        self.influence = Influence(config.fleet.max_influence)
        self.mixing = self._mix() if config.several_edges and not self._once else None
        self._busy = False  # the training thread is learning
        self._needed = 0  # the first frame that a run resumed from the checkpoint before the newest one would need
        self._first_epoch: int | None = None
        self._stop = threading.Event()  # set when the run is to stop

    def _mix(self) -> Mixing:
        file = self.folder / "order.jsonl"
        journal = Journal(file) if self.group.leads else None
        text = self.group.agree(lambda: "" if journal is None else journal.text())
        return Mixing(self.config, self._handover, journal or JournalCopy(file, text), self.influence)

    @property
    def logs(self) -> dict[str, FeatureReader]:
        """Edge → its log, of the edges that have sent a frame."""
        return {edge: intake.log for edge, intake in self._handover.intakes.items() if intake.log is not None}

    # -- the trainer

    def begin(self, edge: str, header: StreamHeader) -> None:
        """Prepare for an accepted stream. In split learning the edge may go back to a checkpoint."""
        handover = self._handover
        if self.trainer is None:
            self.make_trainer(edge, header)
        trainer = self.trainer
        assert trainer is not None
        if not header.answered or edge not in handover.intakes:
            return
        handover.wait(lambda: not self._busy)  # a step that the edge does not wait for any longer
        if header.first_seq == 0 and trainer.next_seq > 0:  # the edge has no checkpoint, and begins anew
            trainer.close()
            trainer.checkpoints.forget_after(-1)
            self.make_trainer(edge, header)
        elif header.first_seq != trainer.next_seq and not trainer.rewind(header.first_seq):
            raise RunError(
                f"the edge wants to go on at frame {header.first_seq}, but the cloud has no checkpoint there; start a "
                "new run"
            )
        if header.first_seq < handover.intakes[edge].next_seq:
            (self.folder / "summary.json").unlink(missing_ok=True)  # the run may have been done, and goes on
            handover.intakes[edge].open_log().truncate(header.first_seq)
            handover.go_back(edge, header.first_seq)

    def make_trainer(self, edge: str, header: StreamHeader) -> None:
        """Build the back, and load its newest checkpoint where the run is resumed."""
        back, shapes = build_back(self.config, header.outputs)
        # A trainer that is built again has the same network. Where this is an error, the other workers lose this one.
        if self.trainer is None and self.group.leads:
            self._check_network(back, next(iter(shapes.values())), header)
        self.trainer = BackTrainer(
            self.config,
            back,
            task_kind=header.task_kind,
            device=pick_device(self.config.hardware.cloud_device, "hardware.cloud_device"),
            folder=self.folder,
            monitor=self.monitor,
            resume=self.resume,
            group=self.group,
        )
        if self._first_epoch is None:
            self._first_epoch = self.trainer.progress.epoch if self.resume else 0
        if self.mixing is None:
            self._handover.learned[edge] = self.trainer.next_seq
        else:
            self.mixing.follow(self.trainer)
        # No worker may write the next checkpoint before all have read this one.
        self.group.refuse_others(self.trainer.facts())

    def _check_network(self, back: nn.Module, shape: tuple[int, ...], header: StreamHeader) -> None:
        """Tell which parts of the back will not learn.

        Raises:
            CutError: nothing of it would, or it cannot be trained on this task.
        """
        layers = back.from_first_cut() if isinstance(back, Entrances) else back
        kept = None if self.config.train.freeze else kept_as_it_is([back])
        stays = what_stays_untrained(
            layers, shape, must_learn=True, answers=header.answered, task_kind=header.task_kind
        )
        for text in (kept, stays):
            if text is not None:
                self.monitor.update(Update("cloud", "network", text=text))

    @property
    def done(self) -> bool:
        """Whether everything has come, and was learned from.

        Raises:
            RunError: nothing has come, and nothing will.
        """
        if not self._handover.complete:
            return False
        if self.trainer is None:
            raise RunError("the run was closed, but no edge has sent anything; there is nothing to learn from")
        return self.trainer.finished

    def write(self, *, peak_rss_bytes: int | None) -> CloudSummary:
        """Write weights, figures and summary; returns the summary. Workers other than the first write nothing."""
        trainer = self.trainer
        summary = CloudSummary(
            finished=bool(trainer and trainer.finished),
            session=Session.ending(
                self._started, self._begun, trainer.progress.epoch - (self._first_epoch or 0) if trainer else 0
            ),
            busy_seconds=trainer.busy if trainer else 0.0,
            test=trainer.test if trainer else None,
            frames=sum(log.next_seq for log in self.logs.values()),
            weights=weights_facts([trainer.back]) if trainer else None,
            peak_rss_bytes=peak_rss_bytes,
        )
        if self.group.leads:
            if trainer is not None:
                save_back(self.folder, self.config, trainer.back)
                if self.config.several_edges:
                    figures_of_edges(self._handover, trainer, self.influence).write(self.folder / "fleet.json")
            summary.write(self.folder / "summary.json")
        return summary

    def close(self) -> None:
        """Close files."""
        if self.trainer is not None:
            self.trainer.close()
        if self.mixing is not None:
            self.mixing.close()

    # -- what is learned from next

    def next(self) -> Job | None:
        """What there is to learn from; None: nothing yet. Hold ``handover.changed``.

        In split learning only while the edge is there, or when it has sent everything.
        """
        handover, trainer = self._handover, self.trainer
        if trainer is None or trainer.finished:
            return None
        if self._once:
            return self._job_of_snapshot() if handover.complete else None
        if self.mixing is not None:
            line = self.mixing.next()
            return None if line is None else Job(line=line, needed=self.mixing.needed(line))
        intake = next(iter(handover.intakes.values()), None)
        if intake is None or intake.log is None:
            return None
        if self._method.answered and intake.stream is None and not intake.sent_all:
            return None
        seq = trainer.next_seq
        return Job(frame=(intake.edge, seq), needed={intake.edge: seq + 1}) if seq < intake.log.next_seq else None

    def _job_of_snapshot(self) -> Job:
        """A resumed run uses the same frames, whatever came since."""
        snapshot = Snapshot.read_if_there(self.folder / "snapshot.json")
        if snapshot is None:
            snapshot = Snapshot.of({edge: log.next_seq for edge, log in self.logs.items()})
        return Job(snapshot=snapshot, needed=snapshot.frames)

    def do(self, job: Job, stop: threading.Event | None = None) -> None:
        """Learn from what :meth:`next` gave.

        Training on a snapshot ends after a step where ``stop`` is set.

        Raises:
            Interrupted: ``stop`` was set, and another frame was to be read. All that learns or evaluates reads frames
                one after the other. Of several workers, none is interrupted within a job.
        """
        trainer = self.trainer
        assert trainer is not None
        if stop is not None and self.group is ALONE:
            self._stop = stop
        with suppress(FrameGone):
            if job.snapshot is not None:
                self._learn_from_logs(trainer, job.snapshot, stop)
            elif job.line is not None:
                assert self.mixing is not None
                self._learn_window(self.mixing, trainer, job.line)
            elif job.frame is not None:
                self._learn_frame(job, job.frame)

    def _learn_window(self, mixing: Mixing, trainer: BackTrainer, line: OrderLine) -> None:
        """Do what the journal says next. Where training fails, go back, and on without the edge whose frame it was."""
        before = mixing.checkpointed
        try:
            mixing.take(line, self.read)
        except WindowError as error:
            trainer.close()
            self.resume = True
            known = next(intake for intake in self._handover.intakes.values() if intake.streams)
            self.make_trainer(known.edge, known.streams[0])
            assert self.trainer is not None
            for edge, seq in mixing.quarantine(self.trainer, error, self.read):
                text = f"training failed on frame {seq} of edge {edge} ({error}): it is in quarantine, the others go on"
                self.monitor.update(Update("cloud", "quarantine", text=text))

        if mixing.checkpointed is not before and self.group.leads and self.config.store.keep == "unconsumed":
            for edge, seq in before.items():  # a run may have to go back one checkpoint
                self._handover.intakes[edge].open_log().forget_before(seq)

    def _learn_from_logs(self, trainer: BackTrainer, snapshot: Snapshot, stop: threading.Event | None) -> None:
        """Train all epochs on what the logs hold."""
        train, file = self.config.train, self.folder / "snapshot.json"
        if self.group.leads and self.config.several_edges and not file.exists():
            snapshot.write(file)
        logs = {edge: log for edge, log in self.logs.items() if edge in snapshot.frames}
        frames = Shuffled(
            logs,
            self.read,
            batch_size=train.batch_size,
            seed=self.config.seed,
            frames=snapshot.frames,
            threads=reading_threads(trainer.device),
            passed=self._see if self.config.several_edges else None,
        )
        TrainingFromLogs(trainer, frames).run(influence=self.influence, stop=stop)
        trainer.test_images = frames.images("test")

    def _see(self, key: FrameKey, batch: FeatureBatch) -> None:
        """The features of a decoded frame count for its edge's figures."""
        self.influence.see(key[0], features_of(batch.features_BF, np.arange(len(batch.ids))))

    def _learn_frame(self, job: Job, key: FrameKey) -> None:
        """Learn from the next frame of the one edge's sequence, and answer it where the edge waits."""
        handover, (edge, seq) = self._handover, key
        with handover.changed:
            if self._method.answered and self.next() != job:
                return  # the edge has gone back in between
            trainer, log = self.trainer, self.logs[edge]
            assert trainer is not None
            came = log.came(seq)
            if seq >= log.next_seq:
                return  # the disk did not take it, and its edge sends it again
            self._busy = came
        if not came:
            in_sequence.skip(trainer, log.header_of(seq), seq)
            with handover.changed:
                handover.learned[edge] = trainer.next_seq
                handover.changed.notify_all()
            return
        try:
            header, decoded = self._decoded(key)
        except FrameGone:
            with handover.changed:
                self._busy = False
                handover.changed.notify_all()
            return
        epoch = trainer.progress.epoch
        trainer.busy += decoded.seconds
        try:
            gradient_BF = in_sequence.consume(trainer, header, seq, decoded.batch)
        except (RunError, ValueError, RuntimeError) as error:
            raise RunError(
                f"edge {edge!r}, frame {seq}: the back cannot learn from it ({error}). The frames of an edge are used "
                "in their order, so the run ends here, and would end here again: start a new one, with a lower "
                "train.lr if training has diverged"
            ) from error
        if trainer.progress.epoch != epoch and self.config.store.keep == "unconsumed":
            handover.intakes[edge].open_log().forget_before(self._needed)
            self._needed = trainer.next_seq
        with handover.changed:
            handover.drop(key)
            handover.learned[edge] = trainer.next_seq
            if gradient_BF is not None:
                payload, side = get_codec("float32").encode(gradient_BF.numpy())
                ids = decoded.batch.ids
                no_labels = np.zeros(len(ids), np.int64)  # none travel with an answer
                handover.answers[seq] = Frame(seq, EncodedBatch(ids, no_labels, payload, side))
            self._busy = False
            handover.changed.notify_all()

    def read(self, key: FrameKey) -> FeatureBatch:
        """A decoded frame; of several edges, with the names of edge and cut."""
        header, (batch, _) = self._decoded(key)
        if not self.config.several_edges:
            return batch
        return sent_by(key[0], header, batch, several_cuts=self.config.fleet.cuts is not None)

    def _decoded(self, key: FrameKey) -> tuple[StreamHeader, Decoded]:
        """The header of a frame's stream, and the decoded frame: from memory where it is kept, else from the log."""
        if self._stop.is_set():
            raise Interrupted
        edge, seq = key
        log = self.logs[edge]
        try:
            found = log.header_of(seq), self._kept(key) or _decode(log, seq)
        except LogError as error:
            if seq >= log.next_seq:
                raise FrameGone from error
            raise
        if seq >= log.next_seq:
            raise FrameGone
        return found

    def _kept(self, key: FrameKey) -> Decoded | None:
        with self._handover.changed:
            return self._handover.kept(key)


def _decode(log: FeatureReader, seq: int) -> Decoded:
    begun = time.perf_counter()
    batch = unpack(log.frame(seq).batch, log.header_of(seq))
    return Decoded(batch, time.perf_counter() - begun)
