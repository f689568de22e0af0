"""``smartedge demo``: the four methods on embedded data."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smartedge.cli.common import add_override_argument, add_watch_argument, watch_address

__all__ = ["RUNS", "add_parser", "demo_config", "run"]

_DESCRIPTION = """\
Train one network in four ways on drawn faces, edge and cloud as two processes, and compare.

  $ smartedge demo
  (progress of each run)
  (one table, and how the first way compares with each of the others)
  runs/demo/report.html

The four ways: hierarchical training (in two schedules), uploading the images, split learning, and everything on the
edge. A second call makes all runs again.
"""

# folder -> settings that differ from demo_config
RUNS: dict[str, dict[str, str]] = {
    "hierarchical": {"method": "hierarchical"},
    "hierarchical-once": {"method": "hierarchical", "schedule": "freeze-and-log"},
    "upload": {"method": "upload"},
    "split": {"method": "split"},
    "local": {"method": "local"},
}


def demo_config() -> dict[str, object]:
    """The settings that all runs of the demo share."""
    return {
        "epochs": 5,
        "data": {
            "path": "drawn",
            "desired": "mouth_open",
            "sensitive": "masculine",
            "image_size": 48,
            "limit": {"train": 1334, "val": 100, "test": 1000},  # 1 200 to learn from: a tenth is set apart for audits
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
    from smartedge.lab.watch import watching_run

    folders = [args.out / name for name in RUNS]
    with watching_run(watch_address(args.watch), args.out, lambda text: print(text, flush=True)):
        _make_runs(folders, args.overrides)
    print_table(folders)
    for sentence in compared(folders):
        print(f"{textwrap.fill(sentence, 110)}\n")
    report = write_comparison(folders, args.out / "report.html")
    picture = write_picture(folders, args.out / "demo.png")
    print(f"{report}  (each run has its own report.html beside its results)\n{picture}")
    return 0


def _make_runs(folders: Sequence[Path], overrides: Sequence[str]) -> None:
    from smartedge.cli.common import write_report_where_possible
    from smartedge.config import load_config
    from smartedge.training import train

    shared = load_config(demo_config(), overrides)
    with ThreadPoolExecutor(1) as reports:  # while the next run trains in processes of its own
        for folder, changes in zip(folders, RUNS.values(), strict=True):
            config = load_config(shared, {**changes, "run_dir": str(folder)})
            if (folder / "run.json").exists():  # made by an earlier call
                shutil.rmtree(folder)
            print(f"\n{' '.join(changes.values())}", flush=True)
            train(config)
            if shared.automatic:
                shared = load_config(shared, {"train": _chosen(folder)})
            reports.submit(write_report_where_possible, folder)


def _chosen(folder: Path) -> dict[str, object]:
    """What a run with ``auto`` in its settings has measured to be the fastest, and uses."""
    from smartedge.config import load_config

    train = load_config(folder / "config.yaml").train
    print(f"All runs compute in {train.precision}: it was measured which precision is the fastest on this machine.")
    return {"precision": train.precision, "channels_last": train.channels_last}
