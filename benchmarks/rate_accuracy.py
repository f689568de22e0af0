"""Accuracy of the network in the cloud against bytes per image on the wire: features by every codec, images by theirs.

    python benchmarks/rate_accuracy.py                       # everything that is not finished yet
    python benchmarks/rate_accuracy.py --only lfw-smiling-64 # one task
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
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import HERE, attributes, data_folder, keep_result, show_table, train_in_own_process
from delta_rate import compared

from smartedge.config import Config, load_config

RESULTS = HERE / "results" / "rate-accuracy"
STRONG_EXIT = {"depth": 3, "width": 256}


@dataclass(frozen=True)
class Task:
    """What is learned, on which images, by which network, and what is sent of them."""

    path: str
    desired: str  # ALL: every yes/no column
    image_size: int
    model: str
    cut: str
    fronts: dict[str, tuple[str, ...]]  # bottleneck, "plain", or bottleneck+N (trained for N bytes) → codecs
    images: tuple[str, ...]  # codecs
    train: int = 4000
    epochs: int = 6
    augment: str = "flip"

    def config(self, **changes: Any) -> Config:
        folder = data_folder(self.path)
        desired = attributes(folder) if self.desired == "ALL" else self.desired
        base = {
            "schedule": "freeze-and-log",
            "epochs": self.epochs,
            "data": {
                "path": str(folder),
                "desired": desired,
                "image_size": self.image_size,
                "augment": self.augment,
                "limit": {"train": self.train, "val": 256, "test": 2000},
            },
            "model": {"name": self.model, "cut": self.cut, "exit": STRONG_EXIT},
            "train": {"precision": "bfloat16", "channels_last": True},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
        }
        return load_config(base, changes)


TASKS = {
    "lfw-smiling-64": Task(
        "lfw-attributes",
        "Smiling",
        64,
        "resnet18",
        "layer1",
        {
            "8x4x4": ("float32", "uint8", "uint4", "uint2", "uint1"),
            "16x4x4": ("uint4", "uint2", "uint1"),
            "4x1x1": ("uint8",),
            "8x4x4+26": ("learned-26",),
            "8x4x4+25": ("learned-25",),
            "plain": ("uint8", "uint2", "uint1", "topk-5%", "tile-webp-20"),
        },
        ("image", "jpeg-90", "jpeg-50", "jpeg-10", "webp-50", "webp-5", "avif-50", "avif-10"),
    ),
    "lfw-40-64": Task(
        "lfw-attributes",
        "ALL",
        64,
        "resnet18",
        "layer1",
        {"16x4x4": ("uint8", "uint4", "uint2"), "8x4x4": ("uint4",), "plain": ("tile-webp-20",)},
        ("image", "jpeg-90", "jpeg-10", "webp-50", "webp-5", "avif-10"),
    ),
    "cifar10": Task(
        "cifar10",
        "label",
        32,
        "vgg16_bn",
        "features.13",
        {"16x4x4": ("uint8", "uint4", "uint2"), "32x4x4": ("uint4",), "plain": ("uint2",)}
        | {"16x8x8": ("uint2",), "8x8x8": ("uint2",)}
        | {"16x8x8+262": ("learned-262",), "8x8x8+122": ("learned-122",)},
        ("image", "jpeg-90", "jpeg-10", "webp-50", "webp-5"),
        train=6000,
        augment="flip-crop",
    ),
    "lfw-smiling-96": Task(
        "lfw-attributes",
        "Smiling",
        96,
        "resnet18",
        "layer1",
        {"8x4x4": ("uint8", "uint4", "uint1")},
        ("image", "jpeg-90", "jpeg-10", "webp-5", "avif-10"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=TASKS, help="may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/rate-accuracy"), help="run directories (large)")
    parser.add_argument("--front", help=argparse.SUPPRESS)  # in a process of its own: one front and its codecs
    args = parser.parse_args()
    if args.front:
        return features(args.only[0], args.front, args.work)
    if not args.table:
        jobs = [(name, kind, what) for name in args.only or TASKS for kind, what in jobs_of(name)]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: do(*job, work=args.work), jobs))
    print_table()


def jobs_of(name: str) -> list[tuple[str, str]]:
    """What is not finished of a task, the longest jobs first."""
    task = TASKS[name]
    fronts = [
        ("front", front)
        for front, codecs in sorted(task.fronts.items(), key=lambda item: -len(item[1]))
        if not all(result_file(name, front, codec).exists() for codec in codecs)
    ]
    return fronts + [("image", codec) for codec in task.images if not result_file(name, "image", codec).exists()]


def result_file(name: str, what: str, codec: str) -> Path:
    return RESULTS / f"{name}-{what}-{codec.replace('%', '')}.json"


def do(name: str, kind: str, what: str, *, work: Path) -> None:
    if kind == "front":
        command = [sys.executable, __file__, "--only", name, "--front", what, "--work", str(work)]
        subprocess.run(command, check=True)
        return
    config = TASKS[name].config(method="upload", codec={"name": what}, run_dir=str(work / f"{name}-image-{what}"))
    results = train_in_own_process(config.model_dump(mode="json"))
    sent = results["bytes_per_image"]
    save(name, "image", what, results["test"]["back"], sent["up"], sent["reference"])


def features(name: str, front: str, work: Path) -> None:
    """Train a front, send its features by each codec, and train the back on what arrived."""
    import torch

    from smartedge.cloud.store import FeatureLog

    torch.set_num_threads(1)
    folder = work / f"{name}-{front}"
    bottleneck, _, target = front.partition("+")
    config = TASKS[name].config(
        model={"bottleneck": None if front == "plain" else bottleneck},
        codec={"name": f"learned-{target}" if target else "float32"},
        run_dir=str(folder),
    )
    exit_file = folder / "exit.json"
    if not exit_file.exists():
        exit_file.parent.mkdir(parents=True, exist_ok=True)
        exit_file.write_text(json.dumps(train_front(config, folder)))
    at_exit = json.loads(exit_file.read_text())
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        for codec in TASKS[name].fronts[front]:
            if not result_file(name, front, codec).exists():
                sent_by = load_config(config, {"codec": {"name": codec, "bytes": None}})
                back, up = train_back(sent_by, log, folder / codec)
                save(name, front, codec, back, up, at_exit["reference"], at_exit=at_exit["test"])


def train_front(config: Config, folder: Path) -> dict[str, Any]:
    """The edge's part of a run, float32 features into a log; the exit's figures, and bytes of an image otherwise."""
    import shutil
    import threading

    from smartedge.cloud.store import FeatureLog, StoreHandler
    from smartedge.datasets import open_data
    from smartedge.edge.runner import EdgeRunner
    from smartedge.runs.progress import Quiet
    from smartedge.wire.memory import MemoryLink

    for part in ("edge", "log"):
        shutil.rmtree(folder / part, ignore_errors=True)
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        link, monitor = MemoryLink(StoreHandler(log)), Quiet()
        runner = EdgeRunner(
            config, open_data(config, monitor), link, folder / "edge", monitor, resume=False, threaded=False
        )
        runner.run(threading.Event())
    summary = json.loads((folder / "edge" / "summary.json").read_text())
    reference = summary["reference_bytes"] | {"plain_map_float32": plain_map_bytes(config)}
    return {"test": summary["test"], "reference": reference}


def plain_map_bytes(config: Config) -> int:
    """Of the tensor at the cut as float32, without a bottleneck."""
    from smartedge.models.cut import list_cuts
    from smartedge.models.network import network_of

    cuts = list_cuts(network_of(config.division(2)), config.data.image_size.shape)
    return 4 * math.prod(next(cut.shape for cut in cuts if cut.name == config.model.cut))


def train_back(config: Config, features_log: Any, folder: Path) -> tuple[dict[str, Any], float]:
    """Send logged features by the settings' codec, train on what came; test figures, bytes per training image."""
    import shutil

    import torch

    from smartedge.cloud.order import Shuffled
    from smartedge.cloud.store import FeatureLog
    from smartedge.cloud.trainer import BackTrainer
    from smartedge.codec import unpack
    from smartedge.models.network import divide
    from smartedge.runs.progress import Quiet

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        up = resend(config, features_log, log)
        outputs = log.streams[0].outputs
        back = divide(config.division(outputs)).back
        trainer = BackTrainer(config, back, device=torch.device("cpu"), folder=folder, monitor=Quiet(), resume=False)
        trainer.train_from(
            Shuffled(
                {"edge": log},
                lambda key: unpack(log.frame(key[1]).batch, log.header_of(key[1])),
                batch_size=config.train.batch_size,
                seed=config.seed,
            )
        )
    assert trainer.test is not None
    shutil.rmtree(folder)  # large
    return trainer.test.model_dump(), up


def resend(config: Config, source: Any, target: Any) -> float:
    """Every frame of a log, encoded anew, over a socket into another log; bytes per training image at the socket."""
    from smartedge.cloud.store import StoreHandler
    from smartedge.codec import get_codec, unpack
    from smartedge.types import EncodedBatch
    from smartedge.wire.frame import serialise
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.grpc_receiver import GrpcReceiver

    codec = get_codec(config.codec_name)
    receiver = GrpcReceiver(StoreHandler(target), "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}", connect_timeout_s=10)
    up, images = 0, 0
    for header in source.streams:
        before = link.counters().up
        link.open(replace(header, codec=codec.name, agreement=json.dumps(config.agreement(), sort_keys=True)))
        for seq in range(header.first_seq, header.first_seq + header.frames):
            frame = source.frame(seq)
            batch = unpack(frame.batch, header)
            encoded = EncodedBatch(frame.batch.ids, frame.batch.labels, *codec.encode(batch.features_BF))
            link.write(serialise(replace(frame, batch=encoded), header))
            images += len(batch.ids) if header.split == "train" else 0
        link.close()
        if header.split == "train":
            up += link.counters().up - before
    link.disconnect()
    receiver.close()
    return up / images


def save(
    name: str,
    what: str,
    codec: str,
    test: dict[str, Any],
    up: float,
    reference: dict[str, Any],
    *,
    at_exit: dict[str, Any] | None = None,
) -> None:
    task = TASKS[name]
    found = {
        "task": name,
        "network": task.model,
        "cut": task.cut,
        "images": task.train,
        "epochs": task.epochs,
        "sent": what,
        "codec": codec,
        "bytes_up_per_image": up,
        "reference_bytes": reference,
        "test": test,
        "exit": at_exit,
    }
    file = result_file(name, what, codec)
    keep_result(file, found, f"--only {name}")
    print(f"{file.stem}: {up:.1f} B, {100 * test['balanced_accuracy']:.2f} %", flush=True)


def print_table() -> None:
    found = [json.loads(file.read_text()) for file in RESULTS.glob("*.json")]
    found.sort(key=lambda each: (list(TASKS).index(each["task"]), each["sent"] == "image", each["bytes_up_per_image"]))
    rows = []
    for each in found:
        whole = result_file(each["task"], "image", "image")
        best = json.loads(whole.read_text())["test"]["balanced_accuracy"] if whole.exists() else None
        accuracy, up, reference = each["test"]["balanced_accuracy"], each["bytes_up_per_image"], each["reference_bytes"]
        plain = reference.get("plain_map_float32")
        rows.append(
            {
                "task": each["task"],
                "sent": each["sent"],
                "codec": each["codec"],
                "B/image": round(up, 1),
                "accuracy %": f"{100 * accuracy:.2f}",
                "to lossless images": "" if best is None else f"{100 * (accuracy - best):+.2f}",
                "part of JPEG 90": f"1/{reference['jpeg_q90'] / up:.2g}",
                "part of float32 map": "" if plain is None else f"1/{plain / up:.3g}",
                "exit %": "" if each["exit"] is None else f"{100 * each['exit']['balanced_accuracy']:.2f}",
            }
        )
    show_table("balanced accuracy on the test split, one seed", rows, HERE / "results" / "rate-accuracy.csv")
    if rows:
        print()
        show_table(
            "bytes at equal accuracy", compared(found, list(TASKS)), HERE / "results" / "rate-accuracy-deltas.csv"
        )
        draw(found)


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
                axis.annotate(kind, at, xytext=(4, -9), textcoords="offset points", fontsize=8, color=surface.MUTED)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_title(name)
            axis.set_xlabel("bytes per image on the wire")
            axis.set_ylabel("balanced accuracy, %")
        surface.save_png(canvas, HERE / "results" / "rate-accuracy.png")


if __name__ == "__main__":
    main()
