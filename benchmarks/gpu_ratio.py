"""Time per epoch where the edge is one processor core and the cloud a GPU, measured beside predicted.

    python benchmarks/gpu_ratio.py                            # all that is missing; Linux, a GPU
    python benchmarks/gpu_ratio.py --only resnet18-32 --roles planned,upload
    python benchmarks/gpu_ratio.py --table                    # print the table from what is finished
    python benchmarks/gpu_ratio.py --device cpu --only resnet18-32 --roles planned --results /tmp/try   # a try

The papers pair a weak edge with a strong GPU; benchmarks/device_ratio.py does so with shares of a core. Here the edge
is a process that is pinned to one core and may not use AMX (``ONEDNN_MAX_CPU_ISA``), which no edge device has. The
cloud is another one on a core of its own, with the GPU. Rows are those of benchmarks/shaped_link.py. The link is
benchmarks/bad_link.py, a proxy with a rate, since network namespaces are not to be had on every machine with a GPU:
what it limits is TCP's payload. Both sides are profiled on such cores, and each row is predicted from these profiles as
``smartedge plan`` does; what the planner chooses is run when they are there. A row needs few steps of the GPU, so
several rows and profiles run at the same time, each on two cores of its own; the result says how many.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bad_link import BadLink, Disturbance
from common import HERE, keep_result, show_table
from device_ratio import ROLES
from shaped_link import CASES, IMAGES, ON_EDGE, RATES, UPLOAD, UPLOAD_ONCE, Case, who_waits

from smartedge.artifacts.plan import Choice, Prediction
from smartedge.config import load_config
from smartedge.lab.plan.cost import predict
from smartedge.lab.plan.job import Setting, job_of
from smartedge.lab.plan.links import parse_link
from smartedge.lab.plan.profile import load_profile
from smartedge.lab.plan.search import Constraints, describe, make_plan, written
from smartedge.training import collect

RESULTS = HERE / "results" / "gpu-ratio"
EPOCHS = {"planned": 4, "split": 2, "upload once": 2, "upload": 1, "on the edge": 1}
ISA = "AVX512_CORE_BF16"
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": ISA, "CUDA_VISIBLE_DEVICES": ""}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    parser.add_argument("--rates", action="append", choices=RATES, help="may be repeated; default: 3g, 1.1 Mbit/s")
    parser.add_argument("--roles", default=",".join(ROLES), help=f"of {', '.join(ROLES)}; default: all")
    parser.add_argument("--device", default="cuda", help="of the cloud")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further row after so many seconds")
    parser.add_argument("--repeats", type=int, default=3, help="of each step of a profile")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu-ratio"), help="run directories")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if not args.table:
        cases = [CASES[name] for name in args.only or CASES]
        args.work.mkdir(parents=True, exist_ok=True)
        cores = sorted(os.sched_getaffinity(0))
        pairs = list(zip(cores[: len(cores) // 2], cores[len(cores) // 2 :], strict=False)) or [(cores[0], cores[0])]
        Queue(pairs, args).run(cases)
    print_table(args.results)


PINNED = """
import os, runpy, sys
os.sched_setaffinity(0, {int(sys.argv.pop(1))})
runpy.run_module("smartedge", run_name="__main__")
"""


def pinned(core: int, *arguments: str) -> list[str]:
    return [sys.executable, "-c", PINNED, str(core), *arguments]


def environment(side: str) -> dict[str, str]:
    return {**os.environ, **ONE_THREAD, **(WITHOUT_AMX if side == "edge" else {})}


# -- profiles and predictions


def profile_file(results: Path, case: str, side: str) -> Path:
    return results / "profiles" / f"{case}-{side}.json"


def profile(case: Case, side: str, core: int, args: argparse.Namespace) -> None:
    """One side of a network, where that was not done. The edge's has the back's steps on the cloud's device, too."""
    out = profile_file(args.results, case.name, side)
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    hardware = {"edge_device": "cpu" if side == "edge" else args.device, "cloud_device": args.device}
    config = args.work / f"{case.name}-{side}.yaml"
    config.write_text(load_config(case.config, {"hardware": hardware}).to_yaml())
    command = pinned(core, "profile", str(config), "--out", str(out), "--cuts", ",".join(case.cuts))
    where = {**environment(side), "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    subprocess.run([*command, "--repeats", str(args.repeats)], check=True, env=where, stdout=subprocess.DEVNULL)


def setting_of(results: Path, case: Case, rate: str) -> Setting:
    edge, cloud = (load_profile(profile_file(results, case.name, side), case.config) for side in ("edge", "cloud"))
    return Setting(edge, cloud, parse_link(f"{rate},0ms"))


def prediction_of(case: Case, choice: Choice, epochs: int, setting: Setting) -> Prediction:
    job = job_of(load_config(case.config, {"epochs": epochs}), dict(IMAGES), setting.edge.outputs)  # type: ignore[arg-type]
    return predict(choice, job, setting)


def choices_of(case: Case, setting: Setting) -> tuple[dict[str, Choice], Choice]:
    """Role → choice, and what the planner would choose of all."""
    config = load_config(case.config, {"epochs": EPOCHS["planned"]})
    job = job_of(config, dict(IMAGES), setting.edge.outputs)  # type: ignore[arg-type]
    plan = make_plan(case.config, job, setting, Constraints())
    planned, split = plan.best_of("hierarchical"), plan.best_of("split")
    assert planned is not None and split is not None and plan.best is not None
    choices = {"planned": planned.choice, "split": split.choice}
    return choices | {"upload once": UPLOAD_ONCE, "upload": UPLOAD, "on the edge": ON_EDGE}, plan.best.choice


# -- rows


def result_file(results: Path, case: str, rate: str, role: str) -> Path:
    return results / f"{case}-{rate}-{role.replace(' ', '-')}.json"


FIXED = {"upload once": UPLOAD_ONCE, "upload": UPLOAD, "on the edge": ON_EDGE}  # what does not depend on the plan


class Queue:
    """Profiles and rows; each takes two cores while it runs. Rows that need no plan wait for no profile."""

    def __init__(self, pairs: list[tuple[int, int]], args: argparse.Namespace) -> None:
        self._free: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for pair in pairs:
            self._free.put(pair)
        self._args = args
        self._at_once = len(pairs)
        self._begun = time.monotonic()
        self._roles, self._rates = args.roles.split(","), args.rates or RATES[:1]

    def run(self, cases: list[Case]) -> None:
        with ThreadPoolExecutor(len(cases) * (3 + len(ROLES) * len(RATES))) as pool:
            jobs = [pool.submit(self._planned, case, pool) for case in cases]
            for role in (role for role in FIXED if role in self._roles):
                jobs += [
                    pool.submit(self._row, case, rate, role, FIXED[role]) for case in cases for rate in self._rates
                ]
            for job in jobs:
                job.result()

    def _planned(self, case: Case, pool: ThreadPoolExecutor) -> None:
        """Profile both sides, then make the rows that the planner chooses."""
        cores = self._free.get()
        try:
            sides = zip(("edge", "cloud"), cores, strict=True)
            for made in [pool.submit(profile, case, side, core, self._args) for side, core in sides]:
                made.result()
        finally:
            self._free.put(cores)
        print(f"{case.name}: profiled after {time.monotonic() - self._begun:.0f} s", flush=True)
        rows = []
        for rate in self._rates:
            choices = choices_of(case, setting_of(self._args.results, case, rate))[0]
            rows += [(case, rate, role, choices[role]) for role in self._roles if role not in FIXED]
        for made in [pool.submit(self._row, *row) for row in rows]:
            made.result()

    def _row(self, case: Case, rate: str, role: str, choice: Choice) -> None:
        if result_file(self._args.results, case.name, rate, role).exists():
            return
        cores = self._free.get()
        try:
            if time.monotonic() - self._begun > self._args.seconds:
                print(f"no time for {case.name} {rate} {role}", flush=True)
            else:
                measure(case, rate, role, choice, cores, self._at_once, self._args)
        except Exception as error:  # the other rows go on
            print(f"{case.name} {rate} {role}: {error!r}", flush=True)
        finally:
            self._free.put(cores)


def measure(
    case: Case, rate: str, role: str, choice: Choice, cores: tuple[int, int], at_once: int, args: argparse.Namespace
) -> None:
    work = args.work / f"{case.name}-{rate}-{role.replace(' ', '-')}"
    results, link = run(case, choice, EPOCHS[role], rate, work, cores, args.device)
    kept = ("seconds_per_epoch", "stage_seconds", "bytes_per_image")
    found = {
        "case": asdict(case),
        "rate": rate,
        "role": role,
        "choice": choice.model_dump(),
        "epochs": EPOCHS[role],
        "link": link,
        "edge": {"cores": 1, "ONEDNN_MAX_CPU_ISA": ISA},
        "cloud_device": args.device,
        "at_once": at_once,
        "load": os.getloadavg()[0],
        "measured": {key: results[key] for key in kept},
    }
    file = result_file(args.results, case.name, rate, role)
    keep_result(file, found, f"--only {case.name} --rates {rate} --roles {role!r}")
    print(f"{file.stem}: {results['seconds_per_epoch']:.2f} s per epoch ({describe(choice)})", flush=True)


def run(
    case: Case, choice: Choice, epochs: int, rate: str, run_dir: Path, cores: tuple[int, int], device: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Two processes and the link between them; the run's results, and what the link gave."""
    shutil.rmtree(run_dir, ignore_errors=True)
    changes = {"run_dir": str(run_dir), "epochs": epochs, "hardware": {"edge_device": "cpu", "cloud_device": device}}
    config = run_dir.with_suffix(".yaml")
    config.write_text(load_config(written(case.config, choice), changes).to_yaml())
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sides: dict[str, subprocess.Popen[str]] = {}
    edge, link = ["edge", str(config), "--progress", "json"], dict[str, float]()
    if choice.method != "local":
        command = pinned(cores[1], "cloud", str(config), "--listen", "127.0.0.1:0", "--progress", "json")
        cloud = sides["cloud"] = subprocess.Popen(command, env=environment("cloud"), **pipes)
        assert cloud.stdout is not None
        port = json.loads(cloud.stdout.readline())["port"]
        proxy, link = start_link(port, rate)
        edge += ["--connect", f"127.0.0.1:{proxy}"]
    sides = {"edge": subprocess.Popen(pinned(cores[0], *edge), env=environment("edge"), **pipes), **sides}
    for process in sides.values():
        assert process.stdout is not None and process.stdin is not None
        for _ in process.stdout:  # to its end; its input stays open meanwhile, else it would stop
            pass
        process.stdin.close()
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    results = collect(run_dir).as_json()
    shutil.rmtree(run_dir)
    return results, link


def start_link(port: int, rate: str) -> tuple[int, dict[str, float]]:
    """A proxy to this port in a thread of its own; its port, and what is asked of it and what it gives."""
    link = parse_link(f"{rate},0ms")
    assert link.up_mbits is not None and link.down_mbits is not None
    shape = Disturbance(up=1e6 * link.up_mbits / 8, down=1e6 * link.down_mbits / 8)
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=BadLink(listening, ("127.0.0.1", port), shape, seed=0).run, daemon=True).start()
    return listening.getsockname()[1], {"up_mbits": link.up_mbits, "down_mbits": link.down_mbits}


# -- table


def print_table(results: Path) -> None:
    found = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
    rows = [
        row_of(results, found, found[stem])
        for case in CASES
        for rate in RATES
        for role in ROLES
        if (stem := result_file(results, case, rate, role).stem) in found
        and all(profile_file(results, case, side).exists() for side in ("edge", "cloud"))
    ]
    show_table("edge: one core, cloud: GPU; seconds per epoch", rows, results.with_suffix(".csv"))
    if rows:
        errors = [abs(float(row["predicted ÷ measured"]) - 1) for row in rows]
        within = sum(error <= 0.15 for error in errors)
        print(
            f"{within} of {len(rows)} predictions within 15 %; median {100 * statistics.median(errors):.0f} %, "
            f"the worst is off by {100 * max(errors):.0f} %"
        )


def predicted(results: Path, each: Mapping[str, Any]) -> Prediction:
    """What the planner says of a run that was made."""
    case = CASES[each["case"]["name"]]
    return prediction_of(case, Choice(**each["choice"]), each["epochs"], setting_of(results, case, each["rate"]))


def row_of(results: Path, found: Mapping[str, Any], each: Mapping[str, Any]) -> dict[str, str]:
    case, rate, role = each["case"]["name"], each["rate"], each["role"]
    wall, stages = each["measured"]["seconds_per_epoch"], each["measured"]["stage_seconds"]
    said = predicted(results, each).seconds_per_epoch
    first = choices_of(CASES[case], setting_of(results, CASES[case], rate))[1]

    def saved(rival: str) -> str:
        other = found.get(result_file(Path(), case, rate, rival).stem)
        if other is None or rival == role:
            return ""
        return f"{100 * (1 - wall / other['measured']['seconds_per_epoch']):.0f}"

    choice, alone = Choice(**each["choice"]), role == "on the edge"
    return {
        "case": case,
        "Mbit/s up": f"{parse_link(rate).up_mbits:g}",
        "way": role,
        "choice": describe(choice),
        "seconds": f"{wall:.2f}",
        "predicted": f"{said:.2f}",
        "predicted ÷ measured": f"{said / wall:.2f}",
        "less than upload %": saved("upload"),
        "less than upload once %": saved("upload once"),
        "who waits": "" if alone else who_waits(choice, stages),
        "cloud busy %": "" if alone else f"{100 * stages['cloud'] / wall:.0f}",
        "planner's first": describe(first),
    }


if __name__ == "__main__":
    main()
