"""``smartedge edge``: the edge's side alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smartedge.cli.common import add_side_arguments, side
from smartedge.errors import ConfigError
from smartedge.methods.base import get_method

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Train the front with its own exit on this device, and stream features to the cloud.

  $ smartedge edge run.yaml --bundle door.bundle
   edge train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:10 epoch 6/6 loss 0.215

Both sides need the same settings, except for data.path, data.sensitive, data.limit, data.cache_dir,
data.cache_bytes, adversary, run_dir, link and hardware. So the cloud need not know what is hidden, or how.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "edge", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument(
        "--connect",
        metavar="HOST:PORT",
        help="where the cloud listens; udp://HOST:PORT: a link without a way back, see 'smartedge cloud --listen-udp'; "
        "default: the address in the bundle; not for method 'local'",
    )
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, help="this edge's file of the cloud's fleet ('smartedge fleet add')"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the edge's side to its end."""
    from smartedge.fleet.bundle import open_bundle
    from smartedge.training import run_edge

    bundle = None if args.bundle is None else open_bundle(args.bundle)
    with side(args, "edge") as (config, monitor, stop):
        if args.connect is None and bundle is None and get_method(config.method).has_cloud:
            raise ConfigError(
                f"--bundle FILE or --connect HOST:PORT is needed: method {config.method!r} sends to a cloud"
            )
        done = run_edge(config, args.connect, monitor, bundle=bundle, resume=args.resume, stop=stop)
    return 0 if done else 130
