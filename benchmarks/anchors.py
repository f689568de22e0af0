"""Bytes for an equal accuracy: features in few bits against images and feature tiles in the best image codecs.

    python benchmarks/anchors.py --minutes 8              # goes on where the last call stopped; 75 where work is left
    python benchmarks/anchors.py --size large --device cuda --seeds 0 1 2
    python benchmarks/anchors.py --table                  # the tables from what is finished, and a picture

CIFAR-10, ResNet-18 at 32x32. Networks are trained: one in one piece on lossless images, and one divided at ``layer1``
with a bottleneck of 16x4x4, hierarchically; for the learned codec, one for each number of bytes. Then each codec is an
anchor at its best: what the cloud holds (all of the network for images, the back for features) learns a few epochs
more, without augmentation, from images as that codec leaves them, and is tested on images as that codec leaves them.
This is the comparison of MPEG's feature coding for machines (remote against split inference), but there the network
does not adapt. benchmarks/rate_accuracy.py trains a network for each point from the start. Size ``small``: 4000
training images, 5 epochs, the network without the stem for small images, which is 16 times the work; ``large``, for a
GPU: 10 000 images, 30 epochs, with that stem.

The families: images, each in a file of its own (JPEG, WebP, AVIF); 64 images side by side in one file (*mosaic*),
which shares the headers; the bottleneck's features in 8 to 1 bits (``uint``), by the learned codec from fronts that are
trained for few bytes (``learned``), and by the same codec from the front of ``uint`` (``unrated``); fronts that imitate
a teacher, by the same entropy coder (``student``, anchor_student.py); the bottleneck's channels as tiles of one grey
picture in AV1 (``tile-avif``) or HEVC (x265 by PyAV); the undivided network's plain map at ``layer1`` as tiles. Frames
hold 64 images. Bytes of an image are its part of payload and side, its id, its label, and its part of what gRPC adds.

Two curves are compared by the Bjøntegaard delta rate (benchmarks/delta_rate.py), means over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from anchor_codecs import get_anchor
from anchor_student import trained_student
from common import HERE, data_folder, keep_result, percent, show_table, train_in_own_process
from delta_rate import bytes_at, delta_rate
from rate_tasks import STRONG_EXIT
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.codec import Codec
from smartedge.config import Config, load_config
from smartedge.data.dataset import Split
from smartedge.images.size import ImageSize
from smartedge.lab.plan.links import FRAME_OVERHEAD_BYTES
from smartedge.launch.datasets import dataset_of
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.methods.options import options_of
from smartedge.models.cutting.cut import cut
from smartedge.models.network import divide, network_of, to_input, undivided
from smartedge.models.optim import make_optimizer, set_learning_rate

RESULTS = HERE / "results"
BOTTLENECK = "16x4x4"
FRAME = 64  # images
BATCH = 128
LABEL_BYTES, ID_BYTES = 1, 4

# Family -> what is sent, codecs from many bytes to few.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "uint": ("bottleneck", ("uint8", "uint4", "uint2", "uint1")),
    "learned": ("rated", ("learned-130", "learned-66", "learned-34", "learned-22")),
    "unrated": ("bottleneck", ("learned-130", "learned-66", "learned-34", "learned-22")),
    "student": ("student", ("learned-130", "learned-66", "learned-34", "learned-22")),
    "lossless": ("image", ("image",)),
    "webp": ("image", ("webp-80", "webp-50", "webp-20", "webp-5")),
    "mosaic-avif": ("image", ("mosaic-avif-80", "mosaic-avif-60", "mosaic-avif-40", "mosaic-avif-20")),
    "tile-av1": ("bottleneck", ("tile-avif-90", "tile-avif-70", "tile-avif-50", "tile-avif-30")),
    "tile-hevc": ("bottleneck", ("tile-hevc-8", "tile-hevc-16", "tile-hevc-24", "tile-hevc-32")),
    "mosaic-webp": ("image", ("mosaic-webp-90", "mosaic-webp-70", "mosaic-webp-50", "mosaic-webp-20")),
    "jpeg": ("image", ("jpeg-90", "jpeg-70", "jpeg-50", "jpeg-20")),
    "avif": ("image", ("avif-80", "avif-60", "avif-40", "avif-20")),
    "plain-tile-av1": ("plain", ("tile-avif-50", "tile-avif-20")),
    "plain-tile-hevc": ("plain", ("tile-hevc-24", "tile-hevc-36")),
}
OURS = "learned"


@dataclass(frozen=True)
class Size:
    """How much is learned from, for how long."""

    folder: str  # of the results
    train: int  # images
    epochs: int
    adapt: int  # images
    adapt_epochs: int
    test: int  # images
    small_input: bool  # the stem for small images; without it ResNet-18 computes a sixteenth at 32x32


SIZES = {
    "small": Size("anchors", train=4000, epochs=5, adapt=1000, adapt_epochs=2, test=2000, small_input=False),
    "large": Size("anchors-large", train=10_000, epochs=30, adapt=4000, adapt_epochs=3, test=4000, small_input=True),
}


@dataclass(frozen=True)
class Place:
    """Where and on how much the anchors are measured."""

    device: torch.device
    seed: int
    work: Path
    results: Path
    size: Size

    def file(self, family: str, codec: str) -> Path:
        return self.results / f"{family}-{codec}{f'-seed{self.seed}' if self.seed else ''}.json"


def settings(place: Place, codec: str | None) -> Config:
    """Of one of the networks that the points begin with: undivided (None), or divided and trained with that codec."""
    return load_config(
        {
            "run_dir": str(place.work / f"{codec or 'whole'}-{place.seed}"),
            "method": "local" if codec is None else "hierarchical",
            "epochs": place.size.epochs,
            "seed": place.seed,
            "data": {
                "path": str(data_folder("cifar10")),
                "desired": "label",
                "image_size": 32,
                "augment": "flip-crop",
                "limit": {"train": place.size.train, "val": 256, "test": place.size.test},
            },
            "model": {
                "name": "resnet18",
                "cut": "layer1",
                "bottleneck": None if codec is None else BOTTLENECK,
                "exit": STRONG_EXIT,
                "small_input": place.size.small_input,
            },
            "codec": {"name": codec, "bytes": None},
            "train": {"batch_size": BATCH, "precision": "bfloat16", "channels_last": True},
            "hardware": {"edge_device": str(place.device), "cloud_device": str(place.device), "threads": 1},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, with commas between them")
    parser.add_argument("--codecs", nargs="+", help="these codecs only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no further point after so many minutes")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/anchors"), help="run directories")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the folders of results")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(FAMILIES):
        parser.error(f"--only: {', '.join(sorted(unknown))}: not among {', '.join(FAMILIES)}")
    torch.set_num_threads(1)
    size = SIZES[args.size]
    until, left = time.monotonic() + 60 * args.minutes, 0
    for seed in [] if args.table else args.seeds:
        place = Place(torch.device(args.device), seed, args.work / args.size, args.results / size.folder, size)
        for family in chosen:
            left += measure(family, args.codecs or FAMILIES[family][1], place, until)
    print_tables(args.results / size.folder)
    if left:
        sys.exit(75)


def measure(family: str, codecs: Sequence[str], place: Place, until: float) -> int:
    """Measure the points of a family that are not there yet; how many had to be left."""
    sent, all_codecs = FAMILIES[family]
    missing = [codec for codec in codecs if codec in all_codecs and not place.file(family, codec).exists()]
    for number, codec in enumerate(missing):
        if time.monotonic() > until:
            return len(missing) - number
        begun = time.monotonic()
        front, in_cloud, config = parts(sent, codec, place)
        dataset = dataset_of(config)
        train = pixels(dataset.splits["train"], place.size.adapt)
        test = pixels(dataset.splits["test"], place.size.test)
        get = get_anchor(codec)
        (came, bytes_), (tested, test_bytes) = (coded(get, front, images) for images, _ in (train, test))
        before = accuracy_of(config, in_cloud, tested, test[1])
        adapt(config, in_cloud, came, train[1], place.size.adapt_epochs)
        accuracy = accuracy_of(config, in_cloud, tested, test[1])
        found = {
            "family": family,
            "sent": sent,
            "codec": codec,
            "seed": place.seed,
            "bytes_per_image": bytes_,
            "bytes_per_test_image": test_bytes,
            "accuracy": accuracy,
            "before": before,
            "seconds": time.monotonic() - begun,
        }
        command = (
            f"--size {place.work.name} --only {family} --codecs {codec} --seeds {place.seed} --device {place.device}"
        )
        keep_result(place.file(family, codec), found, command)
        print(f"{family} {codec}: {bytes_:.1f} B, {100 * accuracy:.2f} % ({found['seconds']:.0f} s)", flush=True)
    return 0


def pixels(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split, uint8 (N, 3, H, W), and their labels."""
    batch = split.read(np.arange(count))
    return batch.images_BCHW, batch.labels


def parts(sent: str, codec: str, place: Place) -> tuple[nn.Module | None, nn.Module, Config]:
    """What the edge computes before it sends (None: it sends images), what the cloud trains, and the settings."""
    if sent in ("bottleneck", "rated"):
        config = settings(place, codec if sent == "rated" else "uint8")
        train_in_own_process(config.model_dump(mode="json"))
        divided = divide(config.division(10))
        divided.front.load_state_dict(load_file(config.run_dir / "edge" / "front.safetensors"))
        divided.back.load_state_dict(load_file(config.run_dir / "cloud" / "back.safetensors"))
        return divided.front.to(place.device).eval(), divided.back.to(place.device), config
    config = settings(place, None)
    train_in_own_process(config.model_dump(mode="json"))
    file = config.run_dir / "edge" / "network.safetensors"
    if sent == "student":
        divided_config = settings(place, codec)
        split, target = dataset_of(config).splits["train"], int(codec.rpartition("-")[2])
        student = trained_student(divided_config, file, split, target, place.device)
        return student.front.eval(), student.in_cloud, divided_config
    division = config.division(10)
    if sent == "plain":
        network = network_of(division)
        network.load_state_dict(load_file(file))
        front, back = cut(network, division.at, ImageSize.of(division.image_size).shape)
        return front.to(place.device).eval(), back.to(place.device), config
    network = undivided(division)
    network.load_state_dict(load_file(file))
    return None, network.to(place.device), config


def coded(codec: Codec, front: nn.Module | None, images_NCHW: Tensor) -> tuple[Tensor, float]:
    """What the cloud decodes, (N, *F), and bytes per image on the wire."""
    frames, total = [], 0
    for images_BCHW in images_NCHW.split(FRAME):
        given = images_BCHW.numpy()
        if front is not None:
            device = next(front.parameters()).device
            with torch.no_grad():
                given = front(to_input(images_BCHW, device, channels_last=True)).cpu().contiguous().numpy()
        payload, side = codec.encode(given)
        total += len(payload) + len(side) + FRAME_OVERHEAD_BYTES
        shape, kind = given.shape[1:], given.dtype
        decoded = codec.decode(payload, side, batch=len(given), feature_shape=shape, dtype=kind)
        frames.append(torch.from_numpy(np.ascontiguousarray(decoded)))
    return torch.cat(frames), total / len(images_NCHW) + ID_BYTES + LABEL_BYTES


def entering(came_BF: Tensor, device: torch.device) -> Tensor:
    """What the cloud's part takes: features as they are, pixels scaled."""
    scaled = to_input(came_BF, device) if came_BF.dtype == torch.uint8 else came_BF.to(device)
    return scaled.contiguous(memory_format=torch.channels_last)


def adapt(config: Config, part: nn.Module, came_NF: Tensor, labels_N: Tensor, epochs: int) -> None:
    """A few epochs with a fifth of the learning rate, from what a codec left."""
    train = config.train
    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(part.parameters()).device
    optimizer = make_optimizer(
        [part], name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    generator = torch.Generator().manual_seed(config.seed)
    each = len(labels_N) // train.batch_size
    for epoch in range(epochs):
        order = torch.randperm(len(labels_N), generator=generator)
        for step, rows in enumerate(order[: each * train.batch_size].split(train.batch_size), epoch * each):
            set_learning_rate(optimizer, peak=train.lr / 5, step=step, steps=epochs * each)
            inputs_BF, labels = entering(came_NF[rows], device), labels_N[rows].to(device)
            cloud_step(part.train(), optimizer, inputs_BF, labels, "single", options=options_of(config))


def accuracy_of(config: Config, part: nn.Module, came_NF: Tensor, labels_N: Tensor) -> float:
    """Share of right answers."""
    part.eval()
    device = next(part.parameters()).device
    logits = torch.cat(
        [
            cloud_forward(part, entering(came, device), precision=config.train.precision).cpu()
            for came in came_NF.split(250)
        ]
    )
    return (logits.argmax(1) == labels_N).double().mean().item()


def print_tables(folder: Path) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in folder.glob("*.json"):
        each = json.loads(file.read_text())
        groups.setdefault((each["family"], each["codec"]), []).append(each)
    points = {
        key: (mean(each["bytes_per_image"] for each in group), [each["accuracy"] for each in group])
        for key, group in groups.items()
    }
    curves = {
        family: sorted((bytes_, mean(found)) for (name, _), (bytes_, found) in points.items() if name == family)
        for family in FAMILIES
    }
    lossless = curves["lossless"][0][1] if curves["lossless"] else None
    rows = [
        {
            "family": family,
            "codec": codec,
            "seeds": len(found),
            "B/image": f"{bytes_:.1f}",
            "accuracy %": percent(found),
            "to lossless images": "" if lossless is None else f"{100 * (mean(found) - lossless):+.2f}",
        }
        for (family, codec), (bytes_, found) in sorted(
            points.items(), key=lambda item: (list(FAMILIES).index(item[0][0]), -item[1][0])
        )
    ]
    show_table("accuracy and bytes, mean over seeds", rows, folder.with_suffix(".csv"))
    if lossless is None or not curves[OURS]:
        return
    compared = []
    for family, curve in curves.items():
        if family == "lossless" or not curve:
            continue
        delta = None if family == OURS else delta_rate(curves[OURS], curve)
        needed = {loss: bytes_at(curve, lossless - loss / 100) for loss in (1, 3)}
        compared.append(
            {
                "family": family,
                "points": len(curve),
                "B/image at 1 point lost": "" if needed[1] is None else f"{needed[1]:.0f}",
                "B/image at 3 points lost": "" if needed[3] is None else f"{needed[3]:.0f}",
                "learned takes at equal accuracy %": "" if delta is None else f"{100 * delta:+.0f}",
                "best %": f"{100 * max(accuracy for _, accuracy in curve):.2f}",
            }
        )
    print()
    show_table("the families", compared, folder.with_name(f"{folder.name}-rates.csv"))
    draw(curves, lossless, folder.with_suffix(".png"))


def draw(curves: dict[str, list[tuple[float, float]]], lossless: float, file: Path) -> None:
    """Accuracy against bytes, a line for each family; lossless images as a horizontal line."""
    from smartedge.lab.report import canvas as surface

    with surface.drawing(1.4 * surface.WIDTH, 3.6) as canvas:
        axis = canvas.subplots()
        axis.axhline(100 * lossless, color=surface.LINE, linewidth=1, linestyle=":")
        for family, points in curves.items():
            if family == "lossless" or not points:
                continue
            is_image = FAMILIES[family][0] == "image"
            colour = surface.CLOUD if is_image else surface.EDGE
            across, up = zip(*((bytes_, 100 * accuracy) for bytes_, accuracy in points), strict=True)
            axis.plot(across, up, ":" if is_image else "-", color=colour, marker="s" if is_image else "o", markersize=4)
            where = {"xytext": (4, -9)} if is_image else {"xytext": (-4, 4), "ha": "right"}
            axis.annotate(
                family, (across[0], up[0]), textcoords="offset points", fontsize=8, color=surface.MUTED, **where
            )
        axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("bytes per image on the wire")
        axis.set_ylabel("accuracy, %")
        surface.save_png(canvas, file)


if __name__ == "__main__":
    main()
