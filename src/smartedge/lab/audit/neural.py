"""Attackers that are networks: logistic regression, two hidden layers, or the run's own back."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.lab.audit.attacks import Diverged, Reading, Unit
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.inputs import Draws, Inputs, val_labels, val_releases
from smartedge.lab.audit.judge import selection_score
from smartedge.methods.loop import Progress, fit, warmup_cosine
from smartedge.models.layout import in_memory
from smartedge.models.optim import apply_gradients, make_optimizer
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats

__all__ = ["Standardise", "class_weights", "read_with_network"]

_BATCH = 128
_CLIP_NORM = 5.0
_FEWEST_STEPS = 200  # with few images an epoch is short, so more epochs are trained
_FEWEST_EPOCHS = 3  # an attacker with fewer epochs is not tried
_TIMED_STEPS = 6
_LEAST_DEVIATION = 1e-30  # of a column: its inverse is a float32
_READING = 1 / 3  # time to read a batch, in units of a training step


class Standardise(nn.Module):
    """Scales columns (B, D) to mean 0 and standard deviation 1, measured on the attacker's own images."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, sample_ND: Tensor) -> None:
        super().__init__()
        sample_ND = sample_ND.double()  # squares of small and large numbers are beyond float32
        least = max(1e-3 * float(sample_ND.std()), _LEAST_DEVIATION)
        self.register_buffer("mean_D", sample_ND.mean(dim=0).float())
        self.register_buffer("scale_D", (1 / (sample_ND.std(dim=0) + least)).float())

    def forward(self, columns_BD: Tensor) -> Tensor:
        """Standardise."""
        return (columns_BD - self.mean_D) * self.scale_D


def read_with_network(evidence: Evidence, unit: Unit, *, clock: Clock, monitor: Monitor) -> Reading:
    """Train a network of the unit's kind on fresh releases, and let it read the protected images.

    Raises:
        OutOfTime: there is no time for even a few epochs.
        Diverged: its answers are not finite numbers.
    """
    inputs = Inputs(evidence, unit.attack)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(unit.seed, "audit", unit.attack))
        network = _network(evidence, unit, inputs)
        attacker = _Attacker(evidence, unit, network, inputs, clock)
        return attacker.train(monitor)


def _network(evidence: Evidence, unit: Unit, inputs: Inputs) -> nn.Module:
    name, seed = unit.attack, unit.seed
    outputs = sum(len(evidence.classes[attribute]) for attribute in unit.attributes)
    if name in ("deep", "fine-tuned"):
        network = evidence.deep_network(outputs, seed=seed)
        if name == "fine-tuned":
            fresh = network.state_dict()
            assert evidence.back_file is not None
            trained = load_file(evidence.back_file)
            # The last layer stays new where the number of classes differs; all other weights are loaded.
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


class _Attacker:
    """One network in training, and its best answers for each attribute."""

    def __init__(self, evidence: Evidence, unit: Unit, network: nn.Module, inputs: Inputs, clock: Clock) -> None:
        self.evidence, self.unit, self.clock = evidence, unit, clock
        self.network = network.to(evidence.device)
        if evidence.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator = torch.Generator().manual_seed(derive_seed(unit.seed, "audit", "draws"))
        self.draws, self.layout = Draws(evidence, inputs, self.generator), inputs.layout
        self.val_N = inputs(*val_releases(evidence))
        self.test_N = inputs(evidence.test_features_NF, evidence.test_desired)
        self.val_truth = {name: val_labels(evidence, name) for name in unit.attributes}
        self.labels_NA = torch.stack([evidence.train.labels[name] for name in unit.attributes], dim=1)
        self.outputs = [len(evidence.classes[name]) for name in unit.attributes]
        self.weights = [
            class_weights(self.labels_NA[:, a], classes).to(evidence.device) for a, classes in enumerate(self.outputs)
        ]
        self.optimizer = make_optimizer(
            [self.network], name="adamw", lr=unit.rate, weight_decay=unit.kind.weight_decay, momentum=0.0
        )
        images = len(evidence.train)
        self.size = min(_BATCH, images)
        per_epoch = max(1, images // self.size)  # an incomplete batch is left out: batch normalisation needs two images
        self.wanted = max(unit.kind.epochs, -(-_FEWEST_STEPS // per_epoch))
        self.progress = Progress(self.wanted, per_epoch)
        self.best = dict.fromkeys(unit.attributes, -1.0)
        self.at_val: dict[str, Floats] = {}
        self.at_test: dict[str, Floats] = {}
        self.begun = clock.elapsed()

    def train(self, monitor: Monitor) -> Reading:
        """Train all epochs, or as many as the clock allows."""

        def report(progress: Progress) -> None:
            monitor.update(Update("audit", self.unit.title, min(progress.step, progress.steps), progress.steps))

        self.network.train()
        rates = warmup_cosine(self.optimizer, self.unit.rate)
        fit(
            self.step,
            self.batches,
            self.progress,
            rates=rates,
            report=report,
            after_epoch=self.read,
            # The first epoch ends in any case: a look at six steps said that there is time for it.
            stop=lambda: self.progress.epoch > 0 and self.clock.remaining() == 0,
        )
        if missing := [name for name in self.unit.attributes if name not in self.at_val]:
            raise Diverged(f"its answers on {', '.join(missing)} were not finite numbers in any epoch")
        return Reading(self.at_val, self.at_test, self.progress.epoch, self.wanted)

    def batches(self, epoch: int) -> Generator[Tensor, None, None]:
        """Batches of positions of the attacker's images, in a new order."""
        order = torch.randperm(len(self.evidence.train), generator=self.generator)
        yield from order.split(self.size)[: self.progress.steps_per_epoch]

    def step(self, rows: Tensor, progress: Progress) -> None:
        """One update on a fresh release of these images."""
        features_B = self.placed(self.draws(rows))
        with self.evidence.autocast():
            logits_BO = self.network(features_B)
        loss = _balanced_loss(logits_BO, self.labels_NA[rows].to(self.evidence.device), self.weights)
        loss.backward()
        apply_gradients(self.optimizer, clip_norm=_CLIP_NORM)
        made, per_epoch = progress.step + 1, progress.steps_per_epoch
        if made == min(_TIMED_STEPS, per_epoch) and not math.isinf(self.clock.remaining()):
            steps = per_epoch + _READING * (len(self.val_N) + len(self.test_N)) / self.size
            seconds = (self.clock.elapsed() - self.begun) / made * steps
            progress.epochs = _affordable(self.clock, progress.epochs, seconds)

    def read(self, progress: Progress) -> None:
        """Let the network read all images, and keep its answers where they are the best so far."""
        test: list[Floats] | None = None  # most epochs are not the best so far, and need none
        for place, (name, val_NK) in enumerate(zip(self.unit.attributes, self.scores(self.val_N), strict=True)):
            # Of equally good epochs the later one counts: where AUROC is already 1, the margin still grows.
            score = selection_score(val_NK, self.val_truth[name]) if np.isfinite(val_NK).all() else -math.inf
            if score < self.best[name]:
                continue
            test = test or self.scores(self.test_N)
            if np.isfinite(test[place]).all():
                self.best[name], self.at_val[name], self.at_test[name] = score, val_NK, test[place]
        self.network.train()
        left = self.clock.remaining()
        if progress.epoch == 1 and not math.isinf(left):  # now the time of an epoch is known
            affordable = 1 + int(left / max(self.clock.elapsed() - self.begun, 1e-9))
            progress.epochs = min(progress.epochs, max(_FEWEST_EPOCHS, affordable))
        if left == 0:
            progress.epochs = progress.epoch

    @torch.no_grad()
    def scores(self, features_NF: Tensor) -> list[Floats]:
        """Probabilities (N, K) for each attribute."""
        self.network.eval()
        with self.evidence.autocast():
            logits_NO = torch.cat([self.network(self.placed(part)).float() for part in features_NF.split(256)])
        return [
            torch.softmax(logits_NK, dim=1).cpu().double().numpy() for logits_NK in logits_NO.split(self.outputs, dim=1)
        ]

    def placed(self, features_BF: Tensor) -> Tensor:
        """The features on the device, in the order in memory that the network computes fastest with."""
        channels_last = self.evidence.channels_last
        return in_memory(features_BF.to(self.evidence.device), self.layout, channels_last=channels_last)


def _affordable(clock: Clock, epochs: int, seconds_per_epoch: float) -> int:
    fit = int(clock.remaining() / max(seconds_per_epoch, 1e-9))
    if fit < min(_FEWEST_EPOCHS, epochs):
        raise OutOfTime(
            f"{_FEWEST_EPOCHS} epochs would take {_FEWEST_EPOCHS * seconds_per_epoch:.0f} s; "
            f"its share of the budget was {clock.remaining():.0f} s"
        )
    return min(epochs, fit)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (K,) that give equal influence to all classes that occur; their mean over the known labels is 1."""
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
