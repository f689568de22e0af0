"""Processes of torchrun train the back together: the same weights, to a bit, as one process; also after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import narrow
import pytest
import torch
from many_edges import edges_of, fleet_config, run_fleet
from runs import assert_same_run
from safetensors.torch import load_file
from workers import Kill, launched, workers_of

from smartedge.artifacts.summary import has_finished
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.workers.launcher import ENVIRONMENT, launch_command
from smartedge.files import write_atomically
from smartedge.runs.progress import Quiet, parse_update
from smartedge.training import train

pytestmark = pytest.mark.slow
SHARDS = {"cloud": {"shards": 4}}


def untrained(first: Path, second: Path) -> Path:
    """Another run with the store and the order of a finished one."""
    second.mkdir()
    shutil.copy(first / "config.yaml", second)
    for name in ("store", "closed"):
        shutil.copytree(first / "cloud" / name, second / "cloud" / name)
    if (first / "cloud" / "order.jsonl").exists():
        shutil.copy(first / "cloud" / "order.jsonl", second / "cloud")
    mark_complete(second / "cloud", True)
    return second


def early_kill(seed: int, *, everything: bool = False) -> Kill:
    """Of one of four workers, at the third update of the progress (step 12), so that much is still to be done."""
    kill = Kill(seed, workers=4, updates=1, everything=everything)
    kill.update, kill.delay = 2, 0.0
    return kill


def assert_same_cloud(one: Path, other: Path) -> None:
    """Weights, running statistics, answers and figures are equal."""
    for name in ("back", "predictions"):
        mine, theirs = (load_file(run / "cloud" / f"{name}.safetensors") for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[part]) for part, tensor in mine.items()), name
    rows: list[list[Any]] = []
    for run in (one, other):
        lines = (run / "cloud" / "metrics.jsonl").read_text().splitlines()
        rows.append([{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines])
    assert rows[0] == rows[1] != []


def test_a_run_whose_cloud_starts_two_workers(tiny_config) -> None:
    runs = [tiny_config(name, **SHARDS, epochs=2) for name in ("one", "two")]
    train(runs[0], single_process=True, monitor=Quiet())
    train(runs[1], ["cloud.workers=2"], monitor=Quiet())
    assert_same_run(*(config.run_dir for config in runs))
    assert_same_cloud(*(config.run_dir for config in runs))


@pytest.mark.parametrize("schedule", ["two-stage", "freeze-and-log"])
def test_other_schedules_on_a_store_that_is_there(tiny_config, tmp_path: Path, schedule: str) -> None:
    """Four workers, and one of them is killed. Dropout and batch normalisation are in the back."""
    config = tiny_config("one", **SHARDS, epochs=10, schedule=schedule, train={"batch_size": 16, "front_epochs": 1})
    train(config, single_process=True, monitor=Quiet())
    run = untrained(config.run_dir, tmp_path / "four")
    kill = early_kill(1)
    launched(run, 4, kill)
    assert kill.at is not None
    assert_same_cloud(config.run_dir, run)


def test_two_edges_by_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(narrow.__file__).parent), prepend=":")  # the workers build its network
    config = fleet_config(fleet={"expect": 2}, cloud={"shards": 2}, hardware={"threads": 1})
    first = tmp_path / "one"
    torch.set_num_threads(1)
    run_fleet(config, first / "cloud", edges_of(config, 2, steps=6))
    write_atomically(first / "config.yaml", config.to_yaml())
    run = untrained(first, tmp_path / "two")
    launched(run, 2)
    assert_same_cloud(first, run)


def test_the_number_of_workers_changes_when_they_are_started_again(tiny_config, tmp_path: Path) -> None:
    """Four workers are all killed, as by a power failure; then two go on."""
    config = tiny_config("one", **SHARDS, epochs=10)
    train(config, single_process=True, monitor=Quiet())
    run = untrained(config.run_dir, tmp_path / "four then two")
    with pytest.raises(SystemExit):
        launched(run, 4, early_kill(0, everything=True))
    assert (run / "cloud" / "checkpoints").exists()
    launched(run, 2)
    assert_same_cloud(config.run_dir, run)


def test_a_worker_that_hangs_is_noticed_and_may_be_ended(tiny_config, tmp_path: Path) -> None:
    """One of two is stopped. The other one says that it waits. The first is killed, and both are started again."""
    config = tiny_config("one", **SHARDS, epochs=6)
    train(config, single_process=True, monitor=Quiet())
    run = untrained(config.run_dir, tmp_path / "two")
    sooner = "import sys; from smartedge.cloud.workers import forking, group; group.SILENCE_S = 2.0; "
    command = launch_command(run, 2)
    command[1:3] = ["-c", sooner + "sys.exit(forking.main())"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    waits, stopped = [], None
    with subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes) as torchrun:
        assert torchrun.stdout is not None
        for line in torchrun.stdout:
            update = parse_update(line)
            assert update is None or update.phase != "failed", update
            if update is not None and update.phase == "workers" and stopped is None:
                stopped = workers_of(torchrun.pid)[1]
                stopped.send_signal(signal.SIGSTOP)
            if update is not None and update.phase == "waiting" and stopped is not None and not waits:
                waits.append(update.text)
                stopped.kill()
        assert torchrun.wait() == 0
    assert len(waits) == 1 and "worker 0 has waited" in waits[0] and "another one hangs" in waits[0]
    assert has_finished(run / "cloud")
    assert_same_cloud(config.run_dir, run)


@pytest.mark.parametrize("program", ["smartedge.cloud.workers.forking", "torch.distributed.run"])
def test_an_error_that_would_come_again_ends_torchrun(tmp_path: Path, program: str) -> None:
    command = launch_command(tmp_path / "nothing", 2)
    command[2] = program
    command[command.index("--rdzv-endpoint") + 1] = str(tmp_path / "rendezvous")
    ended = subprocess.run(
        [sys.executable, *command[1:]], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    told = ended.stderr.count(f"error [SE-RUN]: {tmp_path / 'nothing'}: holds no run")
    assert 1 <= told <= 2, "once by each worker that came so far"
