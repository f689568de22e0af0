"""``smartedge collect``: brings the cloud's half of a run to the edge's machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
On the edge's machine, after both sides have ended: bring what the cloud wrote (cloud/) into the edge's run directory,
put the results together, and write the report. Then 'smartedge audit' and 'smartedge report' have all that they need.
FROM is the cloud's run directory: a folder, or HOST:FOLDER, which is read over ssh.

  $ smartedge collect runs/faces me@cloud.example:runs/faces
  runs/faces/cloud
  runs/faces/report.html

The command uses your own ssh, with a key that needs no password. It changes nothing on the server. What comes is
refused if it belongs to another run. The server needs nothing of the edge: 'smartedge serve' works there as it is.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("collect", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the edge's run directory, on this machine")
    parser.add_argument("source", metavar="FROM", help="the cloud's run directory: FOLDER or HOST:FOLDER")
    return parser


def run(args: argparse.Namespace) -> int:
    """Bring the cloud's half, and put the results together."""
    from smartedge.carrying import carry
    from smartedge.lab.report import write_report
    from smartedge.training import collect

    print(carry(args.run_dir, args.source))
    collect(args.run_dir)
    print(write_report(args.run_dir))
    return 0
