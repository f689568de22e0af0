"""How long until the network is so good? Epochs needed, from real trainings, times seconds per epoch on each link.

    python benchmarks/time_to_accuracy.py            # what is not finished yet, then the tables
    python benchmarks/time_to_accuracy.py --table    # the tables alone

What a method learns in an epoch does not depend on the link: two processes give the weights that one gives, bit for
bit. So each choice that benchmarks/shaped_link.py, benchmarks/device_ratio.py (in slow motion, 1 : 19) and
benchmarks/gpu_ratio.py (a GPU as the cloud) measured for ResNet-18 at 64x64 (LFW, ``Smiling``) is trained once, in one
process, on 4000 images for 8 epochs; its balanced accuracy on validation images after each epoch is kept in
``benchmarks/results/time-to-accuracy/``. Seconds per image are those measured on the link. Where every image is sent
once, the sending is paid first, and an epoch is the cloud's alone. All ways train in bfloat16, and the cloud of an
upload has its whole share.

*Decoupled split learning* (arXiv 2601.19261) also trains the front by an auxiliary loss on the edge, and sends no
gradient back, but edge, link and cloud take turns in its code. With our bottleneck, codec and exit its updates are
ours; so its row is not a run of its own: it has our curve, and the sum of our stages' seconds.

*Front first* is the schedule ``freeze-and-log`` with ``train.front_epochs: 1``: the edge trains its front for one
epoch, sends every image once, and the cloud trains the back from its log. It was not run on the links. Its seconds are
those of the stages of our chosen way, measured there: an epoch of the edge, then a forward pass (by the profile a share
of a step) or the link, whichever takes longer, then epochs of the cloud alone. *Published front* has the same curve,
but the front is there already, so the edge sends at once: the best case, a front that was trained on images like these.

The planner's answer for an accuracy is the way with the least predicted seconds, with the epochs of the trainings: it
predicts time, not accuracy. Where that is another method, it says: do not use ours.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import device_ratio
import gpu_ratio
import shaped_link
from common import HERE, keep_result, show_table, train_in_own_process

from smartedge.artifacts.plan import Choice
from smartedge.config import load_config
from smartedge.lab.plan.links import parse_link
from smartedge.lab.plan.profile import load_profile
from smartedge.lab.plan.search import describe, written
from smartedge.methods.schedules import get_schedule

RESULTS = HERE / "results" / "time-to-accuracy"
CASE, WORLD = "resnet18-64", "19-slow"
IMAGES, EPOCHS = 4000, 8
TARGETS = (0.85, 0.88, 0.90)
DECOUPLED, FRONT_FIRST, PUBLISHED = "decoupled split", "front first", "published front"
OURS = ("planned", FRONT_FIRST)
FRONT_EPOCHS = 1


@dataclass(frozen=True)
class Seconds:
    """Of an epoch of :data:`shaped_link.IMAGES`, and of its stages."""

    epoch: float
    stages: dict[str, float]


@dataclass(frozen=True)
class Way:
    """One way of training on one link, and how long its epochs take."""

    link: str
    role: str
    choice: Choice
    run_epochs: int  # of the run that was timed
    measured: Seconds
    predicted: Seconds
    front_epochs: int | None = None  # None: as the settings say

    def seconds_until(self, epochs: int, found: Seconds) -> float:
        """From the edge's first step to the end of that many epochs of the last head, on :data:`IMAGES` images."""
        scale = IMAGES / shaped_link.IMAGES["train"]
        if get_schedule(self.choice.schedule).once:
            cloud = found.stages["cloud"]
            return scale * (self.run_epochs * (found.epoch - cloud) + epochs * cloud)
        return scale * epochs * found.epoch


def ways() -> list[Way]:
    """What the shaped link measured for the roles that are compared."""
    found: list[Way] = []
    for file in sorted(shaped_link.RESULTS.glob(f"{CASE}-*.json")):
        each = json.loads(file.read_text())
        if each["role"] in shaped_link.ROLES and each["case"]["name"] == CASE:
            measured, predicted = (
                Seconds(each[name]["seconds_per_epoch"], each[name]["stage_seconds"])
                for name in ("measured", "predicted")
            )
            way = Way(each["rate"], each["role"], Choice(**each["choice"]), shaped_link.EPOCHS, measured, predicted)
            found += with_computed(way, each["measured"]["bytes_per_image"]["up"])
    for role in device_ratio.ROLES:
        file = device_ratio.result_file(CASE, WORLD, shaped_link.RATES[0], role, again=False)
        if file.exists():
            each = json.loads(file.read_text())
            plan, slow = device_ratio.prediction_of(each), each["world"]["dilation"]
            measured, predicted = (
                Seconds(epoch / slow, {name: value / slow for name, value in stages.items()})
                for epoch, stages in (
                    (each["measured"]["seconds_per_epoch"], each["measured"]["stage_seconds"]),
                    (plan.seconds_per_epoch, plan.stage_seconds),
                )
            )
            link = f"{each['rate']}, {each['world']['ratio']}"
            way = Way(link, role, Choice(**each["choice"]), each["epochs"], measured, predicted)
            found += with_computed(way, each["measured"]["bytes_per_image"]["up"])
    for file in sorted(gpu_ratio.RESULTS.glob(f"{CASE}-*.json")):
        each = json.loads(file.read_text())
        plan, found_here = gpu_ratio.predicted(gpu_ratio.RESULTS, each), each["measured"]
        measured = Seconds(found_here["seconds_per_epoch"], found_here["stage_seconds"])
        predicted = Seconds(plan.seconds_per_epoch, plan.stage_seconds)
        way = Way(f"{each['rate']}, GPU", each["role"], Choice(**each["choice"]), each["epochs"], measured, predicted)
        found += with_computed(way, each["measured"]["bytes_per_image"]["up"])
    found.sort(key=lambda way: (shaped_link.RATES.index(way.link.partition(",")[0]), way.link, way.role))
    return found


def with_computed(way: Way, up: float) -> list[Way]:
    """The way; beside ours those that are computed from its stages. ``up``: bytes of an image."""
    if way.role != "planned":
        return [way]
    assert way.choice.cut is not None
    images = shaped_link.IMAGES["train"] + shaped_link.IMAGES["val"]
    on_link = parse_link(way.link.partition(",")[0]).up_seconds(images * up)

    def in_turn(found: Seconds) -> Seconds:
        # The link's own stage counts handing over, which ends before the bytes have arrived.
        stages = found.stages | {"link": max(on_link, found.stages["link"])}
        return Seconds(sum(stages.values()), stages)

    turns = Way(way.link, DECOUPLED, way.choice, way.run_epochs, in_turn(way.measured), in_turn(way.predicted))
    case = shaped_link.CASES[CASE]
    cut = load_profile(device_ratio.profile_file(case), case.config).cut(way.choice.cut)
    forward = cut.front_forward.seconds / cut.front_step.seconds

    def once(found: Seconds, front_epochs: int) -> Seconds:
        edge = found.stages["edge"]
        sending = max(forward * edge + found.stages["encode"], on_link)
        return Seconds(front_epochs * edge + sending + found.stages["cloud"], found.stages)

    frozen = way.choice.model_copy(update={"schedule": "freeze-and-log"})
    first, published = (
        Way(way.link, role, frozen, 1, once(way.measured, epochs), once(way.predicted, epochs), FRONT_EPOCHS)
        for role, epochs in ((FRONT_FIRST, FRONT_EPOCHS), (PUBLISHED, 0))
    )
    return [way, turns, first, published]


def curve_file(way: Way) -> Path:
    front = "" if way.front_epochs is None else f"-front-{way.front_epochs}"
    return RESULTS / (describe(way.choice).replace(",", "").replace(" ", "-") + front + ".json")


def train(way: Way, work: Path, device: str) -> None:
    file, choice = curve_file(way), way.choice
    run_dir = work / file.stem
    changes = {
        "run_dir": str(run_dir),
        "epochs": EPOCHS,
        "data": {"limit": {"train": IMAGES, "val": 1000, "test": 1000}},
        "train": {"batch_size": 64},
        "hardware": {"edge_device": device, "cloud_device": device},
    }
    config = load_config(written(shaped_link.CASES[CASE].config, choice), changes)
    if way.front_epochs is not None:
        config = load_config(config, {"train": {"front_epochs": way.front_epochs}})
    results = train_in_own_process(config.model_dump(mode="json"))
    side = "edge" if choice.method == "local" else "cloud"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    curve = [row["balanced_accuracy"] for row in rows if (row["side"], row["split"]) == (side, "val")]
    assert len(curve) == EPOCHS
    kept = {"choice": describe(choice), "device": device, "images": IMAGES, "val": curve, "test": results["test"]}
    keep_result(file, kept, "")
    print(f"{file.stem}: " + ", ".join(f"{100 * value:.1f}" for value in curve), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--device", default="cpu", help="of both sides, while a choice is trained")
    parser.add_argument("--role", help="train only for this role")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-accuracy"), help="run directories")
    args = parser.parse_args()
    found = ways()
    if not args.table:
        wanted = [way for way in found if args.role in (None, way.role)]
        missing = {curve_file(way): way for way in wanted if not curve_file(way).exists()}
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda way: train(way, args.work, args.device), missing.values()))
    print_tables(found)


def print_tables(found: list[Way]) -> None:
    rows, seconds = [], {}
    ours = {way.link for way in found if way.role == "planned" and curve_file(way).exists()}
    for way in found:
        if not curve_file(way).exists():
            print(f"not trained yet: {describe(way.choice)} ({way.role}, {way.link})")
        if not curve_file(way).exists() or way.link not in ours:  # nothing to compare with
            continue
        curve = json.loads(curve_file(way).read_text())["val"]
        row: dict[str, Any] = {"link": way.link, "role": way.role, "choice": describe(way.choice)}
        for target in TARGETS:
            epochs = next((number for number, value in enumerate(curve, 1) if value >= target), None)
            if epochs is not None:
                both = (way.seconds_until(epochs, way.measured), way.seconds_until(epochs, way.predicted))
                if way.role != PUBLISHED:  # needs a front that somebody has trained before
                    seconds[way.link, target, way.role] = both
            text = "not reached" if epochs is None else f"{both[0]:.0f} s ({epochs})"
            row[f"to {100 * target:.0f} % (epochs)"] = text
        rows.append({**row, "best %": f"{100 * max(curve):.1f}"})
    title = f"seconds until so accurate, {IMAGES} images, {CASE}"
    show_table(title, rows, HERE / "results" / "time-to-accuracy.csv")
    print()
    answers = [answer(link, target, seconds) for link in dict.fromkeys(way.link for way in found) for target in TARGETS]
    file = HERE / "results" / "time-to-accuracy-plan.csv"
    show_table("the planner's answer", [each for each in answers if each], file)


def answer(link: str, target: float, seconds: dict[tuple[str, float, str], tuple[float, float]]) -> dict[str, Any]:
    """The fastest way to an accuracy, measured and predicted; empty where ours does not reach it or was not trained."""
    here = {role: both for (where, goal, role), both in seconds.items() if (where, goal) == (link, target)}
    if "planned" not in here:
        return {}
    fastest, said = (min(here, key=lambda role: here[role][number]) for number in (0, 1))
    ours = min((here[role] for role in OURS if role in here), key=lambda both: both[1])  # what the planner would take
    return {
        "link": link,
        "to %": f"{100 * target:.0f}",
        "fastest": fastest,
        "seconds": f"{here[fastest][0]:.0f}",
        "ours": f"{ours[0]:.0f}",
        "ours ÷ fastest": f"{ours[0] / here[fastest][0]:.2f}",
        "planner says": said if said in OURS else f"do not: {said}",
        "predicted ÷ measured, ours": f"{ours[1] / ours[0]:.2f}",
    }


if __name__ == "__main__":
    main()
