"""Trains the front of a row, chooses the number that its paper leaves open, and releases features."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import data_folder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from published.learned_noise import LearnedNoise
from published.learner import Defence, DefendedLearner
from published.random_projection import RandomProjection
from published.rows import ROWS, Row
from smartedge.codec import get_codec
from smartedge.config import Config, load_config
from smartedge.data import DataSet, Split, batches
from smartedge.lab.audit.judge import judge
from smartedge.lab.audit.trees import Table, fit_logistic
from smartedge.launch.datasets import dataset_of
from smartedge.methods.differentiable import differentiable
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.loop import Progress, fit
from smartedge.methods.mechanism import mechanism_of
from smartedge.metrics import evaluate
from smartedge.models.layout import Layout
from smartedge.models.network import divide, to_input
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.machine import pick_device
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import ImageBatch

__all__ = ["AUDIT_SHARE", "DEVICE", "FRONT_EPOCHS", "SEED", "SENSITIVE", "Chosen", "Sending", "choose", "config_of"]

SEED = 0
SENSITIVE = "Male"
FRONT_EPOCHS = 6
AUDIT_SHARE = 0.5
_NOISE_TENSORS = 8
_NOISE_EPOCHS = 2
_NOISE_RATE = 0.1  # λ of learned noise, for the mean over a tensor's numbers in units of the features' spread
_BATCH = 128
_MOST_LOST = 0.01  # of the task exit's balanced accuracy, for a value that may be chosen
DEVICE = pick_device("auto", "the device of the benchmark")  # of front, reader and learned noise; releases: the CPU


def config_of(row: Row, value: float, size: int) -> Config:
    """The settings of a row at an image size; ``value`` is the weight of the library's own confusion term."""
    settings: dict[str, Any] = {**row.settings}
    if row.setting == "λ":
        settings["adversary"] = {**settings["adversary"], "weight": value}
    model = {"name": "resnet18", "cut": "layer1", "small_input": False, "bottleneck": row.bottleneck or None}
    return load_config(
        {
            "seed": SEED,
            "schedule": "freeze-and-log",
            "epochs": FRONT_EPOCHS,
            "data": {
                "path": str(data_folder("lfw-attributes")),
                "desired": "Smiling",
                "sensitive": [SENSITIVE],
                "image_size": size,
                "audit_share": AUDIT_SHARE,
            },
            "model": model,
            "train": {"precision": "bfloat16", "channels_last": True},
            "hardware": {"threads": 1},
            **settings,
        }
    )


@dataclass(frozen=True)
class Sending:
    """A front that is trained, and how its features are sent."""

    row: Row
    value: float
    config: Config
    dataset: DataSet
    learner: ExitLearner
    after: Defence  # what happens to the features of a front that is trained; nothing for most rows

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """F of what is sent."""
        if isinstance(self.after, RandomProjection):
            return (self.after.matrix_DK.shape[1],)
        return self.learner.feature_shape

    @property
    def layout(self) -> Layout:
        """Of what is sent."""
        return "vector" if len(self.feature_shape) == 1 else "channels-first"

    @cached_property
    def mechanism(self) -> Mechanism:
        """The noise law; of most rows there is none."""
        return mechanism_of(self.config, self.feature_shape)

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image's features at 8 bits a number, with the row's side information."""
        return (self.row.kept or self.feature_shape[0]) * math.prod(self.feature_shape[1:]) + self.row.side

    @torch.no_grad()
    def features(self, split: Split, *, mirrored: bool = False) -> Tensor:
        """What the front makes of the images of a split (N, *F), before the defence's own part; half precision."""
        self.learner.eval_mode()
        parts = []
        for rows in torch.arange(len(split)).split(_BATCH):
            images_BCHW = split.read(rows.numpy()).images_BCHW
            inputs_BCHW = to_input(images_BCHW.flip(-1) if mirrored else images_BCHW, DEVICE, channels_last=True)
            with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
                parts.append(self.learner.modules["front"](inputs_BCHW).half().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def clean(self, features_BF: Tensor) -> Tensor:
        """After the defence's own part (pruned, projected, with a learned noise tensor), and bounded; before noise."""
        chain = nn.Sequential(self.learner.modules.get("defence", nn.Identity()), self.after)
        return differentiable(self.mechanism).bound(chain(features_BF.float()))

    def release(self, features_BF: Tensor, generator: torch.Generator) -> Tensor:
        """A release, as the cloud decodes it: the defence's part, noise, and 8 bits a number."""
        noised_BF = differentiable(self.mechanism).simulate(self.clean(features_BF), generator=generator)
        codec, shape = get_codec("uint8"), tuple(noised_BF.shape)
        payload, side = codec.encode(noised_BF.contiguous().numpy())
        return torch.from_numpy(codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=codec.dtype))

    def release_all(self, features_NF: Tensor, purpose: str) -> Tensor:
        """One release of each image (N, *F), half precision."""
        generator = torch.Generator().manual_seed(derive_seed(SEED, "release", purpose))
        return torch.cat([self.release(part_BF, generator).half() for part_BF in features_NF.split(_BATCH)])


@dataclass(frozen=True)
class Chosen:
    """The value that was chosen, and what was seen of each value on the validation images."""

    sending: Sending
    tried: Mapping[str, Mapping[str, float]]  # value → balanced accuracy of the exit and of a linear attacker, seconds


def choose(name: str, size: int, work: Path, *, value: float | None = None) -> Chosen:
    """Train the row's front once for each value, and choose among them; a front that is there is only read.

    Args:
        name: of the row.
        size: of the images.
        work: where fronts are kept.
        value: the one value to train; None: all that the row tries.
    """
    sendings, tried = [], {}
    values = ROWS[name].values if value is None else (value,)
    for value in values:
        begun = time.monotonic()
        sending = _sending(name, value, size, work)
        seconds = time.monotonic() - begun
        sendings.append(sending)
        if len(values) > 1:
            tried[f"{value:g}"] = {**_glance(sending), "seconds": round(seconds, 1)}
    if len(sendings) == 1:
        return Chosen(sendings[0], tried)
    least = max(each["exit"] for each in tried.values()) - _MOST_LOST
    kept = [number for number, each in enumerate(tried.values()) if each["exit"] >= least]
    attacks = [each["linear attack"] for each in tried.values()]
    return Chosen(sendings[min(kept, key=lambda number: attacks[number])], tried)


def _sending(name: str, value: float, size: int, work: Path) -> Sending:
    row = ROWS[name]
    base = row.front or name
    base_row, base_value = ROWS[base], ROWS[base].values[0] if row.front else value
    config = config_of(base_row, base_value, size)
    dataset = dataset_of(config)
    learner = _learner(base_row, base_value, config, dataset)
    _train(learner, config, dataset, work / f"{base}-{base_value:g}.safetensors")
    for part, module in learner.modules.items():
        module.to(DEVICE if part == "front" else "cpu")  # features are made on the device, and released on the CPU
    sending = Sending(row, value, config, dataset, learner, Defence())
    if row.after == "projection":
        projection = RandomProjection(learner.feature_shape, int(value), seed=derive_seed(SEED, "projection"))
        return Sending(row, value, config, dataset, learner, projection)
    if row.after == "noise":
        return Sending(row, value, config, dataset, learner, _noise(sending, value))
    return sending


def _learner(row: Row, value: float, config: Config, dataset: DataSet) -> ExitLearner:
    if row.make is None:
        return ExitLearner(config, dataset.task, DEVICE, dataset)
    divided = divide(config.division(dataset.task.outputs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(SEED, "defence"))
        defence = row.make(value, divided.feature_shape, divided.layout)
    return DefendedLearner(config, dataset.task, DEVICE, defence)


def _train(learner: ExitLearner, config: Config, dataset: DataSet, file: Path) -> None:
    """Train front and task exit as the edge does, or read the weights that an earlier call kept."""
    if file.exists():
        weights = load_file(file)
        for name, module in learner.modules.items():
            start = f"{name}."
            module.load_state_dict({k[len(start) :]: v for k, v in weights.items() if k.startswith(start)})
        return
    split, size = dataset.splits["train"], config.train.batch_size
    progress = Progress(FRONT_EPOCHS, len(split) // size)

    def shuffled(epoch: int) -> Generator[ImageBatch, None, None]:
        learner.begin_epoch(epoch)
        kind = config.data.augment
        with batches(split, size, seed=SEED, epoch=epoch, shuffle=True, augment=kind, drop_last=True) as loader:
            yield from loader

    random = RandomStream(derive_seed(SEED, "edge"), DEVICE)
    fit(learner.learn, shuffled, progress, rates=learner.rates, random=random)
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {
        f"{name}.{k}": v.contiguous()
        for name, module in learner.modules.items()
        for k, v in module.state_dict().items()
    }
    save_file(state, file)


def _noise(sending: Sending, value: float) -> LearnedNoise:
    """Noise tensors for a front and exit that stay as they are. ``value``: b, in units of the features' spread."""
    train = sending.dataset.splits["train"]
    features_NF, labels_N = sending.features(train), train.labels
    spread = float(features_NF[:1024].float().std())
    noise = LearnedNoise(sending.feature_shape, _NOISE_TENSORS, value * spread, seed=derive_seed(SEED, "noise"))
    generator = torch.Generator().manual_seed(derive_seed(SEED, "noise", "order"))

    def shuffled() -> Generator[tuple[Tensor, Tensor], None, None]:
        for rows in torch.randperm(len(labels_N), generator=generator).split(_BATCH):
            yield features_NF[rows].float().to(DEVICE), labels_N[rows].to(DEVICE)

    rate, lr = _NOISE_RATE / spread, 0.01 * spread
    task_exit = sending.learner.modules["exit"]
    noise.to(DEVICE).fit(shuffled, task_exit.to(DEVICE), rate=rate, epochs=_NOISE_EPOCHS, lr=lr)
    task_exit.cpu()
    return noise.cpu().requires_grad_(False)


@torch.no_grad()
def _glance(sending: Sending) -> dict[str, float]:
    """On the validation images: balanced accuracy of the task exit, and of a logistic regression on pooled releases."""
    audit, val = sending.dataset.audit, sending.dataset.splits["val"]
    assert audit is not None
    released = {
        split: sending.release_all(sending.features(images), split)
        for split, images in (("audit", audit), ("val", val))
    }
    answers = [
        sending.learner.modules["exit"](part_BF.float()).softmax(dim=1) for part_BF in released["val"].split(_BATCH)
    ]
    task = evaluate(val.labels.numpy(), torch.cat(answers).double().numpy(), "single")["balanced_accuracy"]
    assert task is not None
    own_ND, val_ND = (_pooled(features_NF) for features_NF in released.values())
    labels, truth = (split.sensitive_labels[SENSITIVE].numpy() for split in (audit, val))
    (at_val,) = fit_logistic(Table(own_ND.numpy(), labels), val_ND.numpy(), classes=2)
    return {"exit": task, "linear attack": judge(at_val, truth, at_val, truth).balanced_accuracy}


def _pooled(features_NF: Tensor) -> Tensor:
    features_NF = features_NF.float()
    if math.prod(features_NF.shape[1:]) > 1024:
        features_NF = F.adaptive_avg_pool2d(features_NF, 2)
    return features_NF.flatten(1)
