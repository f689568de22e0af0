"""Runs both sides as processes of this machine: starts them, reads their output, stops them together."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from smartedge.artifacts.summary import has_finished
from smartedge.config import Config
from smartedge.edge.apart import Division
from smartedge.errors import LinkError, RunError, SmartEdgeError, from_code
from smartedge.methods.base import get_method
from smartedge.runs.progress import Monitor, parse_update
from smartedge.stopping import stop_on_signals

__all__ = ["AWAITED", "run_both"]

AWAITED = "-"  # in place of the cloud's address: it comes as a line on standard input

_GRACE_SECONDS = 20.0  # for a side to stop by itself when the other one has failed


def run_both(
    config: Config, monitor: Monitor, *, resume: bool, edge_has_finished: bool, division: Division | None
) -> bool:
    """Start both sides from ``run_dir/config.yaml`` and wait for their end. True when done, False when interrupted.

    Both start at the same time, since imports take some seconds. The edge hears the cloud's address as soon as there is
    one.

    Args:
        config: the run's settings.
        monitor: gets both sides' updates.
        resume: the sides continue the run in ``run_dir``.
        edge_has_finished: the edge is done, and only the cloud is started.
        division: divides the network for the edge; None: the edge sees to it.

    Raises:
        SmartEdgeError: the error of the side that failed first.
    """
    sides: list[_Side] = []
    changed = threading.Event()
    with stop_on_signals() as stop, stop.polled():
        try:
            has_cloud = get_method(config.method).has_cloud
            if not edge_has_finished:
                awaited = ["--connect", AWAITED] if has_cloud else []
                answer = None if division is None else division.answer
                sides.append(_Side(config, "edge", awaited, monitor, changed, resume=resume, division=answer))
            if has_cloud:
                alone = ["--set", "fleet.farewell=0"] if edge_has_finished else []  # the edge knows that all arrived
                cloud = _Side(config, "cloud", ["--listen", "127.0.0.1:0", *alone], monitor, changed, resume=resume)
                edges, sides = list(sides), [cloud, *sides]
                while cloud.port is None and all(side.running() for side in sides) and not stop.is_set():
                    changed.wait(timeout=0.05)
                    changed.clear()
                if cloud.port is None and not stop.is_set():
                    return _wait(sides, stop, grace=0.0)  # one has failed, and the other one has not begun
                for edge in edges if cloud.port is not None else ():
                    edge.tell(f"127.0.0.1:{cloud.port}")
            return _wait(sides, stop)
        finally:
            for side in sides:
                side.end()


def _wait(sides: Sequence[_Side], stop: threading.Event, grace: float = _GRACE_SECONDS) -> bool:
    """Wait until both sides have ended. Where one fails, stop the other and raise the first failure.

    Args:
        sides: both processes, or one.
        stop: set where the user has asked to stop.
        grace: seconds for a side to stop by itself; one that has not after that is left for :meth:`_Side.end`.
    """
    failed: _Side | None = None
    asked, deadline = False, float("inf")
    while any(side.running() for side in sides):
        failed = failed or next((side for side in sides if side.failed()), None)
        if (failed or stop.is_set() or any(side.stopped() for side in sides)) and not asked:
            asked, deadline = True, time.monotonic() + grace
            for side in sides:
                side.interrupt()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    failures = [side for side in ([failed] if failed else []) + list(sides) if side.failed()]
    if stop.is_set() or (not failures and any(side.stopped() for side in sides)):
        return False
    if failures:
        # A side whose peer failed reports only a lost link. The peer's own error says why.
        errors_found = [side.error() for side in failures]
        raise next((error for error in errors_found if not isinstance(error, LinkError)), errors_found[0])
    return True


class _Side:
    """One side as a child process. Its JSON lines go to the monitor.

    Args:
        config, side, arguments, monitor, resume: what it runs, and who gets its updates.
        changed: set with each update, and when there will be no more.
        division: a pipe, from which the edge reads its part of the network.
    """

    def __init__(
        self,
        config: Config,
        side: str,
        arguments: list[str],
        monitor: Monitor,
        changed: threading.Event,
        *,
        resume: bool,
        division: IO[bytes] | None = None,
    ) -> None:
        self.side = side
        self.folder = config.run_dir / side
        self.port: int | None = None
        self.changed = changed
        inherited: dict[str, Any] = {} if division is None else {"pass_fds": (division.fileno(),)}
        arguments = arguments if division is None else [*arguments, "--division", str(division.fileno())]
        command = [sys.executable, "-m", "smartedge", side, str(config.run_dir / "config.yaml"), *arguments]
        command += ["--progress", "json", "--until-input-ends"] + (["--resume"] if resume else [])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            **inherited,
        )
        self.stderr: list[str] = []
        self.readers = [
            threading.Thread(target=self._read_updates, args=(monitor,), daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its exit code says why
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def running(self) -> bool:
        return self.process.poll() is None

    def failed(self) -> bool:
        return not self.running() and self.process.returncode not in (0, 130)

    def stopped(self) -> bool:
        """Whether somebody has asked this side alone to end."""
        return not self.running() and self.process.returncode in (0, 130) and not has_finished(self.folder)

    def interrupt(self) -> None:
        if self.running():
            self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        if self.running():
            self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join(timeout=5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def error(self) -> SmartEdgeError:
        for reader in self.readers:
            reader.join(timeout=5)
        text = "".join(self.stderr).strip()
        found = re.search(r"error \[(SE[A-Z-]*)\]: (.*)", text, flags=re.DOTALL)
        if found and (error := from_code(found[1], f"{self.side}: {found[2]}")):
            return error
        tail = "\n".join(text.splitlines()[-12:])
        code = self.process.returncode
        if code < 0:
            told = f"was ended by {signal.Signals(-code).name}. Where nobody did so, the memory may have run out; "
            return RunError(f"the {self.side} process {told}go on with --resume\n{tail}".strip())
        return RunError(f"the {self.side} process ended with code {code}:\n{tail}")

    def _read_updates(self, monitor: Monitor) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            update = parse_update(line)
            if update is None:
                continue
            if update.port:
                self.port = update.port
            else:
                monitor.update(update)
            self.changed.set()
        self.changed.set()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.stderr.extend(self.process.stderr)
