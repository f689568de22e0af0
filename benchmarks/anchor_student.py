"""A front trained by imitation of a teacher, for a rate: the rival *Entropic Student* of benchmarks/anchors.py.

Matsubara et al., "Supervised Compression for Resource-Constrained Edge Computing Systems" (arXiv 2108.11898). Its two
stages, from the description there, on the network of the anchors:

1. The teacher is the undivided network, trained on lossless images. Front and widening learn to give what the teacher
   has behind each of its stages; the stages behind the cut are the teacher's and frozen. The rate of a factorised prior
   is added to the loss. Here the errors of the stages are means of squares, each in units of the teacher's mean square,
   and λ is set by a target in bytes (``smartedge.methods.rate``), so that the points can be compared.
2. The front is frozen. Widening and all stages behind it learn from labels and from the teacher's answers, half each.

Both stages see all training images, augmented anew in each epoch. So the front must be trained where the teacher is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.codec.learned import LearnedCodec
from smartedge.config import Config
from smartedge.data import batches
from smartedge.data.dataset import Split
from smartedge.methods.rate import RateTerm
from smartedge.models.exits import distillation_losses
from smartedge.models.network import divide_in_order, to_input
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate

__all__ = ["Student", "trained_student"]

STAGES = ("layer1", "layer2", "layer3", "layer4")
TEMPERATURE = 2.0
TUNING = 1 / 3  # of the epochs: the second stage


@dataclass(frozen=True)
class Student:
    """What the edge computes, and what the cloud trains."""

    front: nn.Module
    in_cloud: nn.Module


def trained_student(config: Config, teacher_file: Path, split: Split, target: int, device: torch.device) -> Student:
    """Train a student for so many bytes an image. ``config`` is that of the divided network."""
    blueprint = config.division(10)
    _, ends = divide_in_order(blueprint, STAGES[:1])  # the bottleneck is at the first cut alone; later maps are smaller
    stages, _ = divide_in_order(replace(blueprint, bottleneck=None), STAGES)
    taught, _ = divide_in_order(replace(blueprint, bottleneck=None), STAGES)
    weights = load_file(teacher_file)
    for part in (*stages[1:], *taught):
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
    narrow, widen = ends[0].narrow, ends[0].widen
    assert narrow is not None and widen is not None
    front, teacher = nn.Sequential(stages[0], narrow), nn.ModuleList(taught).to(device).eval()
    student = Student(front.to(device), nn.Sequential(widen, *stages[1:]).to(device))
    for module in (student.front, student.in_cloud, teacher):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate = RateTerm(ends[0].feature_shape, LearnedCodec(target), device)
    tuning = round(TUNING * config.epochs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        _imitate(config, student, teacher, rate, split, config.epochs - tuning, device)
        _tune(config, student, teacher, rate, split, tuning, device)
    return student


def _imitate(
    config: Config,
    student: Student,
    teacher: nn.ModuleList,
    rate: RateTerm,
    split: Split,
    epochs: int,
    device: torch.device,
) -> None:
    """The first stage."""
    widen, *behind, _ = student.in_cloud.children()
    for part in behind:
        part.eval().requires_grad_(requires_grad=False)
    optimizer = _optimizer(config, student.front, widen)
    for inputs_BCHW, _ in _steps(config, split, epochs, optimizer, device):
        student.front.train()
        widen.train()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features_BF = student.front(inputs_BCHW)
            found = [widen(rate.rounded(features_BF))]
            with torch.no_grad():
                wanted = [teacher[0](inputs_BCHW)]
                for part in list(teacher)[1:-1]:
                    wanted.append(part(wanted[-1]))
            for part in behind:
                found.append(part(found[-1]))
        errors = [
            F.mse_loss(mine.float(), theirs.float()) / theirs.float().square().mean()
            for mine, theirs in zip(found, wanted, strict=True)
        ]
        (torch.stack(errors).mean() + rate.penalty(features_BF)).backward()
        apply_gradients(optimizer, clip_norm=config.train.clip_grad_norm)
        rate.update(features_BF)


def _tune(
    config: Config,
    student: Student,
    teacher: nn.ModuleList,
    rate: RateTerm,
    split: Split,
    epochs: int,
    device: torch.device,
) -> None:
    """The second stage."""
    student.front.eval().requires_grad_(requires_grad=False)
    student.in_cloud.requires_grad_()
    optimizer = _optimizer(config, student.in_cloud)
    for inputs_BCHW, labels_B in _steps(config, split, epochs, optimizer, device):
        student.in_cloud.train()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                features_BF, answers_BK = rate.rounded(student.front(inputs_BCHW)), inputs_BCHW
                for part in teacher:
                    answers_BK = part(answers_BK)
            logits_BK = student.in_cloud(features_BF)
        taught = distillation_losses(logits_BK[:, None], answers_BK, "single", temperature=TEMPERATURE).mean()
        (0.5 * F.cross_entropy(logits_BK.float(), labels_B) + 0.5 * taught).backward()
        apply_gradients(optimizer, clip_norm=config.train.clip_grad_norm)


def _optimizer(config: Config, *modules: nn.Module) -> torch.optim.Optimizer:
    train = config.train
    return make_optimizer(
        modules, name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )


def _steps(
    config: Config, split: Split, epochs: int, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of each step; its learning rate is set before."""
    size, step = config.train.batch_size, 0
    steps = epochs * (len(split) // size)
    for epoch in range(epochs):
        with batches(
            split,
            size,
            seed=config.seed,
            epoch=epoch,
            shuffle=True,
            augment=config.data.augment,
            drop_last=True,
        ) as loader:
            for batch in loader:
                set_learning_rate(optimizer, peak=config.train.lr, step=step, steps=steps)
                step += 1
                yield to_input(batch.images_BCHW, device, channels_last=True), batch.labels.to(device)
