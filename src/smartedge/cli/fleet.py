"""``smartedge fleet``: which edges may send."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import host_and_port
from smartedge.errors import ConfigError
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.artifacts.fleet import EdgeEntry

__all__ = ["add_parser", "run"]

_DAYS, _CLOUD_DAYS = 365, 730  # that certificates are valid: those of edges and brokers, and the cloud's

_DESCRIPTION = """\
Say which edges may send to a cloud. A fleet is a folder; an edge gets one file from it, its bundle.

  $ smartedge fleet init factory
  $ smartedge fleet add factory door gate --cloud cloud.example:8815
  factory/bundles/door.bundle
  factory/bundles/gate.bundle
  $ smartedge cloud run.yaml --fleet factory --listen 0.0.0.0:8815    # on the server
  $ smartedge edge run.yaml --bundle door.bundle                      # on the device 'door'
  $ smartedge fleet revoke factory gate
  $ smartedge fleet broker factory                                    # where a broker lies between (docs/broker.md)

An edge is the name in its certificate, and writes to its own log only. The cloud notices a revocation within seconds,
without a restart, and ends the edge's open streams. Whoever has a bundle can send as that edge: copy it over an
encrypted connection, then delete it here. docs/fleet.md says what the cloud's machine needs of the folder (not the
authority's key).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("fleet", description=_DESCRIPTION)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    init = _action(actions, "init", "make a fleet: an authority, and a certificate for the cloud")
    _add_folder(init)
    _add_days(init, "cloud's certificate", str(_CLOUD_DAYS), _CLOUD_DAYS)

    add = _action(actions, "add", "add edges, and write a bundle for each")
    _add_folder(add)
    add.add_argument("edges", metavar="EDGE", nargs="+", help="name: small letters, digits, '-' and '_'")
    add.add_argument(
        "--cloud",
        metavar="HOST:PORT",
        required=True,
        help="where the edges reach the cloud, or nats://HOST:PORT/STREAM/COUNT: a broker, and its number of streams",
    )
    _add_days(add, "edges' certificates", str(_DAYS), _DAYS)
    add.add_argument(
        "--token",
        action="store_true",
        help="the edges show a token, not a certificate: for a cloud behind a proxy that ends TLS",
    )
    _add_proxy_ca(add)

    revoke = _action(actions, "revoke", "forbid an edge to send")
    _add_folder(revoke)
    revoke.add_argument("edge", metavar="EDGE", help="its name")

    renew = _action(actions, "renew", "write a new bundle for an edge, or renew the cloud's certificate")
    _add_folder(renew)
    renew.add_argument("edge", metavar="EDGE", nargs="?", help="default: the cloud's own certificate is renewed")
    renew.add_argument("--cloud", metavar="HOST:PORT", help="default: the address of the edge's last bundle")
    _add_proxy_ca(renew)
    _add_days(renew, "new certificate", f"{_DAYS}, or {_CLOUD_DAYS} for the cloud's own")

    broker = _action(actions, "broker", "write settings and certificates for a broker and for ingest")
    _add_folder(broker)
    _add_days(broker, "broker's and ingest's certificates", str(_DAYS), _DAYS)

    listing = _action(
        actions, "list", "show until when each edge may send and the cloud's certificate is valid; check all files"
    )
    _add_folder(listing)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    {"init": _init, "add": _add, "revoke": _revoke, "renew": _renew, "broker": _broker, "list": _list}[args.action](
        args
    )
    return 0


def _init(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority

    Authority.create(args.folder, days=args.days)
    say(f"{args.folder}: a fleet without edges; add some with 'smartedge fleet add {args.folder} EDGE... --cloud ...'")


def _add(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority

    to_broker = _check_where(args.cloud)
    if args.token and to_broker:
        raise ConfigError("--token: a broker knows edges by their certificates; leave --token out")
    if args.proxy_ca is not None and not args.token:
        raise ConfigError("--proxy-ca: only with --token; the other edges trust the fleet's own authority")
    fleet = Authority(args.folder)
    if args.token:
        files = fleet.add_with_tokens(args.edges, cloud=args.cloud, days=args.days, proxy_ca=args.proxy_ca)
    else:
        files = fleet.add(args.edges, cloud=args.cloud, days=args.days)
    for file in files:
        say(file)


def _check_where(address: str) -> bool:
    """Raise where no edge could send to this address. Whether it is a broker's."""
    from smartedge.wire.jetstream.messages import NATS, Address

    to_broker = address.startswith(NATS)
    if to_broker:
        Address.parse(address)
    else:
        _, port = host_and_port(address, "--cloud", example="cloud.example:8815")
        if port == 0:
            raise ConfigError(f"--cloud {address}: give the port at which the cloud will listen; 0 is none")
    return to_broker


def _revoke(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority

    Authority(args.folder).revoke(args.edge)
    say(f"{args.edge}: revoked; the cloud refuses it within seconds. On another machine, copy edges.json there")


def _renew(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority

    fleet = Authority(args.folder)
    if args.edge is None:
        until = fleet.renew_cloud(days=args.days or _CLOUD_DAYS)
        say(f"the cloud's certificate is valid until {_date(until)}; restart the cloud")
        return
    if args.cloud is not None:
        to_broker, entry = _check_where(args.cloud), fleet.edges().get(args.edge)
        if to_broker and entry is not None and entry.shows == "token":
            raise ConfigError(
                f"--cloud {args.cloud}: edge '{args.edge}' shows a token, and a broker knows edges by their "
                "certificates; add the device under another name with 'smartedge fleet add', without --token"
            )
    say(fleet.renew(args.edge, cloud=args.cloud, days=args.days or _DAYS, proxy_ca=args.proxy_ca))


def _broker(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority
    from smartedge.fleet.broker import write_broker

    made = write_broker(Authority(args.folder), days=args.days)
    say(f"{made.folder}: for the broker's machine; start it there with: nats-server -c nats.conf")
    say(f"{args.folder / 'ingest.pem'}, {args.folder / 'ingest.key'}: for 'smartedge ingest --fleet {args.folder}'")
    say(f"edges that may publish: {', '.join(made.edges) or 'none yet'}")
    for edge in made.left_out:
        say(
            f"{edge}: left out, since a certificate of it was revoked and a broker would still take it; "
            "give the device another name with 'smartedge fleet add'"
        )


def _list(args: argparse.Namespace) -> None:
    from smartedge.fleet.authority import Authority

    fleet = Authority(args.folder)
    if not (edges := fleet.edges()):
        say("no edges yet")
    width = max(map(len, edges), default=0)
    now = datetime.now(timezone.utc)
    for name, entry in edges.items():
        say(f"{name:<{width}}  {_state(entry, now)}")
    fleet.check()
    if (until := fleet.cloud_until()) is not None:
        state = "is valid until" if until > now else "has expired: 'smartedge fleet renew DIR', and restart the cloud;"
        say(f"the cloud's certificate {state} {_date(until)}")


def _state(entry: EdgeEntry, now: datetime) -> str:
    """Whether an edge may send, and until when."""
    if entry.until is None:
        return "revoked"
    if entry.until <= now:
        return f"{entry.shows} expired on {_date(entry.until)}"
    return f"may send until {_date(entry.until)} ({entry.shows})"


def _date(when: datetime) -> str:
    return f"{when:%Y-%m-%d}"


def _action(actions: argparse._SubParsersAction[Any], name: str, does: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
    return parser


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="the fleet's folder")


def _add_proxy_ca(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--proxy-ca",
        metavar="FILE",
        type=Path,
        help="for a token: certificates (PEM) that check the proxy's; default: the list of each edge's machine",
    )


def _add_days(parser: argparse.ArgumentParser, what: str, usual: str, days: int | None = None) -> None:
    parser.add_argument("--days", type=_days, default=days, help=f"how long the {what} will be valid; default: {usual}")


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3650:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to 3650 days")
    return int(text)
