"""``smartedge collect``: brings the other side's part of a run to this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Bring the other side's part of a run into this machine's run directory. FROM is the other side's run directory: a
folder, or HOST:FOLDER, which is read over ssh.

On the edge, after both sides have ended: brings cloud/, puts the results together, and writes the report. Then
'smartedge audit' and 'smartedge report' have all that they need.

  $ smartedge collect runs/faces me@cloud.example:runs/faces
  runs/faces/cloud
  runs/faces/report.html

On the cloud: brings shared/, which 'smartedge serve' needs.

  $ smartedge collect runs/faces me@door.example:runs/faces
  runs/faces/shared

Nothing else of the other side is read: no image, no key and no sensitive label travels. A part of another run is
refused. The command uses your own ssh, with a key that needs no password.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "collect", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the run directory on this machine")
    parser.add_argument("source", metavar="FROM", help="the run directory of the other side: FOLDER or HOST:FOLDER")
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry the part; on the edge, put the results together."""
    from smartedge.carrying import carry

    part = carry(args.run_dir, args.source)
    print(args.run_dir / part)
    if part == "cloud":
        from smartedge.lab.report import write_report
        from smartedge.training import collect

        collect(args.run_dir)
        print(write_report(args.run_dir))
    return 0
