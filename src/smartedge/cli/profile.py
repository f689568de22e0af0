"""``smartedge profile``: measures the times of the steps of a network on this machine."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from smartedge.cli.arguments import above_zero, comma_separated, positive
from smartedge.cli.common import add_override_argument
from smartedge.logs import say

__all__ = ["add_measuring_arguments", "add_parser", "run", "threads"]

_DESCRIPTION = """\
Measure this machine for 'smartedge plan': time of each step at each cut, bytes and time of each codec, memory, disk and
loopback. Network, batch size and threads are those of the settings. Nothing is trained.

  $ smartedge profile run.yaml --out camera.json
       profile 10/10 two at once
  cut         front step  front look   back step   spread  KiB sent  peak MiB
  maxpool        1.02 ms     0.41 ms     4.70 ms      3 %      12.5       612
  ...
  camera.json

Measure on the edge and in the cloud, and copy both files to the machine where you plan.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("profile", description=_DESCRIPTION)
    parser.add_argument("config", metavar="CONFIG", help="settings file; 'smartedge init' writes one")
    add_override_argument(parser)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("device.json"), help="where to write (default: %(default)s)"
    )
    add_measuring_arguments(parser)
    parser.add_argument("--watts", type=above_zero, help="power of this machine as it computes: adds energy to plans")
    return parser


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to measure."""
    parser.add_argument(
        "--cuts", type=comma_separated, default=(), help="names, or 'all' (default: up to 8, spread over the network)"
    )
    parser.add_argument(
        "--codecs", type=comma_separated, default=(), help="names (default: those that cost little or no accuracy)"
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=7,
        help="how often each step is timed (default: %(default)s); only 3 times where that takes more than a second",
    )
    parser.add_argument("--threads", type=positive, help="CPU threads: short for --set hardware.threads=...")


def run(args: argparse.Namespace) -> int:
    """Measure, write the file, show the main figures.

    Raises:
        ConfigError: a cut or codec is unknown, or the file cannot be written.
    """
    from rich.console import Console
    from rich.table import Table

    from smartedge.config import load_config
    from smartedge.lab.plan.profile import check_place_of, save_profile
    from smartedge.lab.plan.survey import measure_here
    from smartedge.runs.progress import Bars

    config = load_config(args.config, [*args.overrides, *threads(args)]).without_auto()
    check_place_of(args.out)
    with closing(Bars()) as monitor:
        profile, _ = measure_here(config, monitor=monitor, cuts=args.cuts, codecs=args.codecs, repeats=args.repeats)
    if args.watts is not None:
        profile = profile.model_copy(update={"compute_watts": args.watts})
    save_profile(profile, args.out)
    table = Table(box=None, pad_edge=False)
    table.add_column("cut", no_wrap=True)
    for heading in ("front step", "front look", "back step", "spread", "KiB sent", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cut in profile.cuts:
        codec = cut.codecs.get(config.codec_name) or next(iter(cut.codecs.values()), None)
        table.add_row(
            cut.name,
            *(f"{1000 * timing.seconds:.2f} ms" for timing in (cut.front_step, cut.front_forward, cut.back_step)),
            f"{100 * max(cut.front_step.spread, cut.back_step.spread):.0f} %",
            f"{codec.bytes_per_image / 1024:.1f}" if codec else "–",
            f"{cut.edge_peak_bytes / 2**20:,.0f}",
        )
    whole = profile.whole
    table.add_row(
        "(undivided)",
        f"{1000 * whole.step.seconds:.2f} ms",
        f"{1000 * whole.forward.seconds:.2f} ms",
        "",
        f"{100 * whole.step.spread:.0f} %",
        "",
        f"{whole.peak_bytes / 2**20:,.0f}",
    )
    Console(width=max(Console().width, 100)).print(table)
    say(f"per image, measured with {profile.features}; two processes at once: {profile.slowdown:.2f} times as long")
    for name, reason in profile.left_out.items():
        say(f"left out: {name}: {reason}")
    say(args.out)
    return 0


def threads(args: argparse.Namespace) -> list[str]:
    """``--threads`` as an override."""
    return [f"hardware.threads={args.threads}"] if args.threads is not None else []
