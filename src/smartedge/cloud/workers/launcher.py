"""Starts the workers of this machine with torchrun, and listens to the first of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import torch

from smartedge.cloud.worker import FAILED
from smartedge.errors import RunError, SmartEdgeError, from_code
from smartedge.files import PRIVATE
from smartedge.runs.progress import Monitor, parse_update

__all__ = ["ENVIRONMENT", "Launched", "launch_command"]

_RESTARTS = 100  # after which torchrun gives up
_GRACE = 30.0  # seconds that workers have to end a step when they are asked to stop
_END = 5.0  # seconds that a process has to end when it is killed
_LOG = "workers.log"  # what torchrun and the workers say beside their progress
_MEETING = "rendezvous"  # torchrun's own file

# With the store of its own rendezvous torchrun 2.13 recovered from 1 kill of 6; with a store of its own, from all.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch_command(run: Path, workers: int) -> list[str]:
    """The command that starts the workers on this machine alone, and replaces those that end by themselves."""
    # torchrun may look for GPUs before it starts workers, and a process that has used CUDA must not be forked.
    forks = sys.platform == "linux" and not torch.cuda.is_available()
    return [
        *(sys.executable, "-m", "smartedge.cloud.workers.forking" if forks else "torch.distributed.run"),
        *("--nproc-per-node", str(workers), "--max-restarts", str(_RESTARTS)),
        # The rendezvous in a file: torchrun unpickles it, and its port would be open to the network.
        *("--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--rdzv-endpoint", str(run / "cloud" / _MEETING)),
        *("--local-addr", "127.0.0.1", "--monitor-interval", "0.2"),
        *("-m", "smartedge.cloud.worker", str(run), "--progress", "json"),
    ]


class Launched:
    """The workers of a run, as child processes of torchrun.

    Args:
        run: the run's folder.
        workers: how many.
        monitor: gets the updates of the first worker.
    """

    def __init__(self, run: Path, workers: int, monitor: Monitor) -> None:
        self._log = run / "cloud" / _LOG
        (run / "cloud" / _MEETING).unlink(missing_ok=True)  # of an earlier start
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE), "wb") as log:
            self._process = subprocess.Popen(
                launch_command(run, workers),
                stdin=subprocess.PIPE,  # the first worker stops where it ends
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C reaches this process alone
            )
        self._failure: SmartEdgeError | None = None
        self._reader = threading.Thread(target=self._read, args=(monitor,), daemon=True)
        self._reader.start()

    def ended(self) -> bool:
        """Whether the workers have ended, or one of them has told an error.

        Raises:
            SmartEdgeError: that error; or torchrun gave up.
        """
        if self._failure is not None:
            raise self._failure
        code = self._process.poll()
        if code is None:
            return False
        self._reader.join(timeout=5)
        if self._failure is not None:
            raise self._failure
        if code != 0:
            raise RunError(f"the workers have ended with code {code}; {self._log} says why")
        return True

    def stop(self) -> None:
        """Ask the workers to stop after the current step, and end them where they do not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._failure is None:
                self._process.wait(timeout=_GRACE)
        if self._process.poll() is None:
            torchrun = psutil.Process(self._process.pid)
            workers = torchrun.children(recursive=True)
            for process in [torchrun, *workers]:  # each is in a session of its own
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            psutil.wait_procs(workers, timeout=_END)
        self._reader.join(timeout=5)
        self._process.stdout.close()

    def _read(self, monitor: Monitor) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            update = parse_update(line)
            if update is None:
                continue
            if update.phase == FAILED:
                code, _, text = update.text.partition(" ")
                self._failure = self._failure or from_code(code, text) or RunError(update.text)
            else:
                monitor.update(update)
