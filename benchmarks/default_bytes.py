"""What the default bottleneck costs: bytes and accuracy of the default settings, with it and with the whole map.

    python benchmarks/default_bytes.py            # what is not there yet, one process a run, one thread each
    python benchmarks/default_bytes.py --table    # print the table from what is there

The settings are the defaults but for the data, the seed, and bfloat16 (faster, and the same for both): ResNet-18 cut at
``layer1``, schedule ``joint``, six epochs, codec ``uint8``. LFW has 64x64 pixels, CIFAR-10 32x32. Bytes are all of the
training frames, with headers, divided by the number of images, beside the same images as JPEG of quality 90. Figures
are kept in ``benchmarks/results/defaults/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from common import HERE, attributes, data_folder, keep_result, show_table, train_in_own_process

from smartedge.config import load_config

RESULTS = HERE / "results" / "defaults"
SEEDS = (0, 1, 2)
BOTTLENECKS = {"default": "auto", "whole map": None}
TASKS: dict[str, dict[str, Any]] = {
    "lfw-smiling": {"path": "lfw-attributes", "desired": "Smiling", "image_size": 64, "train": 3000},
    "lfw-40": {"path": "lfw-attributes", "desired": "ALL", "image_size": 64, "train": 3000},
    "cifar10": {"path": "cifar10", "desired": "label", "image_size": 32, "train": 3000},
}


def settings(task: dict[str, Any], bottleneck: str | None, seed: int, work: Path) -> dict[str, Any]:
    folder = data_folder(task["path"])
    return {
        "run_dir": str(work),
        "seed": seed,
        "data": {
            "path": str(folder),
            "desired": attributes(folder) if task["desired"] == "ALL" else task["desired"],
            "image_size": task["image_size"],
            "limit": {"train": task["train"], "val": 256, "test": 2000},
        },
        "model": {"bottleneck": bottleneck},
        "train": {"precision": "bfloat16", "channels_last": True},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=TASKS, help="may be repeated")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"), help="run directories")
    args = parser.parse_args()
    if not args.table:
        for seed in SEEDS[: args.seeds]:
            for task in args.only or TASKS:
                for name in BOTTLENECKS:
                    make(task, name, seed, args.work)
    print_table()


def file_of(task: str, name: str, seed: int) -> Path:
    return RESULTS / f"{task}-{name.replace(' ', '-')}-{seed}.json"


def make(task: str, name: str, seed: int, work: Path) -> None:
    if file_of(task, name, seed).exists():
        return
    folder = work / f"{task}-{name.replace(' ', '-')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = load_config(settings(TASKS[task], BOTTLENECKS[name], seed, folder))
    found = train_in_own_process(config.model_dump(mode="json"))
    test, sent = found["test"], found["bytes_per_image"]
    keep_result(
        file_of(task, name, seed),
        {
            "task": task,
            "bottleneck": found["bottleneck"],
            "seed": seed,
            "train": TASKS[task]["train"],
            "back": test["back"]["balanced_accuracy"],
            "exit": test["exit"]["balanced_accuracy"],
            "up": sent["up"],
            "jpeg": sent["reference"]["jpeg_q90"],
            "seconds_per_epoch": found["seconds_per_epoch"],
            "test_images": found["data"]["test"],
        },
    )


def print_table() -> None:
    rows = []
    for task in TASKS:
        kept = {
            name: [json.loads(f.read_text()) for s in SEEDS if (f := file_of(task, name, s)).exists()]
            for name in BOTTLENECKS
        }
        if not all(kept.values()):
            continue
        pairs = list(zip(kept["default"], kept["whole map"], strict=False))
        lost = [100 * (whole["back"] - narrow["back"]) for narrow, whole in pairs]
        narrow, whole = pairs[0]
        rows.append(
            {
                "task": task,
                "seeds": len(pairs),
                "bottleneck": "x".join(map(str, narrow["bottleneck"])),
                "bytes": f"{narrow['up']:.0f}",
                "JPEG": f"{narrow['jpeg']:.0f}",
                "÷ JPEG": f"{narrow['up'] / narrow['jpeg']:.2f}",
                "whole map": f"{whole['up']:.0f}",
                "back %": " ".join(f"{100 * n['back']:.1f}" for n, _ in pairs),
                "whole map back %": " ".join(f"{100 * w['back']:.1f}" for _, w in pairs),
                "points lost, mean": f"{statistics.mean(lost):+.2f}",
                "sd": f"{statistics.stdev(lost):.2f}" if len(lost) > 1 else "",
            }
        )
    show_table(
        "default bottleneck and whole map, balanced accuracy of the back on the test images",
        rows,
        RESULTS.with_suffix(".csv"),
    )


if __name__ == "__main__":
    main()
