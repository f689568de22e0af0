"""Time per epoch where the cloud is 4 and 19 times as fast as the edge, measured beside predicted.

    python benchmarks/device_ratio.py                                      # everything that is not finished; as root
    python benchmarks/device_ratio.py --only resnet18-32 --world 19-slow   # one network, image size and world
    python benchmarks/device_ratio.py --roles planned,upload --again       # measure these rows a second time
    python benchmarks/device_ratio.py --probe                              # what slices do to a step, see below
    python benchmarks/device_ratio.py --table                              # print the tables from what is finished

The papers pair a weak edge with a strong GPU. Here both are cores of one processor, so the kernel holds each to a share
of a core (benchmarks/shaping.py), and the link to a rate. There are two kinds of *world*:

- ``4`` and ``19``: the edge has 0.2 or 0.05 of a core, the cloud 0.8 or 0.95, and the link is as fast as it says. Such
  an edge is far weaker than those of the papers, while the link is not.
- ``4-slow`` and ``19-slow``: the same shares, and the link is slower by the factor by which the edge is slower than
  half a core: 2.5 or 10. That is time dilation (Gupta et al., *To infinity and beyond: time-warped network emulation*,
  NSDI 2006): all that matters runs in slow motion, so measured seconds ÷ the factor are those of an edge of half a core
  (as in benchmarks/shaped_link.py) with a cloud of 2 or 9.5 such cores. Disk and kernel are not slowed. Half a core
  trains ResNet-18 with about 160 GFLOP/s, and 9.5 cores with 3.1 TFLOP/s: the papers' Quadro K620 and RTX 2080 Ti reach
  345 and 4035 by ``smartedge.lab.plan.devices``.

Each network is profiled once on a whole core. The planner predicts each run from that profile ÷ the shares. A side may
compute for 50 ms at once and then has to wait, so that its caches stay warm, as those of a slow processor do. An edge
of split learning computes only now and then, for less than that; it would not be slowed, so its slices are of 5 ms.
``--probe`` measures the processor time of the front's step in both kinds of slices. The rows are those of
benchmarks/shaped_link.py. The lowest rate is measured; ``--rates`` measures others, and a table of what the planner
predicts has all. Shares, rates, the time that each side stood still because its share was used up, and the
machine's load are kept with every result in ``benchmarks/results/device-ratio/``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import HERE, keep_result, show_table
from shaped_link import CASES, IMAGES, ON_EDGE, RATES, UPLOAD, UPLOAD_ONCE, Case, run, who_waits
from shaping import LONG_QUOTA_US, SHORT_QUOTA_US, Lab, why_not
from share_of_core import at_share

from smartedge.artifacts.plan import Choice, Job, Link, Prediction
from smartedge.artifacts.profile import Profile
from smartedge.config import load_config
from smartedge.lab.plan.cost import predict
from smartedge.lab.plan.job import Setting, job_of
from smartedge.lab.plan.links import parse_link
from smartedge.lab.plan.profile import load_profile
from smartedge.lab.plan.search import Constraints, Plan, describe, make_plan

RESULTS = HERE / "results" / "device-ratio"
LIKE_EDGE = 0.5  # share of a core that the edge acts as if it had, in slow motion
ROLES = ("planned", "split", "upload once", "upload", "on the edge")
# Epochs of a run. An epoch of 320 images is short for the chosen way: in a run of two its start would count too much.
EPOCHS = {"planned": 6, "split": 2, "upload once": 2, "upload": 2, "on the edge": 2}


@dataclass(frozen=True)
class World:
    """Shares of a core, and how much slower than real the link is."""

    ratio: str
    edge: float
    cloud: float
    dilation: float

    def link(self, rate: str) -> Link:
        link = parse_link(f"{rate},0ms")
        assert link.up_mbits is not None and link.down_mbits is not None
        slower = {"up_mbits": link.up_mbits / self.dilation, "down_mbits": link.down_mbits / self.dilation}
        return link.model_copy(update=slower)


WORLDS = {
    "19-slow": World("1 : 19", 0.05, 0.95, LIKE_EDGE / 0.05),
    "4-slow": World("1 : 4", 0.2, 0.8, LIKE_EDGE / 0.2),
    "19": World("1 : 19", 0.05, 0.95, 1.0),
    "4": World("1 : 4", 0.2, 0.8, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    parser.add_argument("--world", action="append", choices=WORLDS, help="may be repeated; default: all")
    parser.add_argument("--rates", action="append", choices=RATES, help="may be repeated; default: 3g, 1.1 Mbit/s")
    parser.add_argument("--roles", default=",".join(ROLES), help=f"of {', '.join(ROLES)}; default: all")
    parser.add_argument("--again", action="store_true", help="measure a second time, beside the first")
    parser.add_argument("--probe", action="store_true", help="measure only what slices of a core do to a step")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/device-ratio"), help="run directories")
    args = parser.parse_args()
    roles = args.roles.split(",")
    if unknown := set(roles) - set(ROLES):
        parser.error(f"--roles: {', '.join(sorted(unknown))}: not among {', '.join(ROLES)}")
    if not args.table:
        if reason := why_not():
            sys.exit(f"machines and links cannot be shaped here: {reason}")
        if args.probe:
            return probe(args.only or list(CASES))
        for name in args.only or CASES:
            profile_of(CASES[name], args.work / name)
        for world in args.world or WORLDS:
            for name in args.only or CASES:
                for rate in args.rates or RATES[:1]:
                    measure(CASES[name], world, rate, roles, args.work / name, again=args.again)
    print_tables()


STEP = """
import json, sys, time
import torch
from smartedge.config import load_config
from smartedge.lab.plan.images import sample_images
from smartedge.lab.plan.measure import training_step
from smartedge.runs.allocator import keep_freed_memory
config = load_config(json.loads(sys.argv[3]))  # enter() takes the first argument
torch.set_num_threads(config.threads)
keep_freed_memory()
step = training_step(config, sample_images(config))
for number in range(5):
    step(number)
enter()
begun, begun_cpu, steps = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - begun < float(sys.argv[1]):
    step(steps)
    steps += 1
print((time.process_time() - begun_cpu) / steps)
"""


def probe(cases: Sequence[str]) -> None:
    """Processor time of the front's step at a whole core, and at the smallest share in short and in long slices."""
    found: dict[str, dict[str, float]] = {}
    load, share = os.getloadavg()[0], WORLDS["19"].edge
    kinds = {"whole core": (1.0, SHORT_QUOTA_US), "short slices": (share, SHORT_QUOTA_US)}
    for case in cases:
        config = json.dumps(CASES[case].config.model_dump(mode="json"))
        for kind, (cap, quota) in (kinds | {"long slices": (share, LONG_QUOTA_US)}).items():
            arguments = ["2" if cap == 1 else "10", config]
            with (
                Lab.open(parse_link("local"), edge_cap=cap, least_quota_us=quota) as lab,
                lab.start_prepared("edge", STEP, arguments, stdout=subprocess.PIPE) as child,
            ):
                out, _ = child.communicate()
            found.setdefault(case, {})[kind] = round(1000 * float(out), 2)
        print(case, found[case], flush=True)
    keep_result(HERE / "results" / "device-ratio-probe.json", {"load": load, "milliseconds": found}, "--probe")


def profile_file(case: Case) -> Path:
    return RESULTS / "profiles" / f"{case.name}.json"


def profile_of(case: Case, work: Path) -> Profile:
    """The profile of one whole core, measured once."""
    file = profile_file(case)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        config = work / "profile.yaml"
        config.write_text(case.config.to_yaml())
        command = [sys.executable, "-m", "smartedge", "profile", str(config), "--out", str(file)]
        with Lab.open(parse_link("local"), edge_cap=1.0) as lab:
            lab.run("cloud", [*command, "--cuts", ",".join(case.cuts), "--repeats", "7"])
    return load_profile(file, case.config)


def setting_of(case: Case, world: World, rate: str) -> Setting:
    """For the planner: the profile of a whole core ÷ the shares."""
    core = load_profile(profile_file(case), case.config)
    return Setting(at_share(core, world.edge), at_share(core, world.cloud), world.link(rate))


def job_in(case: Case, setting: Setting, epochs: int) -> Job:
    return job_of(load_config(case.config, {"epochs": epochs}), dict(IMAGES), setting.edge.outputs)  # type: ignore[arg-type]


def plan_of(case: Case, world: World, rate: str) -> Plan:
    """What the planner says of that world."""
    setting = setting_of(case, world, rate)
    return make_plan(case.config, job_in(case, setting, EPOCHS["planned"]), setting, Constraints())


def prediction_of(each: dict[str, Any]) -> Prediction:
    """What the planner says of a run that was made."""
    case = CASES[each["case"]["name"]]
    setting = setting_of(case, WORLDS[each["world"]["name"]], each["rate"])
    return predict(Choice(**each["choice"]), job_in(case, setting, each["epochs"]), setting)


def predictions(case: Case, plan: Plan) -> dict[str, Prediction]:
    """Role → what is predicted for it."""
    planned, split = plan.best_of("hierarchical"), plan.best_of("split")
    assert planned is not None and split is not None
    choices = {"planned": planned.choice, "split": split.choice}
    choices |= {"upload once": UPLOAD_ONCE, "upload": UPLOAD, "on the edge": ON_EDGE}
    return {
        role: predict(choice, job_in(case, plan.setting, EPOCHS[role]), plan.setting)
        for role, choice in choices.items()
    }


def result_file(case: str, world: str, rate: str, role: str, *, again: bool) -> Path:
    return RESULTS / f"{case}-{world}-{rate}-{role.replace(' ', '-')}{'-again' if again else ''}.json"


def measure(case: Case, name: str, rate: str, roles: list[str], work: Path, *, again: bool) -> None:
    """Make the runs of a network in a world that are not there yet."""
    world = WORLDS[name]
    missing = [role for role in roles if not result_file(case.name, name, rate, role, again=again).exists()]
    if not missing:
        return
    plan = plan_of(case, world, rate)
    predicted = predictions(case, plan)
    work.mkdir(parents=True, exist_ok=True)
    for role in missing:
        quota = SHORT_QUOTA_US if role == "split" else LONG_QUOTA_US
        caps = {"edge_cap": world.edge, "cloud_cap": world.cloud}
        with Lab.open(world.link(rate), **caps, least_quota_us=quota) as lab:
            facts = lab.facts()
            before, load = lab.throttled(), os.getloadavg()[0]
            results = run(lab, case, predicted[role].choice, work / "run", EPOCHS[role])
            after = lab.throttled()
            stood = {side: {key: after[side][key] - before[side][key] for key in after[side]} for side in after}
            found = {
                "case": asdict(case),
                "world": {"name": name, **asdict(world)},
                "rate": rate,
                "role": role,
                "choice": predicted[role].choice.model_dump(),
                "epochs": EPOCHS[role],
                "lab": facts,
                "throttled": stood,
                "load": {"before": load, "after": os.getloadavg()[0]},
                "measured": {key: results[key] for key in ("seconds_per_epoch", "stage_seconds", "bytes_per_image")},
            }
            arguments = (
                f"--only {case.name} --world {name} --rates {rate} --roles {role!r}{' --again' if again else ''}"
            )
            file = result_file(case.name, name, rate, role, again=again)
            keep_result(file, found, arguments)
            here, there = found["measured"]["seconds_per_epoch"], predicted[role].seconds_per_epoch  # type: ignore[index]
            print(f"{file.stem}: {here:.2f} s per epoch, predicted {there:.2f} ({there / here:.2f})", flush=True)


def print_tables() -> None:
    """Every measured row; then what is predicted at every rate."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    rows = [
        measured_row(found, case, world, rate, role)
        for world in WORLDS
        for case in CASES
        for rate in RATES
        for role in ROLES
        if result_file(case, world, rate, role, again=False).stem in found
    ]
    show_table("measured, seconds per epoch ÷ slow motion", rows, HERE / "results" / "device-ratio.csv")
    if rows:
        errors = [abs(float(row["predicted ÷ measured"]) - 1) for row in rows]
        within = sum(error <= 0.15 for error in errors)
        print(f"{within} of {len(rows)} predictions within 15 %; the worst is off by {100 * max(errors):.0f} %\n")
    predicted = [
        predicted_row(case, world, rate)
        for world in WORLDS
        for case in CASES.values()
        if profile_file(case).exists()
        for rate in RATES
    ]
    show_table("predicted, seconds per epoch ÷ slow motion", predicted, HERE / "results" / "device-ratio-predicted.csv")


def measured_row(found: dict[str, Any], case: str, world: str, rate: str, role: str) -> dict[str, Any]:
    def of(role: str, *, again: bool = False) -> dict[str, Any] | None:
        return found.get(result_file(case, world, rate, role, again=again).stem)

    each, again, upload = of(role), of(role, again=True), of("upload")
    assert each is not None
    slow = each["world"]["dilation"]
    wall, stages = each["measured"]["seconds_per_epoch"], each["measured"]["stage_seconds"]
    used = each["throttled"]["edge"]
    predicted = prediction_of(each).seconds_per_epoch
    if upload is None:  # bound by the link, so the planner knows it
        compared = prediction_of({**each, "epochs": EPOCHS["upload"], "choice": UPLOAD.model_dump()}).seconds_per_epoch
    else:
        compared = upload["measured"]["seconds_per_epoch"]
    saved = f"{100 * (1 - wall / compared):.0f}{'' if upload else ' (of the predicted)'}"
    return {
        "case": case,
        "edge : cloud": each["world"]["ratio"],
        "slow motion": f"{slow:g}",
        "Mbit/s up": f"{parse_link(rate).up_mbits:g}",
        "way": role,
        "choice": describe(Choice(**each["choice"])),
        "seconds": f"{wall / slow:.2f}",
        "again": "" if again is None else f"{again['measured']['seconds_per_epoch'] / slow:.2f}",
        "predicted": f"{predicted / slow:.2f}",
        "predicted ÷ measured": f"{predicted / wall:.2f}",
        "less than upload %": saved,
        "who waits": "" if role == "on the edge" else who_waits(Choice(**each["choice"]), stages),
        "cloud idle %": "" if role == "on the edge" else f"{100 * (1 - stages['cloud'] / wall):.0f}",
        "periods edge at its share %": f"{100 * used['throttled'] / used['periods']:.0f}",
        "load": f"{each['load']['before']:.1f}",
    }


def predicted_row(case: Case, world: str, rate: str) -> dict[str, Any]:
    plan, slow = plan_of(case, WORLDS[world], rate), WORLDS[world].dilation
    found = predictions(case, plan)
    seconds = {role: each.seconds_per_epoch / slow for role, each in found.items()}
    best = min((role for role in seconds if role != "planned"), key=lambda role: seconds[role])
    first = plan.best
    assert first is not None
    return {
        "case": case.name,
        "edge : cloud": WORLDS[world].ratio,
        "slow motion": f"{slow:g}",
        "Mbit/s up": f"{parse_link(rate).up_mbits:g}",
        "hierarchical": describe(found["planned"].choice).removeprefix("hierarchical "),
        **{role: f"{value:.2f}" for role, value in seconds.items()},
        "less than upload %": f"{100 * (1 - seconds['planned'] / seconds['upload']):.0f}",
        "best other": best,
        "less than best other %": f"{100 * (1 - seconds['planned'] / seconds[best]):.0f}",
        "planner's first": describe(first.choice),
    }


if __name__ == "__main__":
    main()
