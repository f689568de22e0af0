"""What several verbs need of published fronts: whom to trust, and what to require."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.errors import ConfigError
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.fronts.bundle import PublishedFront

__all__ = ["add_trust_arguments", "open_published"]


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose fronts are used, and what they must meet."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--trust", metavar="FILE", type=Path, help="the key that fronts are checked with: front.pub of the fleet"
    )
    whose.add_argument("--unsigned", action="store_true", help="accept a front whose publisher cannot be checked")
    parser.add_argument(
        "--require",
        metavar="CONDITION",
        action="append",
        default=[],
        help="refuse a front that does not meet it: 'certificate<=70%%', 'attack<=75%%', 'certificate.Male<=70%%', "
        "'epsilon<=8' or 'version>=3'; may be repeated",
    )


def open_published(folder: Path, args: argparse.Namespace, *, labels_sent: bool) -> PublishedFront:
    """Open a front bundle, and check it as the arguments say: by the fleet's key in ``--bundle``, or by ``--trust``.

    Raises:
        ConfigError: nothing says whom to trust.
        FrontError: the bundle does not pass.
    """
    from smartedge.fleet.bundle import open_bundle
    from smartedge.fleet.signing import read_trust_key
    from smartedge.fronts.bundle import open_front
    from smartedge.fronts.requirements import Requirement

    require = [Requirement.parse(text) for text in args.require]
    trust: str | None = None
    if args.trust is not None:
        trust = read_trust_key(args.trust)
    elif args.unsigned:
        say(f"{folder}: who published this front is not checked (--unsigned)", file=sys.stderr)
    elif args.bundle is not None:
        trust = open_bundle(args.bundle).front_key
    else:
        raise ConfigError(
            f"{folder}: who may publish fronts for this edge? Give --bundle FILE of its fleet, --trust front.pub, or "
            "--unsigned"
        )
    return open_front(folder, trust=trust, require=require, labels_sent=labels_sent)
