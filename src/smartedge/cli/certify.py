"""``smartedge certify``: an upper bound on what any attacker can read of a sensitive column."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.artifacts.summary import refuse_unfinished
from smartedge.cli.arguments import names, positive
from smartedge.logs import say
from smartedge.metrics import rounded_up

if TYPE_CHECKING:
    from smartedge.artifacts.certificate import Certificate

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
State an upper bound: no attacker that has one noisy release of an image reads a sensitive column better, whatever it
computes. The bound needs the run's noise, and images that the front did not learn from. No attacker is trained.

  $ smartedge certify runs/faces
  what no attacker can exceed (balanced accuracy, %; 95 % confidence)
             persons    best attacker on these images  no attacker exceeds  label floor  DP bound
  masculine  508 + 492                           51.9                 54.6         51.2     100.0
  An attacker has one release of an image. With 95 % confidence for each attribute, its balanced accuracy ...
  runs/faces/audit/certificate.json

persons                        held-out persons of each class (images, where the data set names no persons)
best attacker on these images  the exact posterior over these images. It knows them, so a real attacker should be worse
no attacker exceeds            the certificate; it adds a margin for the choice of the images
label floor                    balanced accuracy from the true desired label alone, on the same images
DP bound                       the bound that follows from the law of the noise alone, for any attribute

More held-out images make it tighter. docs/certificate.md has the proof.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("certify", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="run directory of a finished run")
    parser.add_argument("--attributes", metavar="A,B", help="columns to certify; default: data.sensitive")
    parser.add_argument("--confidence", type=float, default=0.95, help="of each bound (0.95)")
    parser.add_argument("--releases", type=positive, default=1, help="releases of one image that the attacker has (1)")
    parser.add_argument("--known-label", action="store_true", help="the attacker knows the desired label as well")
    parser.add_argument(
        "--splits",
        metavar="A,B",
        help="test, val, audit; default: test, and audit where there is one and no weights came from a file "
        "(model.front, model.start, model.weights). Take val only if it chose nothing",
    )
    parser.add_argument(
        "--persons", metavar="COLUMN", help="column that names the person of an image; default: 'identity'"
    )
    parser.add_argument("--json", action="store_true", help="print certificate.json instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    """Certify, print one table and the assumptions."""
    from smartedge.config import load_run_config
    from smartedge.lab.audit.certificate.settings import CertifySettings, check_settings
    from smartedge.runs.progress import Bars, Quiet

    settings = CertifySettings(
        attributes=names(args.attributes, "--attributes"),
        confidence=args.confidence,
        releases=args.releases,
        label_known=args.known_label,
        splits=names(args.splits, "--splits"),
        persons=args.persons,
    )
    check_settings(args.run_dir, load_run_config(args.run_dir), settings)
    refuse_unfinished(args.run_dir)
    from smartedge.lab.audit.certificate.run import certify  # imports torch, which takes seconds

    with closing(Quiet() if args.json else Bars()) as monitor:
        certificate = certify(args.run_dir, settings, monitor)
    file = args.run_dir / "audit" / "certificate.json"
    if args.json:
        say(*file.read_text(encoding="utf-8").splitlines())
    else:
        _print(certificate)
        say(file)
    return 0


def _print(certificate: Certificate) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    known = ", desired label known" if any(each.label_known for each in certificate.attributes.values()) else ""
    title = f"what no attacker can exceed (balanced accuracy, %; {100 * certificate.confidence:g} % confidence{known})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("persons", "best attacker on these images", "no attacker exceeds", "label floor", "DP bound"):
        table.add_column(heading, justify="right")
    for name, each in certificate.attributes.items():
        table.add_row(
            escape(name),
            " + ".join(map(str, each.units)),
            f"{100 * each.plug_in:.1f}",
            f"{100 * rounded_up(each.bound):.1f}",
            "none" if each.label_floor is None else f"{100 * each.label_floor:.1f}",
            f"{100 * rounded_up(each.dp_bound):.1f}",
        )
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(certificate.assumptions, markup=False)
