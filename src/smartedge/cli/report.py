"""``smartedge report``: the results of a run as one HTML file, or of several runs as one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.errors import LogError, RunError
from smartedge.files import disk_error, is_disk_error, named_by
from smartedge.logs import say
from smartedge.methods.schedules import get_schedule

if TYPE_CHECKING:
    from smartedge.artifacts.results import Results

__all__ = ["add_parser", "print_table", "run"]

_DESCRIPTION = """\
Write report.html of a finished run, or compare several.

  $ smartedge report runs/faces
  runs/faces/report.html

  $ smartedge report runs/faces runs/faces-split --out comparison.html
  (one table)
  comparison.html

  $ smartedge report runs/vgg11 runs/resnet18 runs/mobilevit --figure figure.png
  figure.png

The figure shows test images by desired and sensitive label. Beside each image are its best reconstructions, without and
with protection, for each run. 'smartedge audit RUN' must make them first. The page shows the results of the audit too.

In the run directory of a fleet's cloud, the page shows what the cloud knows of each edge. No file of an edge is needed.

Where edge and cloud ran on two machines, 'smartedge collect' on the edge brings the cloud's part there: the report
needs both sides. Never copy edge/ to the cloud: it holds the key of the noise and raw images.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("report", description=_DESCRIPTION)
    parser.add_argument("run_dirs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add_argument("--out", type=Path, help="default: RUN/report.html, or comparison.html for several runs")
    parser.add_argument(
        "--figure", metavar="PNG", type=Path, help="instead of a page, draw the reconstructions of the audited runs"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the page, or the figure, and say where it is."""
    try:
        return _write(args)
    except OSError as error:
        page = args.run_dirs[0] / "report.html"
        if args.out is None and is_disk_error(error) and named_by(error) == str(page):
            raise LogError(f"{page}: {disk_error(error)}; or write the page elsewhere, with --out FILE") from error
        raise


def _write(args: argparse.Namespace) -> int:
    from smartedge.config import load_run_config

    for folder in args.run_dirs:
        if not any((folder / name).exists() for name in ("results.json", "cloud/fleet.json")):
            load_run_config(folder)  # a folder without a run is told before the drawing libraries are imported
    from smartedge.lab.report import is_fleet, write_comparison, write_figure, write_fleet_report, write_report
    from smartedge.training import collect

    if fleets := [folder for folder in args.run_dirs if is_fleet(folder)]:
        if len(args.run_dirs) > 1 or args.figure is not None:
            raise RunError(f"{fleets[0]}: is the cloud of a fleet; its report is made alone, without --figure")
        say(write_fleet_report(fleets[0], out=args.out))
        return 0
    for folder in args.run_dirs:
        if not (folder / "results.json").exists():
            collect(folder)
    try:
        if args.figure is not None:
            say(write_figure(args.run_dirs, args.figure))
        elif len(args.run_dirs) == 1:
            say(write_report(args.run_dirs[0], out=args.out))
        else:
            print_table(args.run_dirs)
            say(write_comparison(args.run_dirs, args.out or Path("comparison.html")))
    except (OSError, ValueError) as error:
        if is_disk_error(error):  # the command line says what to do about it
            raise
        raise RunError(str(error)) from error
    return 0


def print_table(run_dirs: Sequence[Path]) -> None:
    """Print the main figures of several runs, one row each."""
    from rich.console import Console
    from rich.table import Table

    from smartedge.artifacts.results import Results

    table = Table(title="test split; bytes counted at the socket, per image sent", title_justify="left")
    table.add_column("method")
    for heading in ("back", "exit", "gain", "up", "down", "sent", "s/epoch", "edge peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    runs = [Results.read(folder / "results.json") for folder in run_dirs]
    for results in runs:
        table.add_row(*_row(results, max(run.epochs for run in runs)))
    Console(width=110).print(table)


def _row(results: Results, most_epochs: int) -> list[str]:
    from smartedge.lab.judging.text import fewer_epochs

    back, at_exit, sent = results.test.back, results.test.exit, results.bytes_per_image
    peak = results.edge_peak_rss_bytes
    return [
        ", ".join(
            [results.method]
            + (["each image once"] if get_schedule(results.schedule).once else [])
            + fewer_epochs(results.epochs, most_epochs)
        ),
        f"{100 * back.balanced_accuracy:.1f} %" if back else "",
        f"{100 * at_exit.balanced_accuracy:.1f} %" if at_exit else "",
        f"{100 * (back.balanced_accuracy - at_exit.balanced_accuracy):+.1f}" if back and at_exit else "",
        f"{sent.up:,.0f} B",
        f"{sent.down:,.0f} B",
        f"{results.releases_per_image}x",
        f"{results.seconds_per_epoch:.1f}",
        f"{peak / 2**20:,.0f} MiB" if peak else "",
    ]
