"""A worker follows the store on disk. Here it is alone and in this process; tests/e2e/test_workers.py has several."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from many_edges import edges_of, fleet_config, run_fleet
from safetensors.torch import load_file

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.artifacts.summary import has_finished
from smartedge.cloud import worker as worker_module
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.worker import Turn, Worker, as_process, main, own_gpu
from smartedge.cloud.workers.group import ALONE, Group, check_alike, place_of_worker
from smartedge.config import Config
from smartedge.errors import ConfigError, RunError
from smartedge.files import write_atomically
from smartedge.runs.progress import Quiet, Update, parse_update

SHARDS = {"cloud": {"shards": 2}}


def stored(config: Config, run: Path, *, edges: int) -> tuple[Path, Path]:
    """A run that a cloud trained by itself, and another with the same store, of which nothing was trained."""
    run_fleet(config, run / "first" / "cloud", edges_of(config, edges))
    second = run / "second"
    second.mkdir()
    write_atomically(second / "config.yaml", config.to_yaml())
    for name in ("store", "closed"):
        shutil.copytree(run / "first" / "cloud" / name, second / "cloud" / name)
    if (journal := run / "first" / "cloud" / "order.jsonl").exists():
        shutil.copy(journal, second / "cloud")
    mark_complete(second / "cloud", True)
    return run / "first" / "cloud", second


def assert_same_back(one: Path, other: Path) -> None:
    mine, theirs = (load_file(folder / "back.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.mark.parametrize(
    ("schedule", "edges"), [("joint", 1), ("joint", 2), ("freeze-and-log", 2)], ids=["one edge", "two", "once"]
)
def test_it_trains_from_the_store_as_the_cloud_itself_does(tmp_path: Path, schedule: str, edges: int) -> None:
    config = fleet_config(fleet={"expect": edges}, schedule=schedule, **SHARDS)
    first, run = stored(config, tmp_path, edges=edges)
    assert main([str(run)]) == 0
    assert has_finished(run / "cloud")
    assert_same_back(first, run / "cloud")
    rows = [
        [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (first, run / "cloud")
    ]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]
    if edges > 1:
        assert FleetFigures.read(run / "cloud" / "fleet.json").edges["edge1"].test is not None


def test_it_stops_when_it_is_asked_to_and_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 1}, epochs=3, **SHARDS)
    first, run = stored(config, tmp_path, edges=1)
    stop = threading.Event()
    worker = Worker(config, run / "cloud", ALONE, Quiet())
    do_as_usual = worker.learning.do

    def until_the_fifth(task: Any, event: threading.Event) -> None:
        do_as_usual(task, event)
        if worker.learning.trainer.next_seq == 5:
            stop.set()

    worker.learning.do = until_the_fifth  # type: ignore[method-assign]
    assert not worker.run(stop)
    worker.close()
    assert not has_finished(run / "cloud") and (run / "cloud" / "checkpoints").exists()
    assert main([str(run)]) == 0
    assert_same_back(first, run / "cloud")


def test_what_cannot_be_trained_by_workers_is_refused(tmp_path: Path) -> None:
    group = Group()
    group.size = 3
    for config, message in (
        (fleet_config(method="split", fleet={"expect": 1}), "method: 'split'"),
        (fleet_config(method="local", model={"cut": "layer1"}), "method: 'local'"),
        (fleet_config(**SHARDS), "has 2 parts, and 3 workers were started"),
    ):
        with pytest.raises(ConfigError, match=message):
            Worker(config, tmp_path, group, Quiet())


def test_workers_with_other_versions_settings_or_checkpoints_are_refused() -> None:
    first = {"torch": "2.13.0", "settings": {"cloud": {"shards": 2}}, "completed epochs": 3}
    check_alike([first, {**first}, {**first}])
    other = {"torch": "2.12.0", "settings": {"cloud": {"shards": 4}}, "completed epochs": 0}
    told = r'completed epochs is 0, not 3; settings\.cloud\.shards is 4, not 2; torch is "2\.12\.0", not "2\.13\.0"'
    with pytest.raises(RunError, match=rf"^worker 2 differs from worker 0 \({told}\); all workers need one folder"):
        check_alike([first, first, other])


def test_an_error_is_told_to_the_program_that_started_it_and_others_may_not_train_at_the_same_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet_config(**SHARDS)
    write_atomically(tmp_path / "config.yaml", config.to_yaml())
    (tmp_path / "cloud").mkdir()

    class Open:
        def read(self) -> str:
            threading.Event().wait()
            return ""

    monkeypatch.setattr(sys, "stdin", Open())
    with (tmp_path / "cloud" / "training.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main([str(tmp_path), "--progress", "json"]) == 10
    found = parse_update(capsys.readouterr().out)
    assert found is not None and found.phase == "failed"
    assert found.text.startswith("SE-RUN ") and "other workers train this run" in found.text


def test_a_worker_of_another_machine_whose_settings_differ_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 1}, **SHARDS)
    first, _ = stored(config, tmp_path, edges=1)
    group = Group()
    group.gather = lambda data: [data, data.replace(b'"shards": 2', b'"shards": 4')]  # type: ignore[method-assign]
    learning = Worker(config, first, group, Quiet()).learning
    intake = learning._handover.intakes[min(learning._handover.intakes)]
    with pytest.raises(RunError, match=r"worker 1 differs from worker 0 \(settings\.cloud\.shards is 4, not 2\)"):
        learning.make_trainer(intake.edge, intake.streams[0])
    learning.close()


def test_a_worker_does_not_wait_for_ever_for_frames_that_another_one_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_SAME_STORE_S", 0.1)
    worker = Worker(fleet_config(fleet={"expect": 1}, **SHARDS), tmp_path / "cloud", ALONE, Quiet())
    with pytest.raises(RunError, match=r"store: worker 0 misses frames there that worker 0 has found"):
        worker._wait_for({"edge0": 1})
    worker.learning.close()


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "found"),
    [
        ("cuda", 2, 4, 1),
        ("cuda:3", 1, 4, 3),
        ("cuda", 2, 1, "cloud.workers: 2 workers on this machine need a GPU each, and it has 1"),
        ("cuda:0", 2, 4, "hardware.cloud_device: cuda:0 is one GPU, 2 workers need one each"),
    ],
)
def test_each_worker_of_a_machine_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int, gpus: int, found: int | str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(workers))
    monkeypatch.setenv("LOCAL_RANK", str(workers - 1))
    if isinstance(found, int):
        assert own_gpu(torch.device(device)) == found
    else:
        with pytest.raises(ConfigError, match=found):
            own_gpu(torch.device(device))


def test_settings_that_somebody_has_edited_are_refused_key_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the edges' streams say is known from the first frame; the rest from the first checkpoint."""
    config = fleet_config(fleet={"expect": 1}, **SHARDS)
    first, run = stored(config, tmp_path, edges=1)
    file = run / "config.yaml"
    file.write_text(config.to_yaml().replace("lr: 0.01", "lr: 0.02"))
    assert main([str(run)]) == 10
    assert "train.lr: 0.01 at the edge, 0.02 here" in capsys.readouterr().err
    assert not (run / "cloud" / "checkpoints").exists()
    shutil.copytree(first / "checkpoints", run / "cloud" / "checkpoints")
    file.write_text(config.to_yaml().replace("shards: 2", "shards: 1"))
    assert main([str(run)]) == 10
    found = capsys.readouterr().err
    assert "other settings (cloud.shards was 2, now 1); set them back in" in found and str(file) in found


def test_a_checkpoint_of_an_earlier_version_lacks_keys(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 1}, **SHARDS)
    first, _ = stored(config, tmp_path, edges=1)
    trainer = Worker(config, first, ALONE, Quiet()).learning
    intake = trainer._handover.intakes[min(trainer._handover.intakes)]
    trainer.make_trainer(intake.edge, intake.streams[0])
    assert trainer.trainer is not None
    before = config.cloud_identity()
    del before["train"]["lr"]  # type: ignore[union-attr,arg-type,index,call-overload]
    trainer.trainer._refuse_other_settings({"settings": before})
    trainer.trainer._refuse_other_settings({})
    before["seed"] = 99
    with pytest.raises(RunError, match=r"\(seed was 99, now 0\)"):
        trainer.trainer._refuse_other_settings({"settings": before})
    trainer.close()


def test_a_worker_says_once_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Quiet):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def update(self, update: Update) -> None:
            self.texts.append(update.text)

    monkeypatch.setattr(worker_module, "_TURN", worker_module._LOOK)
    told = Told()
    worker = Worker(fleet_config(fleet={"expect": 1}, **SHARDS), tmp_path / "cloud", ALONE, told)
    for _ in range(3):
        assert worker._decide(threading.Event()) == Turn()
    worker.learning.close()
    assert told.texts == [f"waits for the first frames in {tmp_path / 'cloud' / 'store'}"]


def test_a_full_disk_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trainer: BackTrainer) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(trainer.checkpoints.folder))

    _, run = stored(fleet_config(fleet={"expect": 1}, **SHARDS), tmp_path, edges=1)
    monkeypatch.setattr(BackTrainer, "save", full)
    assert main([str(run)]) == 10
    found = capsys.readouterr().err
    assert f"error [SE-RUN]: {run / 'cloud' / 'checkpoints'}: worker 0 cannot go on: the disk is full" in found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT is missing, and RANK is set"),
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT is missing, and WORLD_SIZE is set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "MASTER_PORT is missing"),
        ({"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is 'x', not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is 2, and there are 2"),
    ],
    ids=["only a number", "only how many", "no port", "no number", "too large"],
)
def test_half_an_environment_of_torchrun_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    message: str,
) -> None:
    assert place_of_worker() == (0, 1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([str(tmp_path)]) == 2
    found = capsys.readouterr().err
    assert "error [SE-CONFIG]: environment: " in found and message in found


@pytest.mark.parametrize(("code", "asks"), [(10, True), (1, True), (worker_module._LOST, False)])
def test_torchrun_is_asked_to_end_where_the_same_error_would_come_again(
    monkeypatch: pytest.MonkeyPatch, code: int, asks: bool
) -> None:
    asked: list[tuple[int, int]] = []

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(worker_module, "main", lambda arguments: code)
    monkeypatch.setattr(os, "kill", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(os, "_exit", end)
    for launcher in (False, True):
        if launcher:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        with pytest.raises(SystemExit) as ended:
            as_process([])
        assert ended.value.code == code
        assert asked == ([(os.getppid(), signal.SIGTERM)] if launcher and asks else [])
