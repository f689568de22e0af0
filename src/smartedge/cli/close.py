"""``smartedge close``: the cloud of a run goes on with what has come."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smartedge.errors import RunError
from smartedge.files import disk_error
from smartedge.logs import say

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Say that a run of several edges is complete. The cloud that runs there, or the next one that is started with --resume,
takes in nothing more, and trains to the end with what has come.

  $ smartedge close runs/factory
  runs/factory: closed; the cloud goes on with what has come

It is needed where fleet.expect is null, or where an edge that is expected will not come back.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("close", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the run's directory on the cloud's machine")
    return parser


def run(args: argparse.Namespace) -> int:
    """Leave the message for the cloud."""
    from smartedge.cloud.store.marks import ask_to_close
    from smartedge.config import load_run_config

    config, cloud = load_run_config(args.run_dir), args.run_dir / "cloud"
    if not config.several_edges:
        raise RunError(f"{args.run_dir}: a run of one edge ends when the edge has sent everything (fleet.expect is 1)")
    if not cloud.is_dir():
        raise RunError(f"{cloud}: is not there; close the run on the cloud's machine")
    try:
        ask_to_close(cloud)
    except OSError as error:
        raise RunError(f"{cloud}: {disk_error(error)}") from error
    say(f"{args.run_dir}: closed; the cloud goes on with what has come")
    return 0
