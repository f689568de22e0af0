"""A run from Python: both sides as processes of this machine, or in one process, or one side alone."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge import errors
from smartedge.config import Config, load_config
from smartedge.errors import LinkError, RunError, SmartEdgeError
from smartedge.runs.checkpoint import write_json_atomically
from smartedge.runs.progress import Bars, Monitor, Update, parse_update

if TYPE_CHECKING:
    from smartedge.data import DataSet
    from smartedge.wire.flight import FlightLink, FlightReceiver
    from smartedge.wire.link import FrameHandler

__all__ = [
    "collect",
    "flight_link",
    "flight_receiver",
    "open_data",
    "run_cloud",
    "run_edge",
    "stop_on_signals",
    "train",
]

_GRACE_SECONDS = 20.0  # for a side to stop by itself when the other one has failed


def train(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    resume: bool = False,
    single_process: bool = False,
    monitor: Monitor | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Run one training to its end and return its results (``results.json``, see ``docs/results-schema.md``).

    Edge and cloud run as two processes of this machine, joined by a socket.

    Args:
        config: a YAML file, a mapping, or a :class:`Config`.
        overrides: as for ``--set``.
        resume: continue the run that ``run_dir`` holds.
        single_process: the same steps without a socket, in this process; gives the same weights.
        monitor: takes progress updates; default: bars on standard error.
        report: also write ``report.html`` where what it needs is installed.

    Raises:
        SmartEdgeError: what went wrong on either side.
        KeyboardInterrupt: after both sides have stopped cleanly.
    """
    settings = load_config(config, overrides)
    run_dir = settings.run_dir
    facts = _prepare_run(settings, resume=resume)
    shown = monitor or Bars()
    try:
        if single_process:
            finished = _train_here(settings, shown, resume=resume)
        else:
            finished = _train_in_processes(settings, shown, resume=resume)
    finally:
        shown.close()
    if not finished:
        raise KeyboardInterrupt(f"stopped; continue with: smartedge train {run_dir / 'config.yaml'} --resume")
    from smartedge.runs.results import assemble

    results = assemble(run_dir, settings, facts)
    if report:
        _write_report(run_dir, shown)
    return results


def collect(run_dir: Path) -> dict[str, Any]:
    """Put the results of a run together whose sides ran by themselves (``smartedge edge``, ``smartedge cloud``).

    Args:
        run_dir: holds both sides' folders, ``edge/`` and ``cloud/``.

    Raises:
        RunError: a side is missing or has not finished, or the sides belong to different runs.
    """
    from smartedge.runs.results import assemble

    if not run_dir.is_dir():
        raise RunError(f"{run_dir}: no such run directory")
    return assemble(run_dir, load_config(run_dir / "config.yaml"), _read_facts(run_dir / "run.json"))


def run_edge(
    config: Config, location: str | None, monitor: Monitor, *, resume: bool = False, stop: threading.Event | None = None
) -> bool:
    """The edge's process: trains, and sends to the cloud at ``location`` (``host:port``). True when done."""
    import torch

    from smartedge.edge.runner import EdgeRunner

    torch.set_num_threads(config.threads)
    _note_facts(config)
    sender = None
    if config.method != "edge":
        assert location is not None
        sender = flight_link(config, location)
    dataset = open_data(config, monitor)
    runner = EdgeRunner(config, dataset, sender, config.run_dir / "edge", monitor, resume=resume, threaded=True)
    return runner.run(stop or threading.Event())


def run_cloud(
    config: Config,
    host: str,
    port: int,
    monitor: Monitor,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
) -> bool:
    """The cloud's process: listens, logs what comes, trains. True when done.

    The port listened on is told to ``monitor`` as :attr:`Update.port`, once frames can be accepted.
    """
    import torch

    from smartedge.cloud.session import CloudSession

    if config.method == "edge":
        raise errors.ConfigError("method: 'edge' sends nothing, so there is no cloud to start; use 'smartedge edge'")
    torch.set_num_threads(config.threads)
    _note_facts(config)
    session = CloudSession(config, config.run_dir / "cloud", monitor, resume=resume, inline=False)
    receiver = flight_receiver(config, session, host, port)
    receiver.start()
    monitor.update(Update("cloud", "listen", text=f"listening on {host}:{receiver.port}", port=receiver.port))
    try:
        return session.run(stop or threading.Event())
    finally:
        receiver.close()
        session.close()


def flight_link(config: Config, location: str) -> FlightLink:
    """The edge's end of the link, with the settings' token and certificates."""
    from smartedge.wire.flight import FlightLink

    link = config.link
    return FlightLink(
        location,
        token=_token(config),
        tls_ca=link.tls_ca,
        tls_cert=link.tls_cert,
        tls_key=link.tls_key,
        connect_timeout_s=link.connect_timeout,
    )


def flight_receiver(config: Config, handler: FrameHandler, host: str, port: int) -> FlightReceiver:
    """The cloud's end of the link, with the settings' token and certificates."""
    from smartedge.wire.flight import FlightReceiver

    link = config.link
    return FlightReceiver(
        handler,
        host,
        port,
        token=_token(config),
        tls_cert=link.tls_cert,
        tls_key=link.tls_key,
        tls_ca=link.tls_ca,
        insecure=link.insecure,
    )


def _train_here(config: Config, monitor: Monitor, *, resume: bool) -> bool:
    import torch

    from smartedge.cloud.session import CloudSession
    from smartedge.edge.runner import EdgeRunner
    from smartedge.wire.memory import MemoryLink

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    session = None
    try:
        with stop_on_signals() as stop:
            dataset = open_data(config, monitor)
            if config.method != "edge":
                session = CloudSession(config, config.run_dir / "cloud", monitor, resume=resume, inline=True)
            sender = MemoryLink(session) if session else None
            runner = EdgeRunner(
                config, dataset, sender, config.run_dir / "edge", monitor, resume=resume, threaded=False
            )
            return runner.run(stop)
    finally:
        if session is not None:
            session.close()
        torch.set_num_threads(threads)


def open_data(config: Config, monitor: Monitor) -> DataSet:
    """The data set that the settings name; what was left out of it, or made of it, is told to ``monitor``."""
    from smartedge.data import open_dataset

    data = config.data
    dataset = open_dataset(
        data.path,
        data.desired,
        sensitive=data.sensitive,
        image_size=data.image_size,
        limit=data.limit,  # subsets and splits stay the same whatever config.seed is
        cache_dir=data.cache_dir,
    )
    told = [*dataset.notes, *(f"left out {count} images: {reason}" for reason, count in dataset.skipped.items())]
    for text in told:
        monitor.update(Update("edge", "data", text=text))
    return dataset


def _token(config: Config) -> str | None:
    path = config.link.token_file
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").split("\n")[0].strip()
    except OSError as error:
        raise errors.ConfigError(f"link.token_file: {path} cannot be read ({error})") from error
    if not token:
        raise errors.ConfigError(f"link.token_file: the first line of {path} is empty; write a secret there")
    return token


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one interrupts at once."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# -- two processes


def _train_in_processes(config: Config, monitor: Monitor, *, resume: bool) -> bool:
    sides: list[_Side] = []
    with stop_on_signals() as stop:
        try:
            location: list[str] = []
            if config.method != "edge":
                cloud = _Side(config, "cloud", ["--listen", "127.0.0.1:0"], monitor, resume=resume)
                sides.append(cloud)
                while cloud.port is None and cloud.running():
                    cloud.changed.wait(timeout=0.2)
                    cloud.changed.clear()
                    if stop.is_set():
                        break
                location = ["--connect", f"127.0.0.1:{cloud.port}"]
            if all(side.running() for side in sides) and not stop.is_set() and not _finished(config.run_dir / "edge"):
                sides.append(_Side(config, "edge", location, monitor, resume=resume))
            return _wait(sides, stop)
        finally:
            for side in sides:
                side.end()


def _wait(sides: Sequence[_Side], stop: threading.Event) -> bool:
    """Until both sides have ended; where one fails, the other is stopped and the first failure is raised."""
    failed: _Side | None = None
    asked, deadline = False, float("inf")
    while any(side.running() for side in sides):
        failed = failed or next((side for side in sides if side.failed()), None)
        if (failed or stop.is_set()) and not asked:
            asked, deadline = True, time.monotonic() + _GRACE_SECONDS
            for side in sides:
                side.interrupt()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    failures = [side for side in ([failed] if failed else []) + list(sides) if side.failed()]
    if stop.is_set():
        return False
    if failures:
        # A side that lost the other one only knows that it is gone; the other one knows why.
        errors_found = [side.error() for side in failures]
        raise next((error for error in errors_found if not isinstance(error, LinkError)), errors_found[0])
    return True


class _Side:
    """One side as a child process; what it prints as JSON lines goes to the monitor."""

    def __init__(self, config: Config, side: str, arguments: list[str], monitor: Monitor, *, resume: bool) -> None:
        self.side = side
        self.port: int | None = None
        self.changed = threading.Event()
        command = [sys.executable, "-m", "smartedge", side, str(config.run_dir / "config.yaml"), *arguments]
        command += ["--progress", "json"] + (["--resume"] if resume else [])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        self.stderr: list[str] = []
        self.readers = [
            threading.Thread(target=self._read_updates, args=(monitor,), daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def running(self) -> bool:
        return self.process.poll() is None

    def failed(self) -> bool:
        return not self.running() and self.process.returncode not in (0, 130)

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
        if found:
            for name in errors.__all__:
                kind = getattr(errors, name)
                if kind.code == found[1]:
                    return kind(f"{self.side}: {found[2]}")
        tail = "\n".join(text.splitlines()[-12:])
        return RunError(f"the {self.side} process ended with code {self.process.returncode}:\n{tail}")

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


# -- the run directory


def _prepare_run(config: Config, *, resume: bool) -> dict[str, Any]:
    """Make the run directory, or check that it holds this run; returns facts for the results."""
    run_dir = config.run_dir
    facts_file, config_file = run_dir / "run.json", run_dir / "config.yaml"
    if facts_file.exists():
        if not resume:
            raise RunError(
                f"{run_dir}: holds a run already; continue it with --resume, or choose another run_dir "
                "(--set run_dir=...)"
            )
        before = load_config(config_file)
        if before.agreement() != config.agreement():
            raise RunError(f"{run_dir}: was started with other settings; resume it with {config_file}")
        edge_done = _finished(run_dir / "edge")
        if not edge_done and (run_dir / "cloud" / "closed").exists():
            (run_dir / "cloud" / "closed").unlink()  # the cloud must wait for the edge again
        return _read_facts(facts_file)
    if resume and run_dir.exists():
        raise RunError(f"{run_dir}: there is no run to resume; start it without --resume")
    return _write_facts(config)


def _write_facts(config: Config) -> dict[str, Any]:
    """Note the settings and the machine in the run directory."""
    from smartedge.runs.machine import describe_machine, versions

    run_dir = config.run_dir
    facts_file, config_file = run_dir / "run.json", run_dir / "config.yaml"
    run_dir.mkdir(parents=True, exist_ok=True)
    config_file.write_text(config.to_yaml(), encoding="utf-8")
    facts = {
        "machine": describe_machine(),
        "versions": versions(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    write_json_atomically(facts_file, facts)
    return facts


def _note_facts(config: Config) -> None:
    """For a side that runs by itself: note settings and machine, unless :func:`train` or the other side has."""
    if not (config.run_dir / "run.json").exists():
        _write_facts(config)


def _read_facts(file: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({error})") from error
    return facts


def _finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError):
        return False


def _write_report(run_dir: Path, monitor: Monitor) -> None:
    try:
        from smartedge.report import write_report

        write_report(run_dir)
    except (ImportError, OSError, ValueError) as error:
        monitor.update(Update("", "report", text=f"no report.html: {error}"))
