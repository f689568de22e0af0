"""``smartedge cloud``: the cloud's side alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypedDict

from smartedge.cli.arguments import host_and_port
from smartedge.cli.common import add_side_arguments, add_watch_argument, metrics_address, side, watch_page
from smartedge.cli.ending import cloud_ended
from smartedge.errors import ConfigError
from smartedge.runs.progress import Update, teller
from smartedge.stopping import Stopped

__all__ = ["FleetArguments", "add_fleet_arguments", "add_parser", "fleet_of", "run"]

_HERE = "127.0.0.1:8815"


class FleetArguments(TypedDict):
    """Who may send: arguments of :func:`smartedge.launch.links.receiver_for`."""

    fleet: Path | None
    behind_proxy: bool


_DESCRIPTION = """\
Accept features from the edge, keep them in the feature log, train the back.

  $ smartedge cloud run.yaml --listen 0.0.0.0:8815
  cloud listening on 0.0.0.0:8815
  cloud train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:12 epoch 6/6 loss 0.148

Beyond this machine, give --fleet (see 'smartedge fleet --help'), or set link.token_file and link.tls_cert /
link.tls_key (or link.insecure: true in a trusted network).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("cloud", description=_DESCRIPTION)
    add_side_arguments(parser)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default=_HERE, help="default: %(default)s; port 0: any free one"
    )
    parser.add_argument(
        "--listen-udp",
        metavar="HOST:PORT",
        help="with --fleet: also take datagrams of edges that have no way back ('smartedge edge --connect udp://...')",
    )
    add_fleet_arguments(parser)
    add_watch_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the cloud's side to its end."""
    from smartedge.training import run_cloud

    host, port = host_and_port(args.listen, "--listen", example=_HERE)
    fleet = fleet_of(args)
    udp = None if args.listen_udp is None else host_and_port(args.listen_udp, "--listen-udp", example=_HERE)
    metrics = metrics_address(args)
    with (
        side(args, "cloud") as (config, monitor, stop),
        watch_page(args.watch, config.run_dir, teller(monitor, "cloud", "watch")),
    ):
        if not run_cloud(config, host, port, monitor, **fleet, udp=udp, resume=args.resume, metrics=metrics, stop=stop):
            raise Stopped
        if not args.until_input_ends:  # 'smartedge train' says it for both sides
            text = cloud_ended(config.run_dir, several_edges=config.several_edges)
            monitor.update(Update("cloud", "done", text=text))
    return 0


def add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    """``--fleet`` and ``--behind-proxy``."""
    parser.add_argument(
        "--fleet", metavar="DIR", type=Path, help="folder of a fleet: its edges may send, and nobody else"
    )
    parser.add_argument(
        "--behind-proxy",
        action="store_true",
        help="with --fleet: a proxy of this machine ends TLS, so the edges show tokens ('smartedge fleet add --token')",
    )


def fleet_of(args: argparse.Namespace) -> FleetArguments:
    """What :func:`add_fleet_arguments` added, checked."""
    if args.behind_proxy and args.fleet is None:
        raise ConfigError("--behind-proxy: only with --fleet DIR, whose tokens the edges show")
    return {"fleet": args.fleet, "behind_proxy": args.behind_proxy}
