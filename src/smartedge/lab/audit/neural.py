"""Attackers that are networks: logistic regression, two hidden layers, or the run's own back."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.lab.audit.attacks import Diverged, Reading, Unit
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.inputs import Draws, Inputs, val_labels, val_releases
from smartedge.lab.audit.judge import selection_score
from smartedge.methods.base import get_method
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed

__all__ = ["Standardise", "read_with_network"]

_BATCH = 128
_FEWEST_STEPS = 200  # of a network: few images make short epochs
_FEWEST_EPOCHS = 3  # fewer than these are no attack
_TIMED_STEPS = 6
_READING = 1 / 3  # of the time of a training step: reading as many images

Floats = NDArray[np.float64]


class Standardise(nn.Module):
    """Columns (B, D) to mean 0 and deviation 1 each, by the attacker's own images."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, sample_ND: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", sample_ND.mean(dim=0))
        self.register_buffer("scale_D", 1 / (sample_ND.std(dim=0) + 1e-3 * sample_ND.std() + 1e-6))

    def forward(self, columns_BD: Tensor) -> Tensor:
        """Standardise."""
        return (columns_BD - self.mean_D) * self.scale_D


def read_with_network(evidence: Evidence, unit: Unit, *, clock: Clock, monitor: Monitor) -> Reading:
    """Train a network of the unit's kind on fresh releases, and let it read the protected images.

    Raises:
        OutOfTime: not even a few epochs fit.
        Diverged: its answers are not finite numbers.
    """
    inputs = Inputs(evidence, unit.attack)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(unit.seed, "audit", unit.attack))
        network = _network(evidence, unit, inputs)
        return _train(evidence, unit, network, inputs, clock=clock, monitor=monitor)


def _network(evidence: Evidence, unit: Unit, inputs: Inputs) -> nn.Module:
    config, name, seed = evidence.config, unit.attack, unit.seed
    outputs = sum(len(evidence.classes[attribute]) for attribute in unit.attributes)
    if name in ("deep", "fine-tuned"):
        network, _ = get_method(config.method).cloud(config.model_copy(update={"seed": seed}), outputs)
        if name == "fine-tuned":
            fresh = network.state_dict()
            assert evidence.back_file is not None
            trained = load_file(evidence.back_file)
            # All that fits: where the desired label has another number of classes, the last layer stays new.
            network.load_state_dict(
                {k: v for k, v in trained.items() if k in fresh and v.shape == fresh[k].shape}, strict=False
            )
        return network
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "standardise"))
    some = torch.randperm(len(evidence.train), generator=generator)[:2048]
    sample_ND = inputs(evidence.draw(evidence.train, generator, some), evidence.train.desired[some])
    standardise, columns = Standardise(sample_ND), sample_ND.shape[1]
    if name != "mlp":
        return nn.Sequential(standardise, nn.Linear(columns, outputs))
    return nn.Sequential(
        standardise,
        nn.Linear(columns, 512),
        nn.LayerNorm(512),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.LayerNorm(256),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(256, outputs),
    )


def _train(
    evidence: Evidence, unit: Unit, network: nn.Module, inputs: Inputs, *, clock: Clock, monitor: Monitor
) -> Reading:
    attributes, rate, epochs = unit.attributes, unit.rate, unit.kind.epochs
    outputs = [len(evidence.classes[name]) for name in attributes]
    device = evidence.device
    network = network.to(device)
    if evidence.config.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(derive_seed(unit.seed, "audit", "draws"))
    draws = Draws(evidence, inputs, generator)
    val_N, test_N = inputs(*val_releases(evidence)), inputs(evidence.test_features_NF, evidence.test_desired)
    val_truth = {name: val_labels(evidence, name) for name in attributes}
    labels_NA = torch.stack([evidence.train.labels[name] for name in attributes], dim=1)
    weights = [_class_weights(labels_NA[:, a], classes).to(device) for a, classes in enumerate(outputs)]
    optimizer = make_optimizer([network], name="adamw", lr=rate, weight_decay=unit.kind.weight_decay, momentum=0.0)
    images = len(evidence.train)
    size = min(_BATCH, images)
    per_epoch = max(1, images // size)  # an incomplete batch is left out: batch normalisation cannot take one image
    epochs = max(epochs, -(-_FEWEST_STEPS // per_epoch))
    planned, step = epochs, 0
    best = dict.fromkeys(attributes, -1.0)
    at_val: dict[str, Floats] = {}
    at_test: dict[str, Floats] = {}
    begun = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(images, generator=generator)
        for part in order.split(size)[:per_epoch]:
            set_learning_rate(optimizer, peak=rate, step=step, steps=planned * per_epoch)
            features_B = _placed(draws(part), evidence)
            with evidence.autocast():
                logits_BO = network(features_B)
            loss = _balanced_loss(logits_BO, labels_NA[part].to(device), weights)
            loss.backward()
            apply_gradients(optimizer, clip_norm=5.0)
            step += 1
            if step == min(_TIMED_STEPS, per_epoch) and not math.isinf(clock.remaining()):
                steps = per_epoch + _READING * (len(val_N) + len(test_N)) / size
                planned = _affordable(clock, epochs, (time.perf_counter() - begun) / step * steps)
            if step % 8 == 0:
                monitor.update(Update("audit", unit.title, min(step, planned * per_epoch), planned * per_epoch))
        said = (_scores(network, each_N, outputs, evidence) for each_N in (val_N, test_N))
        for name, val_NK, test_NK in zip(attributes, *said, strict=True):
            if not (np.isfinite(val_NK).all() and np.isfinite(test_NK).all()):
                continue
            # Of equally good epochs the later one: where AUROC is 1 already, the margin still grows.
            if (score := selection_score(val_NK, val_truth[name])) >= best[name]:
                best[name], at_val[name], at_test[name] = score, val_NK, test_NK
        if epoch == 0 and not math.isinf(clock.remaining()):  # now it is known what an epoch takes
            planned = min(planned, max(_FEWEST_EPOCHS, 1 + int(clock.remaining() / (time.perf_counter() - begun))))
        if epoch + 1 >= planned or clock.remaining() == 0:
            break
    if missing := [name for name in attributes if name not in at_val]:
        raise Diverged(f"its answers on {', '.join(missing)} were not finite numbers in any epoch")
    monitor.update(Update("audit", unit.title, planned * per_epoch, planned * per_epoch))
    return Reading(at_val, at_test, epoch + 1, epochs)


def _affordable(clock: Clock, epochs: int, seconds_per_epoch: float) -> int:
    fit = int(clock.remaining() / seconds_per_epoch)
    if fit < min(_FEWEST_EPOCHS, epochs):
        raise OutOfTime(
            f"{_FEWEST_EPOCHS} epochs would take {_FEWEST_EPOCHS * seconds_per_epoch:.0f} s; "
            f"its share of the budget was {clock.remaining():.0f} s"
        )
    return min(epochs, fit)


def _class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights under which the classes that occur count the same, one on average over the known labels."""
    counts = torch.bincount(labels[labels >= 0], minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / (counts.clamp(min=1) * (counts > 0).sum()), 0.0)


def _balanced_loss(logits_BO: Tensor, labels_BA: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Sum over attributes of the class-weighted cross-entropy; unknown labels (−1) do not count."""
    total = logits_BO.new_zeros(())
    parts = logits_BO.float().split([len(weight_K) for weight_K in weights], dim=1)
    for a, (logits_BK, weight_K) in enumerate(zip(parts, weights, strict=True)):
        known = labels_BA[:, a] >= 0
        loss_B = F.cross_entropy(logits_BK, labels_BA[:, a].clamp(min=0), weight=weight_K, reduction="none")
        total = total + (loss_B * known).sum() / known.sum().clamp(min=1)
    return total


@torch.no_grad()
def _scores(network: nn.Module, features_NF: Tensor, outputs: Sequence[int], evidence: Evidence) -> list[Floats]:
    """Probabilities (N, K) for each attribute."""
    network.eval()
    with evidence.autocast():
        logits_NO = torch.cat([network(_placed(part, evidence)).float() for part in features_NF.split(256)])
    return [
        torch.softmax(logits_NK, dim=1).cpu().double().numpy() for logits_NK in logits_NO.split(list(outputs), dim=1)
    ]


def _placed(features_BF: Tensor, evidence: Evidence) -> Tensor:
    features_BF = features_BF.to(evidence.device)
    channels_last = evidence.config.train.channels_last and features_BF.dim() == 4
    return features_BF.contiguous(memory_format=torch.channels_last) if channels_last else features_BF
