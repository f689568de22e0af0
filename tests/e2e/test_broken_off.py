"""A run that breaks off in this process, and is resumed in it: what it counts and writes is that of a whole run.

The same with processes that are killed: test_resume.py. Here nothing but the state on disk is looked at, so it is quick
and can be run by ``make mutants``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from killing import Kill
from runs import PROTECTED, assert_same_run, share_key
from safetensors.torch import load_file

from smartedge.artifacts.summary import EdgeSummary
from smartedge.config import Config
from smartedge.errors import RunError
from smartedge.runs.checkpoint import Checkpoints
from smartedge.runs.progress import Quiet, Update
from smartedge.training import train

EPOCHS = 2  # of 6 steps each
# (method, schedule, protection, phase of the edge, steps done when it breaks off, checkpoint to go on from)
PLACES = [
    ("hierarchical", "joint", None, "train", 8, 1),
    ("hierarchical", "two-stage", "gaussian", "release train", 4, 2),
    ("hierarchical", "freeze-and-log", "labels", "release train", 4, 2),
    ("hierarchical", "joint", "taught", "teach", 8, 1),
    ("hierarchical", "two-stage", "taught", "train", 8, 3),
    ("split", "joint", None, "train", 8, 1),
    ("local", "joint", None, "train", 8, 1),
]


class BreakOff(Quiet):
    """Ends the run at a place."""

    def __init__(self, phase: str, done: int) -> None:
        self.phase, self.done = phase, done

    def update(self, update: Update) -> None:
        if update.side == "edge" and update.phase == self.phase and update.done >= self.done:
            raise EOFError("here")


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Path]:
    """Run directories of whole runs, by their settings."""
    return {}


@pytest.fixture
def whole_and_broken(tiny_config, uninterrupted):
    """``whole_and_broken(**settings)``: the directory of a whole run, and settings of one that has not begun."""

    def make(**changes: Any) -> tuple[Path, Config]:
        broken = tiny_config("broken", **changes)
        if repr(changes) not in uninterrupted:
            whole = tiny_config("whole", **changes)
            share_key(whole.run_dir)
            train(whole, single_process=True, monitor=Quiet())
            uninterrupted[repr(changes)] = whole.run_dir
        share_key(broken.run_dir)
        return uninterrupted[repr(changes)], broken

    return make


@pytest.mark.parametrize(("method", "schedule", "kind", "phase", "done", "checkpoint"), PLACES)
def test_a_resumed_run_counts_and_writes_what_a_whole_one_does(
    whole_and_broken, method, schedule, kind, phase, done, checkpoint
):
    changes = {"epochs": EPOCHS, "method": method, "schedule": schedule, **PROTECTED.get(kind, {})}
    whole, broken = whole_and_broken(**changes)
    with pytest.raises(EOFError):
        train(broken, single_process=True, monitor=BreakOff(phase, done))
    assert Kill(str(broken.run_dir), "edge", phase, done, checkpoint).newest() == checkpoint
    half = EdgeSummary.read(broken.run_dir / "edge" / "summary.json")
    assert not half.finished and half.session.epochs == checkpoint
    assert half.privacy is None, "stated at the end alone"
    train(broken, resume=True, single_process=True, monitor=Quiet())

    assert_same_run(whole, broken.run_dir)
    first, second = (EdgeSummary.read(run / "edge" / "summary.json") for run in (whole, broken.run_dir))
    assert second.finished and second.session.epochs == first.session.epochs - checkpoint
    assert second.traffic.images == first.traffic.images
    assert second.traffic.codec_error == first.traffic.codec_error
    # Frames that the cloud held are not sent again, and what was sent after the checkpoint had been counted in the
    # session that broke off. A header holds the run's name, and numbers of other lengths.
    for split, count in first.traffic.up.items():
        assert 0.4 * count < second.traffic.up[split] <= count + 100
    assert (second.test, second.teacher_val) == (first.test, first.teacher_val)
    assert second.busy_seconds > half.busy_seconds * checkpoint / (checkpoint + 1) / 2, "of earlier sessions too"
    assert second.privacy == first.privacy
    assert second.releases_per_image == first.releases_per_image
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, broken.run_dir)
    ]
    edge = [[{**row, "seconds": 0, "time": 0} for row in part if row["side"] == "edge"] for part in rows]
    assert edge[0] == edge[1]


def test_a_run_is_resumed_with_its_own_images_alone(tiny_config):
    broken = tiny_config("broken", epochs=EPOCHS)
    with pytest.raises(EOFError):
        train(broken, single_process=True, monitor=BreakOff("train", 8))
    facts = broken.run_dir / "edge" / "run.json"
    begun = json.loads(facts.read_text())
    facts.write_text(json.dumps({**begun, "data": "0" * 32}))
    with pytest.raises(RunError, match="images or labels are not those"):
        train(broken, resume=True, single_process=True, monitor=Quiet())
    facts.write_text(json.dumps(begun))
    train(broken, resume=True, single_process=True, monitor=Quiet())
    assert json.loads(facts.read_text()) == begun, "the same run"


def test_only_the_newest_checkpoint_is_kept_and_a_taught_front_needs_its_teacher_no_more(tiny_config):
    changes = {"schedule": "two-stage", "epochs": EPOCHS, **PROTECTED["taught"]}
    broken = tiny_config("broken", **changes)
    with pytest.raises(EOFError):
        train(broken, single_process=True, monitor=BreakOff("train", 8))
    edge = broken.run_dir / "edge"
    assert [int(folder.name) for folder in (edge / "checkpoints").iterdir()] == [3]
    assert Checkpoints(edge / "checkpoints").load(3)["teacher"] is None
    assert load_file(edge / "teacher.safetensors")
    with pytest.raises(EOFError):
        train(broken, resume=True, single_process=True, monitor=BreakOff("release train", 4))
    assert Checkpoints(edge / "checkpoints").load(4)["teacher"] is None, "nor after a resumption"


@pytest.mark.parametrize(
    ("side", "method"), [("edge", "hierarchical"), ("edge", "split"), ("edge", "local"), ("cloud", "hierarchical")]
)
def test_the_advice_on_a_damaged_checkpoint_helps(side, method, whole_and_broken):
    whole, broken = whole_and_broken(method=method)
    with pytest.raises(EOFError):
        train(broken, single_process=True, monitor=BreakOff("train", 14))
    newest = broken.run_dir / side / "checkpoints" / "00000002"
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    advice = {"edge": "delete (.*confirmed.json) to train again from the start", "cloud": "delete it to resume before"}
    with pytest.raises(RunError, match="cannot be read") as caught:
        train(broken, resume=True, single_process=True, monitor=Quiet())
    found = re.search(advice[side], str(caught.value))
    assert found, caught.value
    if side == "edge":
        Path(found[1]).unlink()
    else:
        shutil.rmtree(newest)
    train(broken, resume=True, single_process=True, monitor=Quiet())
    assert_same_run(whole, broken.run_dir)


@pytest.mark.parametrize("done", [1, 4])
def test_split_learning_that_broke_off_in_its_first_epoch(done, whole_and_broken):
    whole, broken = whole_and_broken(epochs=EPOCHS, method="split", schedule="joint")
    with pytest.raises(EOFError):
        train(broken, single_process=True, monitor=BreakOff("train", done))
    assert not (broken.run_dir / "edge" / "confirmed.json").exists()
    train(broken, resume=True, single_process=True, monitor=Quiet())
    assert_same_run(whole, broken.run_dir)
