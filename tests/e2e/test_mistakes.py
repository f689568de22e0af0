"""Fifteen typical mistakes: each message says what to do, and comes before anything is trained.

A message may take three seconds on an idle machine. Tests run side by side on few cores, so here the CPU time of the
process is held against that: other work on the machine hardly changes it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 3.0
PRESENT = "data: {path: drawn, desired: smile}\n"

MISTAKES = {
    "no such settings file": ("train rnu.yaml", "no such file; 'smartedge init rnu.yaml' writes one"),
    "a misspelt verb": ("trian run.yaml", "did you mean 'smartedge train'?"),
    "a misspelt key": ("train run.yaml --set epcohs=2", "did you mean 'epochs'?"),
    "a key of another program": ("train run.yaml --set train.learning_rate=0.1", "did you mean 'train.lr'?"),
    "a key without its section": ("train run.yaml --set lr=0.1", "did you mean 'train.lr'?"),
    "a word for a number": ("train run.yaml --set epochs=many", "epochs: input should be a valid integer"),
    "no space after a colon": ("train run.yaml --set data.limit={train:256}", "write a space after the colon"),
    "an override without =": ("train run.yaml --set epochs", "write it as key=value"),
    "an unknown codec": ("train run.yaml --set codec.name=unit8", "did you mean 'uint8'?"),
    "a codec of images for features": (
        "train run.yaml --set codec.name=jpeg-90",
        "'jpeg-90' encodes images",
    ),
    "an unknown method": ("train run.yaml --set method=spilt", "did you mean 'split'?"),
    "a budget without noise": ("train run.yaml --set dp.epsilon=4", "choose a mechanism"),
    "adversaries without a column": ("train run.yaml --set adversary.exits=mlp", "name it here"),
    "a folder without a run": ("report run", "holds no run; train one with 'smartedge train'"),
    "an edge without an address": ("edge run.yaml", "--bundle FILE or --connect HOST:PORT is needed"),
    "a port that is no number": ("cloud run.yaml --listen 0.0.0.0:http", "write it as HOST:PORT"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_once(mistake: str, tmp_path: Path) -> None:
    command, says = MISTAKES[mistake]
    (tmp_path / "run.yaml").write_text(PRESENT)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "smartedge", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode != 0 and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs" / "run" / "edge").exists()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < SECONDS, f"{spent:.1f} s"
