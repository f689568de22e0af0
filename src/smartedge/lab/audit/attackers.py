"""Attackers that read attributes from released features: networks of several depths, and boosted trees.

Each is trained on fresh releases of the attacker's own images (a new draw of the noise in every epoch), with all
classes weighted equally, and judged on the release of each protected image. What it says of the validation and test
images comes from the epoch that was best on the validation images, for each attribute by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Auxiliary, Evidence
from smartedge.lab.audit.judge import selection_score
from smartedge.lab.audit.trees import fit_trees
from smartedge.models import zoo
from smartedge.models.exits import tensor_layout
from smartedge.models.network import divide
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.privacy.mechanisms import Discrete
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed
from smartedge.types import Task

__all__ = ["ATTACKS", "Attack", "Diverged", "Reading", "available", "read", "val_labels"]

_BATCH = 128
_VAL_DRAWS = 4  # releases of each validation image where there is noise, so that selection is not by its luck
_TREE_DRAWS = 4  # releases of each training image that trees learn from
_COLUMNS = {"linear-pooled": 1, "trees": 512, "mlp": 4096}  # at most so many, pooled; per channel at least one
_FEWEST_STEPS = 200  # of a network: few images make short epochs
_FEWEST_EPOCHS = 3  # fewer than these are no attack
_TIMED_STEPS = 6
_READING = 1 / 3  # of the time of a training step: reading as many images

Floats = NDArray[np.float64]


class Diverged(Exception):
    """An attacker whose answers are not finite numbers."""


@dataclass(frozen=True)
class Attack:
    """One kind of attacker."""

    name: str
    rates: tuple[float, ...]  # learning rates that are tried
    epochs: int  # of a network, or rounds of boosting
    weight_decay: float
    weight: float  # its time relative to the others', for sharing out the budget
    reads: Literal["all", "each", "focus"]  # all attributes at once, each by itself, or those in focus by themselves

    @property
    def cheap(self) -> bool:
        """Whether a small budget suffices for it."""
        return self.reads != "focus"

    def settled(self, evidence: Evidence) -> bool:
        """Whether another seed would find the same."""
        return self.name == "posterior" or (self.name == "trees" and not evidence.noisy)


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("linear", (1e-2, 1e-3), 30, 1e-3, 1.0, "all"),
        Attack("linear-pooled", (1e-2,), 30, 1e-3, 0.5, "all"),
        Attack("posterior", (1.0,), 1, 0.0, 0.1, "all"),
        Attack("trees", (0.1,), 200, 0.0, 0.5, "each"),
        Attack("mlp", (1e-3, 3e-4), 30, 0.05, 2.0, "all"),
        Attack("deep", (1e-3, 3e-4), 16, 0.05, 12.0, "focus"),
        Attack("fine-tuned", (3e-4,), 12, 0.05, 9.0, "focus"),
    )
}
"""In words:

- linear: logistic regression on the flattened features; linear-pooled: on each channel's mean
- posterior: of codewords, the exact posterior given what was released
- trees: gradient-boosted trees on at most 512 pooled columns
- mlp: two hidden layers
- deep: the run's own back, untrained, so a network of full depth
- fine-tuned: the same from the weights with which the cloud finished (the attacker is the cloud)

Who sees the desired label as well has it as further columns (deep and fine-tuned have no place for it).
"""


@dataclass(frozen=True)
class Reading:
    """What one attacker says."""

    val_scores: Mapping[str, Floats]  # attribute → (M, K); M validation releases
    test_scores: Mapping[str, Floats]  # attribute → (N, K)
    epochs: int  # trained
    planned: int  # of so many, had there been time

    @property
    def shortened(self) -> bool:
        """By the budget."""
        return self.epochs < self.planned


def available(evidence: Evidence, run_dir: Path) -> tuple[str, ...]:
    """The attacks that make sense for such features."""
    names = ["linear"]
    if len(evidence.feature_shape) > 1:
        names.append("linear-pooled")
    if isinstance(evidence.mechanism, Discrete):
        names.append("posterior")
    names += ["trees", "mlp"]
    if evidence.name != "training-image" or evidence.releases > 1:  # with one release they would see nothing new
        names.append("deep")
    if evidence.name == "defended" and (run_dir / "cloud" / "back.safetensors").exists():
        names.append("fine-tuned")
    return tuple(names)


def val_labels(evidence: Evidence, attribute: str) -> NDArray[np.int64]:
    """The labels that belong to a reading's validation scores, int64 (M,)."""
    draws = _VAL_DRAWS if evidence.noisy else 1
    return np.tile(evidence.val.labels[attribute].numpy(), draws)


def read(
    evidence: Evidence,
    attack: Attack,
    attributes: Sequence[str],
    *,
    rate: float,
    seed: int,
    back_file: Path,
    clock: Clock,
    monitor: Monitor,
) -> Reading:
    """Train one attacker and let it read the protected images.

    Args:
        evidence: what it holds.
        attack: which kind.
        attributes: read by one network together; trees read each by itself.
        rate: learning rate.
        seed: of parameters, order and noise.
        back_file: the cloud's weights, for ``fine-tuned``.
        clock: its share of the budget.
        monitor: takes progress updates.

    Raises:
        OutOfTime: not even a few epochs fit.
        Diverged: its answers are not finite numbers.
    """
    phase = f"{evidence.name} {attack.name} {rate:g} seed {seed}" + (
        f" {attributes[0]}" if len(attributes) == 1 else ""
    )
    if attack.name == "posterior":
        return _read_by_posterior(evidence, attributes)
    if attack.name == "trees":
        (attribute,) = attributes
        return _read_with_trees(evidence, attack, attribute, rate=rate, seed=seed, clock=clock)
    outputs = [len(evidence.classes[name]) for name in attributes]
    inputs = _Inputs(evidence, attack.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "audit", attack.name))
        network = _network(evidence, attack.name, sum(outputs), inputs=inputs, seed=seed, back_file=back_file)
        return _train(
            evidence,
            inputs,
            network,
            attributes,
            outputs,
            rate=rate,
            weight_decay=attack.weight_decay,
            epochs=attack.epochs,
            seed=seed,
            clock=clock,
            monitor=monitor,
            phase=phase,
        )


# -- what an attacker sees


class Pool(nn.Module):
    """Maps and tokens to at most ``columns`` numbers by averaging over neighbours: (B, *F) → (B, *f)."""

    def __init__(self, feature_shape: tuple[int, ...], columns: int) -> None:
        super().__init__()
        self.layout = tensor_layout(feature_shape)
        self.whole = math.prod(feature_shape) <= columns or len(feature_shape) == 1
        if not self.whole:
            channels = feature_shape[0] if self.layout == "chw" else feature_shape[-1]
            places = max(1, columns // channels)
            if self.layout == "td":
                self.size = (min(feature_shape[0], places), 1)
            else:
                height, width = feature_shape[1:] if self.layout == "chw" else feature_shape[:2]
                self.size = (min(height, math.isqrt(places)), min(width, math.isqrt(places)))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Average."""
        if self.whole:
            return features_BF
        if self.layout == "td":
            return F.adaptive_avg_pool1d(features_BF.transpose(1, 2), self.size[0])
        maps_BCHW = features_BF.permute(0, 3, 1, 2) if self.layout == "hwc" else features_BF
        return F.adaptive_avg_pool2d(maps_BCHW, self.size)


class _Inputs:
    """Features (N, *F) as one kind of attacker takes them: pooled columns (N, D), or for a full network as they are."""

    def __init__(self, evidence: Evidence, attack: str) -> None:
        whole = math.prod(evidence.feature_shape)
        self.pool = (
            None if attack in ("deep", "fine-tuned") else Pool(evidence.feature_shape, _COLUMNS.get(attack, whole))
        )
        self.task = evidence.task if evidence.labelled else None

    def __call__(self, features_NF: Tensor, desired_N: Tensor) -> Tensor:
        """With the desired labels (N,) or (N, K) as further columns, for who sees them."""
        if self.pool is None:
            return features_NF
        columns_ND = torch.cat([self.pool(part).flatten(1) for part in features_NF.split(1024)])
        return columns_ND if self.task is None else torch.cat([columns_ND, _told(desired_N, self.task)], dim=1)


def _told(desired_N: Tensor, task: Task) -> Tensor:
    """The desired labels as float32 columns (N, K)."""
    return F.one_hot(desired_N, task.outputs).float() if task.kind == "single" else desired_N.float()


class _Draws:
    """Releases of the training images, batch by batch: fresh ones with noise, else one of each view, made once."""

    def __init__(self, evidence: Evidence, inputs: _Inputs, generator: torch.Generator) -> None:
        self.evidence, self.inputs, self.generator = evidence, inputs, generator
        self.views_VN: tuple[Tensor, ...] = ()
        if not evidence.noisy:
            train = evidence.train
            self.views_VN = tuple(
                inputs(evidence.draw(train, generator, view=view), train.desired).to(train.views_VNF[view].dtype)
                for view in range(len(train.views_VNF))
            )

    def __call__(self, rows: Tensor) -> Tensor:
        if not self.views_VN:
            train = self.evidence.train
            return self.inputs(self.evidence.draw(train, self.generator, rows), train.desired[rows])
        chosen_B = torch.randint(len(self.views_VN), (len(rows),), generator=self.generator)
        picked_VB = torch.stack([view_N[rows] for view_N in self.views_VN])
        return picked_VB[chosen_B, torch.arange(len(rows))].float()


def _val_releases(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The attacker's validation images, each released ``_VAL_DRAWS`` times where there is noise: (M, *F).

    With their desired labels.
    """
    generator = torch.Generator().manual_seed(derive_seed(evidence.config.seed, "audit", "val"))
    draws = _VAL_DRAWS if evidence.noisy else 1
    released = [evidence.draw(evidence.val, generator, view=0) for _ in range(draws)]
    return torch.cat(released), torch.cat([evidence.val.desired] * draws)


# -- networks


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


def _network(evidence: Evidence, name: str, outputs: int, *, inputs: _Inputs, seed: int, back_file: Path) -> nn.Module:
    config = evidence.config
    if name in ("deep", "fine-tuned"):
        if config.method == "upload":
            network = zoo.build(**{**config.whole(outputs), "seed": seed})
        else:
            network = divide(**{**config.division(outputs), "seed": seed}).back
        if name == "fine-tuned":
            fresh = network.state_dict()
            trained = load_file(back_file)
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
    evidence: Evidence,
    inputs: _Inputs,
    network: nn.Module,
    attributes: Sequence[str],
    outputs: Sequence[int],
    *,
    rate: float,
    weight_decay: float,
    epochs: int,
    seed: int,
    clock: Clock,
    monitor: Monitor,
    phase: str,
) -> Reading:
    device = evidence.device
    network = network.to(device)
    if evidence.config.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "draws"))
    draws = _Draws(evidence, inputs, generator)
    val_N, test_N = inputs(*_val_releases(evidence)), inputs(evidence.test_features_NF, evidence.test_desired)
    val_truth = {name: val_labels(evidence, name) for name in attributes}
    labels_NA = torch.stack([evidence.train.labels[name] for name in attributes], dim=1)
    weights = [_class_weights(labels_NA[:, a], classes).to(device) for a, classes in enumerate(outputs)]
    optimizer = make_optimizer([network], name="adamw", lr=rate, weight_decay=weight_decay, momentum=0.0)
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
                monitor.update(Update("audit", phase, min(step, planned * per_epoch), planned * per_epoch))
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
    monitor.update(Update("audit", phase, planned * per_epoch, planned * per_epoch))
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


# -- codewords


def _read_by_posterior(evidence: Evidence, attributes: Sequence[str]) -> Reading:
    """P(class | releases, label) ∝ Σ_k P(k | class, label) · Π_r P(release r | k): counted, and exact in the noise law.

    Of an image's releases only counts, for how many of them hold codeword k (Bayes; a release has two probabilities).
    """
    mechanism, train = evidence.mechanism, evidence.train
    assert isinstance(mechanism, Discrete)
    codes_N = torch.cat([view_NF.argmax(dim=1) for view_NF in train.views_VNF]).numpy()
    single = evidence.labelled and evidence.task.kind == "single"
    groups = evidence.task.outputs if single else 1

    def group_of(desired_N: Tensor) -> NDArray[np.int64]:
        return desired_N.numpy() if single else np.zeros(len(desired_N), dtype=np.int64)

    group_N = np.tile(group_of(train.desired), len(train.views_VNF))
    seen = [
        (torch.round(released_NK * evidence.releases).double().numpy() * evidence.log_odds, group_of(desired_N))
        for released_NK, desired_N in (_val_releases(evidence), (evidence.test_features_NF, evidence.test_desired))
    ]
    scores: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    for name in attributes:
        labels_N = np.tile(train.labels[name].numpy(), len(train.views_VNF))
        counts_GSK = np.full((groups, len(evidence.classes[name]), mechanism.codewords), 1e-3)
        known = labels_N >= 0
        np.add.at(counts_GSK, (group_N[known], labels_N[known], codes_N[known]), 1.0)
        # All classes are taken for equally frequent on the whole, not within each group.
        share_GSK = counts_GSK / counts_GSK.sum(axis=(0, 2), keepdims=True)
        for into, (weight_NK, of_N) in zip(scores, seen, strict=True):
            odds_NK = np.exp(weight_NK - weight_NK.max(axis=1, keepdims=True))
            likelihood_NS = np.einsum("nk,nsk->ns", odds_NK, share_GSK[of_N])
            into[name] = likelihood_NS / likelihood_NS.sum(axis=1, keepdims=True)
    return Reading(*scores, 1, 1)


# -- trees


def _read_with_trees(
    evidence: Evidence, attack: Attack, attribute: str, *, rate: float, seed: int, clock: Clock
) -> Reading:
    inputs = _Inputs(evidence, attack.name)
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "draws"))
    train: Auxiliary = evidence.train
    draws = _TREE_DRAWS if evidence.noisy else 1
    views = range(len(train.views_VNF))
    parts = [evidence.draw(train, generator, view=view) for _ in range(draws) for view in views]
    train_ND = torch.cat([inputs(part, train.desired) for part in parts]).numpy()
    val_ND = inputs(*_val_releases(evidence)).numpy()
    test_ND = inputs(evidence.test_features_NF, evidence.test_desired).numpy()
    labels = np.tile(train.labels[attribute].numpy(), len(parts))
    truth = val_labels(evidence, attribute)
    known, val_known = labels >= 0, truth >= 0
    rounds, (_, at_val, at_test) = fit_trees(
        train_ND[known],
        labels[known],
        val_ND[val_known],
        truth[val_known],
        val_ND,
        test_ND,
        classes=len(evidence.classes[attribute]),
        learning_rate=rate,
        rounds=attack.epochs,
        seed=seed,
        clock=clock,
    )
    return Reading({attribute: at_val}, {attribute: at_test}, rounds, attack.epochs)
