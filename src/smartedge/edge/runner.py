"""One run as the edge sees it: epochs over the images, checkpoints, streams."""

from __future__ import annotations

import json
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
from safetensors.torch import save_file

from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.data import DataSet, batches
from smartedge.edge.learners import make_learner
from smartedge.edge.outbox import Outbox, Traffic
from smartedge.errors import ConfigError, RunError
from smartedge.models.exits import probabilities, task_loss
from smartedge.runs.checkpoint import Checkpoints, save_weights, write_json_atomically
from smartedge.runs.machine import peak_rss_bytes, pick_device, rss_bytes
from smartedge.runs.meter import Meter
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import SplitName, StreamHeader
from smartedge.wire.frame import PROTOCOL
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
        sender: the link; None for method ``edge``.
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
        self.learner = make_learner(config, dataset.task, self.device)
        self.random = RandomStream(derive_seed(config.seed, "edge"))
        self.epoch = 0  # epochs completed, of those in which the front learns
        self.step = 0
        self.traffic = Traffic()
        self.releases: Counter[int] = Counter()
        self.busy = 0.0  # seconds of computing
        self.data_wait = 0.0
        self.data_busy = 0.0
        self.test: dict[str, Any] | None = None
        self.finished = False
        self.threaded = threaded and config.method != "split"
        next_seq = 0
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.run_id = uuid.uuid4().hex
        if resume:
            next_seq = self._load()
        write_json_atomically(folder / "run.json", {"run": self.run_id})
        self._first_epoch = self.epoch
        self.recorder = Recorder(folder, "edge", resume_epoch=self.epoch)
        self.outbox = (
            Outbox(
                sender,
                get_codec(config.codec_name),
                next_seq=next_seq,
                queue_frames=config.link.queue_frames,
                threaded=self.threaded,
                traffic=self.traffic,
                releases=self.releases,
            )
            if sender is not None
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
        logs_once = self.config.schedule == "freeze-and-log"
        front_epochs = 0 if logs_once and not self.learner.modules else self._learning_epochs
        while self.epoch < front_epochs:
            last = self.epoch + 1 == front_epochs
            streams = not logs_once
            if not self._learn_epoch(stop, send=streams):
                return False
            for split in ("val", "test") if last else ("val",):
                self._pass(split, send=streams, measure=True)
            self._end_epoch()
        if logs_once:
            every: tuple[SplitName, ...] = ("train", "val", "test")
            for split in every:
                if not self._pass(split, send=True, measure=False, stop=stop):
                    return False
        return True

    @property
    def _learning_epochs(self) -> int:
        return self.config.front_epochs if self.config.schedule == "freeze-and-log" else self.config.epochs

    def _learn_epoch(self, stop: threading.Event, *, send: bool) -> bool:
        size = self.config.train.batch_size
        per_epoch = max(1, self.images["train"] // size)
        steps = per_epoch * self._learning_epochs
        outbox = self.outbox if send else None
        meter = Meter()
        busy_before = self.busy
        # Uploaded images are augmented where they are learned from: in the cloud.
        augment = "none" if self.config.method == "cloud" else self.config.data.augment
        if outbox is not None:
            self._open("train", per_epoch)
        with batches(
            self.dataset.splits["train"],
            size,
            seed=self.config.seed,
            epoch=self.epoch,
            shuffle=True,
            augment=augment,
            drop_last=self.images["train"] >= size,
        ) as loader:
            for batch in loader:
                if stop.is_set():
                    return False
                with self._computing(), self.random.active():
                    result = self.learner.learn(batch, self.step, steps, outbox)
                self.step += 1
                text = f"epoch {self.epoch + 1}/{self._learning_epochs}"
                if result is not None:
                    logits_BK, loss = result
                    meter.add(batch.ids, batch.labels, self._probabilities(logits_BK), loss)
                    text += f" loss {loss:.3f}"
                if self.step % 4 == 0 or self.step == steps:
                    self.monitor.update(Update("edge", "train", self.step, steps, text))
        self.data_wait += loader.wait_seconds
        self.data_busy += loader.busy_seconds
        if len(meter):
            self.recorder.write(self.epoch, "train", {**meter.values(), "seconds": self.busy - busy_before})
        if outbox is not None:
            outbox.close_stream()
        return True

    def _pass(self, split: SplitName, *, send: bool, measure: bool, stop: threading.Event | None = None) -> bool:
        """Once over a split without learning: measure the edge's own head, send what the cloud needs, or both."""
        size = self.config.train.batch_size
        frames = -(-self.images[split] // size)
        outbox = self.outbox if send else None
        meter = Meter()
        if outbox is not None:
            self._open(split, frames)
        with batches(
            self.dataset.splits[split], size, seed=self.config.seed, epoch=0, shuffle=False, augment="none"
        ) as loader:
            for done, batch in enumerate(loader, start=1):
                if stop is not None and stop.is_set():
                    return False
                with self._computing(), self.random.active():
                    features_BF, logits_BK = self.learner.infer(batch)
                if outbox is not None and features_BF is not None:
                    outbox.send(batch.ids, features_BF, batch.labels)
                if measure and logits_BK is not None:
                    loss = task_loss(logits_BK.cpu(), batch.labels, self.dataset.task.kind).item()
                    meter.add(batch.ids, batch.labels, self._probabilities(logits_BK), loss)
                if not measure:
                    self.monitor.update(Update("edge", f"release {split}", done, frames))
        if len(meter):
            self._measured(split, meter)
        if outbox is not None:
            outbox.close_stream()
        return True

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Counts the time inside as the edge's, less what the link took of it where it works in this thread."""
        inline = self.outbox.inline_seconds if self.outbox else 0.0
        begun = time.perf_counter()
        yield
        self.busy += time.perf_counter() - begun
        if self.outbox:
            self.busy -= self.outbox.inline_seconds - inline

    def _measured(self, split: str, meter: Meter) -> None:
        values = meter.values()
        self.recorder.write(self.epoch, split, values)
        if split == "test":
            self.test = values
            save_file(meter.predictions(), self.folder / "predictions.safetensors")

    def _probabilities(self, logits_BK: torch.Tensor) -> torch.Tensor:
        return probabilities(logits_BK, self.dataset.task.kind)

    def _open(self, split: SplitName, frames: int) -> None:
        assert self.outbox is not None
        config, task = self.config, self.dataset.task
        assert config.method != "edge"
        self.outbox.open(
            StreamHeader(
                protocol=PROTOCOL,
                run=self.run_id,
                agreement=json.dumps(config.agreement(), sort_keys=True),
                method=config.method,
                schedule=config.schedule,
                codec=config.codec_name,
                feature_shape=self.learner.feature_shape,
                feature_dtype="uint8" if config.method == "cloud" else "float32",
                task_kind=task.kind,
                outputs=task.outputs,
                batch_size=config.train.batch_size,
                epoch=self.epoch,
                split=split,
                first_seq=self.outbox.next_seq,
                frames=frames,
                train_steps=max(1, self.images["train"] // config.train.batch_size),
            )
        )

    # -- checkpoints

    def _end_epoch(self) -> None:
        self.epoch += 1
        state = self._state()
        self.checkpoints.save(self.epoch, state)
        epoch = self.epoch

        def confirm() -> None:
            write_json_atomically(
                self.folder / "confirmed.json",
                {"epoch": epoch, "traffic": asdict(self.traffic), "releases": sorted(self.releases.items())},
            )
            self.checkpoints.forget_before(epoch)

        if self.outbox is not None:
            self.outbox.after_sent(confirm)
        else:
            confirm()

    def _state(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.learner.modules.items()},
            "optimizer": self.learner.optimizer.state_dict() if self.learner.optimizer else {},
            "random": self.random.state,
            "run": self.run_id,
            "epoch": self.epoch,
            "step": self.step,
            "next_seq": self.outbox.next_seq if self.outbox else 0,
            "busy": self.busy,
            "data_wait": self.data_wait,
            "data_busy": self.data_busy,
            "test": self.test,
        }

    def _load(self) -> int:
        """Restore the newest confirmed checkpoint; returns the next sequence number."""
        run_file, confirmed_file = self.folder / "run.json", self.folder / "confirmed.json"
        if run_file.exists():
            self.run_id = json.loads(run_file.read_text(encoding="utf-8"))["run"]
        if not confirmed_file.exists():
            return 0
        confirmed = json.loads(confirmed_file.read_text(encoding="utf-8"))
        state = self.checkpoints.load(confirmed["epoch"])
        self.checkpoints.forget_after(confirmed["epoch"])
        for name, module in self.learner.modules.items():
            module.load_state_dict(state["modules"][name], strict=True)
        if self.learner.optimizer is not None:
            self.learner.optimizer.load_state_dict(state["optimizer"])
        self.random.state = state["random"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.busy, self.test = state["busy"], state["test"]
        self.data_wait, self.data_busy = state["data_wait"], state["data_busy"]
        self.traffic = Traffic(**confirmed["traffic"])
        self.releases = Counter(dict(confirmed["releases"]))
        return int(state["next_seq"])

    def _reference_bytes(self) -> dict[str, float | None]:
        """What one image would be otherwise: as JPEG, as raw pixels, as a float32 feature map."""
        split, shape = self.dataset.splits["train"], self.learner.feature_shape
        images_BCHW = split.read(np.arange(min(_JPEG_IMAGES, len(split)))).images_BCHW
        payload, side = get_codec("jpeg").encode(images_BCHW)
        sends_features = self.config.method in ("hierarchical", "split")
        return {
            "jpeg_q90": (len(payload) + len(side)) / len(images_BCHW),
            "raw_uint8": float(np.prod(images_BCHW.shape[1:])),
            "feature_float32": 4.0 * float(np.prod(shape)) if sends_features else None,
        }

    def _save_samples(self) -> None:
        split = self.dataset.splits["test"]
        shown = split.read(np.arange(min(_SAMPLE_IMAGES, len(split))))
        tensors = {"images": shown.images_BCHW, "ids": torch.from_numpy(shown.ids), "labels": shown.labels}
        save_weights(self.folder / "samples.safetensors", tensors)

    def _close(self) -> None:
        if self.finished:
            self._save_samples()
        for name, module in self.learner.modules.items():
            save_weights(self.folder / f"{name}.safetensors", module.state_dict())
        self.recorder.close()
        write_json_atomically(
            self.folder / "summary.json",
            {
                "side": "edge",
                "threaded": self.threaded,
                "finished": self.finished,
                "session": {
                    "started": self.started,
                    "ended": time.time(),
                    "epochs": self.epoch - self._first_epoch,
                },
                "busy_seconds": self.busy,
                "data_wait_seconds": self.data_wait,
                "data_busy_seconds": self.data_busy,
                "test": self.test,
                "traffic": asdict(self.traffic),
                "releases_per_image": max(self.releases.values(), default=0),
                "feature_shape": list(self.learner.feature_shape),
                "reference_bytes": self._reference_bytes(),
                "task": asdict(self.dataset.task),
                "images": self.images,
                "skipped": dict(self.dataset.skipped),
                "notes": list(self.dataset.notes),
                "peak_rss_bytes": peak_rss_bytes(),
                "baseline_rss_bytes": self.baseline_rss,
            },
        )
