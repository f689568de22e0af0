"""What the cloud makes of its workers' processes. Small programs stand in for torchrun and the workers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import torch

from smartedge.cloud.workers.launcher import Launched, launch_command
from smartedge.errors import LogError, RunError
from smartedge.runs.progress import Quiet, Update

Launch = Callable[[str], Launched]


class Told(Quiet):
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.came = threading.Event()

    def update(self, update: Update) -> None:
        self.texts.append(update.text)
        self.came.set()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> Launch:
    (tmp_path / "cloud").mkdir()

    def launched(program: str) -> Launched:
        command = [sys.executable, "-c", program]
        monkeypatch.setattr("smartedge.cloud.workers.launcher.launch_command", lambda *_: command)
        return Launched(tmp_path, 2, told)

    return launched


def until_it_ends(launched: Launched) -> None:
    while not launched.ended():
        threading.Event().wait(0.02)


def say(update: Update) -> str:
    return f"print({json.dumps(asdict(update))!r}, flush=True)\n"


def test_progress_is_passed_on_and_the_rest_goes_to_a_file(launch: Launch, told: Told, tmp_path: Path) -> None:
    launched = launch(
        "import sys\nprint('noise')\nprint('a warning', file=sys.stderr)\n" + say(Update("cloud", "train", text="x"))
    )
    until_it_ends(launched)
    launched.stop()
    assert told.texts == ["x"]
    log = tmp_path / "cloud" / "workers.log"
    assert "a warning" in log.read_text() and log.stat().st_mode & 0o077 == 0


def test_the_error_of_a_worker_is_raised_at_once(launch: Launch, told: Told) -> None:
    program = say(Update("cloud", "failed", text="SE-LOG frame 3: damaged\nat byte 7")) + "import sys; sys.stdin.read()"
    launched = launch(program)
    with pytest.raises(LogError, match="frame 3: damaged\nat byte 7"):
        until_it_ends(launched)
    launched.stop()
    assert told.texts == []


def test_torchrun_that_gives_up_is_an_error_that_names_the_file(launch: Launch) -> None:
    launched = launch("import sys; sys.exit(3)")
    with pytest.raises(RunError, match=r"ended with code 3; .*workers\.log says why"):
        until_it_ends(launched)
    launched.stop()


def test_workers_stop_when_their_input_ends(launch: Launch, told: Told) -> None:
    launched = launch(
        say(Update("cloud", "train")) + "import sys; sys.stdin.read()\n" + say(Update("cloud", "train", text="stopped"))
    )
    assert told.came.wait(60)
    launched.stop()
    assert told.texts == ["", "stopped"] and launched.ended()


def test_workers_that_do_not_stop_are_ended_and_theirs_too(
    launch: Launch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun starts a worker, and the worker a process of its own."""
    monkeypatch.setattr("smartedge.cloud.workers.launcher._GRACE", 0.2)
    helper = "import threading; threading.Event().wait()"
    start = "child = subprocess.Popen([sys.executable, '-c', {!r}], start_new_session=True{})\n"
    worker = "import subprocess, sys\n" + start.format(helper, "") + "print(child.pid, flush=True)\nchild.wait()"
    program = (
        "import json, subprocess, sys\n"
        + start.format(worker, ", stdout=subprocess.PIPE, text=True")
        + "pids = f'{child.pid} {child.stdout.readline()}'\n"
        + "print(json.dumps({'side': 'cloud', 'phase': 'pid', 'text': pids}), flush=True)\nchild.wait()"
    )
    launched = launch(program)
    assert told.came.wait(60)
    started = [psutil.Process(int(pid)) for pid in told.texts[0].split()]
    assert len(started) == 2
    launched.stop()
    left = [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert left == []


def test_the_command_is_that_of_torchrun(tmp_path: Path) -> None:
    command = launch_command(tmp_path, 3)
    assert command[command.index("--nproc-per-node") + 1] == "3"
    assert command[-5:] == ["-m", "smartedge.cloud.worker", str(tmp_path), "--progress", "json"]


@pytest.mark.parametrize(
    ("system", "gpu", "program"),
    [
        ("linux", False, "smartedge.cloud.workers.forking"),
        ("linux", True, "torch.distributed.run"),
        ("darwin", False, "torch.distributed.run"),
    ],
)
def test_workers_are_forked_where_that_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, gpu: bool, program: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert launch_command(tmp_path, 2)[:3] == [sys.executable, "-m", program]
