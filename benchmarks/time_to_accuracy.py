"""How long until the network is so good? Epochs needed, from real trainings, times seconds per epoch on each link.

    python benchmarks/time_to_accuracy.py            # what is not finished yet, then the table
    python benchmarks/time_to_accuracy.py --table    # the table alone

What a method learns in an epoch does not depend on the link: two processes give the weights that one gives, bit for
bit. So each choice that benchmarks/shaped_link.py measured for ResNet-18 at 64x64 (LFW, ``Smiling``) is trained once,
in one process, on 4000 images for 8 epochs; its balanced accuracy on validation images after each epoch is kept in
``benchmarks/results/time-to-accuracy/``. Seconds per image are those of the shaped link. Where every image is sent
once, the sending is paid first, and an epoch is the cloud's alone.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import shaped_link
from common import HERE, keep_result, show_table, train_in_own_process

from smartedge.config import load_config
from smartedge.lab.plan.job import Choice
from smartedge.lab.plan.search import describe, written

RESULTS = HERE / "results" / "time-to-accuracy"
CASE = "resnet18-64"
IMAGES, EPOCHS = 4000, 8
TARGETS = (0.85, 0.88, 0.90)


def measured() -> list[dict[str, Any]]:
    """Results of the shaped link for the roles that are compared."""
    found = [json.loads(file.read_text()) for file in sorted(shaped_link.RESULTS.glob(f"{CASE}-*.json"))]
    return [each for each in found if each["role"] in shaped_link.ROLES and each["case"]["name"] == CASE]


def curve_file(choice: Choice) -> Path:
    return RESULTS / (describe(choice).replace(",", "").replace(" ", "-") + ".json")


def train(choice: Choice, work: Path) -> None:
    file = curve_file(choice)
    run_dir = work / file.stem
    changes = {
        "run_dir": str(run_dir),
        "epochs": EPOCHS,
        "data": {"limit": {"train": IMAGES, "val": 1000, "test": 1000}},
        "train": {"batch_size": 64},
    }
    config = load_config(written(shaped_link.CASES[CASE].config, choice), changes)
    results = train_in_own_process(config.model_dump(mode="json"))
    side = "edge" if choice.method == "local" else "cloud"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    curve = [row["balanced_accuracy"] for row in rows if (row["side"], row["split"]) == (side, "val")]
    assert len(curve) == EPOCHS
    kept = {"choice": describe(choice), "images": IMAGES, "val": curve, "test": results["test"]}
    keep_result(file, kept, "")
    print(f"{file.stem}: " + ", ".join(f"{100 * value:.1f}" for value in curve), flush=True)


def seconds_until(each: dict[str, Any], epochs: int) -> float:
    """From the edge's first step to the end of that many epochs of the last head, on :data:`IMAGES` images."""
    choice, found = Choice(**each["choice"]), each["measured"]
    scale = IMAGES / shaped_link.IMAGES["train"]
    if choice.schedule == "joint":
        return scale * epochs * float(found["seconds_per_epoch"])
    cloud: float = found["stage_seconds"]["cloud"]
    before: float = shaped_link.EPOCHS * (found["seconds_per_epoch"] - cloud)
    return scale * (before + epochs * cloud)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-accuracy"), help="run directories")
    args = parser.parse_args()
    choices = {describe(choice): choice for each in measured() for choice in (Choice(**each["choice"]),)}
    if not args.table:
        missing = [choice for choice in choices.values() if not curve_file(choice).exists()]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda choice: train(choice, args.work), missing))
    rows = []
    for each in sorted(measured(), key=lambda e: (shaped_link.RATES.index(e["rate"]), e["role"])):
        choice = Choice(**each["choice"])
        if not curve_file(choice).exists():
            continue
        curve = json.loads(curve_file(choice).read_text())["val"]
        row: dict[str, Any] = {"link": each["rate"], "role": each["role"], "choice": describe(choice)}
        for target in TARGETS:
            epochs = next((number for number, value in enumerate(curve, 1) if value >= target), None)
            text = "not reached" if epochs is None else f"{seconds_until(each, epochs):.0f} s ({epochs})"
            row[f"to {100 * target:.0f} % (epochs)"] = text
        rows.append({**row, "best %": f"{100 * max(curve):.1f}"})
    show_table(f"seconds until so accurate, {IMAGES} images, {CASE}", rows, HERE / "results" / "time-to-accuracy.csv")


if __name__ == "__main__":
    main()
