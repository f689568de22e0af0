"""The edge's state on disk: how far it is, and the checkpoint from which an interrupted run continues.

A checkpoint is written at the end of every epoch. It is used only once every frame that was released before it is
durable (``confirmed.json``): in the spool, or, where there is none, in the cloud. A resumed run repeats later frames.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from smartedge.artifacts.results import Figures
from smartedge.artifacts.run import Confirmed, EdgeRun
from smartedge.data import DataSet
from smartedge.edge.sender import Traffic
from smartedge.errors import RunError
from smartedge.methods.learner import Learner
from smartedge.runs.checkpoint import Checkpoints, State, load_weights, save_weights
from smartedge.runs.seeds import RandomStream

__all__ = ["Counts", "EdgeState", "fingerprint"]


@dataclass
class Counts:
    """How far the edge is, and what it has counted so far."""

    taught: int = 0  # epochs completed of the undivided network that teaches the exit
    done: int = 0  # epochs of the schedule completed
    busy: float = 0.0  # seconds of computing
    processor: float = 0.0  # the same, without the time in which other programs had the processor
    data_wait: float = 0.0  # seconds of waiting for images
    data_busy: float = 0.0  # seconds of reading and augmenting them
    test: Figures | None = None  # of the edge's own head on the test split
    teacher_val: Figures | None = None  # of the undivided network on the validation split
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def epochs(self) -> int:
        """Epochs completed, of all kinds."""
        return self.taught + self.done


_FIGURES = ("test", "teacher_val")
_PLAIN = [each.name for each in fields(Counts) if each.name not in (*_FIGURES, "traffic")]


class EdgeState:
    """The identity of the run, the counts, and the checkpoints in the edge's folder.

    Args:
        folder: the edge's folder of the run.
        learner: its state is kept, and that of its teacher until the teacher is trained.
        random: the edge's random numbers.
        dataset: what the run learns from; a resumed run must learn from the same.
    """

    def __init__(self, folder: Path, learner: Learner, random: RandomStream, dataset: DataSet) -> None:
        self.folder = folder
        self.learner = learner
        self.random = random
        self.counts = Counts()
        self.next_seq = 0  # sequence number of the next frame, when the state was restored
        self.spooled = False  # earlier frames are in the spool; else the cloud has confirmed them
        self.run = uuid.uuid4().hex
        self._data = fingerprint(dataset)
        self._run_file, self._confirmed_file = folder / "run.json", folder / "confirmed.json"
        self._teacher_file = folder / "teacher.safetensors"
        remedy = (
            f"the edge keeps no older one: delete {self._confirmed_file} to train again from the start, to the same "
            "result. What is released again exactly as before costs no budget"
        )
        self._checkpoints = Checkpoints(folder / "checkpoints", remedy)
        self._teacher_trained = False

    @property
    def exists(self) -> bool:
        """Whether a run has begun in the folder."""
        return self._run_file.exists()

    def begin(self) -> None:
        """Write down which run the folder belongs to."""
        EdgeRun(run=self.run, data=self._data).write(self._run_file)

    def restore(self) -> None:
        """Go back to the newest confirmed checkpoint, where there is one.

        Raises:
            RunError: the data set is not the one that the run began with, or a file is missing or damaged.
        """
        if self.exists:
            facts = EdgeRun.read(self._run_file)
            self.run = facts.run
            if facts.data != self._data:
                raise RunError(
                    f"data.path: its images or labels are not those that {self.folder} began with, so the ledger "
                    "would not fit them; restore the data set, or start a new run"
                )
        if not self._confirmed_file.exists():
            return
        confirmed = Confirmed.read(self._confirmed_file)
        state = self._checkpoints.load(confirmed.checkpoint)
        self._checkpoints.forget_after(confirmed.checkpoint)
        self.learner.load_state(state["learner"])
        if (teacher := self.learner.teacher) is not None:
            if state["teacher"] is not None:
                teacher.load_state(state["teacher"])
            else:
                teacher.modules["network"].load_state_dict(load_weights(self._teacher_file), strict=True)
                self._teacher_trained = True
        self.random.state = state["random"]
        test, teacher_val = (None if state[name] is None else Figures.model_validate(state[name]) for name in _FIGURES)
        plain = {name: state[name] for name in _PLAIN if name in state}
        self.counts = Counts(**plain, test=test, teacher_val=teacher_val, traffic=Traffic.of(confirmed.traffic))
        self.next_seq, self.spooled = int(state["next_seq"]), confirmed.spooled

    def keep_teacher(self) -> None:
        """Write the weights of the undivided network, now that it is trained; checkpoints no longer hold it."""
        assert self.learner.teacher is not None
        save_weights(self._teacher_file, self.learner.teacher.modules["network"].state_dict())
        self._teacher_trained = True

    def checkpoint(
        self, next_seq: int, when_durable: Callable[[Callable[[], None]], None], *, spooled: bool = False
    ) -> None:
        """Write a checkpoint.

        Args:
            next_seq: sequence number of the next frame.
            when_durable: calls its argument once all earlier frames are durable.
            spooled: in the spool; False: in the cloud.
        """
        counts, number = self.counts, self.counts.epochs
        teacher = None if self._teacher_trained else self.learner.teacher
        state: State = {
            "learner": self.learner.state(),
            "teacher": None if teacher is None else teacher.state(),
            "random": self.random.state,
            "next_seq": next_seq,
            **{name: getattr(counts, name) for name in _PLAIN},
            **{name: None if (known := getattr(counts, name)) is None else known.model_dump() for name in _FIGURES},
        }
        self._checkpoints.save(number, state)

        def confirm() -> None:
            totals = counts.traffic.totals()
            Confirmed(checkpoint=number, spooled=spooled, traffic=totals).write(self._confirmed_file)
            self._checkpoints.forget_before(number)

        when_durable(confirm)


def fingerprint(dataset: DataSet) -> str:
    """A fingerprint of the ids and labels of a data set's images, sensitive labels among them."""
    digest = hashlib.sha256(repr(dataset.task).encode())
    for name, split in sorted(dataset.splits.items()):
        digest.update(f"{name} {len(split)}".encode())
        digest.update(np.ascontiguousarray(split.ids).tobytes())
        digest.update(split.labels.contiguous().numpy().tobytes())
        for column, labels in sorted(split.sensitive_labels.items()):
            digest.update(f"{column} {dataset.sensitive[column]!r}".encode())
            digest.update(labels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
