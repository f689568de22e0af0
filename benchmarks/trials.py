"""What the trials share: a tiny run, its two sides as real processes that can be killed, and comparison of runs.

A process is forked from one that has imported everything, so it begins within milliseconds. Apart from that it is a
process of its own, running one command line of ``smartedge``.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Whatever a side needs, so that a forked one need not import it.
import smartedge.cloud.runner
import smartedge.edge.runner
import smartedge.wire.grpc_receiver  # noqa: F401
from smartedge.cli.app import main as command_line
from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder
from smartedge.config import Config, load_config
from smartedge.methods.base import get_method
from smartedge.runs.progress import Quiet
from smartedge.training import train

TINY: dict[str, Any] = {
    "epochs": 5,
    "data": {
        "path": "drawn",
        "desired": "smile",
        "sensitive": "masculine",
        "image_size": 16,
        "limit": {"train": 160, "val": 20, "test": 40},
        "audit_share": 0,
    },
    "model": {"name": "trials:build", "cut": "stage1", "bottleneck": None, "exit": {"width": 8, "depth": 1}},
    "train": {"batch_size": 16},
    "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
}


DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Tiny(nn.Module):
    """Two stages and a linear layer. Dropout on both sides of the cut: a random state that is not restored shows."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stage2(self.stage1(x)))
        return logits


def build(num_classes: int) -> nn.Module:
    """The factory that ``model.name: trials:build`` names."""
    return Tiny(num_classes)


def warm_up() -> None:
    """Look into the network once, so that forked sides need not import what that takes. Starts no thread."""
    torch.set_num_threads(1)
    get_method("hierarchical").cloud(load_config(TINY), 2)


class Process:
    """A forked process that runs a function. Its output goes to ``log``; its input stays open while this one lives."""

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self.log = log
        self.code: int | None = None  # once it has ended: exit code, or minus the signal
        reading, self._writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._child(work, reading))
        os.close(reading)
        self._ended = os.pidfd_open(self.pid)

    def _child(self, work: Callable[[], int], reading: int) -> int:
        code = 1
        try:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            os.close(self._writing)
            os.dup2(reading, 0)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def kill(self) -> None:
        """``kill -9``, where it has not ended; returns when it has."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended; False where that takes longer."""
        return bool(ended([self], seconds))

    def collect(self) -> None:
        """Take the exit code of a process that has ended."""
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        os.close(self._ended)
        os.close(self._writing)

    @property
    def ended_descriptor(self) -> int:
        """Becomes readable when the process has ended."""
        return self._ended

    def tail(self) -> str:
        """The last lines of its output that are no progress updates."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if not line.startswith("{")]
        return "\n".join(lines[-12:])


def ended(processes: Sequence[Process], seconds: float | None) -> list[Process]:
    """Those that have ended; waits for the first of them, but no longer than ``seconds``."""
    running = {each.ended_descriptor: each for each in processes if each.code is None}
    ready, _, _ = select.select(list(running), [], [], None if seconds is None else max(0.0, seconds))
    found = [running[descriptor] for descriptor in ready]
    for each in found:
        each.collect()
    return found


def side(verb: str, config: Config, *arguments: str) -> Process:
    """``smartedge edge …`` or ``smartedge cloud …`` as a process of its own."""
    settings = config.run_dir.with_suffix(f".{verb}.yaml")
    if not settings.exists():
        settings.write_text(config.to_yaml())
    command = [verb, str(settings), "--progress", "json", *arguments]
    return Process(lambda: command_line(command), config.run_dir.with_suffix(f".{verb}.log"))


def train_alone(config: Config) -> None:
    """The undisturbed run on this machine, in a process of its own; nothing is done where it is there already."""
    if not (config.run_dir / "results.json").exists():
        process = Process(lambda: _train(config), config.run_dir.with_suffix(".log"))
        process.wait()
        assert process.code == 0, process.tail()


def _train(config: Config) -> int:
    train(config, single_process=True, monitor=Quiet())
    return 0


def give_key(run: Path) -> None:
    """Give a run the secret of the noise that all runs of the trials have, so that their releases are equal."""
    (run / "edge").mkdir(parents=True, exist_ok=True)
    key = run / "edge" / "noise.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)


def weights(folder: Path) -> dict[str, Tensor]:
    """All parameters and buffers that a side ended with."""
    names = ("front", "exit", "teacher", "network", "back")
    files = [folder / f"{name}.safetensors" for name in names]
    return {
        f"{file.stem}.{name}": tensor for file in files if file.exists() for name, tensor in load_file(file).items()
    }


def differing_weights(one: Path, other: Path) -> list[str]:
    """What differs between the weights in two folders, in words."""
    left, right = weights(one), weights(other)
    if left.keys() != right.keys():
        return [f"{other}: has other tensors than {one}"]
    return [f"{name} differs" for name in left if not torch.equal(left[name], right[name])]


def frames_of(cloud: Path) -> dict[str, tuple[int, str]]:
    """Edge → frames that a cloud holds, and a digest of them; a frame that is missing counts as none."""
    found = {}
    for edge in edges_of(cloud):
        log, digest, count = FeatureReader(log_folder(cloud, edge)), hashlib.sha256(), 0
        for seq in range(log.next_seq):
            if log.came(seq):
                frame = log.frame(seq)
                digest.update(bytes(frame.batch.payload) + frame.batch.side + frame.batch.ids.tobytes())
                digest.update(frame.batch.labels.tobytes())
                count += 1
        found[edge] = (count, digest.hexdigest()[:16])
    return found


def differences_of(whole: Path, other: Path) -> list[str]:
    """What differs between the undisturbed run and another one, in words: weights, results, metrics, frames."""
    found = [each for part in ("edge", "cloud") for each in differing_weights(whole / part, other / part)]
    results = [json.loads((run / "results.json").read_text()) for run in (whole, other)]
    found += [f"results: {key}" for key in ("test", "releases_per_image") if results[0][key] != results[1][key]]
    rows = [[_place(row) for row in _rows(run / "metrics.jsonl")] for run in (whole, other)]
    if sorted(rows[0]) != sorted(rows[1]):
        found.append("metrics: other rows")
    if (frames := frames_of(other / "cloud")) != (expected := frames_of(whole / "cloud")):
        found.append(f"frames: {frames} in place of {expected}")
    return found


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    yield from map(json.loads, file.read_text().splitlines())


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["side"], row["epoch"], row["split"]


@contextlib.contextmanager
def stopping(processes: list[Process]) -> Iterator[None]:
    """Kill, in the end, whatever of these runs still."""
    try:
        yield
    finally:
        for each in processes:
            each.kill()


def seconds_since(begun: float) -> float:
    """Rounded to milliseconds."""
    return round(time.monotonic() - begun, 3)
