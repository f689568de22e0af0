"""``python -m smartedge …`` as a process that is forked from one in which everything is imported.

A process of its own in all but this: it need not spend three seconds on importing torch. :class:`Popen` has the part of
the interface of ``subprocess.Popen`` that the package and the tests use, so either can stand for the other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO

import unsynced  # noqa: F401 - os.fsync returns at once

__all__ = ["PRELOADED", "Popen", "fork_server"]

# All that a side of a run imports, which takes a second even beside torch. The optimiser imports torch._dynamo when the
# first one is made; the writer of curves imports TensorBoard, and the report matplotlib.
PRELOADED = ["torch._dynamo", "torch.utils.tensorboard", "forked", "opened_faces"]
PRELOADED += [f"smartedge.cli.{verb}" for verb in ("app", "cloud", "edge", "train")]
PRELOADED += ["smartedge.training", "smartedge.edge.runner", "smartedge.cloud.runner", "smartedge.cloud.receiving"]
PRELOADED += ["smartedge.cloud.worker", "smartedge.methods.hierarchical", "smartedge.data.opening"]
PRELOADED += ["smartedge.fleet.bundle", "smartedge.wire.grpc_link", "smartedge.wire.grpc_receiver"]
PRELOADED += ["smartedge.lab.report", "matplotlib.backends.backend_svg", "frozen"]


def fork_server() -> BaseContext:
    """Starts processes that are forked from one in which everything is imported. One server for all tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Popen:
    """As ``subprocess.Popen([PYTHON, "-m", "smartedge", …], text=True)``; a file is given by its path."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | Path | None = None,
        stderr: int | None = None,
        text: bool = True,
        encoding: str | None = None,
        errors: str | None = None,
        start_new_session: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        assert command[1:3] == ["-m", "smartedge"] and text
        self.args = list(command)
        ours: list[Connection | None] = []
        theirs: list[Connection | Path | int | None] = []
        for number, asked in enumerate((stdin, stdout, stderr)):
            reading, writing = multiprocessing.Pipe(duplex=False) if asked == subprocess.PIPE else (None, None)
            ours.append(writing if number == 0 else reading)
            theirs.append((reading if number == 0 else writing) or (None if asked == subprocess.DEVNULL else asked))
        environment = dict(os.environ if env is None else env)
        how = (self.args[3:], theirs, environment, str(cwd or Path.cwd()), sys.path, start_new_session)
        self._process = fork_server().Process(target=_run, args=how)  # type: ignore[attr-defined]
        self._process.start()
        for end in theirs:
            if isinstance(end, Connection):
                end.close()
        self.stdin, self.stdout, self.stderr = (
            None if end is None else _file(end, mode, encoding, errors) for end, mode in zip(ours, "wrr", strict=True)
        )

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        code = self._process.exitcode
        return None if code is None else int(code)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read to the end of both outputs, and wait."""
        if self.stdin is not None:
            self.stdin.close()
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(_rest, each) for each in (self.stdout, self.stderr)]
            out, errors = (each.result(timeout) for each in read)
        self.wait(timeout)
        return out, errors

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


def _file(end: Connection, mode: str, encoding: str | None, errors: str | None) -> IO[str]:
    with end:
        return os.fdopen(os.dup(end.fileno()), mode, buffering=1, encoding=encoding, errors=errors)


def _rest(file: IO[str] | None) -> str:
    if file is None or file.closed:
        return ""
    with file:
        return file.read()


def _run(
    words: list[str],
    standard: list[Connection | Path | int | None],
    environment: dict[str, str],
    folder: str,
    paths: list[str],
    new_session: bool,
) -> None:
    """In the new process: what ``subprocess`` would have given it, and then the command line."""
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = paths
    for number, given in enumerate(standard):
        if isinstance(given, Connection):
            os.dup2(given.fileno(), number)
            given.close()
        elif given == subprocess.STDOUT:
            os.dup2(1, number)
        else:
            opened = os.open(given if isinstance(given, Path) else os.devnull, os.O_RDWR | os.O_CREAT)
            os.dup2(opened, number)
            os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    import killing
    import torch

    from smartedge.cli.app import main

    torch.set_num_threads(1)
    if killing.VARIABLE in os.environ:
        killing.die_where_told()
    sys.exit(main(words))
