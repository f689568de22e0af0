"""``smartedge init``: looks at the data, asks what is not said, and writes a settings file that trains as it is."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.config import Config, load_config
from smartedge.config.writing import commented_yaml
from smartedge.errors import ConfigError, SmartEdgeError
from smartedge.files import disk_error, write_atomically
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.lab.plan.propose import DataSummary

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write a settings file with every key, its meaning and its value.

  $ smartedge init run.yaml --data ../photos --desired smile
  ../photos: 1200 images of about 96 pixels; columns that can be learned: smile (2), glasses (2)
  smile is learned; 16x8x8 numbers cross the cut layer1, at most 1024 bytes, where the image takes 2150 bytes as JPEG
  bfloat16 is 0.55 of the time of float32 on this machine
  wrote run.yaml
  next:
    smartedge train run.yaml                     # edge and cloud, on this machine

With --data it looks at the images and at the columns, and proposes what fits; --sensitive asks for protection. On a
terminal it asks for what is not said; elsewhere, and with --yes, it never asks. Without --data it writes the
defaults. Where the images lie on another machine, leave --data out, and write data.path into the file.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("init", description=_DESCRIPTION)
    parser.add_argument("path", nargs="?", type=Path, default=Path("smartedge.yaml"), help="default: %(default)s")
    parser.add_argument("--data", metavar="PATH", help="the data set: sets data.path")
    parser.add_argument(
        "--desired",
        metavar="COLUMN",
        action="append",
        help="the column to learn: sets data.desired; repeat for several",
    )
    parser.add_argument(
        "--sensitive", metavar="COLUMN", action="append", default=[], help="a column to hide; repeat for several"
    )
    parser.add_argument("--method", help="hierarchical, upload, split or local")
    parser.add_argument("--yes", action="store_true", help="ask nothing, take what is proposed")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not measure which precision and memory format are fastest here"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the file and say what to do next.

    Raises:
        ConfigError: when the file exists and ``--force`` is not given, cannot be written, or a value is impossible.
        DataError: the data set cannot be opened, or a column is not in it. Nothing is written then.
    """
    if args.path.is_dir():
        raise ConfigError(
            f"{args.path}: is a folder; give the file to write, and the images as --data: "
            f"'smartedge init run.yaml --data {args.path}'"
        )
    _refuse_existing(args)
    asking = not args.yes and sys.stdin.isatty() and sys.stdout.isatty()
    if asking and args.data is None:
        args.data = _ask("Where are the images? A folder, a .parquet file, or 'drawn' for drawn faces", "drawn")
    summary = None
    if args.data is not None:
        from smartedge.lab.plan.propose import summarise

        summary = summarise(args.data)
    config = _without_data(args) if summary is None else _with_data(args, summary, asking=asking)
    _refuse_existing(args)  # again: measuring, and answers of a person, take a while
    try:
        write_atomically(args.path, commented_yaml(config))
    except OSError as error:
        raise ConfigError(f"{args.path}: {disk_error(error)}") from error
    say(f"wrote {args.path}", "next:")
    size = config.data.image_size
    if summary is None:
        say(f"  smartedge cuts {config.model.name} --input {'x'.join(map(str, size.shape))}      # choose model.cut")
    say(f"  smartedge train {args.path}      # edge and cloud, on this machine")
    if config.data.sensitive:
        say("  smartedge audit runs/latest      # what an attacker still reads of the hidden columns")
    return 0


def _refuse_existing(args: argparse.Namespace) -> None:
    if args.path.exists() and not args.force:
        raise ConfigError(f"{args.path}: exists already; give another path, or --force to overwrite it")


def _ask(question: str, proposed: str) -> str:
    answer = input(f"{question} [{proposed or 'none'}]: ").strip()
    return answer or proposed


def _without_data(args: argparse.Namespace) -> Config:
    """The defaults, with what the arguments say."""
    desired = args.desired[0] if args.desired and len(args.desired) == 1 else args.desired
    data = {"desired": desired, "sensitive": args.sensitive or None}
    chosen = {"method": args.method, "data": {key: value for key, value in data.items() if value is not None}}
    return load_config({key: value for key, value in chosen.items() if value})


def _with_data(args: argparse.Namespace, summary: DataSummary, *, asking: bool) -> Config:
    """What suits the data, with what the arguments and the answers say."""
    from smartedge.lab.plan.propose import propose

    say(summary.describe())
    desired, sensitive = args.desired or [], args.sensitive
    if asking and not desired:
        desired = _ask("Which column is to be learned? Several, with commas", summary.usual).replace(",", " ").split()
    if asking and not sensitive:
        sensitive = _ask("Which columns must nobody read from what is sent?", "").replace(",", " ").split()
    config = propose(summary, desired, sensitive, args.method)
    say(_what_crosses(config, summary))
    return config if args.no_measure else _measured(config)


def _what_crosses(config: Config, summary: DataSummary) -> str:
    from smartedge.lab.plan.propose import crossing
    from smartedge.methods.base import get_method

    named = config.data.desired
    text = f"{named if isinstance(named, str) else ', '.join(named)} is learned"
    if config.data.sensitive:
        text += f", {', '.join(config.data.sensitive)} is hidden"
    method = get_method(config.method)
    if not (method.has_cloud and method.divides):
        return text
    shape = crossing(config)
    size = "" if config.dp.mechanism != "none" else f", at most {math.prod(shape)} bytes"
    return (
        f"{text}; {'x'.join(map(str, shape))} numbers cross the cut {config.model.cut}{size}, where the image takes "
        f"{summary.jpeg:.0f} bytes as JPEG"
    )


def _measured(config: Config) -> Config:
    """The settings with the fastest precision and memory format of this machine."""
    from smartedge.methods.speed import measure_speed
    from smartedge.runs.machine import pick_device

    auto = load_config(config, {"train": {"precision": "auto", "channels_last": "auto"}})
    try:
        speed = measure_speed(auto, pick_device(config.hardware.edge_device, "hardware.edge_device"))
    except SmartEdgeError as error:
        say(f"the speed was not measured: {error}", file=sys.stderr)
        return config
    ways = sorted(speed.seconds.items(), key=lambda way: way[1])
    share = ways[0][1] / speed.seconds["float32"]
    kept = "; float32 is kept" if (speed.precision, speed.channels_last) == ("float32", False) else ""
    say(f"{ways[0][0]} is {share:.2f} of the time of float32 on this machine{kept}")
    return load_config(config, {"train": {"precision": speed.precision, "channels_last": speed.channels_last}})
