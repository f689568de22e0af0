"""Updates and evaluates the back with one batch, and keeps its figures and checkpoints.

Which batches come, and in which order, is the job of the three trainings in :mod:`smartedge.cloud.training`. Results
depend on settings and frames alone, not on the link or on timing.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from smartedge.artifacts.results import Figures
from smartedge.cloud.inputs import Inputs, Ready
from smartedge.cloud.label_shares import LabelShares
from smartedge.cloud.workers.group import ALONE, Group
from smartedge.cloud.workers.shared_step import divided, shared_step
from smartedge.config import Config, changes_in_words
from smartedge.errors import RunError
from smartedge.methods.back_step import CloudStep, cloud_forward, cloud_step, image_losses
from smartedge.methods.loop import Progress, load_training_state, training_state, warmup_cosine
from smartedge.methods.options import optimizer_of, options_of, place
from smartedge.models.entrances import Entering
from smartedge.models.exits import task_loss
from smartedge.models.network import to_device
from smartedge.runs.checkpoint import Checkpoints, State, save_weights
from smartedge.runs.machine import versions
from smartedge.runs.predictions import Predictions
from smartedge.runs.progress import Monitor, Update, epoch_line
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import FeatureBatch, SplitName

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
        self.rates = warmup_cosine(self.optimizer, config.train.lr)
        self.random = RandomStream(derive_seed(config.seed, "cloud"), device)
        self.progress = Progress(config.epochs, steps_per_epoch=1)  # the number of steps is known when frames have come
        self.next_seq = 0  # the frame to learn from next; of several edges, the line of the journal
        self.busy = 0.0  # seconds of decoding and computing
        self.test: Figures | None = None
        self.latest_loss: Tensor | None = None  # (), of a training step
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.label_shares = LabelShares(config.dp.label_epsilon)  # of several edges
        self.inputs = Inputs(config, self.back, device, self.label_shares)
        self.learn = self.learn_whole if config.cloud.shards == 1 else self._learn_shards
        self.test_images: Counter[str] = Counter()  # edge -> its images among the predictions of the test split
        self.predictions: dict[SplitName, Predictions] = defaultdict(Predictions)  # since the split was last recorded
        self._busy_recorded = 0.0
        if resume and (numbers := self.checkpoints.numbers()):
            state = self.checkpoints.load(numbers[-1])
            self._refuse_other_settings(state)
            self._restore(state)
        self.recorder = self._open_recorder()

    @property
    def finished(self) -> bool:
        """Whether all epochs are completed."""
        return self.progress.epoch >= self.config.epochs

    def facts(self) -> dict[str, JsonValue]:
        """What must be equal at all workers before they go on: versions, settings, and the checkpoint."""
        return {
            "torch": torch.__version__,
            "smartedge": versions().get("smartedge"),
            "settings": self.config.cloud_identity(),
            "completed epochs": self.progress.epoch,
        }

    def close(self) -> None:
        """Close the files of figures."""
        if self.recorder is not None:
            self.recorder.close()

    def _open_recorder(self) -> Recorder | None:
        return Recorder(self.folder, "cloud", resume_epoch=self.progress.epoch) if self.group.leads else None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, the time counts as busy."""
        begun = time.perf_counter()
        yield
        self.busy += time.perf_counter() - begun

    # -- one batch

    def learn_whole(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        """One update with all images of the batch at once."""
        batch, inputs = ready.batch, ready.inputs
        assert isinstance(batch, FeatureBatch)
        self.back.train()
        labels = torch.from_numpy(batch.labels)
        result = cloud_step(
            self.back,
            self.optimizer,
            self.inputs.of(batch, (progress.step,)) if inputs is None else inputs[0],
            to_device(labels, self.device),
            self.task_kind,
            label_epsilon=self.config.dp.label_epsilon,
            want_gradient=want_gradient,
            options=options_of(self.config),
        )
        self.predictions["train"].add(batch.ids, labels, result.logits_BK, result.loss)
        self.latest_loss = result.loss
        return result

    def image_losses(self, batch: FeatureBatch, step: CloudStep) -> NDArray[np.float64]:
        """The loss of each image of several edges before the update, float64 (B,), without logit adjustment.

        The adjustment tells the back how often an edge sends each label. So an edge of one class has hardly any
        adjusted loss, and an ordinary edge among such ones would seem to be an outlier.
        """
        assert batch.edge_B is not None
        logits_BK = step.logits_BK.cpu()
        offsets = self.label_shares.offsets(batch.edge_B) if self.config.fleet.logit_adjustment else None
        if offsets is not None:
            logits_BK = logits_BK - torch.from_numpy(offsets)
        return image_losses(logits_BK, torch.from_numpy(batch.labels))

    def _learn_shards(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        """One update with the shards of this worker and those of the others."""
        assert not want_gradient  # the settings refuse shards where frames are answered
        step, inputs, shards = ready.batch, ready.inputs, self.config.cloud.shards
        if isinstance(step, FeatureBatch):
            step = divided(step, shards, self.group.own(shards))

        def taken(number: int, batch: FeatureBatch) -> Tensor | Entering:
            return self.inputs.of(batch, (progress.step, number)) if inputs is None else inputs[number]

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
        self.predictions["train"].add(told.ids, told.labels, told.logits_BK, told.loss)
        return CloudStep(told.logits_BK, torch.tensor(told.loss), None)

    def evaluate(self, batch: FeatureBatch, split: SplitName) -> None:
        """Add the back's answers to the predictions of a split. Nothing is learned."""
        with self.random.active():  # in all workers, so that they draw the same numbers
            if not self.group.leads:
                return
            self.back.eval()
            inputs_BF = self.inputs.of(batch, None)
            logits_BK = cloud_forward(self.back, inputs_BF, precision=self.config.train.precision).cpu()
        labels = torch.from_numpy(batch.labels)
        loss = task_loss(logits_BK, labels, self.task_kind).item()
        self.predictions[split].add(batch.ids, labels, logits_BK, loss)

    def report(self, progress: Progress) -> None:
        """Tell the monitor how far the training is, after every fourth step."""
        if not progress.is_told:
            return
        epoch = min(progress.epoch + 1, progress.epochs)
        text = f"epoch {epoch}/{progress.epochs} loss {self.predictions['train'].latest_loss:.3f}"
        self.monitor.update(Update("cloud", "train", progress.step, progress.steps, text))

    # -- files

    def record(self, epoch: int, split: SplitName) -> None:
        """Write the figures of what was predicted for a split since it was last recorded."""
        predictions = self.predictions.pop(split, None)
        if self.recorder is None or not predictions:  # another worker writes, or every frame was lost on the way
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
            "settings": self.config.cloud_identity(),
            "next_seq": self.next_seq,
            "busy": self.busy,
            "test": self.test and self.test.model_dump(),
            "label_shares": self.label_shares.state(),
        }
        self.checkpoints.save(self.progress.epoch, state)
        self.checkpoints.forget_before(self.progress.epoch - 1)  # split learning may have to go back one

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

    def _refuse_other_settings(self, state: State) -> None:
        """Somebody may have edited the settings of the run, which workers read. Older checkpoints do not say theirs."""
        now = self.config.cloud_identity()
        before = state.get("settings", now)
        if told := changes_in_words(before, _known(now, before)):
            raise RunError(
                f"{self.checkpoints.folder}: the back was trained with other settings ({told}); set them back in "
                f"{self.folder.parent / 'config.yaml'}, or start a new run in another run_dir"
            )

    def _restore(self, state: State) -> None:
        load_training_state(state, {"back": self.back}, self.optimizer, self.random, self.progress)
        self.next_seq, self.busy = state["next_seq"], state["busy"]
        self.test = Figures.model_validate(state["test"]) if state["test"] else None
        self.label_shares.load_state(state["label_shares"])
        self.predictions.clear()
        self._busy_recorded = self.busy


def _known(settings: JsonValue, before: JsonValue) -> JsonValue:
    """Settings without the keys that an earlier version of smartedge did not have."""
    if not (isinstance(settings, dict) and isinstance(before, dict)):
        return settings
    return {key: _known(value, before[key]) for key, value in settings.items() if key in before}
