"""Trains the back. Its results depend on settings and frames alone, not on the link or on timing."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smartedge.artifacts.results import Figures
from smartedge.cloud.inputs import Inputs, Ready
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.order.label_shares import LabelShares
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.order.supply import Supply
from smartedge.cloud.workers.group import ALONE, Group
from smartedge.cloud.workers.shared_step import divided, shared_step
from smartedge.config import Config
from smartedge.methods.back_step import CloudStep, cloud_forward, cloud_step, image_losses
from smartedge.methods.loop import (
    Progress,
    fit,
    load_training_state,
    take_step,
    training_state,
    warmup_cosine,
)
from smartedge.methods.options import optimizer_of, options_of, place
from smartedge.models.entrances import Entering
from smartedge.models.exits import task_loss
from smartedge.models.network import to_device
from smartedge.runs.checkpoint import Checkpoints, State, save_weights
from smartedge.runs.predictions import Predictions
from smartedge.runs.progress import Monitor, Update, epoch_line
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import FeatureBatch, SplitName, StreamHeader

__all__ = ["BackTrainer"]


class BackTrainer:
    """The back, its optimizer, and how far it has come.

    Args:
        config: the run's settings.
        back: the part after the cut; the whole network where images are uploaded.
        task_kind: of the run's task.
        device: where it computes.
        folder: the cloud's folder of the run: checkpoints, metrics and predictions go there.
        monitor: takes progress updates.
        resume: continue from the newest checkpoint in ``folder``.
        group: the workers that train it. The first one alone writes files.
    """

    def __init__(
        self,
        config: Config,
        back: nn.Module,
        *,
        task_kind: Literal["single", "multi"],
        device: torch.device,
        folder: Path,
        monitor: Monitor,
        resume: bool,
        group: Group = ALONE,
    ) -> None:
        self.config = config
        self.back = place(back, config, device)
        self.task_kind = task_kind
        self.device = device
        self.folder = folder
        self.monitor = monitor
        self.group = group
        self.optimizer = optimizer_of(config, [self.back])
        self._rates = warmup_cosine(self.optimizer, config.train.lr)
        self.random = RandomStream(derive_seed(config.seed, "cloud"), device)
        self.progress = Progress(config.epochs, steps_per_epoch=1)  # the number of steps is known when frames have come
        self.next_seq = 0  # the frame to learn from next; of several edges, the line of the journal
        self.busy = 0.0  # seconds of decoding and computing
        self.test: Figures | None = None
        self.supply: Supply | None = None  # of a training from logs
        self.latest_loss: Tensor | None = None  # (), of a training step
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.label_shares = LabelShares(config.dp.label_epsilon)  # of several edges
        self._inputs = Inputs(config, self.back, device, self.label_shares)
        self._learn = self._learn_whole if config.cloud.shards == 1 else self._learn_shards
        self.test_images: Counter[str] = Counter()  # edge -> its images among the predictions of the test split
        self._predictions = Predictions()
        self._validation = Predictions()  # of several edges, whose validation frames come between training frames
        self._busy_recorded = 0.0
        if resume and (numbers := self.checkpoints.numbers()):
            self._restore(self.checkpoints.load(numbers[-1]))
        self.recorder = self._open_recorder()

    @property
    def finished(self) -> bool:
        """Whether all epochs are completed."""
        return self.progress.epoch >= self.config.epochs

    def close(self) -> None:
        """Close the files of figures."""
        if self.recorder is not None:
            self.recorder.close()

    def _open_recorder(self) -> Recorder | None:
        return Recorder(self.folder, "cloud", resume_epoch=self.progress.epoch) if self.group.leads else None

    # -- frames that come in sequence

    def consume(self, header: StreamHeader, seq: int, batch: FeatureBatch) -> Tensor | None:
        """Learn from frame ``seq`` of a stream, or evaluate it. Returns the gradient at the cut, if answered.

        The gradient is float32 (B, *F), on the CPU.
        """
        begun = time.perf_counter()
        gradient_BF: Tensor | None = None
        if header.split == "train":
            self.progress.steps_per_epoch = header.train_steps
            step = partial(self._learn, want_gradient=header.answered)
            result = take_step(step, Ready(batch), self.progress, rates=self._rates, random=self.random)
            gradient_BF = None if result.gradient_BF is None else result.gradient_BF.cpu()
            if self.progress.is_told:
                self._report(self.progress)
        else:
            self._evaluate(batch)
        self.busy += time.perf_counter() - begun
        self._pass(header, seq)
        return gradient_BF

    def skip(self, header: StreamHeader, seq: int) -> None:
        """Go past frame ``seq``, which was lost on the way. A training frame counts as a step that changed nothing."""
        if header.split == "train":
            self.progress.steps_per_epoch = header.train_steps
            self.progress.step += 1
        self._pass(header, seq)

    def _pass(self, header: StreamHeader, seq: int) -> None:
        """Frame ``seq`` is done. At a stream's end its figures are written, and at an epoch's end a checkpoint."""
        self.next_seq = seq + 1
        if self.next_seq == header.end_seq:
            last_epoch = self.progress.epoch + 1 == self.config.epochs
            self._record(self.progress.epoch, header.split)
            if header.split == ("test" if last_epoch else "val"):
                self.progress.epoch += 1
                self.save()

    def rewind(self, next_seq: int) -> bool:
        """Go back to the checkpoint from which ``next_seq`` is the next frame; False where there is none."""
        for number in reversed(self.checkpoints.numbers()):
            state = self.checkpoints.load(number)
            if state["next_seq"] == next_seq:
                self._restore(state)
                self.checkpoints.forget_after(number)
                self.close()
                self.recorder = self._open_recorder()
                return True
        return False

    # -- frames of several edges

    def learn_mixed(self, batch: FeatureBatch) -> NDArray[np.float64]:
        """Learn from images of several edges. Returns the loss of each before the update, float64 (B,)."""
        begun = time.perf_counter()
        result = take_step(self._learn, Ready(batch), self.progress, rates=self._rates, random=self.random)
        if self.progress.is_told:
            self._report(self.progress)
        losses_B = image_losses(result.logits_BK.cpu(), torch.from_numpy(batch.labels))
        self.busy += time.perf_counter() - begun
        return losses_B

    def can_learn(self, batch: FeatureBatch) -> bool:
        """Whether an update on this batch alone succeeds, with finite results. It is tried on a copy of the back."""
        kept, optimizer = copy.deepcopy(self.back.state_dict()), copy.deepcopy(self.optimizer.state_dict())
        predictions, self._predictions = self._predictions, Predictions()
        try:
            with self.random.active():
                result = self._learn_whole(Ready(batch), self.progress)
            whole = all(bool(tensor.isfinite().all()) for tensor in self.back.state_dict().values())
            return whole and bool(result.logits_BK.isfinite().all())
        except (ValueError, RuntimeError, ArithmeticError):
            return False
        finally:
            self._predictions = predictions
            self.optimizer.load_state_dict(optimizer)
            self.back.load_state_dict(kept)

    def validate(self, batch: FeatureBatch) -> None:
        """Evaluate validation images, between training steps."""
        begun = time.perf_counter()
        self._evaluate(batch, self._validation)
        self.busy += time.perf_counter() - begun

    def end_epochs(self, steps_per_epoch: int) -> None:
        """Record and write a checkpoint where another epoch's number of steps is done. The last epoch is left open."""
        epoch = min(self.config.epochs - 1, self.progress.step // steps_per_epoch)
        if epoch > self.progress.epoch:
            self._record_mixed(epoch - 1)
            self.progress.epoch = epoch
            self.save()

    def finish(self, val: Iterator[tuple[str, FeatureBatch]], test: Iterator[tuple[str, FeatureBatch]]) -> None:
        """Evaluate the validation images that are left, and the test images. Nothing is learned after that.

        Args:
            val: edge and batch.
            test: edge and batch, one edge after the other.
        """
        begun = time.perf_counter()
        for _, batch in val:
            self._evaluate(batch, self._validation)
        last = self.config.epochs - 1
        self._record_mixed(last)
        for edge, batch in test:
            self._evaluate(batch)
            self.test_images[edge] += len(batch.ids)
        if len(self._predictions):
            self._record(last, "test")
        self.progress.epoch = self.config.epochs
        self.busy += time.perf_counter() - begun

    def _record_mixed(self, epoch: int) -> None:
        if len(self._predictions):
            self._record(epoch, "train")
        if len(self._validation):
            self._predictions, self._validation = self._validation, Predictions()
            self._record(epoch, "val")

    # -- frames that were sent once

    def train_from(
        self, frames: Shuffled, *, influence: Influence | None = None, stop: threading.Event | None = None
    ) -> None:
        """Train all epochs on a complete log; returns after the current step where ``stop`` is set.

        Args:
            frames: the log.
            influence: gets the loss of each image, of several edges; not where the back is trained in shards.
            stop: ends the training.
        """
        progress = self.progress
        progress.steps_per_epoch = frames.steps
        progress.step = progress.epoch * frames.steps
        begun = time.perf_counter()
        self.label_shares.clear()
        for edge, labels, outputs in frames.labels():
            self.label_shares.see(edge, labels, outputs)

        def spent() -> None:
            nonlocal begun
            now = time.perf_counter()
            self.busy += now - begun
            begun = now

        def after_epoch(progress: Progress) -> None:
            spent()
            self._record(progress.epoch - 1, "train")
            splits: tuple[SplitName, ...] = ("val", "test") if self.finished else ("val",)
            for split in splits:
                for batch in frames.split(split):
                    self._evaluate(batch)
                spent()
                self._record(progress.epoch - 1, split)
            self.save()

        self.supply = Supply(frames, self._inputs, self.config.cloud.shards, self.group)

        def learn(ready: Ready, progress: Progress) -> CloudStep:
            batch, result = ready.batch, self._learn(ready, progress)
            if influence is not None and isinstance(batch, FeatureBatch) and batch.edge_B is not None:
                influence.note(batch.edge_B, image_losses(result.logits_BK.cpu(), torch.from_numpy(batch.labels)))
            return result

        fit(
            learn,
            self.supply.epoch,
            progress,
            rates=self._rates,
            random=self.random,
            report=self._report,
            after_epoch=after_epoch,
            stop=lambda: self.group.agree(lambda: "stop" if stop is not None and stop.is_set() else "") == "stop",
        )

    # -- one batch

    def _learn_whole(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        """One update with all images of the batch at once."""
        batch, inputs = ready.batch, ready.inputs
        assert isinstance(batch, FeatureBatch)
        self.back.train()
        labels = torch.from_numpy(batch.labels)
        result = cloud_step(
            self.back,
            self.optimizer,
            self._inputs.of(batch, (progress.step,)) if inputs is None else inputs[0],
            to_device(labels, self.device),
            self.task_kind,
            label_epsilon=self.config.dp.label_epsilon,
            want_gradient=want_gradient,
            options=options_of(self.config),
        )
        self._predictions.add(batch.ids, labels, result.logits_BK, result.loss)
        self.latest_loss = result.loss
        return result

    def _learn_shards(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        """One update with the shards of this worker and those of the others."""
        assert not want_gradient  # the settings refuse shards where frames are answered
        step, inputs, shards = ready.batch, ready.inputs, self.config.cloud.shards
        if isinstance(step, FeatureBatch):
            step = divided(step, shards, self.group.own(shards))

        def taken(number: int, batch: FeatureBatch) -> Tensor | Entering:
            return self._inputs.of(batch, (progress.step, number)) if inputs is None else inputs[number]

        self.back.train()
        told = shared_step(
            self.back,
            self.optimizer,
            step,
            taken,
            self.group,
            label_epsilon=self.config.dp.label_epsilon,
            options=options_of(self.config),
        )
        self._predictions.add(told.ids, told.labels, told.logits_BK, told.loss)
        return CloudStep(told.logits_BK, torch.tensor(told.loss), None)

    def _evaluate(self, batch: FeatureBatch, into: Predictions | None = None) -> None:
        with self.random.active():  # in all workers, so that they draw the same numbers
            if not self.group.leads:
                return
            self.back.eval()
            inputs_BF = self._inputs.of(batch, None)
            logits_BK = cloud_forward(self.back, inputs_BF, precision=self.config.train.precision).cpu()
        labels = torch.from_numpy(batch.labels)
        loss = task_loss(logits_BK, labels, self.task_kind).item()
        (self._predictions if into is None else into).add(batch.ids, labels, logits_BK, loss)

    def _report(self, progress: Progress) -> None:
        epoch = min(progress.epoch + 1, progress.epochs)
        text = f"epoch {epoch}/{progress.epochs} loss {self._predictions.latest_loss:.3f}"
        self.monitor.update(Update("cloud", "train", progress.step, progress.steps, text))

    # -- files

    def _record(self, epoch: int, split: SplitName) -> None:
        predictions, self._predictions = self._predictions, Predictions()
        if self.recorder is None or not len(predictions):  # or every frame of it was lost on the way
            return
        figures = predictions.figures()
        self.recorder.write(epoch, split, {**figures.model_dump(), "seconds": self.busy - self._busy_recorded})
        self._busy_recorded = self.busy
        if split != "train":
            self.monitor.update(epoch_line("cloud", epoch, self.config.epochs, split, figures))
        if split == "test":
            self.test = figures
            save_weights(self.folder / "predictions.safetensors", predictions.tensors())

    def save(self) -> None:
        """Write a checkpoint."""
        if not self.group.leads:
            return
        state = {
            **training_state({"back": self.back}, self.optimizer, self.random, self.progress),
            "next_seq": self.next_seq,
            "busy": self.busy,
            "test": self.test and self.test.model_dump(),
            "label_shares": self.label_shares.state(),
        }
        self.checkpoints.save(self.progress.epoch, state)
        self.checkpoints.forget_before(self.progress.epoch - 1)  # split learning may have to go back one

    def _restore(self, state: State) -> None:
        load_training_state(state, {"back": self.back}, self.optimizer, self.random, self.progress)
        self.next_seq, self.busy = state["next_seq"], state["busy"]
        self.test = Figures.model_validate(state["test"]) if state["test"] else None
        self.label_shares.load_state(state["label_shares"])
        self._predictions, self._validation = Predictions(), Predictions()
        self._busy_recorded = self.busy
