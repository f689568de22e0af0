"""One run as the edge sees it: epochs over the images, checkpoints, streams."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smartedge.artifacts.results import Figures, ReferenceBytes, TaskFacts
from smartedge.artifacts.run import Confirmed, EdgeRun
from smartedge.artifacts.summary import EdgeSummary, Session
from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.data import DataSet, batches
from smartedge.data.loader import Batches
from smartedge.edge.outbox import Outbox, Traffic
from smartedge.edge.protection import open_gate, privacy_summary
from smartedge.errors import ConfigError, PrivacyError, RunError
from smartedge.files import PRIVATE
from smartedge.methods.base import get_method
from smartedge.methods.learner import Learned, Learner
from smartedge.methods.loop import Progress, take_step
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.schedules import get_schedule
from smartedge.models.exits import probabilities, task_loss
from smartedge.privacy.release import Gate
from smartedge.runs.checkpoint import Checkpoints, load_weights, save_weights
from smartedge.runs.machine import peak_rss_bytes, pick_device, rss_bytes
from smartedge.runs.predictions import Predictions
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import ImageBatch, SplitName, StreamHeader
from smartedge.wire.link import FrameSender

__all__ = ["EdgeRunner"]

_JPEG_IMAGES = 256  # images encoded for the comparison with JPEG
_SAMPLE_IMAGES = 24  # test images kept for the report, on the edge


class EdgeRunner:
    """Trains on the edge and sends what the method sends.

    A checkpoint is written at the end of every epoch, and counts once the cloud has confirmed that it holds every
    frame sent before it: so a run that is resumed repeats only what the cloud may not have.

    Args:
        config: the run's settings.
        dataset: what to learn from.
        sender: the link; None for method ``local``.
        folder: the edge's folder of the run.
        monitor: takes progress updates.
        resume: continue from the newest confirmed checkpoint in ``folder``.
        threaded: send on a thread of its own, except in split learning. False for a run in one process.

    Raises:
        RunError: ``folder`` holds a run already and ``resume`` is not set.
        ConfigError: a batch does not fit the training images.
    """

    def __init__(
        self,
        config: Config,
        dataset: DataSet,
        sender: FrameSender | None,
        folder: Path,
        monitor: Monitor,
        *,
        resume: bool,
        threaded: bool,
    ) -> None:
        if not resume and (folder / "run.json").exists():
            raise RunError(f"{folder}: holds a run already; continue it with --resume, or choose another run_dir")
        folder.mkdir(parents=True, exist_ok=True)
        self.baseline_rss = rss_bytes()
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.monitor = monitor
        self.images = {name: len(split) for name, split in dataset.splits.items()}
        for name in ("train", "val", "test"):
            if self.images.get(name, 0) < (2 if name == "train" else 1):
                raise ConfigError(f"data.path: {config.data.path} has too few images in its split {name!r}")
        self.device = pick_device(config.hardware.edge_device, "hardware.edge_device")
        self._data_print = _print_of(dataset)
        self.learner = get_method(config.method).edge(config, dataset.task, self.device, dataset)
        self.random = RandomStream(derive_seed(config.seed, "edge"), self.device)
        self.taught = 0  # epochs completed of the undivided network from which the exit is to learn
        self.epoch = 0  # epochs completed, of those in which the front learns
        self.sent = 0  # epochs completed, of those in which a frozen front's features are sent
        self.traffic = Traffic()
        self.busy = 0.0  # seconds of computing
        self.data_wait = 0.0
        self.data_busy = 0.0
        self.test: Figures | None = None
        self.teacher_val: Figures | None = None
        self.finished = False
        self.threaded = threaded and not get_method(config.method).answered
        next_seq = 0
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.run_id = uuid.uuid4().hex
        begun_before = (folder / "run.json").exists()
        if resume:
            next_seq = self._load()
        self.gate: Gate | None = None
        if sender is not None:
            mechanism = mechanism_of(config, self.learner.feature_shape)
            self.gate = open_gate(config, folder, self.run_id, mechanism, dataset.task, existing=begun_before)
            if not self.gate.ledger.holds(next_seq):
                raise PrivacyError(
                    f"{folder / 'ledger.sqlite'}: frames before {next_seq} were sent, and it does not hold them all "
                    "(an old copy, or its -wal file is gone); nothing is released. Restore it, or start a new run"
                )
        EdgeRun(run=self.run_id, data=self._data_print).write(folder / "run.json")
        self._first_epoch = self._epochs_done
        self.recorder = Recorder(folder, "edge", resume_epoch=self.epoch)
        self.outbox = (
            Outbox(
                sender,
                get_codec(config.codec_name),
                self.gate,
                next_seq=next_seq,
                queue_frames=config.link.queue_frames,
                threaded=self.threaded,
                traffic=self.traffic,
            )
            if sender is not None and self.gate is not None
            else None
        )

    def run(self, stop: threading.Event) -> bool:
        """Train and send until done (True) or until ``stop`` is set (False)."""
        self.started = time.time()
        done = False
        try:
            done = self._run(stop)
            if done and self.outbox is not None:
                self.outbox.finish()
            self.finished = done
            return done
        finally:
            if not done and self.outbox is not None:
                self.outbox.abort()
            self._close()

    # -- the epochs

    def _run(self, stop: threading.Event) -> bool:
        config = self.config
        while self.learner.teacher is not None and self.taught < config.train.distill.epochs:
            if not self._teach_epoch(self.learner.teacher, stop):
                return False
        logs_once = config.schedule == "freeze-and-log"
        front_epochs = 0 if logs_once and not self.learner.modules else self._learning_epochs
        while self.epoch < front_epochs:
            last = self.epoch + 1 == front_epochs
            streams = not config.front_first and not logs_once
            if not self._learn_epoch(stop, send=streams):
                return False
            for split in ("val", "test") if last else ("val",):
                self._pass(split, send=streams, measure=True)
            self.epoch += 1
            self._checkpoint()
        if logs_once:
            every: tuple[SplitName, ...] = ("train", "val", "test")
            return all(self._pass(split, send=True, measure=False, stop=stop) for split in every)
        while config.schedule == "two-stage" and self.sent < config.epochs:
            if not self._send_epoch(stop):
                return False
        return True

    @property
    def _learning_epochs(self) -> int:
        return self.config.front_epochs if self.config.front_first else self.config.epochs

    @property
    def _epochs_done(self) -> int:
        """Of all kinds: the number of a checkpoint."""
        return self.taught + self.epoch + self.sent

    def _teach_epoch(self, teacher: Learner, stop: threading.Event) -> bool:
        """One epoch of the undivided network; its weights are kept on the edge when it has learned enough."""
        epochs = self.config.train.distill.epochs
        if self._learn(teacher, "teach", self.taught, epochs, stop, outbox=None) is None:
            return False
        self.teacher_val = self._measure(teacher, "val").figures()
        self.taught += 1
        if self.taught == epochs:
            save_weights(self._teacher_file, teacher.modules["network"].state_dict())
        self._checkpoint()
        return True

    @property
    def _teacher_file(self) -> Path:
        return self.folder / "teacher.safetensors"

    def _learn_epoch(self, stop: threading.Event, *, send: bool) -> bool:
        outbox = self.outbox if send else None
        busy_before = self.busy
        if outbox is not None:
            self._open("train", self._per_epoch)
        figures = self._learn(self.learner, "train", self.epoch, self._learning_epochs, stop, outbox=outbox)
        if figures is None:
            return False
        if figures:
            self.recorder.write(self.epoch, "train", {**figures, "seconds": self.busy - busy_before})
        if outbox is not None:
            outbox.close_stream()
        return True

    def _learn(
        self,
        learner: Learner,
        phase: str,
        epoch: int,
        epochs: int,
        stop: threading.Event,
        *,
        outbox: Outbox | None,
    ) -> dict[str, float | None] | None:
        """One epoch over the training images; its figures (none where the edge has no head), or None when stopped."""
        per_epoch = self._per_epoch
        progress = Progress(epochs, per_epoch, epoch=epoch, step=epoch * per_epoch)
        steps = progress.steps

        def learn(batch: ImageBatch, progress: Progress) -> Learned:
            learned = learner.learn(batch, progress, sending=outbox is not None)
            if outbox is not None and learned.sent_BF is not None:
                if learned.finish is not None:
                    gradient_BF = outbox.exchange(batch.ids, learned.sent_BF.cpu().numpy(), batch.labels.numpy())
                    learned.finish(torch.from_numpy(gradient_BF))
                else:
                    outbox.send(batch.ids, learned.sent_BF.cpu().numpy(), batch.labels.numpy())
            return learned

        predictions = Predictions()
        sums: Counter[str] = Counter()
        learner.begin_epoch(epoch)
        with self._training_batches(epoch) as loader:
            for batch in loader:
                if stop.is_set():
                    return None
                with self._computing():
                    result = take_step(learn, batch, progress, rates=learner.rates, random=self.random).step
                step = progress.step
                text = f"epoch {epoch + 1}/{epochs}"
                if result is not None:
                    predictions.add(batch.ids, batch.labels, self._probabilities(result.logits_BK), result.loss)
                    sums.update(result.figures)
                    text += f" loss {result.loss:.3f}"
                if step % 4 == 0 or step == steps:
                    self.monitor.update(Update("edge", phase, step, steps, text))
        self.data_wait += loader.wait_seconds
        self.data_busy += loader.busy_seconds
        if not len(predictions):
            return {}
        return {**predictions.figures().model_dump(), **{name: total / per_epoch for name, total in sums.items()}}

    def _send_epoch(self, stop: threading.Event) -> bool:
        """Stage 2 of ``two-stage``: a frozen front's features of one epoch, as its learning would have seen them."""
        for split in ("train", "val", "test") if self.sent + 1 == self.config.epochs else ("train", "val"):
            if not self._pass(split, send=True, measure=False, stop=stop):
                return False
        self.sent += 1
        self._checkpoint()
        return True

    @property
    def _per_epoch(self) -> int:
        return max(1, self.images["train"] // self.config.train.batch_size)

    def _training_batches(self, epoch: int) -> Batches:
        size = self.config.train.batch_size
        return batches(
            self.dataset.splits["train"],
            size,
            seed=self.config.seed,
            epoch=epoch,
            shuffle=True,
            # Uploaded images are augmented where they are learned from: in the cloud.
            augment="none" if get_method(self.config.method).sends == "images" else self.config.data.augment,
            drop_last=self.images["train"] >= size,
        )

    def _every_image(self, split: SplitName) -> Batches:
        size = self.config.train.batch_size
        return batches(self.dataset.splits[split], size, seed=self.config.seed, epoch=0, shuffle=False, augment="none")

    def _pass(self, split: SplitName, *, send: bool, measure: bool, stop: threading.Event | None = None) -> bool:
        """Once over a split without learning: measure the edge's own head, send what the cloud needs, or both.

        ``two-stage`` sends training images shuffled and augmented, anew in every epoch; what is sent once is sent as
        it is.
        """
        anew = split == "train" and self.config.schedule == "two-stage"
        source = self._training_batches(self.epoch + self.sent) if anew else self._every_image(split)
        frames = len(source)
        repeats = self.config.epochs if self.config.schedule == "two-stage" and split != "test" else 1
        before = self.sent * frames if repeats > 1 else 0
        outbox = self.outbox if send else None
        predictions = Predictions()
        if outbox is not None:
            self._open(split, frames)
        with source as loader:
            for done, batch in enumerate(loader, start=1):
                if stop is not None and stop.is_set():
                    return False
                with self._computing(), self.random.active():
                    features_BF, logits_BK = self.learner.infer(batch)
                if outbox is not None and features_BF is not None:
                    outbox.send(batch.ids, features_BF.cpu().numpy(), batch.labels.numpy())
                if measure and logits_BK is not None:
                    self._add(predictions, batch, logits_BK)
                if not measure:
                    self.monitor.update(Update("edge", f"release {split}", before + done, repeats * frames))
        if len(predictions):
            self._measured(split, predictions)
        if outbox is not None:
            outbox.close_stream()
        return True

    def _measure(self, learner: Learner, split: SplitName) -> Predictions:
        """Answers of another learner than the run's own."""
        predictions = Predictions()
        with self._every_image(split) as loader:
            for batch in loader:
                with self._computing(), self.random.active():
                    _, logits_BK = learner.infer(batch)
                assert logits_BK is not None
                self._add(predictions, batch, logits_BK)
        return predictions

    def _add(self, predictions: Predictions, batch: ImageBatch, logits_BK: torch.Tensor) -> None:
        loss = task_loss(logits_BK.cpu(), batch.labels, self.dataset.task.kind).item()
        predictions.add(batch.ids, batch.labels, self._probabilities(logits_BK), loss)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Counts the time inside as the edge's, less what the link took of it where it works in this thread."""
        inline = self.outbox.inline_seconds if self.outbox else 0.0
        begun = time.perf_counter()
        yield
        self.busy += time.perf_counter() - begun
        if self.outbox:
            self.busy -= self.outbox.inline_seconds - inline

    def _measured(self, split: str, predictions: Predictions) -> None:
        figures = predictions.figures()
        self.recorder.write(self.epoch, split, figures.model_dump())
        if split == "test":
            self.test = figures
            save_weights(self.folder / "predictions.safetensors", predictions.tensors())

    def _probabilities(self, logits_BK: torch.Tensor) -> torch.Tensor:
        return probabilities(logits_BK, self.dataset.task.kind)

    def _open(self, split: SplitName, frames: int) -> None:
        assert self.outbox is not None
        config, task = self.config, self.dataset.task
        method = get_method(config.method)
        answered = method.answered and split == "train"
        self.outbox.open(
            StreamHeader.of(
                run=self.run_id,
                agreement=config.agreement(),
                task=task,
                codec=config.codec_name,
                feature_shape=self.learner.feature_shape,
                feature_dtype=method.wire_dtype,
                answer_shape=self.learner.feature_shape if answered else None,
                batch_size=config.train.batch_size,
                epoch=self.epoch + self.sent,
                split=split,
                first_seq=self.outbox.next_seq,
                frames=frames,
                joined_frames=get_schedule(config.schedule).most_joined(frames),
                train_steps=self._per_epoch,
            )
        )

    # -- checkpoints

    def _checkpoint(self) -> None:
        number = self._epochs_done
        self.checkpoints.save(number, self._state())

        def confirm() -> None:
            Confirmed(checkpoint=number, traffic=self.traffic.totals()).write(self.folder / "confirmed.json")
            self.checkpoints.forget_before(number)

        if self.outbox is not None:
            self.outbox.after_sent(confirm)
        else:
            confirm()

    def _state(self) -> dict[str, Any]:
        teacher = self.learner.teacher
        return {
            "learner": self.learner.state(),
            # A teacher that has learned enough lies in a file of its own.
            "teacher": teacher.state() if teacher and self.taught < self.config.train.distill.epochs else None,
            "random": self.random.state,
            "run": self.run_id,
            "taught": self.taught,
            "epoch": self.epoch,
            "sent": self.sent,
            "next_seq": self.outbox.next_seq if self.outbox else 0,
            "busy": self.busy,
            "data_wait": self.data_wait,
            "data_busy": self.data_busy,
            "test": self.test and self.test.model_dump(),
            "teacher_val": self.teacher_val and self.teacher_val.model_dump(),
        }

    def _load(self) -> int:
        """Restore the newest confirmed checkpoint; returns the next sequence number."""
        run_file, confirmed_file = self.folder / "run.json", self.folder / "confirmed.json"
        if run_file.exists():
            facts = EdgeRun.read(run_file)
            self.run_id = facts.run
            if facts.data != self._data_print:
                raise RunError(
                    f"{self.config.data.path}: its images or labels are not those that {self.folder} began with, so "
                    "that what was released of whom would be wrong; restore the data set, or start a new run"
                )
        if not confirmed_file.exists():
            return 0
        confirmed = Confirmed.read(confirmed_file)
        state = self.checkpoints.load(confirmed.checkpoint)
        self.checkpoints.forget_after(confirmed.checkpoint)
        self.learner.load_state(state["learner"])
        if (teacher := self.learner.teacher) is not None:
            if state["teacher"] is not None:
                teacher.load_state(state["teacher"])
            else:
                teacher.modules["network"].load_state_dict(load_weights(self._teacher_file), strict=True)
        self.random.state = state["random"]
        self.taught, self.epoch, self.sent = state["taught"], state["epoch"], state["sent"]
        self.busy = state["busy"]
        self.test, self.teacher_val = (
            Figures.model_validate(state[key]) if state[key] else None for key in ("test", "teacher_val")
        )
        self.data_wait, self.data_busy = state["data_wait"], state["data_busy"]
        self.traffic = Traffic.of(confirmed.traffic)
        return int(state["next_seq"])

    def _reference_bytes(self) -> ReferenceBytes:
        """What one image would be otherwise: as JPEG, as raw pixels, as a float32 feature map."""
        split, shape = self.dataset.splits["train"], self.learner.feature_shape
        images_BCHW = split.read(np.arange(min(_JPEG_IMAGES, len(split)))).images_BCHW
        payload, side = get_codec("jpeg").encode(images_BCHW.numpy())
        return ReferenceBytes(
            jpeg_q90=(len(payload) + len(side)) / len(images_BCHW),
            raw_uint8=float(np.prod(images_BCHW.shape[1:])),
            feature_float32=4.0 * float(np.prod(shape)) if get_method(self.config.method).divides else None,
        )

    def _save_samples(self) -> None:
        split = self.dataset.splits["test"]
        shown = split.read(np.arange(min(_SAMPLE_IMAGES, len(split))))
        tensors = {"images": shown.images_BCHW, "ids": torch.from_numpy(shown.ids), "labels": shown.labels}
        save_weights(self.folder / "samples.safetensors", tensors, mode=PRIVATE)  # images

    def _close(self) -> None:
        if self.finished:
            self._save_samples()
        for name, module in self.learner.modules.items():
            save_weights(self.folder / f"{name}.safetensors", module.state_dict())
        self.recorder.close()
        EdgeSummary(
            threaded=self.threaded,
            finished=self.finished,
            session=Session(started=self.started, ended=time.time(), epochs=self._epochs_done - self._first_epoch),
            busy_seconds=self.busy,
            data_wait_seconds=self.data_wait,
            data_busy_seconds=self.data_busy,
            test=self.test,
            teacher_val=self.teacher_val,
            traffic=self.traffic.totals(),
            releases_per_image=self.gate.ledger.releases("train") if self.gate and self.finished else 0,
            privacy=privacy_summary(self.gate) if self.gate and self.finished else None,
            feature_shape=self.learner.feature_shape,
            reference_bytes=self._reference_bytes(),
            task=TaskFacts.model_validate(asdict(self.dataset.task)),
            images={str(name): count for name, count in self.images.items()},
            skipped=dict(self.dataset.skipped),
            notes=tuple(self.dataset.notes),
            peak_rss_bytes=peak_rss_bytes(),
            baseline_rss_bytes=self.baseline_rss,
        ).write(self.folder / "summary.json")
        if self.gate is not None:
            self.gate.ledger.close()


def _print_of(dataset: DataSet) -> str:
    """Identifies which images a data set holds under which ids, and how they are labelled."""
    digest = hashlib.sha256(repr(dataset.task).encode())
    for name, split in sorted(dataset.splits.items()):
        digest.update(f"{name} {len(split)}".encode())
        digest.update(np.ascontiguousarray(split.ids).tobytes())
        digest.update(split.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
