"""``smartedge collect``: brings the cloud's half of a run to the edge's machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from smartedge.errors import ConfigError
from smartedge.logs import say

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
On the edge's machine, after both sides have ended: bring what the cloud wrote (cloud/) into the edge's run directory,
put the results together, and write the report. Then 'smartedge audit' and 'smartedge report' have all that they need.

  $ smartedge collect runs/faces --connect cloud.example:8816 --bundle door.bundle
  runs/faces/cloud
  runs/faces/report.html

With --connect it comes over the link, from 'smartedge serve' of the same run. The server gives an edge its own frames
and no other edge's, the figures, and the back's weights.

  $ smartedge collect runs/faces me@cloud.example:runs/faces

FROM is the cloud's run directory: a folder, or HOST:FOLDER, which is read over ssh. The whole folder cloud/ comes, with
the frames of all edges. The command uses your own ssh, with a key that needs no password.

Neither way changes anything on the server. What comes is refused if it belongs to another run, and nothing stays of
what did not come whole. The server needs nothing of the edge: 'smartedge serve' works there as it is.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("collect", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the edge's run directory, on this machine")
    parser.add_argument("source", metavar="FROM", nargs="?", help="the cloud's run directory: FOLDER or HOST:FOLDER")
    parser.add_argument("--connect", metavar="HOST:PORT", help="ask 'smartedge serve' there")
    parser.add_argument("--bundle", metavar="FILE", type=Path, help="this edge's file of the server's fleet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Bring the cloud's half, and put the results together."""
    if (args.source is None) == (args.connect is None):
        raise ConfigError("give either the cloud's run directory or --connect HOST:PORT")
    if args.bundle is not None and args.connect is None:
        raise ConfigError("--bundle: only with --connect HOST:PORT")

    from smartedge.cloud.carrying import carry, check_place

    if args.connect is None:
        say(carry(args.run_dir, args.source))
    else:
        from smartedge.config import load_run_config
        from smartedge.fleet.bundle import open_bundle
        from smartedge.launch.links import link_to

        check_place(args.run_dir)
        bundle = None if args.bundle is None else open_bundle(args.bundle)
        link = link_to(load_run_config(args.run_dir), args.connect, bundle, lambda text: say(text, file=sys.stderr))
        try:
            say(carry(args.run_dir, link.ask))
        finally:
            link.disconnect()
    from smartedge.lab.report import write_report  # matplotlib takes a second to import: what can go wrong comes first
    from smartedge.training import collect

    collect(args.run_dir)
    say(write_report(args.run_dir))
    return 0
