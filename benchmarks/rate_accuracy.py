"""Accuracy of the network in the cloud against bytes per image on the wire: features by every codec, images by theirs.

    python benchmarks/rate_accuracy.py                       # everything that is not finished yet
    python benchmarks/rate_accuracy.py --only lfw-smiling-64 # one task
    python benchmarks/rate_accuracy.py --only cifar10-resnet18 --device cuda
    python benchmarks/rate_accuracy.py --table               # print the table from what is finished, and draw

Both sides of the comparison send every image once (schedule ``freeze-and-log``), and train the same network on what
came, for as many epochs, with the same seed. *Features*: a front is trained on the edge with its exit; its features are
sent by each codec in turn, through a real socket, whose counters are the bytes given (all headers, ids and labels), and
the back is trained on each. *Images*: the undivided network is trained on what JPEG, WebP or AVIF leave of the images;
it augments them in the cloud, which cannot be done with features.

Figures are kept in ``benchmarks/results/rate-accuracy/``; what is there is not made again. Jobs run in processes of
their own on one thread, ``--jobs`` at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common import HERE, difference, keep_result, percent, show_table
from delta_rate import compared
from rate_tasks import IMAGE, JOINT, TASKS, Sent

from smartedge.config import load_config

RESULTS = HERE / "results" / "rate-accuracy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=TASKS, help="may be repeated")
    parser.add_argument("--sent", nargs="+", help="what is sent: 'image', or keys such as 16x8x8+262~layer2")
    parser.add_argument("--codecs", nargs="+", help="these codecs only")
    parser.add_argument("--seeds", nargs="+", type=int, help="these seeds only")
    parser.add_argument("--device", default="cpu", help="where edge and cloud compute: cpu or cuda")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/rate-accuracy"), help="run directories (large)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # this process is that of one job
    args = parser.parse_args()
    if not args.table:
        jobs = [job for name in args.only or TASKS for job in jobs_of(name, args)]
        if args.here:
            (job,) = jobs
            return points(job, args)
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: in_process(job, args), jobs))
    print_table(args.results)


@dataclass(frozen=True)
class Job:
    """The points of one task and seed that need the same front."""

    task: str
    sent: Sent
    seed: int
    codecs: tuple[str, ...]  # that are not finished

    @property
    def name(self) -> str:
        return f"{self.task}-{self.sent.key}-{self.seed}"


def jobs_of(name: str, args: argparse.Namespace) -> list[Job]:
    """What is not finished of a task, the longest jobs first. Images are a job for each codec."""
    task, found = TASKS[name], []
    for seed in task.seeds if args.seeds is None else args.seeds:
        for key, codecs in task.sent().items():
            missing = tuple(
                codec
                for codec in codecs
                if not result_file(args.results, name, key, codec, seed).exists()
                and (args.codecs is None or codec in args.codecs)
            )
            if missing and (args.sent is None or key in args.sent):
                groups = [(codec,) for codec in missing] if key == IMAGE and not args.here else [missing]
                found += [Job(name, Sent(key), seed, group) for group in groups]
    return sorted(found, key=lambda job: -len(job.codecs))


def result_file(folder: Path, name: str, key: str, codec: str, seed: int) -> Path:
    return folder / f"{name}-{key}-{codec.replace('%', '')}{f'-seed{seed}' if seed else ''}.json"


def in_process(job: Job, args: argparse.Namespace) -> None:
    """Make the points of a job in a process of its own."""
    given = {"--only": [job.task], "--sent": [job.sent.key], "--codecs": job.codecs, "--seeds": [str(job.seed)]}
    given |= {"--device": [args.device], "--work": [str(args.work)], "--results": [str(args.results)]}
    words = [word for name, values in given.items() for word in (name, *values)]
    subprocess.run([sys.executable, __file__, "--here", *words], check=True)


def points(job: Job, args: argparse.Namespace) -> None:
    """Train a front, send its features by each codec, and train the back on what arrived; or the same with images."""
    import torch  # here, since the table needs none of this
    from rate_training import releasing, run_edge, train_back, whole_run

    from smartedge.cloud.store.feature_log import FeatureLog

    torch.set_num_threads(1)
    task = TASKS[job.task]
    folder = args.work / "-".join([job.name, *(job.codecs if job.sent.base == IMAGE else ())])
    config = task.config(job.sent, job.seed, args.device, run_dir=str(folder))
    if JOINT in job.sent.variants:
        (codec,) = job.codecs
        return save(args, job, codec, whole_run(config))
    edge_file = folder / "edge.json"
    if not edge_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        edge_file.write_text(json.dumps(run_edge(releasing(config, job.sent), folder)))
    at_edge = json.loads(edge_file.read_text())
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        for codec in job.codecs:
            begun = time.monotonic()
            sent_by = load_config(config, {"codec": {"name": codec, "bytes": None}})
            back = train_back(sent_by, log, folder / codec, job.sent)
            figures = {**at_edge, **back, "seconds": {**at_edge["seconds"], "cloud": time.monotonic() - begun}}
            save(args, job, codec, figures)


def save(args: argparse.Namespace, job: Job, codec: str, figures: dict[str, Any]) -> None:
    task = TASKS[job.task]
    found = {
        "task": job.task,
        "network": task.model,
        "cut": task.cut,
        "images": task.train,
        "epochs": task.epochs,
        "sent": job.sent.key,
        "codec": codec,
        "seed": job.seed,
        "device": args.device,
        **figures,
    }
    file = result_file(args.results, job.task, job.sent.key, codec, job.seed)
    keep_result(file, found, f"--only {job.task} --sent {job.sent.key} --seeds {job.seed} --device {args.device}")
    shown = f"{found['bytes_up_per_image']:.1f} B, {100 * found['test']['balanced_accuracy']:.2f} %"
    print(f"{file.stem}: {shown}, {found['seconds']}", flush=True)


def print_table(folder: Path) -> None:
    found = averaged([json.loads(file.read_text()) for file in folder.glob("*.json")])
    found.sort(key=lambda each: (list(TASKS).index(each["task"]), each["sent"] == IMAGE, each["bytes_up_per_image"]))
    lossless = {each["task"]: each for each in found if each["sent"] == each["codec"] == IMAGE}
    rows = []
    for each in found:
        up, reference, whole = each["bytes_up_per_image"], each["reference_bytes"], lossless.get(each["task"])
        plain = reference.get("plain_map_float32")
        rows.append(
            {
                "task": each["task"],
                "sent": each["sent"],
                "codec": each["codec"],
                "seeds": len(each["accuracies"]),
                "B/image": round(up, 1),
                "accuracy %": percent(list(each["accuracies"].values())),
                "to lossless images": "" if whole is None else difference(each["accuracies"], whole["accuracies"]),
                "part of JPEG 90": f"1/{reference['jpeg_q90'] / up:.2g}",
                "part of float32 map": "" if plain is None else f"1/{plain / up:.3g}",
                "exit %": "" if each["exit"] is None else f"{100 * each['exit']['balanced_accuracy']:.2f}",
                "validation %": "" if each.get("val") is None else f"{100 * each['val']['balanced_accuracy']:.2f}",
            }
        )
    show_table("balanced accuracy on the test split, mean over seeds", rows, HERE / "results" / "rate-accuracy.csv")
    if rows:
        print()
        show_table(
            "bytes at equal accuracy", compared(found, list(TASKS)), HERE / "results" / "rate-accuracy-deltas.csv"
        )
        draw(found)


def averaged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task, codec and thing sent: means over the seeds, and ``accuracies`` with that of each seed."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for each in found:
        groups.setdefault((each["task"], each["sent"], each["codec"]), []).append(each)
    rows = []
    for group in groups.values():
        row = {**group[0], "bytes_up_per_image": mean(each["bytes_up_per_image"] for each in group)}
        for key in ("exit", "test", "val"):
            values = [each[key]["balanced_accuracy"] for each in group if each.get(key) is not None]
            row[key] = {"balanced_accuracy": mean(values)} if values else None
        row["accuracies"] = {each.get("seed", 0): each["test"]["balanced_accuracy"] for each in group}
        rows.append(row)
    return rows


def draw(found: list[dict[str, Any]]) -> None:
    """A panel per task: accuracy against bytes, a line for each front and each kind of image codec."""
    from smartedge.lab.report import canvas as surface

    tasks = [name for name in TASKS if any(each["task"] == name for each in found)]
    with surface.drawing(2 * surface.WIDTH, 3.0 * ((len(tasks) + 1) // 2)) as canvas:
        axes = list(canvas.subplots((len(tasks) + 1) // 2, 2, squeeze=False).flat)
        for unused in axes[len(tasks) :]:
            unused.set_visible(False)
        for axis, name in zip(axes, tasks, strict=False):
            lines: dict[str, list[tuple[float, float]]] = {}
            for each in (each for each in found if each["task"] == name):
                kind = each["codec"].partition("-")[0] if each["sent"] == "image" else each["sent"]
                point = each["bytes_up_per_image"], 100 * each["test"]["balanced_accuracy"]
                lines.setdefault("lossless images" if kind == "image" else kind, []).append(point)
            for kind, points in lines.items():
                is_image = kind in ("lossless images", "jpeg", "webp", "avif")
                mark = {"jpeg": "s", "webp": "^", "avif": "D", "lossless images": "X"}.get(kind, "o")
                style = {"color": surface.CLOUD if is_image else surface.EDGE, "marker": mark, "markersize": 5}
                axis.plot(*zip(*sorted(points), strict=True), linewidth=1, linestyle=":" if is_image else "-", **style)
                at = min(points) if is_image else max(points)
                beside = (4, 5) if kind.endswith(f"~{JOINT}") else (4, -9)  # its point lies beside another one's words
                axis.annotate(kind, at, xytext=beside, textcoords="offset points", fontsize=8, color=surface.MUTED)
            axis.set_xscale("log")
            low, high = axis.get_xlim()
            marked = "25" if high < 50 * low else ""  # few powers of ten are in sight
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_minor_formatter(
                lambda value, _, marked=marked: f"{value:g}" if f"{value:e}"[0] in marked else ""
            )
            axis.set_title(name)
            axis.set_xlabel("bytes per image on the wire")
            axis.set_ylabel("balanced accuracy, %")
        surface.save_png(canvas, HERE / "results" / "rate-accuracy.png")


if __name__ == "__main__":
    main()
