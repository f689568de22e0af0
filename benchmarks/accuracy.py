"""Does hierarchical training cost accuracy? The back against the undivided network, at equal epochs.

    python benchmarks/accuracy.py                         # everything that is not finished yet
    python benchmarks/accuracy.py --only lfw-resnet18     # one comparison
    python benchmarks/accuracy.py --table                 # print the table from what is finished

Each run is a process of its own on one thread (``--jobs`` at once); its figures are kept in
``benchmarks/results/accuracy/``, and a run that is there is not made again. A run that was stopped resumes.
The undivided network is method ``local``; both methods see the same images in the same order with the same seed.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from common import HERE, attributes, data_folder, keep_result, percent, show_table, train_in_own_process

RESULTS = HERE / "results" / "accuracy"
LFW = {"path": "lfw-attributes", "desired": "Smiling", "image_size": 64, "augment": "flip"}
CIFAR = {
    "path": "cifar10",
    "desired": "label",
    "image_size": 32,
    "augment": "flip-crop",
    "limit": {"train": 10000, "val": 500, "test": 2000},
}
FAST = {"precision": "bfloat16", "channels_last": True}

# What an early front learns is what its exit asks for: with the default exit (2 hidden layers of 128) the back of the
# CIFAR-10 runs stayed 1.2 (VGG-16) and 1.75 (ResNet-18) points behind the undivided network.
STRONG_EXIT = {"depth": 3, "width": 256}

# name -> settings, seeds. The cut of each network lies early: the edge is the weak side.
COMPARISONS: dict[str, tuple[dict[str, Any], int]] = {
    "lfw-resnet18": (
        {"data": LFW, "model": {"name": "resnet18", "cut": "layer1", "bottleneck": None}, "epochs": 6, "train": FAST},
        3,
    ),
    "lfw-mobilevit_xxs": (
        {
            "data": LFW,
            "model": {"name": "mobilevit_xxs", "cut": "stages.1", "bottleneck": None},
            "epochs": 6,
            "train": {"lr": 2e-3, "channels_last": True},
        },
        3,
    ),
    # The same with so few bytes that an image takes a tenth of its JPEG or less; its undivided network is that above.
    "lfw-resnet18-bottleneck": (
        {
            "data": LFW,
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": "8x4x4"},
            "codec": {"name": "uint4"},
            "epochs": 6,
            "train": FAST,
        },
        3,
    ),
    "lfw-vgg11": (
        {
            "data": LFW,
            "model": {"name": "vgg11_bn", "cut": "features.7", "bottleneck": None},
            "epochs": 4,
            "train": FAST,
        },
        3,
    ),
    "cifar10-vgg16": (
        {
            "data": CIFAR,
            "model": {"name": "vgg16_bn", "cut": "features.13", "bottleneck": None, "exit": STRONG_EXIT},
            "epochs": 8,
            "train": FAST,
        },
        1,
    ),
    "cifar10-resnet18": (
        {
            "data": CIFAR,
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": None, "exit": STRONG_EXIT},
            "epochs": 8,
            "train": FAST,
        },
        1,
    ),
    "lfw-40-attributes-resnet18": (
        {
            "data": {**LFW, "desired": "ALL"},
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": None},
            "epochs": 6,
            "train": FAST,
        },
        1,
    ),
}
METHODS = {"undivided": "local", "hierarchical": "hierarchical"}
UNDIVIDED_OF = {"lfw-resnet18-bottleneck": "lfw-resnet18"}  # its undivided runs are those of another comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=COMPARISONS, help="may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--seeds", type=int, help="fewer seeds than planned")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"), help="run directories (large)")
    args = parser.parse_args()
    if not args.table:
        jobs = [
            (name, method, seed)
            for name, (_, seeds) in COMPARISONS.items()
            if not args.only or name in args.only
            for seed in range(args.seeds or seeds)
            for method in METHODS
            if not result_file(name, method, seed).exists() and not (method == "undivided" and name in UNDIVIDED_OF)
        ]
        jobs.sort(key=lambda job: job[2])  # the first seed of every comparison before the second of any
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: run(*job, work=args.work), jobs))
    print_table()


def result_file(name: str, method: str, seed: int) -> Path:
    return RESULTS / f"{name}-{method}-{seed}.json"


def run(name: str, method: str, seed: int, *, work: Path) -> None:
    settings, _ = COMPARISONS[name]
    run_dir = work / f"{name}-{method}-{seed}"
    data = {**settings["data"], "path": str(data_folder(settings["data"]["path"]))}
    if data["desired"] == "ALL":
        data["desired"] = attributes(Path(data["path"]))
    config = {**settings, "data": data, "method": METHODS[method], "seed": seed, "run_dir": str(run_dir)}
    config["hardware"] = {"threads": 1}
    results = train_in_own_process(config)
    kept = {
        key: results[key]
        for key in ("method", "model", "cut", "seed", "epochs", "data", "test", "cloud_gain", "bytes_per_image")
    }
    kept["data"] = {**kept["data"], "path": Path(kept["data"]["path"]).name}
    kept["train"] = settings["train"]
    file = result_file(name, method, seed)
    keep_result(file, kept, f"--only {name}")
    print(f"{file.stem}: {100 * results['test']['back']['balanced_accuracy']:.2f} %", flush=True)


def print_table() -> None:
    rows = []
    for name in COMPARISONS:
        found: dict[str, list[dict[str, Any]]] = {}
        for method in METHODS:
            whose = UNDIVIDED_OF.get(name, name) if method == "undivided" else name
            files = sorted(RESULTS.glob(f"{whose}-{method}-[0-9].json"))
            found[method] = [json.loads(file.read_text()) for file in files]
        seeds = sorted({r["seed"] for r in found["undivided"]} & {r["seed"] for r in found["hierarchical"]})
        if not seeds:
            continue
        whole = [r["test"]["back"]["balanced_accuracy"] for r in found["undivided"] if r["seed"] in seeds]
        hierarchical = [r for r in found["hierarchical"] if r["seed"] in seeds]
        back = [r["test"]["back"]["balanced_accuracy"] for r in hierarchical]
        at_exit = [r["test"]["exit"]["balanced_accuracy"] for r in hierarchical]
        differences = [b - w for b, w in zip(back, whole, strict=True)]
        rows.append(
            {
                "comparison": name,
                "seeds": len(seeds),
                "epochs": hierarchical[0]["epochs"],
                "test images": hierarchical[0]["data"]["test"],
                "undivided %": percent(whole),
                "back %": percent(back),
                "B/image": f"{mean(r['bytes_per_image']['up'] for r in hierarchical):.0f}",
                "exit %": percent(at_exit),
                "back - undivided": f"{100 * mean(differences):+.2f}",
                "back - exit": f"{100 * (mean(back) - mean(at_exit)):+.2f}",
                "within 1 point": "yes" if mean(differences) >= -0.01 else "no",
            }
        )
    show_table(
        "balanced accuracy on the test split, mean ± standard deviation over seeds",
        rows,
        HERE / "results" / "accuracy.csv",
    )


if __name__ == "__main__":
    main()
