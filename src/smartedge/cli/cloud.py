"""``smartedge cloud``: the cloud's side alone."""

from __future__ import annotations

import argparse
from typing import Any

from smartedge.cli.common import add_side_arguments, side
from smartedge.errors import ConfigError

__all__ = ["add_parser", "parse_address", "run"]

_DESCRIPTION = """\
Accept features from the edge, keep them in the feature log, train the back.

  $ smartedge cloud run.yaml --listen 0.0.0.0:8815
  cloud listening on 0.0.0.0:8815
  cloud train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:12 epoch 6/6 loss 0.148

Beyond this machine, set link.token_file and link.tls_cert / link.tls_key (or link.insecure: true in a trusted network).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "cloud", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default="127.0.0.1:8815", help="default: %(default)s; port 0: any free one"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the cloud's side to its end."""
    from smartedge.training import run_cloud

    host, port = parse_address(args.listen, "--listen")
    with side(args) as (config, monitor, stop):
        done = run_cloud(config, host, port, monitor, resume=args.resume, stop=stop)
    return 0 if done else 130


def parse_address(text: str, option: str) -> tuple[str, int]:
    """``"host:port"`` → host and port."""
    host, found, port = text.rpartition(":")
    if not found or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{option} {text}: write it as HOST:PORT, for example 127.0.0.1:8815")
    return host.strip("[]"), int(port)
