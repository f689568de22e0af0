"""A run that dies after a confirmed checkpoint, and is resumed, ends as one that was not interrupted.

The network has dropout on both sides of the cut, so a random state that is not restored shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import fork_server
from killing import Kill, stand_in, train_and_die
from runs import PROTECTED, assert_same_run, share_key

from smartedge.config import Config
from smartedge.errors import SmartEdgeError
from smartedge.runs.progress import Quiet
from smartedge.training import train

EPOCHS = 3  # of 6 steps each
# (method, schedule, protection, side, phase, steps done at death, the checkpoint to resume from)
PLACES = [
    ("hierarchical", "joint", None, "edge", "train", 8, 1),
    ("hierarchical", "joint", None, "cloud", "train", 14, 2),
    pytest.param("hierarchical", "two-stage", None, "edge", "train", 8, 1, marks=pytest.mark.slow),
    ("hierarchical", "two-stage", None, "edge", "release train", 8, 4),
    ("hierarchical", "two-stage", None, "cloud", "train", 8, 1),
    ("hierarchical", "freeze-and-log", None, "edge", "train", 14, 2),
    ("hierarchical", "freeze-and-log", None, "edge", "release train", 3, 3),
    ("hierarchical", "freeze-and-log", None, "cloud", "train", 8, 1),
    ("upload", "joint", None, "edge", "train", 8, 1),
    ("upload", "joint", None, "cloud", "train", 8, 1),
    pytest.param("upload", "freeze-and-log", None, "cloud", "train", 8, 1, marks=pytest.mark.slow),
    ("split", "joint", None, "edge", "train", 8, 1),
    ("split", "joint", None, "cloud", "train", 14, 2),
    ("split", "joint", None, "edge", "train", 4, 0),
    ("local", "joint", None, "edge", "train", 8, 1),
    ("hierarchical", "joint", "gaussian", "edge", "train", 8, 1),
    pytest.param("hierarchical", "two-stage", "gaussian", "edge", "train", 8, 1, marks=pytest.mark.slow),
    ("hierarchical", "two-stage", "gaussian", "edge", "release train", 8, 4),
    ("hierarchical", "freeze-and-log", "codewords", "edge", "train", 8, 1),
    ("hierarchical", "two-stage", "labels", "cloud", "train", 8, 1),
    ("hierarchical", "two-stage", "taught", "edge", "teach", 8, 1),
    ("hierarchical", "joint", "taught", "edge", "train", 8, 3),
]
# The same with two processes and a socket, where only one of them dies; resumed by two processes, or by one.
APART = [
    pytest.param("hierarchical", "joint", None, "edge", "train", 8, 1, "by two", marks=pytest.mark.slow),
    ("hierarchical", "joint", None, "cloud", "train", 8, 1, "by one"),
    pytest.param("hierarchical", "freeze-and-log", None, "cloud", "train", 8, 1, "by two", marks=pytest.mark.slow),
    pytest.param("split", "joint", None, "edge", "train", 8, 1, "by one", marks=pytest.mark.slow),
    pytest.param("split", "joint", None, "cloud", "train", 14, 2, "by two", marks=pytest.mark.slow),
    pytest.param("split", "joint", None, "cloud", "train", 4, 0, "by two", marks=pytest.mark.slow),
    ("hierarchical", "two-stage", "gaussian", "edge", "release train", 8, 4, "by one"),
]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[tuple[str | None, ...], Path]:
    """Run directories of uninterrupted runs, by method, schedule and protection."""
    return {}


def broken_and_whole(tiny_config, uninterrupted, method, schedule, kind) -> tuple[Config, Path]:
    changes = {"method": method, "schedule": schedule, "epochs": EPOCHS, **PROTECTED.get(kind, {})}
    broken = tiny_config("broken", **changes)
    share_key(broken.run_dir)
    if (method, schedule, kind) not in uninterrupted:
        whole = tiny_config("whole", **changes)
        share_key(whole.run_dir)
        train(whole, single_process=True, monitor=Quiet())
        uninterrupted[method, schedule, kind] = whole.run_dir
    return broken, uninterrupted[method, schedule, kind]


def assert_resumed(broken: Config, kill: Kill, whole: Path) -> None:
    """The side that died has gone on from the checkpoint, and nothing shows that it did."""
    sessions = [
        json.loads((run / kill.side / "summary.json").read_text())["session"]["epochs"]
        for run in (broken.run_dir, whole)
    ]
    assert sessions == [sessions[1] - kill.checkpoint, sessions[1]]
    assert_same_run(whole, broken.run_dir)
    rows = [json.loads(line) for line in (broken.run_dir / "metrics.jsonl").read_text().splitlines()]
    keys = [(row["side"], row["epoch"], row["split"]) for row in rows]
    assert len(keys) == len(set(keys)), "an epoch was recorded twice"
    rows_of_whole = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sorted(keys) == sorted((row["side"], row["epoch"], row["split"]) for row in rows_of_whole)


@pytest.mark.parametrize(("method", "schedule", "kind", "side", "phase", "done", "checkpoint"), PLACES)
def test_a_killed_run_resumes_to_the_same_result(
    tiny_config, uninterrupted, method, schedule, kind, side, phase, done, checkpoint
):
    broken, whole = broken_and_whole(tiny_config, uninterrupted, method, schedule, kind)
    kill = Kill(str(broken.run_dir), side, phase, done, checkpoint)
    settings = broken.run_dir.parent / "broken.yaml"
    settings.write_text(broken.to_yaml())
    process = fork_server().Process(target=train_and_die, args=(str(settings), kill))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert kill.newest() == checkpoint
    train(broken, resume=True, single_process=True, monitor=Quiet())
    assert_resumed(broken, kill, whole)


@pytest.mark.usefixtures("forked_sides")
@pytest.mark.parametrize(("method", "schedule", "kind", "side", "phase", "done", "checkpoint", "resumed"), APART)
def test_a_run_of_which_one_process_was_killed_resumes_to_the_same_result(
    tiny_config, uninterrupted, monkeypatch, method, schedule, kind, side, phase, done, checkpoint, resumed
):
    broken, whole = broken_and_whole(tiny_config, uninterrupted, method, schedule, kind)
    kill = Kill(str(broken.run_dir), side, phase, done, checkpoint)
    with monkeypatch.context() as patched:
        program, environment = stand_in(broken.run_dir.parent, kill)
        patched.setattr(sys, "executable", str(program))
        for name, value in environment.items():
            patched.setenv(name, value)
        with pytest.raises(SmartEdgeError, match=r"was ended by SIGKILL|went away|unavailable|link"):
            train(broken, monitor=Quiet())
    assert kill.newest() == checkpoint
    train(broken, resume=True, single_process=resumed == "by one", monitor=Quiet())
    assert_resumed(broken, kill, whole)


@pytest.mark.slow
def test_ctrl_c_stops_both_sides_cleanly_and_resume_goes_on(tiny_config, uninterrupted):
    broken, whole = broken_and_whole(tiny_config, uninterrupted, "hierarchical", "joint", None)
    kill = Kill(str(broken.run_dir), "edge", "train", 8, 1, softly=True)
    file = broken.run_dir.parent / "run.yaml"
    file.write_text(broken.to_yaml())
    program, environment = stand_in(broken.run_dir.parent, kill)
    stopped = subprocess.run(
        [program, "-m", "smartedge", "train", str(file)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert stopped.returncode == 0, stopped.stderr
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (broken.run_dir / "results.json").exists()
    assert kill.newest() == 1
    train(broken, resume=True, monitor=Quiet())
    assert_resumed(broken, kill, whole)
