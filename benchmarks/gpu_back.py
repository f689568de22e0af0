"""How fast a GPU trains a back from the store, and for how long it waits for it. Needs a GPU for figures that count.

    python benchmarks/gpu_back.py resnet18 vit-s resnet18-plain resnet18-64     # images a second and waiting, by case
    python benchmarks/gpu_back.py table                            # print the table from what is finished
    python benchmarks/gpu_back.py worker                           # a worker of torchrun (NCCL) ÷ the plain path
    python benchmarks/gpu_back.py resnet18 --device cpu --frames 3 --batch 8 --size 64 --results /tmp/try

Networks are those published for 224 pixels (``model.small_input: false``), but for ``resnet18-64``. Drawn images
(smooth noise) go through a real front on the device. Its features are released, packed with ``uint8`` and put into a
store. Then ``cloud/trainer.py`` trains the back over two epochs (``freeze-and-log``, bfloat16, channels last), as
``smartedge cloud`` does. The first epoch warms up. Of the second:

- images a second, from its begin to its last update, when the GPU has computed it;
- ``waiting``: the share of that time in which the trainer asked for a batch that was not there yet. Reading, decoding,
  mixing and the copy to the GPU are in it;
- the same without reading ahead (``threads`` = 0), of the first 24 frames: about what it was before;
- the ceiling: updates of the same back on tensors that are on the GPU already.

``worker`` trains a small store twice in this process, and once by ``torchrun`` with a group of one worker over NCCL. A
GPU adds in no fixed order, so two trainings by the plain path differ too: that is the tolerance.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import HERE, keep_result, show_table
from safetensors.torch import load_file
from torch import Tensor
from workers import headers_of

from smartedge.cloud.order.ahead import in_order, reading_threads
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.order.supply import Supply
from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader, log_folder
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training.from_logs import TrainingFromLogs
from smartedge.cloud.worker import Worker
from smartedge.cloud.workers.group import ALONE, Group, WorkerGroup
from smartedge.codec import get_codec, pack, unpack
from smartedge.config import Config, load_config
from smartedge.files import private_folder, write_atomically
from smartedge.methods.back_step import cloud_step
from smartedge.methods.options import options_of
from smartedge.models.network import divide, to_input
from smartedge.privacy.release import release
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Quiet, Update
from smartedge.types import FeatureBatch, Frame, StreamHeader
from smartedge.wire.frame import Message, serialise

RESULTS = HERE / "results" / "gpu-back"
OUTPUTS = 2
FEW = 24  # frames of an epoch without reading ahead, which takes long


@dataclass(frozen=True)
class Case:
    """A network, its cut, and what crosses there."""

    model: str
    cut: str
    bottleneck: str | None  # "auto": the default
    batch: int  # images of a frame and of a step
    frames: int  # of an epoch
    size: int = 224  # pixels of an image
    small_input: bool = False


CASES = {
    "resnet18": Case("resnet18", "layer1", "auto", 256, 128),
    "vit-s": Case("vit_small_patch16_224", "blocks.2", "auto", 256, 72),
    "resnet18-plain": Case("resnet18", "layer1", None, 64, 192),
    "resnet18-64": Case("resnet18", "layer1", "auto", 256, 128, 64, small_input=True),  # a fleet's, docs/scale.md
}
WORKER_CASE = Case("resnet18", "layer1", "auto", 64, 8)


def settings(case: Case, run: Path, device: str, *, shards: int = 1) -> Config:
    return load_config(
        {
            "epochs": 2,
            "schedule": "freeze-and-log",
            "run_dir": str(run),
            "data": {"image_size": case.size},
            "model": {
                "name": case.model,
                "cut": case.cut,
                "bottleneck": case.bottleneck,
                "small_input": case.small_input,
            },
            "train": {"batch_size": case.batch, "precision": "bfloat16", "channels_last": True, "lr": 1e-3},
            "cloud": {"shards": shards},
            "hardware": {"edge_device": device, "cloud_device": device},
        }
    )


class Drawn:
    """Releases of a real front: smooth images in, the features of each frame out."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._front = divide(config.division(OUTPUTS)).front.to(device).eval()
        self._config = config
        self._device = device

    @torch.no_grad()
    def frame(self, seq: int) -> FeatureBatch:
        count, (height, width) = self._config.train.batch_size, self._config.data.image_size.sides
        random = torch.Generator(self._device).manual_seed(seq)
        coarse_BCHW = torch.rand(count, 3, 14, 14, generator=random, device=self._device)
        smooth_BCHW = torch.nn.functional.interpolate(coarse_BCHW, (height, width), mode="bilinear")
        noise_BCHW = torch.randn(smooth_BCHW.shape, generator=random, device=self._device)
        images_BCHW = (255 * smooth_BCHW + 8 * noise_BCHW).clamp(0, 255).to(torch.uint8)
        features_BF = self._front(to_input(images_BCHW, self._device))
        labels_B = (coarse_BCHW.mean(dim=(1, 2, 3)) > 0.5).long()
        ids = torch.arange(count) + seq * count
        return FeatureBatch(ids.numpy(), features_BF.cpu().numpy(), labels_B.cpu().numpy())


def fill(config: Config, frames: int, device: torch.device) -> dict[str, Any]:
    """A run whose edge has sent everything, and of which nothing was trained. Says how large it is."""
    private_folder(config.run_dir)
    write_atomically(config.run_dir / "config.yaml", config.to_yaml())
    cloud = config.run_dir / "cloud"
    private_folder(cloud)
    drawn, codec, begun = Drawn(config, device), get_codec("uint8"), time.perf_counter()
    headers = headers_of(config, frames)

    def packed(item: tuple[int, StreamHeader, FeatureBatch]) -> Message:
        seq, header, batch = item
        released = release(batch.ids, batch.features_BF, batch.labels)
        return serialise(Frame(seq, pack(released, codec)), header)

    def items() -> Iterator[tuple[int, StreamHeader, FeatureBatch]]:
        for header in headers:
            for seq in range(header.first_seq, header.end_seq):
                yield seq, header, drawn.frame(seq)

    log = FeatureLog(log_folder(cloud))
    seq, size = 0, 0
    messages = in_order(packed, items(), os.cpu_count() or 1)
    for header in headers:
        log.begin(header)
        while seq < header.end_seq:
            message = next(messages)
            log.append(seq, message.head, message.payload)
            seq, size = seq + 1, size + len(message.head) + len(message.payload)
    log.sync()
    log.close()
    mark_complete(cloud, True)
    images = seq * config.train.batch_size
    shape = headers[0].feature_shape
    return {
        "feature_shape": list(shape),
        "images": frames * config.train.batch_size,
        "bytes_per_image": round(size / images, 1),
        "float32_bytes_per_image": 4 * math.prod(shape),
        "fill_seconds": round(time.perf_counter() - begun, 1),
    }


class Clock:
    """A monitor that notes when training is told of. The trainer tells a loss, so the GPU has computed until there."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []

    def update(self, update: Update) -> None:
        if update.phase == "train" and update.done is not None:
            self.told.append((update.done, time.perf_counter()))

    def close(self) -> None: ...


class Timed(BackTrainer):
    """Notes when the second epoch begins, and how long was waited until then."""

    begun = 0.0
    waited = 0.0
    supply: Supply  # of its training

    def save(self) -> None:
        """No checkpoint: only when this would be done is noted."""
        if self.progress.epoch == 1:
            self.begun, self.waited = time.perf_counter(), self.supply.waited


def frames_of(config: Config, log: FeatureReader, threads: int, few: int | None) -> Shuffled:
    def read(key: tuple[str, int]) -> FeatureBatch:
        return unpack(log.frame(key[1]).batch, log.header_of(key[1]))

    return Shuffled(
        {"edge": log},
        read,
        batch_size=config.train.batch_size,
        seed=config.seed,
        frames=None if few is None else {"edge": min(few, log.next_seq)},
        threads=threads,
    )


def train(config: Config, device: torch.device, threads: int, folder: Path, few: int | None = None) -> dict[str, float]:
    """Two epochs from the store, or from its first frames; figures of the second."""
    folder.mkdir()
    clock = Clock()
    trainer = Timed(
        config,
        divide(config.division(OUTPUTS)).back,
        task_kind="single",
        device=device,
        folder=folder,
        monitor=clock,
        resume=False,
    )
    frames = frames_of(config, FeatureReader(log_folder(config.run_dir / "cloud")), threads, few)
    training = TrainingFromLogs(trainer, frames)
    trainer.supply = training.supply
    training.run()
    trainer.close()
    done, ended = clock.told[-1]
    assert done == 2 * frames.steps
    seconds, waited = ended - trainer.begun, training.supply.waited - trainer.waited
    return {
        "threads": threads,
        "images_per_second": round(frames.steps * config.train.batch_size / seconds, 1),
        "step_ms": round(1000 * seconds / frames.steps, 2),
        "waiting_percent": round(100 * waited / seconds, 2),
    }


def ceiling(config: Config, device: torch.device, steps: int) -> dict[str, float]:
    """Updates of the back on tensors that are on the device."""
    log = FeatureReader(log_folder(config.run_dir / "cloud"))
    batches = [unpack(log.frame(seq).batch, log.header_of(seq)) for seq in range(2)]
    back = divide(config.division(OUTPUTS)).back.to(device)
    trainer_format = torch.channels_last if batches[0].features_BF.ndim == 4 else torch.contiguous_format
    back.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(back.parameters(), lr=1e-3)
    inputs = [
        (
            torch.from_numpy(batch.features_BF).to(device).contiguous(memory_format=trainer_format),
            torch.from_numpy(batch.labels).to(device),
        )
        for batch in batches
    ]
    back.train()

    def some(count: int) -> float:
        begun = time.perf_counter()
        for number in range(count):
            features_BF, labels = inputs[number % len(inputs)]
            loss = cloud_step(back, optimizer, features_BF, labels, "single", options=options_of(config)).loss
        loss.item()
        return time.perf_counter() - begun

    some(max(2, steps // 4))
    seconds = some(steps)
    return {
        "images_per_second": round(steps * config.train.batch_size / seconds, 1),
        "step_ms": round(1000 * seconds / steps, 2),
    }


def measure(name: str, case: Case, args: argparse.Namespace, work: Path) -> None:
    device = pick_device(args.device, "--device")
    config = settings(case, work / name, args.device)
    found: dict[str, Any] = {"case": asdict(case), "store": fill(config, case.frames, device)}
    threads = reading_threads(device)
    found["from_store"] = train(config, device, threads, work / f"{name}-ahead")
    found["without_reading_ahead"] = train(config, device, 0, work / f"{name}-plain", FEW)
    found["ceiling"] = ceiling(config, device, max(8, min(100, case.frames)))
    ratio = found["from_store"]["images_per_second"] / found["ceiling"]["images_per_second"]
    found["share_of_ceiling"] = round(ratio, 3)
    if device.type == "cuda":
        found["gpu_memory_peak_bytes"] = torch.cuda.max_memory_allocated()
    keep_result(args.results / f"{name}.json", found, name)
    print(json.dumps({key: found[key] for key in found if key != "case"}), flush=True)


def print_table(results: Path) -> None:
    rows = []
    for name in CASES:
        file = results / f"{name}.json"
        if file.exists():
            each = json.loads(file.read_text())
            store, ahead, plain = each["store"], each["from_store"], each["without_reading_ahead"]
            rows.append(
                {
                    "case": name,
                    "pixels": str(each["case"]["size"]),
                    "what crosses": "x".join(map(str, store["feature_shape"])),
                    "B/image stored": f"{store['bytes_per_image']:.0f}",
                    "images/step": str(each["case"]["batch"]),
                    "images/s": f"{ahead['images_per_second']:.0f}",
                    "waiting %": f"{ahead['waiting_percent']:.1f}",
                    "images/s, tensors on the GPU": f"{each['ceiling']['images_per_second']:.0f}",
                    "of it %": f"{100 * each['share_of_ceiling']:.0f}",
                    "images/s, not ahead": f"{plain['images_per_second']:.0f}",
                    "waiting, not ahead %": f"{plain['waiting_percent']:.0f}",
                    "gpu": each["machine"].get("gpu", "none"),
                }
            )
    show_table("a back from the store", rows, results.with_suffix(".csv"))


# -- a worker


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all weights and running statistics, the norm of the difference ÷ the norm."""
    pairs = [(one[name].double(), other[name].double()) for name in one if one[name].is_floating_point()]
    difference = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
    return difference / math.sqrt(sum(float(a.square().sum()) for a, _ in pairs))


def train_as_worker(run: Path, group: Group) -> dict[str, Tensor]:
    from smartedge.config import load_run_config

    worker = Worker(load_run_config(run), run / "cloud", group, Quiet())
    assert worker.run(threading.Event())
    worker.close()
    return load_file(run / "cloud" / "back.safetensors")


def compare_workers(args: argparse.Namespace, work: Path) -> None:
    """Weights of the plain path, again, and of a worker of torchrun."""
    device = pick_device(args.device, "--device")
    case = replace(WORKER_CASE, size=args.size or WORKER_CASE.size)
    found: dict[str, Any] = {"case": asdict(case)}
    for shards in (1, 4):
        runs = [work / f"{shards}-{which}" for which in ("plain", "again", "worker")]
        fill(settings(case, runs[0], args.device, shards=shards), case.frames, device)
        for run in runs[1:]:
            shutil.copytree(runs[0], run)
        plain, again = (train_as_worker(run, ALONE) for run in runs[:2])
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        begun = time.perf_counter()
        subprocess.run(
            [*command, str(Path(__file__)), "as-worker", "--store", str(runs[2]), "--device", args.device], check=True
        )
        seconds = time.perf_counter() - begun
        theirs = load_file(runs[2] / "cloud" / "back.safetensors")
        backend = (runs[2] / "backend").read_text()
        found[f"{shards} shards"] = {
            "backend": backend,
            "plain again ÷ plain": distance(plain, again),
            "worker ÷ plain": distance(plain, theirs),
            "seconds": round(seconds, 1),
        }
    keep_result(args.results / "worker.json", found, "worker")
    print(json.dumps(found), flush=True)


def as_worker(run: Path, name: str) -> None:
    """One of torchrun's processes: a group even where it is alone, so that NCCL is used."""
    device = pick_device(name, "--device")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    group = WorkerGroup(device, print)
    train_as_worker(run, group)
    (run / "backend").write_text(str(torch.distributed.get_backend_config()))
    group.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*CASES, "worker", "table", "as-worker"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, help="pixels")
    parser.add_argument("--frames", type=int, help="of an epoch")
    parser.add_argument("--batch", type=int, help="images of a frame and of a step")
    parser.add_argument("--work", type=Path, help="folder for the stores; default: a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == ["as-worker"]:
        return as_worker(args.store, args.device)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for name in args.what:
            work = Path(folder) / name
            work.mkdir()
            if name == "worker":
                compare_workers(args, work)
            elif name == "table":
                print_table(args.results)
            else:
                given = {"batch": args.batch, "frames": args.frames, "size": args.size}
                case = replace(CASES[name], **{key: value for key, value in given.items() if value is not None})
                measure(name, case, args, work)


if __name__ == "__main__":
    main()
