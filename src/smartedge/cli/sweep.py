"""``smartedge sweep``: runs over a grid of settings, with the accuracy and privacy of each."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import positive, seconds
from smartedge.cli.common import add_override_argument
from smartedge.errors import ConfigError, RunError
from smartedge.logs import say
from smartedge.metrics import rounded_up

if TYPE_CHECKING:
    from smartedge.artifacts.sweep import Spread, Sweep

__all__ = ["add_parser", "print_table", "run"]

_DESCRIPTION = """\
Train with every value of a setting, attack each run, and draw accuracy on the desired label against the attacks.

  $ smartedge sweep run.yaml --vary adversary.weight=0,1,3,10 --audit --budget 10m --seeds 3
  (progress of each run)
   adversary.weight  Smiling       Male, best attack  training image  undefended  label floor  runs
                  0  91.4 % ± 0.3       81.3 % ± 0.9    81.5 % ± 0.9      92.8 %       64.5 %     3
                  3  91.0 % ± 0.4       68.0 % ± 1.1    68.4 % ± 1.0      92.8 %       64.5 %     3
  ...
  runs/run-sweep/sweep.html
  runs/run-sweep/frontier.png

  $ smartedge sweep run.yaml --vary dp.epsilon=1,2,4,8,16 --vary model.codebook=4,8 --audit

Several --vary make a grid. A list is written in brackets: --vary adversary.exits=[conv],[conv,deep]. Every point is an
ordinary run in runs/ of the sweep's folder. With --audit the same network is also trained without protection, in
undefended/. sweep.json and sweep.csv hold the figures. A sweep makes no reconstructions; use 'smartedge audit' on the
point that you choose.
Where a point fails, the others go on; failed points are listed at the end (exit code 10). Ctrl-C stops. The same
command continues: finished points are kept, failed ones are tried again.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("sweep", description=_DESCRIPTION)
    parser.add_argument("config", metavar="CONFIG", help="settings file; 'smartedge init' writes one")
    parser.add_argument(
        "--vary", metavar="KEY=V1,V2", action="append", default=[], help="a setting and its values; may be repeated"
    )
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each setting (1)")
    parser.add_argument("--audit", action="store_true", help="attack every run, and the same without protection")
    parser.add_argument("--budget", metavar="TIME", help="time of each audit, such as 90s, 5m or 2h; default: no limit")
    parser.add_argument("--out", type=Path, help="the sweep's folder; default: run_dir with '-sweep'")
    parser.add_argument("--single-process", action="store_true", help="as for 'smartedge train'")
    add_override_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Make the runs, print the table, write the page."""
    from smartedge.config import load_config
    from smartedge.lab.sweep import folder_of, parse_axes, sweep
    from smartedge.launch.run_folder import name_of

    if args.budget is not None and not args.audit:
        raise ConfigError("--budget: is the time of the audit; give --audit as well")
    folder = args.out or folder_of(load_config(args.config, args.overrides), name_of(args.config))
    try:
        found = sweep(
            args.config,
            parse_axes(args.vary),
            args.overrides,
            folder=folder,
            seeds=args.seeds,
            audit_seconds=(seconds(args.budget, "--budget") if args.budget else math.inf) if args.audit else None,
            single_process=args.single_process,
        )
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"stopped; the same command goes on; so far: {folder / 'sweep.json'}") from None
    print_table(found)
    for path in _page(folder):
        say(path)
    failed = [point for point in found.points if point.state == "failed"]
    for point in failed:
        say(f"failed: {point.run}: {point.error}")
    return RunError.exit_code if failed else 0


def print_table(found: Sweep) -> None:
    """Print one row per setting: means over the seeds, and their spread."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from smartedge.lab.judging.leakage import limiting

    table = Table(title="balanced accuracy on the test images, mean ± standard deviation", title_justify="left")
    for axis in found.axes:
        table.add_column(axis.key, justify="right", no_wrap=True)
    table.add_column(", ".join(found.desired), justify="right")
    names = found.sensitive if found.audited else ()
    for name in names:
        for heading in (f"{name}, best attack", "training image", "undefended", "label floor"):
            table.add_column(heading, justify="right")
    bounded = any(limiting(row.bound.mean) for row in found.rows if row.bound)
    for heading in (["DP bound (ε, δ)"] if bounded else []) + ["runs"]:
        table.add_column(heading, justify="right")
    for row in found.rows:
        cells = [*map(escape, row.settings.values()), _spread(row.desired)]
        for name in names:
            figures = row.attributes.get(name)
            shown = (
                (figures.best, figures.training_image, figures.undefended, figures.floor) if figures else (None,) * 4
            )
            cells += map(_spread, shown)
        cells += [_bound(row.bound)] if bounded else []
        table.add_row(*cells, f"{row.runs}" + (f", {row.failed} failed" if row.failed else ""))
    Console(width=120, highlight=False).print(table)


def _spread(spread: Spread | None) -> str:
    if not spread:
        return "–"
    return f"{100 * spread.mean:.1f} %" + (f" ± {100 * spread.sd:.1f}" if spread.sd is not None else "")


def _bound(spread: Spread | None) -> str:
    """Rounded up. It follows from the settings, so it is the same for each seed."""
    from smartedge.lab.judging.leakage import limiting

    if not spread:
        return "–"
    return "none" if limiting(spread.mean) is None else f"{100 * rounded_up(spread.mean):.1f} %"


def _page(folder: Path) -> list[Path]:
    """Write the page. Where its packages are not installed, say so."""
    try:
        from smartedge.lab.report import write_sweep
    except ImportError as error:
        say(f"no sweep.html: {error}")
        return [folder / "sweep.json"]
    return write_sweep(folder)
