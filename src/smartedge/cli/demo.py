"""``smartedge demo``: the four methods on embedded data."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.common import add_override_argument, add_watch_argument, watch_page
from smartedge.logs import say

if TYPE_CHECKING:
    from smartedge.artifacts.results import Results
    from smartedge.config import Config

__all__ = ["RUNS", "add_parser", "demo_config", "epochs_in_the_same_time", "run"]

_DESCRIPTION = """\
Train one network in four ways on drawn faces, edge and cloud as two processes, and compare.

  $ smartedge demo
  (progress of each run)
  (one table, and how the first way compares with each of the others)
  runs/demo/report.html

The four ways: hierarchical training (in two schedules), uploading the images, split learning, and everything on the
edge. The last way is trained once more, with as much computing on the edge as the first way needs. A second call makes
all runs again.
"""

# folder -> settings that differ from demo_config
RUNS: dict[str, dict[str, str]] = {
    "hierarchical": {"method": "hierarchical"},
    "hierarchical-once": {"method": "hierarchical", "schedule": "freeze-and-log"},
    "upload": {"method": "upload"},
    "split": {"method": "split"},
    "local": {"method": "local"},
}
_FAIR = "local-in-the-same-time"  # the folder of one more run: see epochs_in_the_same_time


def demo_config() -> dict[str, object]:
    """The settings that all runs of the demo share."""
    return {
        "epochs": 5,
        "data": {
            "path": "drawn",
            "desired": "mouth_open",
            "sensitive": "masculine",
            "image_size": 48,
            "limit": {"train": 1134, "val": 100, "test": 1000},  # 1 020 to learn from: a tenth is set apart for audits
        },
        "model": {
            "name": "resnet18",
            "cut": "layer1.0",
            "bottleneck": "16x6x6",
            "small_input": False,  # the stem for photographs: a quarter of the work
            "exit": {"width": 32, "depth": 1},
        },
        "train": {"batch_size": 30, "precision": "auto"},  # the first run measures, for all of them
    }


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("demo", description=_DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    add_override_argument(parser)
    add_watch_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Make the runs, print the table, write report and picture."""
    from smartedge.cli.report import print_table
    from smartedge.lab.report import compared, write_comparison, write_picture

    with watch_page(args.watch, args.out, say):
        folders = _make_runs(args.out, args.overrides)
    print_table(folders)
    for sentence in compared(folders):
        say(*textwrap.wrap(sentence, 110), "")
    report = write_comparison(folders, args.out / "report.html")
    picture = write_picture(folders, args.out / "demo.png")
    say(f"{report}  (each run has its own report.html beside its results)", str(picture))
    return 0


def _make_runs(out: Path, overrides: Sequence[str]) -> list[Path]:
    """Make all runs, and give their folders."""
    from smartedge.artifacts.results import Results
    from smartedge.config import load_config

    shared = load_config(demo_config(), overrides)
    folders = [out / name for name in RUNS]
    with ThreadPoolExecutor(1) as reports:  # while the next run trains in processes of its own
        for folder, changes in zip(folders, RUNS.values(), strict=True):
            say("", " ".join(changes.values()))
            _make_run(load_config(shared, {**changes, "run_dir": str(folder)}), reports)
            if shared.automatic:
                shared = load_config(shared, {"train": _chosen(folder)})
        divided, whole = (Results.read(out / name / "results.json") for name in ("hierarchical", "local"))
        epochs = epochs_in_the_same_time(divided, whole)
        if epochs < shared.epochs:
            say("", f"local, epochs {epochs}: at least as much computing on the edge as hierarchical")
            folders.append(out / _FAIR)
            changed = {"method": "local", "epochs": epochs, "run_dir": str(folders[-1])}
            _make_run(load_config(shared, changed), reports)
    return folders


def _make_run(config: Config, reports: ThreadPoolExecutor) -> None:
    """Train, in the place of what an earlier call made. The report is written beside what comes next."""
    from smartedge.cli.common import write_report_where_possible
    from smartedge.training import train

    _remove_run(config.run_dir)
    train(config)
    reports.submit(write_report_where_possible, config.run_dir)


def _remove_run(folder: Path) -> None:
    """Remove a run, and its facts last: where this is killed midway, the next call still takes the rest for a run."""
    if (folder / "run.json").exists():
        for part in folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
        shutil.rmtree(folder)


def epochs_in_the_same_time(divided: Results, whole: Results) -> int:
    """The fewest epochs of the whole network for which the edge computes at least as long as in the divided run."""
    return math.ceil(divided.edge_work / (whole.edge_work / whole.epochs))


def _chosen(folder: Path) -> dict[str, object]:
    """What a run with ``auto`` in its settings has measured to be the fastest, and uses."""
    from smartedge.config import load_config

    train = load_config(folder / "config.yaml").train
    say(f"All runs compute in {train.precision}: it was measured which precision is the fastest on this machine.")
    return {"precision": train.precision, "channels_last": train.channels_last}
