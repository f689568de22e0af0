"""Bytes for an equal accuracy: features in few bits against images and feature tiles in the best image codecs.

    python benchmarks/anchors.py --minutes 8             # goes on where the last call stopped; 75 where work is left
    python benchmarks/anchors.py --only uint,webp        # some families
    python benchmarks/anchors.py --table                 # print the tables from what is finished, and draw

CIFAR-10, ResNet-18 at 32x32, 3000 training images, one seed. Two networks are trained, for 3 epochs each: one in one
piece on lossless images, and one divided at ``layer1`` with a bottleneck of 16x4x4, hierarchically. Then each codec is
an anchor at its best: what the cloud holds (all of the network for images, the back for features) learns one more
epoch, without augmentation, from 1000 training images as that codec leaves them, and is tested on 1000 test images as
that codec leaves them. This is the comparison of MPEG's feature coding for machines (remote against split inference),
but there the network does not adapt. benchmarks/rate_accuracy.py trains a network for each point from the start.

The families: images, each in a file of its own (JPEG, WebP, AVIF); 64 images side by side in one file (*mosaic*),
which shares the headers; the bottleneck's features in 8 to 1 bits (ours); the bottleneck's channels as tiles of one
grey picture in AV1 (``tile-avif``) or HEVC (x265 by PyAV); the undivided network's plain map at ``layer1`` as tiles.
Frames hold 64 images. Bytes of an image are its part of payload and side, its id, its label, and its part of what gRPC
adds.

Two curves are compared by the Bjøntegaard delta rate (benchmarks/delta_rate.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from anchor_codecs import get_anchor
from common import HERE, data_folder, keep_result, show_table, train_in_own_process
from delta_rate import bytes_at, delta_rate
from rate_tasks import STRONG_EXIT
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.codec import Codec
from smartedge.config import Config, load_config
from smartedge.data.dataset import Split
from smartedge.datasets import dataset_of
from smartedge.image_size import ImageSize
from smartedge.lab.plan.links import FRAME_OVERHEAD_BYTES
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.methods.options import options_of
from smartedge.models.cut import cut
from smartedge.models.network import divide, network_of, to_input, undivided
from smartedge.models.optim import make_optimizer, set_learning_rate

RESULTS = HERE / "results" / "anchors"
BOTTLENECK = "16x4x4"
FRAME = 64  # images
TRAIN, EPOCHS = 3000, 3
ADAPT, TEST = 1000, 1000  # images
LABEL_BYTES, ID_BYTES = 1, 4

# Family -> what is sent, codecs from many bytes to few.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "uint": ("bottleneck", ("uint8", "uint4", "uint2", "uint1")),
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
OURS = "uint"


def settings(method: str, work: Path) -> Config:
    """Of one of the two networks that all points begin with."""
    divided = method == "hierarchical"
    return load_config(
        {
            "run_dir": str(work / method),
            "method": method,
            "epochs": EPOCHS,
            "data": {
                "path": str(data_folder("cifar10")),
                "desired": "label",
                "image_size": 32,
                "augment": "flip-crop",
                "limit": {"train": TRAIN, "val": 256, "test": TEST},
            },
            "model": {
                "name": "resnet18",
                "cut": "layer1",
                "bottleneck": BOTTLENECK if divided else None,
                "exit": STRONG_EXIT,
            },
            "codec": {"name": "uint8" if divided else None},
            "train": {"precision": "bfloat16", "channels_last": True},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, with commas between them")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no further point after so many minutes")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/anchors"), help="run directories")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(FAMILIES):
        parser.error(f"--only: {', '.join(sorted(unknown))}: not among {', '.join(FAMILIES)}")
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * args.minutes
    left = 0 if args.table else sum(measure(family, args.work, until) for family in chosen)
    print_tables()
    if left:
        sys.exit(75)


def result_file(family: str, codec: str) -> Path:
    return RESULTS / f"{family}-{codec}.json"


def measure(family: str, work: Path, until: float) -> int:
    """Measure the points of a family that are not there yet; how many had to be left."""
    sent, codecs = FAMILIES[family]
    missing = [codec for codec in codecs if not result_file(family, codec).exists()]
    if not missing or time.monotonic() > until:
        return len(missing)
    config = settings("hierarchical" if sent == "bottleneck" else "local", work)
    base = train_in_own_process(config.model_dump(mode="json"))
    dataset = dataset_of(config)
    train, test = pixels(dataset.splits["train"], ADAPT), pixels(dataset.splits["test"], TEST)
    for number, codec in enumerate(missing):
        if time.monotonic() > until:
            return len(missing) - number
        front, in_cloud = parts(sent, config)
        get = get_anchor(codec)
        came, bytes_ = coded(get, front, train[0])
        adapt(config, in_cloud, came, train[1])
        tested, test_bytes = coded(get, front, test[0])
        accuracy = accuracy_of(config, in_cloud, tested, test[1])
        found = {
            "family": family,
            "sent": sent,
            "codec": codec,
            "bytes_per_image": bytes_,
            "bytes_per_test_image": test_bytes,
            "accuracy": accuracy,
            "before": base["test"]["edge" if sent != "bottleneck" else "back"]["balanced_accuracy"],
        }
        keep_result(result_file(family, codec), found, f"--only {family}")
        print(f"{family} {codec}: {bytes_:.1f} B, {100 * accuracy:.2f} %", flush=True)
    return 0


def pixels(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split, uint8 (N, 3, H, W), and their labels."""
    batch = split.read(np.arange(count))
    return batch.images_BCHW, batch.labels


def parts(sent: str, config: Config) -> tuple[nn.Module | None, nn.Module]:
    """What the edge computes before it sends (None: it sends images), and what the cloud trains."""
    division = config.division(10)
    if sent == "bottleneck":
        divided = divide(division)
        divided.front.load_state_dict(load_file(config.run_dir / "edge" / "front.safetensors"))
        divided.back.load_state_dict(load_file(config.run_dir / "cloud" / "back.safetensors"))
        return divided.front.eval(), divided.back
    weights = load_file(config.run_dir / "edge" / "network.safetensors")
    if sent == "plain":
        network = network_of(division)
        network.load_state_dict(weights)
        front, back = cut(network, division.at, ImageSize.of(division.image_size).shape)
        return front.eval(), back
    network = undivided(division)
    network.load_state_dict(weights)
    return None, network


def coded(codec: Codec, front: nn.Module | None, images_NCHW: Tensor) -> tuple[Tensor, float]:
    """What the cloud decodes, (N, *F), and bytes per image on the wire."""
    frames, total = [], 0
    for images_BCHW in images_NCHW.split(FRAME):
        given = images_BCHW.numpy()
        if front is not None:
            with torch.no_grad():
                given = front(to_input(images_BCHW, torch.device("cpu"), channels_last=True)).contiguous().numpy()
        payload, side = codec.encode(given)
        total += len(payload) + len(side) + FRAME_OVERHEAD_BYTES
        shape, kind = given.shape[1:], given.dtype
        decoded = codec.decode(payload, side, batch=len(given), feature_shape=shape, dtype=kind)
        frames.append(torch.from_numpy(np.ascontiguousarray(decoded)))
    return torch.cat(frames), total / len(images_NCHW) + ID_BYTES + LABEL_BYTES


def entering(came_BF: Tensor) -> Tensor:
    """What the cloud's part takes: features as they are, pixels scaled."""
    scaled = to_input(came_BF, torch.device("cpu")) if came_BF.dtype == torch.uint8 else came_BF
    return scaled.contiguous(memory_format=torch.channels_last)


def adapt(config: Config, part: nn.Module, came_NF: Tensor, labels_N: Tensor) -> None:
    """One epoch with a fifth of the learning rate, from what a codec left."""
    train = config.train
    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(
        [part], name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(config.seed))
    steps = len(order) // train.batch_size
    for step, rows in enumerate(order[: steps * train.batch_size].split(train.batch_size)):
        set_learning_rate(optimizer, peak=train.lr / 5, step=step, steps=steps)
        cloud_step(
            part.train(), optimizer, entering(came_NF[rows]), labels_N[rows], "single", options=options_of(config)
        )


def accuracy_of(config: Config, part: nn.Module, came_NF: Tensor, labels_N: Tensor) -> float:
    """Share of right answers."""
    part.eval()
    logits = torch.cat(
        [cloud_forward(part, entering(came), precision=config.train.precision) for came in came_NF.split(250)]
    )
    return (logits.argmax(1) == labels_N).double().mean().item()


def print_tables() -> None:
    found = [json.loads(file.read_text()) for file in RESULTS.glob("*.json")]
    curves = {
        family: sorted((each["bytes_per_image"], each["accuracy"]) for each in found if each["family"] == family)
        for family in FAMILIES
    }
    found.sort(key=lambda each: (list(FAMILIES).index(each["family"]), -each["bytes_per_image"]))
    lossless = curves["lossless"][0][1] if curves["lossless"] else None
    rows = [
        {
            "family": each["family"],
            "codec": each["codec"],
            "B/image": f"{each['bytes_per_image']:.1f}",
            "accuracy %": f"{100 * each['accuracy']:.2f}",
            "to lossless images": "" if lossless is None else f"{100 * (each['accuracy'] - lossless):+.2f}",
        }
        for each in found
    ]
    show_table("accuracy and bytes, one seed", rows, HERE / "results" / "anchors.csv")
    if lossless is None or not curves[OURS]:
        return
    compared = []
    for family, points in curves.items():
        if family == "lossless" or not points:
            continue
        delta = None if family == OURS else delta_rate(curves[OURS], points)
        needed = {loss: bytes_at(points, lossless - loss / 100) for loss in (1, 3)}
        compared.append(
            {
                "family": family,
                "points": len(points),
                "B/image at 1 point lost": "" if needed[1] is None else f"{needed[1]:.0f}",
                "B/image at 3 points lost": "" if needed[3] is None else f"{needed[3]:.0f}",
                "ours takes at equal accuracy %": "" if delta is None else f"{100 * delta:+.0f}",
                "best %": f"{100 * max(accuracy for _, accuracy in points):.2f}",
            }
        )
    print()
    show_table("the families", compared, HERE / "results" / "anchors-rates.csv")
    draw(curves, lossless)


def draw(curves: dict[str, list[tuple[float, float]]], lossless: float) -> None:
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
            at = (across[0], up[0]) if is_image else (across[-1], up[-1])
            axis.annotate(family, at, xytext=(4, -9), textcoords="offset points", fontsize=8, color=surface.MUTED)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("bytes per image on the wire")
        axis.set_ylabel("accuracy, %")
        surface.save_png(canvas, HERE / "results" / "anchors.png")


if __name__ == "__main__":
    main()
