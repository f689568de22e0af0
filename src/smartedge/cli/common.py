"""Parts that several verbs share: the settings argument, and the display of progress."""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from smartedge.cli.arguments import host_and_port
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError
from smartedge.logs import logging_to_stderr, say
from smartedge.runs.progress import Bars, JsonLines, LogLines, Monitor, Update
from smartedge.runs.progress_file import ProgressFile
from smartedge.stopping import Stop, stop_on_signals

_WATCH_PORT = 8817
_LOCAL = "127.0.0.1"
_LINES: queue.SimpleQueue[str] = queue.SimpleQueue()  # of standard input, where 'smartedge train' holds it open

__all__ = [
    "add_config_arguments",
    "add_operation_arguments",
    "add_override_argument",
    "add_side_arguments",
    "add_watch_argument",
    "logs",
    "metrics_address",
    "next_line",
    "notes_on_drawn_data",
    "side",
    "watch_page",
    "write_report_where_possible",
]


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add CONFIG, ``--set`` and ``--resume``."""
    parser.add_argument(
        "config", metavar="CONFIG", nargs=None if required else "?", help="settings file; 'smartedge init' writes one"
    )
    add_override_argument(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run that run_dir holds")


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """``--set KEY=VALUE``."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change one setting, for example --set train.lr=0.01; may be repeated",
    )


def add_side_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verbs that run one side."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--front",
        metavar="DIR",
        type=Path,
        help="in place of CONFIG: a front bundle ('smartedge export'). Its settings are used, edges release each image "
        "once, and the front is not trained again",
    )
    parser.add_argument(
        "--progress", choices=["bars", "json"], default="bars", help="json: one object a line, for another program"
    )
    add_operation_arguments(parser)
    parser.add_argument("--until-input-ends", action="store_true", help=argparse.SUPPRESS)  # for 'smartedge train'


def add_operation_arguments(parser: argparse.ArgumentParser) -> None:
    """``--log-format`` and ``--metrics``."""
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        help="log lines with time and level on standard error, not bars; default: text where that is no terminal",
    )
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="answer /metrics (Prometheus) and /healthz there; without HOST on this machine alone; default: off",
    )


@contextmanager
def logs(args: argparse.Namespace) -> Iterator[bool]:
    """Log to standard error inside. Whether log lines take the place of bars."""
    lines = args.log_format is not None or not sys.stderr.isatty()
    with logging_to_stderr(args.log_format or "text", level=logging.INFO if lines else logging.WARNING):
        yield lines


@contextmanager
def side(args: argparse.Namespace, name: str) -> Iterator[tuple[Config, Monitor, Stop]]:
    """Settings, monitor and stop event of a verb that runs one side, ``edge`` or ``cloud``."""
    from smartedge.launch.run_folder import in_folder, name_of, refuse_begun

    settings = _settings(args)
    notes = notes_on_drawn_data(settings) if args.front is None and name == "edge" else []
    if args.front is not None and name == "cloud":
        from smartedge.fronts.bundle import note_on_back

        notes = note_on_back(args.front, settings)
    chosen = name_of(args.config or args.front.resolve())
    config = in_folder(settings.without_auto(), chosen, [name], resume=args.resume)
    if not args.resume:
        refuse_begun(config.run_dir, name)  # before anything is written there
    with logs(args) as lines, stop_on_signals() as stop:
        if args.until_input_ends:
            # 'smartedge train' holds our standard input open. When its process ends, however that happens, we stop.
            threading.Thread(target=_follow_input, args=(_LINES,), daemon=True).start()
        shown: Monitor = JsonLines(sys.stdout) if args.progress == "json" else LogLines() if lines else Bars()
        monitor = ProgressFile(shown, config.run_dir)
        for text in notes:
            monitor.update(Update(name, "data", text=text))
        try:
            yield config, monitor, stop
        except Exception as error:
            monitor.note_failure(name, error)
            raise
        finally:
            monitor.close()


def metrics_address(args: argparse.Namespace) -> tuple[str, int] | None:
    """``--metrics [HOST:]PORT`` as host and port.

    Raises:
        ConfigError: it has another form.
    """
    return None if args.metrics is None else host_and_port(args.metrics, "--metrics", example="9464", host=_LOCAL)


def add_watch_argument(parser: argparse.ArgumentParser) -> None:
    """``--watch``."""
    parser.add_argument(
        "--watch",
        metavar="[HOST:]PORT",
        nargs="?",
        const=str(_WATCH_PORT),
        help="show the run as a page in the browser ('smartedge watch'); without HOST to this machine alone; "
        f"default port: {_WATCH_PORT}",
    )


def watch_page(
    address: str | None, run_dir: Path, tell: Callable[[str], None], option: str = "--watch"
) -> AbstractContextManager[None]:
    """Serve the page of a run inside the block, where an address ``[HOST:]PORT`` is given, and tell which one it is.

    Raises:
        ConfigError: the address has another form.
        LinkError: it cannot listen there.
    """
    if address is None:
        return nullcontext()
    from smartedge.lab.watch import watching_run  # takes a moment

    return watching_run(host_and_port(address, option, example=str(_WATCH_PORT), host=_LOCAL), run_dir, tell)


def write_report_where_possible(run_dir: Path) -> Path | None:
    """Write ``report.html`` of a finished run. Where a package or file is missing, print why and return None."""
    try:
        from smartedge.lab.report import write_report

        return write_report(run_dir)
    except (ImportError, OSError, ValueError) as error:
        say(f"no report.html: {error}", file=sys.stderr)
        return None


def notes_on_drawn_data(config: Config) -> list[str]:
    """A line for the user where the settings name no data set, so that nobody takes the drawn faces for their own."""
    if "path" in config.data.model_fields_set:
        return []
    return [f"data.path is not set: the images are those of '{config.data.path}', faces drawn by formula"]


def _settings(args: argparse.Namespace) -> Config:
    """Those of CONFIG, or of ``--front``."""
    if (args.config is None) == (args.front is None):
        raise ConfigError("give either CONFIG or --front DIR")
    if args.front is None:
        return load_config(args.config, args.overrides)
    from smartedge.fronts.bundle import settings_for_release

    return settings_for_release(args.front, args.overrides)


def next_line() -> str:
    """Wait for the next line that 'smartedge train' writes to our standard input; empty where it has ended."""
    return _LINES.get()


def _follow_input(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line.strip())
    os.kill(os.getpid(), signal.SIGTERM)
    lines.put("")
