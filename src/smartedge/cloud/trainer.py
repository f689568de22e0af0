"""Trains the back on frames, in the order of their sequence numbers.

What it computes is a function of its settings and the frames alone: it knows nothing of sockets or threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smartedge.artifacts.results import Figures
from smartedge.augment import augment
from smartedge.cloud.store import FeatureLog
from smartedge.codec import get_codec, unpack_frame
from smartedge.config import Config
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.models.exits import probabilities, task_loss
from smartedge.models.network import to_input
from smartedge.models.optim import make_optimizer, set_learning_rate
from smartedge.runs.checkpoint import Checkpoints, save_weights
from smartedge.runs.predictions import Predictions
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import EncodedBatch, FeatureBatch, Frame, StreamHeader

__all__ = ["BackTrainer"]

_SHUFFLE_FRAMES = 64  # frames decoded at once when training from the log: bounds memory, mixes 64 batches


class BackTrainer:
    """The back, its optimizer, and how far it has come.

    Args:
        config: the run's settings.
        back: the part after the cut; the whole network where images are uploaded.
        device: where it computes.
        folder: the cloud's folder of the run: checkpoints, metrics and predictions go there.
        monitor: takes progress updates.
        resume: continue from the newest checkpoint in ``folder``.
    """

    def __init__(
        self, config: Config, back: nn.Module, *, device: torch.device, folder: Path, monitor: Monitor, resume: bool
    ) -> None:
        self.config = config
        self.back = back.to(device)
        if config.train.channels_last:
            self.back.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.folder = folder
        self.monitor = monitor
        train = config.train
        self.optimizer = make_optimizer(
            [self.back], name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
        )
        self.random = RandomStream(derive_seed(config.seed, "cloud"), device)
        self.epoch = 0  # epochs completed
        self.step = 0  # updates made
        self.next_seq = 0  # the frame to consume next
        self.finished = False
        self.busy = 0.0  # seconds of decoding and computing
        self.test: Figures | None = None
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self._predictions = Predictions()
        self._busy_recorded = 0.0
        if resume and (numbers := self.checkpoints.numbers()):
            self._load(numbers[-1])
        self.recorder = Recorder(folder, "cloud", resume_epoch=self.epoch)

    # -- following the stream: schedules "joint" and "two-stage", and split learning

    def consume(self, frame: Frame, header: StreamHeader) -> EncodedBatch | None:
        """Learn from (or be tested on) one frame; returns the gradient at the cut in split learning."""
        begun = time.perf_counter()
        reply = None
        batch = unpack_frame(frame, header)
        if header.split == "train":
            steps = header.train_steps * self.config.epochs
            gradient_BF = self._learn(batch, steps, want_gradient=header.answered)
            if gradient_BF is not None:
                payload, side = get_codec("float32").encode(gradient_BF.cpu().numpy())
                reply = EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side)
        else:
            self._evaluate(batch)
        self.busy += time.perf_counter() - begun
        self.next_seq = frame.seq + 1
        if frame.seq + 1 == header.end_seq:
            self._end_split(header.split)
        return reply

    def rewind(self, next_seq: int) -> bool:
        """Go back to the checkpoint from which ``next_seq`` is the next frame; False where there is none."""
        for number in reversed(self.checkpoints.numbers()):
            state = self.checkpoints.load(number)
            if state["next_seq"] == next_seq:
                self._restore(state)
                self.checkpoints.forget_after(number)
                self.recorder.close()
                self.recorder = Recorder(self.folder, "cloud", resume_epoch=self.epoch)
                return True
        return False

    # -- training from the log: schedule "freeze-and-log"

    def train_from_log(self, log: FeatureLog, *, stop: threading.Event | None = None) -> None:
        """All epochs over the frames of a complete log; every image in it was released once.

        Args:
            log: holds train, val and test frames.
            stop: when set, return after the current step.
        """
        seqs: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        images = 0
        for frame in log.frames():
            split = log.header_of(frame.seq).split
            seqs[split].append(frame.seq)
            images += len(frame.batch.ids) if split == "train" else 0
        batch_size = self.config.train.batch_size
        per_epoch = max(1, images // batch_size)
        self.step = self.epoch * per_epoch
        while self.epoch < self.config.epochs:
            begun = time.perf_counter()
            for batch in self._shuffled(log, seqs["train"], per_epoch):
                self._learn(batch, per_epoch * self.config.epochs)
                if stop is not None and stop.is_set():
                    return
            self._record("train")
            last_epoch = self.epoch + 1 == self.config.epochs
            for split in ("val", "test") if last_epoch else ("val",):
                for seq in seqs[split]:
                    self._evaluate(unpack_frame(log.frame(seq), log.header_of(seq)))
                self.busy += time.perf_counter() - begun
                begun = time.perf_counter()
                self._end_split(split)

    def _shuffled(self, log: FeatureLog, seqs: list[int], steps: int) -> Iterator[FeatureBatch]:
        """``steps`` batches in an order that depends on seed and epoch alone, holding ``_SHUFFLE_FRAMES`` at a time."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "log", self.epoch))
        order = torch.randperm(len(seqs), generator=generator).tolist()
        size = self.config.train.batch_size
        held: list[FeatureBatch] = []
        rest: FeatureBatch | None = None
        given = 0
        for place, index in enumerate(order):
            held.append(unpack_frame(log.frame(seqs[index]), log.header_of(seqs[index])))
            if len(held) < _SHUFFLE_FRAMES and place + 1 < len(order):
                continue
            pool = _join([rest, *held] if rest is not None else held)
            held = []
            mixed = torch.randperm(len(pool.ids), generator=generator).numpy()
            whole = max(1, len(mixed) // size) if place + 1 == len(order) else len(mixed) // size
            for part in range(whole):
                if given < steps:
                    given += 1
                    yield _take(pool, mixed[part * size : (part + 1) * size])
            rest = _take(pool, mixed[whole * size :])

    # -- the work itself

    def _inputs(self, batch: FeatureBatch, *, learning: bool) -> Tensor:
        decoded_BF = torch.from_numpy(batch.features_BF)
        if decoded_BF.dtype == torch.uint8:
            images_BCHW = decoded_BF
            if learning:
                generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "augment", self.step))
                images_BCHW = augment(images_BCHW, generator=generator, kind=self.config.data.augment)
            return to_input(images_BCHW, self.device, channels_last=self.config.train.channels_last)
        features_BF = decoded_BF.to(self.device)
        if self.config.train.channels_last and features_BF.dim() == 4:
            features_BF = features_BF.contiguous(memory_format=torch.channels_last)
        return features_BF

    def _learn(self, batch: FeatureBatch, steps: int, *, want_gradient: bool = False) -> Tensor | None:
        train = self.config.train
        with self.random.active():
            self.back.train()
            set_learning_rate(self.optimizer, peak=train.lr, step=self.step, steps=steps)
            labels = torch.from_numpy(batch.labels).to(self.device)
            result = cloud_step(
                self.back,
                self.optimizer,
                self._inputs(batch, learning=True),
                labels,
                _kind(labels),
                label_epsilon=self.config.dp.label_epsilon,
                want_gradient=want_gradient,
                precision=train.precision,
                label_smoothing=train.label_smoothing,
                clip_norm=train.clip_grad_norm,
            )
        self.step += 1
        self._predictions.add(batch.ids, labels.cpu(), probabilities(result.logits_BK, _kind(labels)), result.loss)
        done = min(self.step, steps)
        if done == steps or done % 4 == 0:
            text = f"epoch {self.epoch + 1}/{self.config.epochs} loss {result.loss:.3f}"
            self.monitor.update(Update("cloud", "train", done, steps, text))
        return result.gradient_BF

    def _evaluate(self, batch: FeatureBatch) -> None:
        with self.random.active():
            self.back.eval()
            logits_BK = cloud_forward(
                self.back, self._inputs(batch, learning=False), precision=self.config.train.precision
            ).cpu()
        labels = torch.from_numpy(batch.labels)
        kind = _kind(labels)
        loss = task_loss(logits_BK, labels, kind).item()
        self._predictions.add(batch.ids, labels, probabilities(logits_BK, kind), loss)

    def _record(self, split: str) -> None:
        predictions, self._predictions = self._predictions, Predictions()
        figures = predictions.figures()
        self.recorder.write(self.epoch, split, {**figures.model_dump(), "seconds": self.busy - self._busy_recorded})
        self._busy_recorded = self.busy
        if split == "test":
            self.test = figures
            save_weights(self.folder / "predictions.safetensors", predictions.tensors())

    def _end_split(self, split: str) -> None:
        self._record(split)
        last_epoch = self.epoch + 1 == self.config.epochs
        if split == ("test" if last_epoch else "val"):
            self.epoch += 1
            self.finished = last_epoch
            self.checkpoints.save(self.epoch, self._state())
            self.checkpoints.forget_before(self.epoch - 1)  # split learning may have to go back one

    def _state(self) -> dict[str, Any]:
        return {
            "back": self.back.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.random.state,
            "epoch": self.epoch,
            "step": self.step,
            "next_seq": self.next_seq,
            "busy": self.busy,
            "finished": self.finished,
            "test": self.test and self.test.model_dump(),
        }

    def _load(self, number: int) -> None:
        self._restore(self.checkpoints.load(number))

    def _restore(self, state: dict[str, Any]) -> None:
        self.back.load_state_dict(state["back"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.state = state["random"]
        self.epoch, self.step, self.next_seq = state["epoch"], state["step"], state["next_seq"]
        self.busy, self.finished = state["busy"], state["finished"]
        self.test = Figures.model_validate(state["test"]) if state["test"] else None
        self._predictions, self._busy_recorded = Predictions(), self.busy


def _kind(labels: Tensor) -> str:
    return "multi" if labels.dim() == 2 else "single"


def _join(batches: list[FeatureBatch]) -> FeatureBatch:
    ids = np.concatenate([batch.ids for batch in batches])
    features_BF = np.concatenate([batch.features_BF for batch in batches])
    return FeatureBatch(ids, features_BF, np.concatenate([batch.labels for batch in batches]))


def _take(batch: FeatureBatch, index: np.ndarray) -> FeatureBatch:
    return FeatureBatch(batch.ids[index], batch.features_BF[index], batch.labels[index])
