"""Ends a run at a known place: after a checkpoint that counts, within the epoch that follows it.

In this process' children (:func:`train_and_die`), and as a program that takes the place of ``python`` for the two sides
of a run: ``killing.py -m smartedge edge …``.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from smartedge.config import load_config
from smartedge.runs import progress
from smartedge.runs.progress import Quiet, Update
from smartedge.training import train

VARIABLE = "SMARTEDGE_TEST_KILL"
PROGRAM = "SMARTEDGE_TEST_PYTHON"


class Kill(NamedTuple):
    """Where a run ends."""

    run_dir: str
    side: str  # whose process dies
    phase: str  # of its progress updates
    done: int  # at the first update with so many steps done
    checkpoint: int  # once a resumed run would begin with this one
    softly: bool = False  # Ctrl-C for the process that started this one, instead of SIGKILL for this one

    def newest(self) -> int:
        """The newest checkpoint of the side that a resumed run would begin with; 0: none."""
        folder = Path(self.run_dir) / self.side
        if self.side == "edge":
            confirmed = folder / "confirmed.json"
            return json.loads(confirmed.read_text())["checkpoint"] if confirmed.exists() else 0
        found = [int(entry.name) for entry in (folder / "checkpoints").glob("0*")]
        return max(found, default=0)

    def see(self, update: Update) -> None:
        """End the run if this is the place."""
        if (update.side, update.phase) != (self.side, self.phase) or update.done < self.done:
            return
        deadline = time.monotonic() + 30
        while self.newest() < self.checkpoint:
            if time.monotonic() > deadline:
                raise TimeoutError(f"checkpoint {self.checkpoint} was not confirmed")
            time.sleep(0.005)
        if self.softly:
            interrupt_parent()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def interrupt_parent() -> None:
    """Send Ctrl-C to the process that started this one, and go on when it has passed it on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.kill(os.getppid(), signal.SIGINT)
    signal.sigwait({signal.SIGINT})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.raise_signal(signal.SIGINT)


class Killing(Quiet):
    """A monitor that ends the run."""

    def __init__(self, kill: Kill) -> None:
        self.kill = kill

    def update(self, update: Update) -> None:
        self.kill.see(update)


def train_and_die(settings: str, kill: Kill) -> None:
    """Both sides in this process; dies on the way."""
    import torch

    torch.set_num_threads(1)
    train(load_config(settings), single_process=True, monitor=Killing(kill))


def stand_in(folder: Path, kill: Kill) -> tuple[Path, dict[str, str]]:
    """A program to take the place of ``sys.executable``, and the environment that it needs."""
    program = folder / "python-that-dies"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    return program, {VARIABLE: json.dumps(kill), PROGRAM: str(program)}


def die_where_told() -> None:
    """Let this process, a side of a run, die where the environment says."""
    kill = Kill(*json.loads(os.environ[VARIABLE]))
    update_as_usual = progress.JsonLines.update

    def update(self: progress.JsonLines, update: Update) -> None:
        update_as_usual(self, update)
        kill.see(update)

    progress.JsonLines.update = update  # type: ignore[method-assign]


def main() -> None:
    """``python -m smartedge …``, but that the process dies where the environment says."""
    die_where_told()
    sys.executable = os.environ[PROGRAM]
    assert sys.argv[1:3] == ["-m", "smartedge"]
    sys.argv = sys.argv[2:]
    runpy.run_module("smartedge", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
