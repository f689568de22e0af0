"""``smartedge plan``: predicts the cost of every cut, codec, schedule and method, and recommends one."""

from __future__ import annotations

import argparse
import json
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import above_zero, comma_separated, count, positive
from smartedge.cli.common import add_override_argument
from smartedge.cli.profile import add_measuring_arguments, threads
from smartedge.errors import ConfigError, DataError
from smartedge.files import disk_error, write_atomically
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.artifacts.profile import Profile
    from smartedge.config import Config
    from smartedge.lab.plan.search import Plan

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Predict time per epoch, bytes, and the edge's memory and energy for every cut, codec and schedule, and for each of the
four methods. Rank them, recommend one and say why. A machine without a profile is measured here first.

  $ smartedge plan run.yaml --link 4g --edge camera.json --cloud server.json --max-edge-memory 700M
  choice                                   s/epoch  edge encode  link cloud  bytes/image  MB sent  edge MiB  depth
  hierarchical at layer2, joint, uint4         9.8   8.1    0.2   9.4   2.2        5,870     38.1       655   0.50
  ...
  Use hierarchical at layer2, joint, uint4: 9.8 s per epoch, 58.8 s in all.
  Of each epoch's 9.8 s, the link takes longest, with 5,870 bytes per image: ...

--link:  3g, 4g, wifi, local, or Mbit/s up[/down][,latency in ms][,radio]: 5.85,20ms or 1.1/2.0,50ms,3g
--edge, --cloud:  a file of 'smartedge profile', or the name of a machine that the package knows: then the times
                  measured here, scaled by published throughput

Energy is modelled. Accuracy is not predicted.
"""

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("plan", description=_DESCRIPTION)
    parser.add_argument("config", metavar="CONFIG", help="settings file; 'smartedge init' writes one")
    add_override_argument(parser)
    parser.add_argument("--link", required=True, metavar="LINK", help="see above")
    where = parser.add_argument_group("machines")
    where.add_argument("--edge", metavar="FILE|NAME", help="the edge's profile, or a machine by name")
    where.add_argument("--cloud", metavar="FILE|NAME", help="the cloud's")
    where.add_argument(
        "--measured", metavar="FILE", type=Path, help="use or scale this profile instead of measuring here"
    )
    where.add_argument(
        "--same-machine", action="store_true", help="edge and cloud are processes of one machine and share its cores"
    )
    where.add_argument("--watts", type=above_zero, help="power of the edge while it computes, if its profile lacks it")
    job = parser.add_argument_group("the run")
    job.add_argument("--epochs", type=positive, help="short for --set epochs=...")
    job.add_argument(
        "--images",
        metavar="TRAIN[,VAL,TEST]",
        type=comma_separated,
        help="numbers of images, instead of counting those of data.path",
    )
    limits = parser.add_argument_group("constraints")
    limits.add_argument("--max-edge-memory", metavar="BYTES", help="peak of the edge's process, such as 700M or 2G")
    limits.add_argument("--max-bytes", metavar="BYTES", help="over the link in the whole run, such as 50M")
    limits.add_argument("--min-depth", metavar="SHARE|CUT", help="least share of the network's cuts on the edge")
    limits.add_argument("--methods", type=comma_separated, default=(), help="some of the four (default: all)")
    limits.add_argument("--schedules", type=comma_separated, default=(), help="some of the three (default: all)")
    measuring = parser.add_argument_group("measuring")
    add_measuring_arguments(measuring)  # type: ignore[arg-type]
    out = parser.add_argument_group("results")
    out.add_argument("--top", type=count, default=12, help="rows of the table; 0: all (default: %(default)s)")
    out.add_argument("--json", action="store_true", help="for programs: print everything as JSON, and no table")
    out.add_argument("--plot", metavar="FILE", type=Path, help="time by cut, stacked by stage: .png or .html")
    out.add_argument(
        "--write", metavar="FILE", type=Path, help="write the settings with the best choice for their method"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Plan, and show the result.

    Raises:
        ConfigError: an argument is impossible, a profile does not fit, or no choice is left for ``--write``.
    """
    from smartedge.config import load_config
    from smartedge.lab.plan.draw import draw_plan
    from smartedge.lab.plan.job import Setting, job_of
    from smartedge.lab.plan.links import parse_link
    from smartedge.lab.plan.profile import check_place_of, only
    from smartedge.lab.plan.search import Constraints, as_file, explain, make_plan, parse_depth, written
    from smartedge.methods.base import METHODS
    from smartedge.methods.schedules import SCHEDULES

    short = [f"epochs={args.epochs}"] if args.epochs is not None else []
    config = load_config(args.config, [*args.overrides, *short, *threads(args)]).without_auto()
    link = parse_link(args.link)
    methods = _known("--methods", args.methods, tuple(METHODS)) or tuple(METHODS)
    schedules = _known("--schedules", args.schedules, tuple(SCHEDULES))
    for file in filter(None, (args.write, args.plot)):
        check_place_of(file)
    edge, cloud, counts = _profiles(args, config)
    if args.watts is not None:
        edge = edge.model_copy(update={"compute_watts": args.watts})
    edge, cloud = (only(profile, args.cuts, args.codecs) for profile in (edge, cloud))
    constraints = Constraints(
        max_edge_bytes=_size("--max-edge-memory", args.max_edge_memory),
        max_bytes=_size("--max-bytes", args.max_bytes),
        min_depth=None if args.min_depth is None else parse_depth(args.min_depth, edge.all_cuts),
    )
    job = job_of(config, _images(args, config, counts), edge.outputs)
    setting = Setting(edge, cloud, link, same_machine=args.same_machine)
    plan = make_plan(config, job, setting, constraints, methods=methods, schedules=schedules)
    if args.json:
        say(*json.dumps(as_file(plan).as_json(), indent=1, allow_nan=False).splitlines())
    else:
        _print_table(plan, args.top)
        say()
        for line in explain(plan):
            say(line)
    if args.plot is not None:
        _say(args, draw_plan(plan, args.plot))
    if args.write is not None:
        from smartedge.config.writing import commented_yaml

        if plan.chosen is None:
            raise ConfigError(
                f"--write: no choice with method {config.method} keeps the constraints; nothing is written"
            )
        try:
            write_atomically(args.write, commented_yaml(written(config, plan.chosen.choice)))
        except OSError as error:
            raise ConfigError(f"--write {args.write}: {disk_error(error)}") from error
        _say(args, args.write)
    return 0


def _say(args: argparse.Namespace, path: Path) -> None:
    if not args.json:
        say(path)


def _profiles(args: argparse.Namespace, config: Config) -> tuple[Profile, Profile, dict[str, int]]:
    """The profiles of edge and cloud, and image counts where the data set was opened for measuring."""
    from smartedge.lab.plan.profile import load_profile
    from smartedge.lab.plan.published import load_device, scale

    devices = {
        side: None if name is None or _is_file(name) else load_device(name)
        for side, name in (("edge", args.edge), ("cloud", args.cloud))
    }
    files = {
        side: load_profile(Path(name), config)
        for side, name in (("edge", args.edge), ("cloud", args.cloud))
        if name is not None and _is_file(name)
    }
    counts: dict[str, int] = {}
    base: Profile | None = None
    if args.measured is not None:
        base = load_profile(args.measured, config)
    elif len(files) < 2:
        base, counts = _measure(args, config)
    found = []
    for side in ("edge", "cloud"):
        device = devices[side]
        if side in files:
            found.append(files[side])
        else:
            assert base is not None
            found.append(scale(base, device) if device is not None else base)
    return found[0], found[1], counts


def _is_file(name: str) -> bool:
    return name.endswith(".json") or Path(name).is_file()


def _measure(args: argparse.Namespace, config: Config) -> tuple[Profile, dict[str, int]]:
    from smartedge.lab.plan.survey import measure_here
    from smartedge.runs.progress import Bars

    with closing(Bars()) as monitor:
        return measure_here(config, monitor=monitor, cuts=args.cuts, codecs=args.codecs, repeats=args.repeats)


def _images(args: argparse.Namespace, config: Config, counts: dict[str, int]) -> dict[Any, int]:
    """Images by split: as given, as counted when measuring, from the limits of the settings, or from the data set."""
    from smartedge.launch.datasets import dataset_of

    if args.images is not None:
        try:
            given = [int(part) for part in args.images]
        except ValueError:
            given = []
        if len(given) not in (1, 3) or min(given) < 1:
            raise ConfigError("--images: give a number of training images, or three: training, validation, test")
        train, val, test = given if len(given) == 3 else (given[0], max(1, given[0] // 10), max(1, given[0] // 10))
        return {"train": train, "val": val, "test": test}
    if counts:
        return dict(counts)
    data = config.data
    if len(data.limit) == 3:
        return dict(data.limit)
    try:
        dataset = dataset_of(config)
    except DataError as error:
        raise ConfigError(
            f"data.path: the images cannot be counted here ({error}); say how many there are with --images"
        ) from error
    return {name: len(split) for name, split in dataset.splits.items()}


def _known(flag: str, given: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{flag}: {', '.join(unknown)}: choose among {', '.join(known)}")
    return given


def _size(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)b?", text.lower())
    if match is None:
        raise ConfigError(f"{flag} {text}: give bytes, such as 500M or 2G (powers of 1000)")
    return float(match[1]) * _SIZES[match[2]]


def _print_table(plan: Plan, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from smartedge.lab.plan.search import describe, figures_of
    from smartedge.methods.base import METHODS

    table = Table(box=None, pad_edge=False)
    table.add_column("choice", no_wrap=True)
    for heading in figures_of(plan.ranked[0]):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    shown = list(plan.ranked if top <= 0 else plan.ranked[:top])
    # The best choice of every method is always shown.
    shown += [best for m in METHODS if (best := plan.first_of(m)) is not None and best not in shown]
    for p in shown:
        broken = f"not allowed: {', '.join(p.rejected)}" if p.rejected else ""
        table.add_row(describe(p.choice), *figures_of(p).values(), broken)
    Console(width=max(Console().width, 190)).print(table)
    left = len(plan.ranked) - len(shown)
    modelled = "edge J: modelled"
    say(f"predicted; {modelled}" + (f"; {left} more choices with --top 0" if left > 0 else ""))
