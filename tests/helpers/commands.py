"""``smartedge`` as a process of its own, without the seconds that importing torch takes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

from smartedge.cli.app import main
from smartedge.config import Config


def fork_server() -> BaseContext:
    """Starts processes that are forked from one in which everything is imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["smartedge.training", "smartedge.edge.runner", "smartedge.cloud.runner", "commands"]
    )
    return context


def _run(argv: list[str], output: Path, paths: list[str]) -> None:
    """In the new process: no terminal, no input; all output goes to a file."""
    sys.path[:] = paths
    empty, written = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, target in ((0, empty), (1, written), (2, written)):
        os.dup2(target, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    import torch

    torch.set_num_threads(1)
    sys.exit(main(argv))


class Command:
    """One command line as a process."""

    def __init__(self, context: BaseContext, folder: Path, *argv: str | Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.argv = [str(word) for word in argv]
        self._output = folder / f"{self.argv[0]}-{len(list(folder.glob('*.out')))}.out"
        self.process = context.Process(target=_run, args=(self.argv, self._output, sys.path))  # type: ignore[attr-defined]
        self.process.start()

    @property
    def output(self) -> str:
        """What it has printed so far, on standard output and standard error."""
        return self._output.read_text() if self._output.exists() else ""

    def until(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def says(self, text: str) -> None:
        """Wait until it has printed a text."""
        self.until(lambda: text in self.output)

    def port(self) -> int:
        """The port on which it says that it listens."""
        self.says("listening on 127.0.0.1:")
        return int(self.output.partition("listening on 127.0.0.1:")[2].split("\n")[0].split(";")[0])

    def end(self, seconds: float = 90) -> int:
        """Wait for its end; its exit code."""
        self.process.join(timeout=seconds)
        assert self.process.exitcode is not None, f"has not ended: {self.output}"
        return int(self.process.exitcode)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 10) -> tuple[int, float]:
        """Ask it to end. Its exit code, and the seconds that it took."""
        begun = time.monotonic()
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self.end(seconds), time.monotonic() - begun

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        self.process.join()


def settings_file(config: Config, name: str) -> Path:
    """The settings as a file beside the run directory."""
    path = config.run_dir.parent / f"{name}.yaml"
    path.write_text(config.to_yaml())
    return path
