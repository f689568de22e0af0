"""``smartedge train``: both sides on this machine."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from smartedge.cli.common import (
    add_config_arguments,
    add_watch_argument,
    notes_on_drawn_data,
    watch_page,
    write_report_where_possible,
)
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.artifacts.results import Results

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Run edge and cloud as two processes of this machine, joined by a socket, and report.

  $ smartedge train run.yaml
   edge train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:10 epoch 6/6 loss 0.215
  cloud train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:12 epoch 6/6 loss 0.148
  hierarchical: back 97.2 %, exit 96.2 % balanced accuracy (test); 596 bytes up, 0 down per image; 8.9 s per epoch
  runs/run/report.html

Everything that the run writes goes to run_dir, or, where the settings name none, to a new folder runs/NAME, which is
named after the settings file. runs/latest leads to it. Ctrl-C stops both sides cleanly; --resume continues to the
same result.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("train", description=_DESCRIPTION)
    add_config_arguments(parser)
    parser.add_argument("--method", help="hierarchical, upload, split or local: short for --set method=...")
    parser.add_argument("--schedule", help="joint, two-stage or freeze-and-log: short for --set schedule=...")
    add_watch_argument(parser)
    parser.add_argument(
        "--single-process",
        action="store_true",
        help="the same steps in one process, for debugging; the weights are the same",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Train, and say where the results are."""
    from smartedge.config import load_config
    from smartedge.launch.run_folder import in_folder, name_of
    from smartedge.training import train

    shorthands = [f"{key}={value}" for key in ("method", "schedule") if (value := getattr(args, key)) is not None]
    settings = load_config(args.config, [*args.overrides, *shorthands])
    for line in notes_on_drawn_data(settings):
        say(line, file=sys.stderr)
    config = in_folder(settings, name_of(args.config), resume=args.resume)
    with watch_page(args.watch, config.run_dir, lambda text: say(text, file=sys.stderr)):
        results = train(config, resume=args.resume, single_process=args.single_process)
    say(summary_line(results))
    report = write_report_where_possible(config.run_dir)
    if report is not None:
        say(report)
    return 0


def summary_line(results: Results) -> str:
    """The main figures of a run in one line."""
    back, at_exit, sent = results.test.back, results.test.exit, results.bytes_per_image
    parts = [f"{'back' if at_exit else 'network'} {100 * back.balanced_accuracy:.1f} %"] if back else []
    if at_exit:
        parts.append(f"exit {100 * at_exit.balanced_accuracy:.1f} %")
    accuracy = ", ".join(parts) + " balanced accuracy (test)"
    if results.learned_nothing:
        accuracy += ", no better than guessing"
    sizes = f"{sent.up:.0f} bytes up, {sent.down:.0f} down per image"
    return f"{results.method}: {accuracy}; {sizes}; {results.seconds_per_epoch:.1f} s per epoch"
