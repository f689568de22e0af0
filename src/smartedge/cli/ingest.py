"""``smartedge ingest``: moves frames from a broker into the store of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smartedge.cli.common import add_operation_arguments, add_override_argument, metrics_address, side
from smartedge.config import AUTO, load_config
from smartedge.errors import ConfigError
from smartedge.stopping import Stopped

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Take frames that edges have published to a broker (NATS JetStream), check them, and put them into the store of a run.

  $ smartedge ingest run.yaml --set run_dir=/data/faces --from nats://broker.example:4222/frames --fleet factory
  cloud takes frames from nats://broker.example:4222/frames into /data/faces

Start as many processes with the same command as you like: they share the edges. A frame leaves the broker when it is on
this disk. The command ends when everything is there (fleet.expect); started again, it goes on where it was.
Train with 'python -m smartedge.cloud.worker /data/faces', at the same time or later (docs/workers.md). docs/broker.md
explains how to set up the broker.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("ingest", description=_DESCRIPTION)
    parser.add_argument("config", metavar="CONFIG", help="settings file, the same as the edges'")
    add_override_argument(parser)
    parser.add_argument(
        "--from",
        dest="location",
        metavar="nats://HOST:PORT/STREAM/COUNT",
        required=True,
        help="the broker, the stream in it, and how many streams there are; default: frames, 1",
    )
    parser.add_argument(
        "--fleet",
        metavar="DIR",
        type=Path,
        help="folder of a fleet whose broker it is ('smartedge fleet broker'): its edges may send, and nobody else",
    )
    parser.add_argument(
        "--progress", choices=["bars", "json"], default="bars", help="json: one object a line, for another program"
    )
    add_operation_arguments(parser)
    parser.set_defaults(front=None, resume=True, until_input_ends=False)
    return parser


def run(args: argparse.Namespace) -> int:
    """Take frames until everything is there."""
    from smartedge.launch.ingest import run_ingest

    if load_config(args.config, args.overrides).run_dir == AUTO:
        raise ConfigError("run_dir: give it, as in --set run_dir=/data/faces: all ingest processes must share it")
    metrics = metrics_address(args)
    with side(args, "cloud") as (config, monitor, stop):
        if not run_ingest(config, args.location, monitor, fleet=args.fleet, metrics=metrics, stop=stop):
            raise Stopped
    return 0
