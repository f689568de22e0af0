"""What an edge keeps on its disk: which images a run is of, and all that a resumed run goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smartedge.artifacts.results import Figures
from smartedge.data import DataSet
from smartedge.data.dataset import Split
from smartedge.edge.sender import Traffic
from smartedge.edge.state import Counts, EdgeState, fingerprint
from smartedge.errors import RunError
from smartedge.runs.checkpoint import Checkpoints, State
from smartedge.runs.seeds import RandomStream
from smartedge.types import Task

SMILE, CLUB = (Task("single", (name,), ("no", "yes")) for name in ("smile", "club"))
FIGURES = Figures(accuracy=0.5, balanced_accuracy=0.25, auroc=None, loss=1.5, base_rate=0.75)


def split(ids: tuple[int, ...] = (0, 1, 3), labels: tuple[int, ...] = (0, 1, 1), club: tuple[int, ...] = (1, 0, 1)):
    return Split(None, np.array(ids), torch.tensor(labels), {"club": torch.tensor(club)})  # type: ignore[arg-type]


DATA = DataSet("faces", SMILE, {"train": split(), "test": split()}, {"club": CLUB})


class Whole:
    """As much of an undivided network as a state looks at."""

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {"network": nn.Linear(1, 1)}

    def state(self) -> State:
        return {"weights": self.modules["network"].state_dict()}

    def load_state(self, state: State) -> None:
        self.modules["network"].load_state_dict(state["weights"])

    @property
    def weight(self) -> float:
        return float(self.modules["network"].weight.detach())

    @weight.setter
    def weight(self, value: float) -> None:
        self.modules["network"].weight.data.fill_(value)


class Learner(Whole):
    """A learner, with or without a teacher."""

    def __init__(self, *, taught: bool) -> None:
        super().__init__()
        self.teacher = Whole() if taught else None


def at_once(confirm: Callable[[], None]) -> None:
    confirm()


def state_in(folder: Path, dataset: DataSet = DATA, *, taught: bool = False) -> EdgeState:
    folder.mkdir(exist_ok=True)
    return EdgeState(folder, Learner(taught=taught), RandomStream(0), dataset)  # type: ignore[arg-type]


def numbers(folder: Path) -> list[int]:
    return sorted(int(entry.name) for entry in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "changed",
    [
        replace(DATA, task=replace(SMILE, names=("yes", "no"))),
        replace(DATA, splits={"train": split(), "val": split()}),
        replace(DATA, splits={"train": split(ids=(0, 1, 2)), "test": split()}),
        replace(DATA, splits={"train": split(), "test": split(labels=(0, 1, 0))}),
        replace(DATA, splits={"train": split(club=(1, 1, 1)), "test": split()}),
        replace(DATA, sensitive={"club": replace(CLUB, names=("yes", "no"))}),
    ],
    ids=["task", "splits", "ids", "labels", "sensitive labels", "sensitive classes"],
)
def test_a_run_goes_on_with_the_images_and_labels_that_it_began_with_alone(tmp_path: Path, changed: DataSet) -> None:
    assert fingerprint(DATA) == fingerprint(replace(DATA, name="again")) != fingerprint(changed)
    began = state_in(tmp_path)
    assert not began.exists
    began.begin()
    with pytest.raises(RunError, match="its images or labels are not those that"):
        state_in(tmp_path, changed).restore()
    same = state_in(tmp_path)
    assert same.exists and same.run != began.run
    same.restore()
    assert same.run == began.run


def test_a_resumed_run_has_all_that_was_kept(tmp_path: Path) -> None:
    kept = state_in(tmp_path)
    traffic = Traffic({"train": 1}, {"train": 2}, {"train": 3}, "socket", 4.0, 5.0, 6.0)
    kept.counts = Counts(1, 2, 3.0, 2.5, 4.0, 5.0, FIGURES, FIGURES.model_copy(update={"loss": 2.5}), traffic)
    kept.learner.weight = 7.0
    with kept.random.active():
        torch.rand(3)
    kept.checkpoint(8, at_once, spooled=True)
    again = state_in(tmp_path)
    again.restore()
    assert again.counts == kept.counts and again.counts.epochs == 3
    assert (again.next_seq, again.spooled, again.learner.weight) == (8, True, 7.0)
    assert torch.equal(again.random.state, kept.random.state)


def test_a_checkpoint_of_a_version_that_counted_less_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = state_in(tmp_path)
    earlier.counts.busy = 3.0
    with monkeypatch.context() as then:
        then.setattr("smartedge.edge.state._PLAIN", ["taught", "done", "busy", "data_wait", "data_busy"])
        earlier.checkpoint(1, at_once)
    again = state_in(tmp_path)
    again.restore()
    assert (again.counts.busy, again.counts.processor) == (3.0, 0.0)


def test_a_checkpoint_counts_once_its_frames_are_durable_and_older_ones_then_go(tmp_path: Path) -> None:
    state, due = state_in(tmp_path), list[Callable[[], None]]()
    for epoch in (1, 2, 3):
        state.counts.done, state.counts.traffic.up = epoch, {"train": 10 * epoch}
        state.checkpoint(epoch, due.append)
    due[0]()
    state.counts.traffic.up = {"train": 99}
    assert numbers(tmp_path) == [1, 2, 3], "the frames of the later ones may be lost still"
    due[1]()
    assert numbers(tmp_path) == [2, 3]
    again = state_in(tmp_path)
    again.restore()
    assert (again.counts.done, again.next_seq, again.spooled) == (2, 2, False)
    assert again.counts.traffic.up == {"train": 99}, "what was counted when the frames had become durable"
    assert numbers(tmp_path) == [2], "what came after it is made again"


def test_a_teacher_goes_on_until_it_is_trained_and_is_then_kept_apart(tmp_path: Path) -> None:
    state = state_in(tmp_path, taught=True)
    for epoch, weight in ((1, 1.0), (2, 2.0)):
        state.counts.taught, state.learner.teacher.weight = epoch, weight
        if epoch == 2:
            state.keep_teacher()
            state.learner.teacher.weight = 9.0  # it learns no more, so no checkpoint holds it
        state.checkpoint(0, at_once)
        again = state_in(tmp_path, taught=True)
        again.restore()
        assert (again.counts.taught, again.learner.teacher.weight) == (epoch, weight)
    again.checkpoint(0, at_once)
    assert Checkpoints(tmp_path / "checkpoints").load(2)["teacher"] is None, "nor one of a run that goes on"
    third = state_in(tmp_path, taught=True)
    third.restore()
    assert third.learner.teacher.weight == 2.0
