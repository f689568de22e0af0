"""The commands of README.md, as written and in their order, in one empty folder. Only the sizes are smaller."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("smartedge ")
]
SMALL = "data.limit={train: 80, val: 40, test: 60},data.image_size=32,epochs=1,train.batch_size=20"
LIMIT_S = 300  # of one command; only one that hangs takes so long


def smaller(command: str) -> list[str]:
    """The words of a command after ``smartedge``: with fewer images and less time, and listening on any free port."""
    words = shlex.split(command.replace("SERVER", "127.0.0.1").replace("0.0.0.0:8815", "127.0.0.1:0"))
    if words[1] in ("train", "cloud", "edge"):
        front = ["train.front_epochs=1"] if "private" in command else []
        for change in [*re.split(r",(?=[a-z_.]+=)", SMALL), *front]:
            words += ["--set", change]
    if words[1] == "profile":
        words += ["--cuts", "layer1", "--codecs", "uint8", "--repeats", "1"]
    if words[1] == "plan":
        words += ["--cuts", "layer1", "--codecs", "uint8", "--repeats", "1"]
    return ["5s" if word == "5m" else word for word in words[1:]]


@pytest.fixture
def clouds() -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen programs, one after the other
def test_every_command_works_in_order(tmp_path: Path, clouds: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = []
    for command in COMMANDS:
        arguments = smaller(command)
        call = [sys.executable, "-m", "smartedge", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if arguments[0] == "cloud":  # the server: it runs beside what follows
            cloud = subprocess.Popen([*call, "--progress", "json"], cwd=tmp_path, env=environment, text=True, **pipes)
            clouds.append(cloud)
            port = next(update["port"] for line in cloud.stdout if (update := json.loads(line)).get("port"))
            continue
        if arguments[0] == "edge":
            call += ["--connect", f"127.0.0.1:{port}"]
        ended = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        done.append(arguments[0])
    for cloud in clouds:
        _, told = cloud.communicate(timeout=LIMIT_S)
        assert cloud.returncode == 0, told
    assert len(clouds) == 1
    assert {"init", "cuts", "train", "report", "profile", "plan", "audit", "certify", "ledger", "edge"} <= set(done)
    assert (tmp_path / "runs" / "run-2" / "cloud" / "back.safetensors").exists(), "the second run of the same settings"
