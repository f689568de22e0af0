"""``smartedge`` as a process of its own, without the seconds that importing torch takes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from forked import Popen

from smartedge.config import Config


class Command:
    """One command line as a process; without a terminal and input, and all output goes to a file."""

    def __init__(self, folder: Path, *argv: str | Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.argv = [str(word) for word in argv]
        self._output = folder / f"{self.argv[0]}-{len(list(folder.glob('*.out')))}.out"
        command = [sys.executable, "-m", "smartedge", *self.argv]
        self.process = Popen(command, stdout=self._output, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """What it has printed so far, on standard output and standard error."""
        return self._output.read_text() if self._output.exists() else ""

    def until(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.output
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
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"has not ended: {self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> tuple[int, float]:
        """Ask it to end. Its exit code, and the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        return self.end(seconds), time.monotonic() - begun

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        self.process.wait()


def settings_file(config: Config, name: str) -> Path:
    """The settings as a file beside the run directory."""
    path = config.run_dir.parent / f"{name}.yaml"
    path.write_text(config.to_yaml())
    return path
