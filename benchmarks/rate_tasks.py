"""The tasks of benchmarks/rate_accuracy.py: what is learned, by which network, and what is sent of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import attributes, data_folder

from smartedge.config import Config, load_config

__all__ = ["CUTMIX", "IMAGE", "JOINT", "MIX", "SHIFT", "STRONG_EXIT", "TASKS", "TWICE", "Sent", "Task"]

STRONG_EXIT = {"depth": 3, "width": 256}
IMAGE, PLAIN = "image", "plain"
TWICE, SHIFT, MIX, CUTMIX, JOINT = "twice", "shift", "mix", "cutmix", "joint"
# Name in a key → settings that differ. Those without are no settings: benchmarks/rate_training.py does them.
VARIANTS: dict[str, dict[str, Any]] = {
    "layer2": {"model": {"cut": "layer2"}},
    "layer3": {"model": {"cut": "layer3"}},
    "smooth": {"train": {"label_smoothing": 0.1}},
    "brief": {"epochs": 10, "train": {"front_epochs": 30}},
    JOINT: {"schedule": "joint"},
    TWICE: {},
    SHIFT: {},
    MIX: {},
    CUTMIX: {},
}


@dataclass(frozen=True)
class Sent:
    """What is sent, read from its key: ``image``, or ``BOTTLENECK[+BYTES][~VARIANT...]``, or ``plain[~VARIANT...]``."""

    key: str

    @property
    def base(self) -> str:
        return self.key.split("~")[0].partition("+")[0]

    @property
    def target(self) -> str:
        """Bytes that the front is trained for; empty: it is not trained for the rate."""
        return self.key.split("~")[0].partition("+")[2]

    @property
    def variants(self) -> list[str]:
        return self.key.split("~")[1:]

    @property
    def changes(self) -> dict[str, Any]:
        """Settings, beside those of the task."""
        model: dict[str, Any] = {}
        if self.base != IMAGE:
            model["bottleneck"] = None if self.base == PLAIN else self.base
        changes: dict[str, Any] = {"model": model, "codec": {"name": "float32", "bytes": None}}
        if self.base == IMAGE:
            changes |= {"method": "upload", "codec": {"name": IMAGE, "bytes": None}}
        elif self.target:
            changes["codec"] = {"name": "learned", "bytes": int(self.target)}
        for variant in self.variants:
            for key, value in VARIANTS[variant].items():
                changes[key] = {**changes.get(key, {}), **value} if isinstance(value, dict) else value
        return changes


@dataclass(frozen=True)
class Task:
    """What is learned, on which images, by which network, and what is sent of them."""

    path: str
    desired: str  # ALL: every yes/no column
    image_size: int
    model: str
    cut: str
    fronts: Mapping[str, tuple[str, ...]]  # key of Sent → codecs
    images: tuple[str, ...]  # codecs
    train: int = 4000
    val: int = 256
    test: int = 2000
    epochs: int = 6
    batch: int = 64
    augment: str = "flip"
    seeds: tuple[int, ...] = (0,)
    small_input: bool = True  # the stem for small images; without it ResNet-18 computes a sixteenth at 32x32

    def sent(self) -> Mapping[str, tuple[str, ...]]:
        """Everything that is sent: key of Sent → codecs."""
        return {**self.fronts, IMAGE: self.images}

    def config(self, sent: Sent, seed: int, device: str, **changes: Any) -> Config:
        folder = data_folder(self.path)
        desired = attributes(folder) if self.desired == "ALL" else self.desired
        base = {
            "schedule": "freeze-and-log",
            "epochs": self.epochs,
            "seed": seed,
            "data": {
                "path": str(folder),
                "desired": desired,
                "image_size": self.image_size,
                "augment": self.augment,
                "limit": {"train": self.train, "val": self.val, "test": self.test},
            },
            "model": {"name": self.model, "cut": self.cut, "exit": STRONG_EXIT, "small_input": self.small_input},
            "train": {"batch_size": self.batch, "precision": "bfloat16", "channels_last": True},
            "hardware": {"edge_device": device, "cloud_device": device, "threads": 1},
        }
        return load_config(load_config(base, sent.changes), changes)


def _converged(image_size: int) -> Task:
    """LFW ``Smiling`` with all training images, until nothing is gained any more: for a machine with a GPU."""
    return Task(
        "lfw-attributes",
        "Smiling",
        image_size,
        "resnet18",
        "layer1",
        {"8x4x4+26": ("learned-26",), "16x4x4+26": ("learned-26",), "8x4x4": ("uint4", "uint2", "uint1")}
        | {"16x4x4": ("uint1",)},
        ("image", "jpeg-50", "webp-50", "webp-5", "avif-10"),
        train=9110,
        val=1210,
        test=1139,
        epochs=20,
        batch=128,
        seeds=(0, 1, 2),
    )


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
        {"8x4x4": ("uint8", "uint4", "uint1"), "4x1x1": ("uint8",), "16x1x1": ("uint8",)}
        | {"8x4x4+26": ("learned-26",), "8x4x4+26~smooth": ("learned-26",)},
        ("image", "jpeg-90", "jpeg-10", "webp-5", "avif-10"),
    ),
    "cifar10-resnet18-stem": Task(
        "cifar10",
        "label",
        32,
        "resnet18",
        "layer1",
        {"16x8x8+262": ("learned-262",), "8x8x8+122": ("learned-122",), "16x8x8": ("uint2", "uint1")}
        | {"32x4x4+262~layer2": ("learned-262",), "16x4x4+122~layer2": ("learned-122",)}
        | {"64x2x2+262~layer3": ("learned-262",), "64x2x2+122~layer3": ("learned-122",)}
        | {"16x8x8+262~joint": ("learned-262",), "8x8x8+122~joint": ("learned-122",)},
        ("image", "webp-50"),
        train=6000,
        val=500,
        test=4000,
        epochs=10,
        batch=128,
        augment="flip-crop",
        small_input=False,
    ),
    # All of CIFAR-10, by a network with a sixteenth of the work of that below (decision 72).
    "cifar10-resnet18-stem-all": Task(
        "cifar10",
        "label",
        32,
        "resnet18",
        "layer1",
        {"16x8x8+262": ("learned-262",), "8x8x8+122": ("learned-122",)},
        ("image",),
        train=50_000,
        val=1000,
        test=10_000,
        epochs=12,
        batch=128,
        augment="flip-crop",
        small_input=False,
    ),
    # The following are for a machine with a GPU. All of CIFAR-10:
    "cifar10-resnet18": Task(
        "cifar10",
        "label",
        32,
        "resnet18",
        "layer1",
        {f"16x8x8+262{cut}": ("learned-262",) for cut in ("", "~layer2", "~layer3")}
        | {f"8x8x8+122{cut}": ("learned-122",) for cut in ("", "~layer2", "~layer3")}
        | {f"16x8x8{cut}": ("uint2", "uint1") for cut in ("", "~layer3")}
        | {f"32x4x4{cut}": ("uint4", "uint2") for cut in ("", "~layer3")},
        ("image", "jpeg-50", "webp-50", "webp-5"),
        train=50_000,
        val=1000,
        test=10_000,
        epochs=12,
        batch=256,
        augment="flip-crop",
        seeds=(0, 1, 2),
    ),
    # Which way of training is the best, by the validation images; a fifth of the images.
    "cifar10-variants": Task(
        "cifar10",
        "label",
        32,
        "resnet18",
        "layer1",
        {f"16x8x8+262{more}": ("learned-262",) for more in ("", "~shift", "~smooth", "~mix", "~cutmix")}
        | {
            f"16x8x8+262~layer3{more}": ("learned-262",)
            for more in ("", "~shift", "~smooth", "~mix", "~cutmix", "~brief")
        }
        | {f"8x8x8+128~{cut}twice": ("learned-128",) for cut in ("", "layer3~")}
        | {f"{shape}+122~layer3": ("learned-122",) for shape in ("16x4x4", "8x8x8")}
        | {f"image~{more}": ("image",) for more in ("smooth", "mix", "cutmix")},
        ("image",),
        train=10_000,
        val=1000,
        test=4000,
        epochs=30,
        batch=128,
        augment="flip-crop",
    ),
    "lfw-smiling-64-all": _converged(64),
    "lfw-smiling-96-all": _converged(96),
}
