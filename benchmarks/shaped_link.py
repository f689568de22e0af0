"""Time per epoch of the four methods over a shaped link between two capped machines, measured beside predicted.

    python benchmarks/shaped_link.py                    # everything that is not finished; as root, on an idle machine
    python benchmarks/shaped_link.py --only vgg16-64    # one network and image size
    python benchmarks/shaped_link.py --table            # print the tables from what is finished, and draw

Edge and cloud are two processes in two network namespaces (benchmarks/shaping.py), at the up-link rates of 3G, 4G and
Wi-Fi. The edge has half a core, the cloud a whole one; a real cloud is faster, and the gain over uploading larger.
For each network both sides are profiled under their caps (``smartedge profile``), each run is predicted from the two
profiles as ``smartedge plan`` does, and then made:

- hierarchical training with the planner's own choice of cut, codec and schedule, and (64x64) at three cuts, joint;
- uploading lossless images anew in each epoch, and training in the cloud: the baseline of the paper's time tables;
- its harder rival: JPEGs, uploaded once;
- split learning at the planner's choice of cut, and everything on the edge.

All networks that are cut have the same bottleneck, 8x4x4. Epochs are of 320 images: times per epoch are proportional to
them but for the first batch, and the ratios, which are what counts, hardly depend on them. What was set and what the
link and the caps really gave is kept with every result, in ``benchmarks/results/shaped-link/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import HERE, data_folder, keep_result, show_table
from shaping import ADDRESS, Lab, why_not

from smartedge.artifacts.plan import Choice, Prediction
from smartedge.artifacts.profile import Profile
from smartedge.config import Config, load_config
from smartedge.lab.plan.cost import predict
from smartedge.lab.plan.job import Setting, job_of
from smartedge.lab.plan.links import parse_link
from smartedge.lab.plan.profile import load_profile
from smartedge.lab.plan.published import load_device, scale
from smartedge.lab.plan.search import Constraints, describe, make_plan, written
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.training import collect

RESULTS = HERE / "results" / "shaped-link"
PROFILES = RESULTS / "profiles"
GPU = "rtx-2080-ti"  # a machine that ships with the package
RATES = ("3g", "4g", "wifi")  # 1.1, 5.85 and 18.88 Mbit/s up
EDGE_CAP = 0.5
IMAGES = {"train": 320, "val": 40, "test": 40}
EPOCHS = 2
PORT = 8815
UPLOAD = Choice(method="upload", schedule="joint", cut=None, codec="image")
UPLOAD_ONCE = Choice(method="upload", schedule="freeze-and-log", cut=None, codec="jpeg")
ON_EDGE = Choice(method="local", schedule="joint", cut=None, codec=None)


@dataclass(frozen=True)
class Case:
    """A network at an input size."""

    name: str
    model: str
    cuts: tuple[str, ...]
    image_size: int
    every_cut: bool = False  # measure a joint run at each cut, not only what the planner chooses

    @property
    def config(self) -> Config:
        path, desired = ("cifar10", "label") if self.image_size == 32 else ("lfw-attributes", "Smiling")
        return load_config(
            {
                "epochs": EPOCHS,
                "data": {
                    "path": str(data_folder(path)),
                    "desired": desired,
                    "image_size": self.image_size,
                    "limit": IMAGES,
                },
                "model": {"name": self.model, "cut": self.cuts[0], "bottleneck": "8x4x4"},
                "train": {"batch_size": 32, "precision": "bfloat16", "channels_last": True},
                "link": {"insecure": True},
                "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
            }
        )


RESNET_CUTS, VGG_CUTS = ("relu", "layer1", "layer2"), ("features.6", "features.13", "features.23")
CASES = {
    case.name: case
    for case in (
        Case("resnet18-64", "resnet18", RESNET_CUTS, 64, every_cut=True),
        Case("vgg16-64", "vgg16_bn", VGG_CUTS, 64, every_cut=True),
        Case("resnet18-32", "resnet18", RESNET_CUTS, 32),
        Case("vgg16-32", "vgg16_bn", VGG_CUTS, 32),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    parser.add_argument("--rates", action="append", choices=RATES, help="may be repeated; default: all")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/shaped-link"), help="profiles and run directories")
    args = parser.parse_args()
    if not args.table:
        if reason := why_not():
            sys.exit(f"shaped links cannot be made here: {reason}")
        for name in args.only or CASES:
            measure(CASES[name], args.rates or RATES, args.work / name)
    print_tables()


def measure(case: Case, rates: tuple[str, ...] | list[str], work: Path) -> None:
    """Profile both sides, then make all runs of a network that are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    edge, cloud = (profile_of(case, side, work) for side in ("edge", "cloud"))
    for rate in rates:
        link = parse_link(f"{rate},0ms")
        setting = Setting(edge, cloud, link)
        job = job_of(case.config, dict(IMAGES), edge.outputs)  # type: ignore[arg-type]
        plan = make_plan(case.config, job, setting, Constraints())
        chosen, split = plan.best_of("hierarchical"), plan.best_of("split")
        assert chosen is not None and split is not None and plan.best is not None
        wanted = {"planned": chosen.choice, "upload": UPLOAD, "upload once": UPLOAD_ONCE, "split": split.choice}
        if case.every_cut:
            wanted |= {
                f"joint at {cut}": Choice(method="hierarchical", schedule="joint", cut=cut, codec="uint8")
                for cut in case.cuts
            }
        wanted |= {"on the edge": ON_EDGE}
        missing = {role: choice for role, choice in wanted.items() if not result_file(case, rate, role).exists()}
        if not missing:
            continue
        with Lab.open(link, edge_cap=EDGE_CAP) as lab:
            facts = lab.facts()
            for role, choice in missing.items():
                results = run(lab, case, choice, work / "run")
                save(case, rate, role, choice, results, predict(choice, job, setting), facts, first=plan.best.choice)


def profile_of(case: Case, side: Any, work: Path) -> Profile:
    """The profile of one side under its cap, measured once."""
    file = PROFILES / f"{case.name}-{side}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = work / "profile.yaml"
    config.write_text(case.config.to_yaml())
    if not file.exists():
        command = [sys.executable, "-m", "smartedge", "profile", str(config), "--out", str(file)]
        command += ["--cuts", ",".join(case.cuts), "--repeats", "9"]
        with Lab.open(parse_link("local"), edge_cap=EDGE_CAP) as lab:
            lab.run(side, command)
    return load_profile(file, case.config)


def run(lab: Lab, case: Case, choice: Choice, run_dir: Path, epochs: int = EPOCHS) -> dict[str, Any]:
    """Two processes, one on each side of the link; their results."""
    shutil.rmtree(run_dir, ignore_errors=True)
    config = load_config(written(case.config, choice), {"run_dir": str(run_dir), "epochs": epochs})
    file = run_dir.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    quiet: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    lab.cap()
    sides = {}
    edge = ["edge", str(file), "--progress", "json"]
    if choice.method != "local":
        listen = ["--listen", f"{ADDRESS['cloud']}:{PORT}", "--progress", "json"]
        cloud = sides["cloud"] = lab.start_smartedge("cloud", ["cloud", str(file), *listen], **quiet)
        assert cloud.stdout is not None
        cloud.stdout.readline()  # it listens
        edge += ["--connect", f"{ADDRESS['cloud']}:{PORT}"]
    sides = {"edge": lab.start_smartedge("edge", edge, **quiet), **sides}
    for side, process in sides.items():
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:  # to its end; its input stays open meanwhile, else it would stop
            if json.loads(line)["phase"] == "done":
                lab.lift(side)  # type: ignore[arg-type]
        process.stdin.close()
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return collect(run_dir).as_json()


def result_file(case: Case, rate: str, role: str) -> Path:
    return RESULTS / f"{case.name}-{rate}-{role.replace(' ', '-')}.json"


def save(
    case: Case,
    rate: str,
    role: str,
    choice: Choice,
    results: dict[str, Any],
    predicted: Prediction,
    facts: dict[str, Any],
    *,
    first: Choice,
) -> None:
    kept = ("seconds_per_epoch", "stage_seconds", "bytes_per_image", "bytes_total", "edge_peak_rss_bytes")
    found = {
        "case": asdict(case),
        "rate": rate,
        "role": role,
        "choice": choice.model_dump(),
        "planner_would_choose": first.model_dump(),
        "lab": facts,
        "measured": {key: results[key] for key in kept},
        "predicted": {
            "seconds_per_epoch": predicted.seconds_per_epoch,
            "stage_seconds": predicted.stage_seconds,
            "bytes_up_per_image": predicted.bytes_up_per_image,
        },
    }
    file = result_file(case, rate, role)
    keep_result(file, found, f"--only {case.name} --rates {rate}")
    here, there = results["seconds_per_epoch"], predicted.seconds_per_epoch
    print(
        f"{file.stem} ({describe(choice)}): {here:.2f} s per epoch, predicted {there:.2f} ({there / here - 1:+.0%})",
        flush=True,
    )


ROLES = ("planned", "upload", "upload once", "split", "on the edge")


def print_tables() -> None:
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    by = {(each["case"]["name"], each["rate"], each["role"]): each for each in found}
    rows, errors = [], []
    for case in CASES.values():
        for rate in RATES:
            here = {role: by[case.name, rate, role] for role in ROLES if (case.name, rate, role) in by}
            if len(here) == len(ROLES):
                rows.append(compared(case, rate, here))
        errors += [error_row(each) for each in found if each["case"]["name"] == case.name]
    show_table("seconds per epoch, measured", rows, HERE / "results" / "shaped-link.csv")
    if errors:
        print()
        show_table("predicted against measured", errors, HERE / "results" / "shaped-link-predictions.csv")
        joint = [abs(row["error %"]) for row in errors if row["role"].startswith("joint")]
        every = [abs(row["error %"]) for row in errors]
        for name, values in (("joint runs at three cuts", joint), ("all runs", every)):
            within = sum(value <= 15 for value in values)
            print(f"{name}: {within} of {len(values)} within 15 %; the worst is off by {max(values):.0f} %")
    if rows:
        draw(by)
        print()
        with_gpu = [row for case in CASES.values() if (row := with_a_gpu(case)) is not None]
        title = f"predicted at 1.1 Mbit/s with {GPU} as the cloud (modelled from published throughput)"
        show_table(title, with_gpu, HERE / "results" / "shaped-link-gpu.csv")


def compared(case: Case, rate: str, here: dict[str, dict[str, Any]]) -> dict[str, Any]:
    seconds = {role: each["measured"]["seconds_per_epoch"] for role, each in here.items()}
    mine = seconds["planned"]
    rivals = {role: value for role, value in seconds.items() if role != "planned"}
    best = min(rivals, key=lambda role: rivals[role])
    first = Choice(**here["planned"]["planner_would_choose"])
    role_of_first = next((role for role, each in here.items() if each["choice"] == first.model_dump()), None)
    fastest = min(seconds.values())
    over = "" if role_of_first is None else f"{100 * (seconds[role_of_first] / fastest - 1):.0f}"
    return {
        "case": case.name,
        "Mbit/s up": round(here["planned"]["lab"]["qdisc"]["edge"][0]["rate"] * 8e-6, 2),
        "hierarchical": describe(Choice(**here["planned"]["choice"])).removeprefix("hierarchical "),
        **{role: round(value, 2) for role, value in seconds.items()},
        "less than upload %": round(100 * (1 - mine / seconds["upload"])),
        "best rival": best,
        "less than best rival %": round(100 * (1 - mine / rivals[best])),
        "who waits": who_waits(Choice(**here["planned"]["choice"]), here["planned"]["measured"]["stage_seconds"]),
        "planner's first": describe(first),
        "over the fastest %": over,
    }


def who_waits(choice: Choice, stages: dict[str, float]) -> str:
    """In words, from the stage that is busy longest."""
    if get_method(choice.method).answered or get_schedule(choice.schedule).once:
        return "each for the other, in turn"
    longest = max(stages, key=lambda stage: stages[stage])
    return {"link": "both for the link", "cloud": "edge for cloud"}.get(longest, "cloud for edge")


def with_a_gpu(case: Case) -> dict[str, Any] | None:
    """What the planner says of the same edge at the lowest rate where the cloud is strong."""
    files = {side: PROFILES / f"{case.name}-{side}.json" for side in ADDRESS}
    if not all(file.exists() for file in files.values()):
        return None
    # Not load_profile: since they were measured, settings came that are off here, and that they do not name.
    edge, cloud = (Profile.read(file) for file in files.values())
    setting = Setting(edge, scale(cloud, load_device(GPU)), parse_link(f"{RATES[0]},0ms"))
    job = job_of(case.config, dict(IMAGES), edge.outputs)  # type: ignore[arg-type]
    chosen = make_plan(case.config, job, setting, Constraints()).best_of("hierarchical")
    assert chosen is not None
    upload = predict(UPLOAD, job, setting).seconds_per_epoch
    return {
        "case": case.name,
        "hierarchical": describe(chosen.choice).removeprefix("hierarchical "),
        "seconds": round(chosen.seconds_per_epoch, 2),
        "upload": round(upload, 2),
        "less than upload %": round(100 * (1 - chosen.seconds_per_epoch / upload)),
    }


def error_row(each: dict[str, Any]) -> dict[str, Any]:
    measured, predicted = each["measured"]["seconds_per_epoch"], each["predicted"]["seconds_per_epoch"]
    return {
        "case": each["case"]["name"],
        "rate": each["rate"],
        "role": each["role"],
        "choice": describe(Choice(**each["choice"])),
        "measured s": round(measured, 2),
        "predicted s": round(predicted, 2),
        "error %": round(100 * (predicted / measured - 1), 1),
        "B/image measured": round(each["measured"]["bytes_per_image"]["up"]),
        "B/image predicted": round(each["predicted"]["bytes_up_per_image"]),
    }


def draw(by: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    """Bars of seconds per epoch, one panel per network and rate; predictions as ticks."""
    from smartedge.lab.report import canvas as surface

    cases = [case for case in CASES.values() if any(key[0] == case.name for key in by)]
    with surface.drawing(1.5 * surface.WIDTH, 2.0 * len(cases)) as canvas:
        axes = canvas.subplots(len(cases), len(RATES), squeeze=False)
        for row, case in enumerate(cases):
            for column, rate in enumerate(RATES):
                axis = axes[row][column]
                here = [(role, by[case.name, rate, role]) for role in ROLES if (case.name, rate, role) in by]
                names = [role for role, _ in here][::-1]
                measured = [each["measured"]["seconds_per_epoch"] for _, each in here][::-1]
                predicted = [each["predicted"]["seconds_per_epoch"] for _, each in here][::-1]
                colours = [surface.EDGE if name == "planned" else surface.LINE for name in names]
                axis.barh(names, measured, color=colours, height=0.62)
                axis.plot(predicted, names, "|", color=surface.INK, markersize=11, markeredgewidth=1.6)
                axis.set_title(f"{case.name}, {parse_link(rate).up_mbits:g} Mbit/s", fontsize=9, loc="left")
                if column:
                    axis.set_yticklabels([])
                if row + 1 == len(cases):
                    axis.set_xlabel("seconds (tick: predicted)", fontsize=8)
        surface.save_png(canvas, HERE / "results" / "shaped-link.png")


if __name__ == "__main__":
    main()
