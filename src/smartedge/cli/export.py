"""``smartedge export``: publish the front of a run, for edges that do not train."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import positive
from smartedge.cli.infer import add_goal_arguments, goal_of
from smartedge.errors import ConfigError, DataError, RunError
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.artifacts.front import Calibration

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write a front bundle: the front and its exit as ONNX, with preprocessing, privacy policy, label names, calibrated
threshold, audit and certificate of the run, signed by the fleet's owner.

  $ smartedge export runs/faces --to fronts/faces --fleet factory --offload 10%
  fronts/faces: front 'faces' version 1, 0.9 MB; equal to torch within 2.4e-07
  exit: 91.2 % on 500 validation images, back: 93.0 %; threshold 0.874: the back answers 10.0 %, together 92.8 %
  signed by factory/front.key

An edge needs the extra 'front' for it, and no torch:
  smartedge infer fronts/faces --bundle door.bundle --connect cloud.example:8816 --source /camera
  smartedge edge --front fronts/faces --bundle door.bundle --source photographs

Audit and certify the run first: edges may ask for it (--require 'certificate<=70%'). An edge that sends labels too asks
for 'smartedge certify --known-label', which serves the others as well. The weights learned from the run's
training images, and the calibration comes from its validation images: docs/privacy.md says what that gives away.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("export", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="run directory of a finished hierarchical run")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the front bundle: a new folder")
    parser.add_argument("--fleet", metavar="DIR", type=Path, help="the fleet whose key signs; default: not signed")
    parser.add_argument("--name", help="of the front; default: the name of the folder")
    parser.add_argument("--version", type=positive, default=1, help="of the front, a whole number; default: 1")
    add_goal_arguments(parser, "0.9")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the bundle."""
    from smartedge.fleet.signing import SIGNING_KEY, make_signing_key
    from smartedge.fronts.bundle import check_new
    from smartedge.inference.answering import check_threshold
    from smartedge.inference.trained import TorchFront, TrainedRun

    threshold, goal = 0.9 if args.threshold is None else args.threshold, goal_of(args)
    check_threshold(threshold)
    check_new(args.to)
    name = _name(args)
    trained = TrainedRun.open(args.run_dir)
    if args.fleet is not None and not (args.fleet / "authority.pem").exists():
        raise ConfigError(f"--fleet {args.fleet}: is no fleet; 'smartedge fleet init {args.fleet}' makes one")
    trained.check_front()
    key = None
    if args.fleet is not None:
        make_signing_key(args.fleet)
        key = args.fleet / SIGNING_KEY
    # These import torch: what is wrong so far has been told.
    from smartedge.inference.exporting import check_packages, export_front
    from smartedge.inference.run_calibration import calibration_of

    check_packages()
    try:
        calibration = calibration_of(trained, TorchFront(trained))
    except (DataError, RunError) as error:
        if goal is not None:
            raise
        calibration = None
        say(f"the exit is not calibrated: {error}", file=sys.stderr)
    if goal is not None:
        assert calibration is not None
        threshold = goal.threshold(calibration)
    manifest = export_front(
        trained,
        args.to,
        name=name,
        version=args.version,
        threshold=threshold,
        calibration=calibration,
        key=key,
    )
    size = sum(file.stat().st_size for file in args.to.glob("*.onnx")) / 1e6
    say(
        f"{args.to}: front '{manifest.name}' version {manifest.version}, {size:.1f} MB; equal to torch within "
        f"{manifest.difference:.2g}"
    )
    if calibration is not None:
        say(_calibrated(calibration, threshold))
    for what, there, verb in (("audit", manifest.audit, "audit"), ("certificate", manifest.certificate, "certify")):
        if there is None:
            say(f"no {what}: edges that --require one refuse it; 'smartedge {verb} {args.run_dir}' makes one")
    say(f"signed by {key}" if key else "not signed: edges use it only with --unsigned; --fleet DIR signs it")
    return 0


def _name(args: argparse.Namespace) -> str:
    """The name of the front; by default that of its folder."""
    from smartedge.artifacts.front import NAME

    name: str = args.name or args.to.resolve().name
    if re.fullmatch(NAME, name) is None:
        raise ConfigError(
            f"{'--name' if args.name else '--to'}: '{name}' cannot be the name of a front: it has letters without "
            "accents, digits, '_', '.' and '-', at most 64; give one with --name"
        )
    return name


def _calibrated(calibration: Calibration, threshold: float) -> str:
    row = max((each for each in calibration.rows if each.threshold <= threshold), key=lambda each: each.threshold)
    text = f"exit: {100 * calibration.exit_accuracy:.1f} % on {calibration.images} validation images"
    if calibration.back_accuracy is not None:
        text += f", back: {100 * calibration.back_accuracy:.1f} %"
    text += f"; threshold {threshold:.3f}: the back answers {100 * row.offloaded:.1f} %"
    return text if row.accuracy is None else f"{text}, together {100 * row.accuracy:.1f} %"
