"""Attackers that read attributes from released features: networks of several depths, and boosted trees.

Each is trained on fresh releases of the attacker's own images (a new draw of the noise in every epoch), with all
classes weighted equally, and judged on the one release of each protected image. What it says of the validation and
test images comes from the epoch that was best on the validation images, for each attribute by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.audit.clock import Clock, OutOfTime
from smartedge.audit.evidence import Auxiliary, Evidence
from smartedge.audit.judge import selection_score
from smartedge.audit.trees import fit_trees
from smartedge.models import zoo
from smartedge.models.exits import tensor_layout
from smartedge.models.network import divide
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.privacy.mechanisms import Discrete
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed

__all__ = ["ATTACKS", "Attack", "Reading", "available", "read", "val_labels"]

_BATCH = 128
_VAL_DRAWS = 4  # releases of each validation image where there is noise, so that selection is not by its luck
_MOST_RELEASES = 16  # of one image that are read together
_TREE_DRAWS = 4  # releases of each training image that trees learn from
_TREE_COLUMNS = 512
_MLP_COLUMNS = 4096
_FEWEST_STEPS = 200  # of a network: few images make short epochs
_FEWEST_EPOCHS = 3  # fewer than these are no attack
_TIMED_STEPS = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attack:
    """One kind of attacker."""

    name: str
    rates: tuple[float, ...]  # learning rates that are tried
    epochs: int  # of a network, or rounds of boosting
    weight_decay: float
    weight: float  # its time relative to the others', for sharing out the budget
    joint: bool  # whether one network reads all attributes as well as one each


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("linear", (1e-2, 1e-3), 30, 1e-3, 1.0, True),
        Attack("linear-pooled", (1e-2,), 30, 1e-3, 0.5, True),
        Attack("posterior", (1.0,), 1, 0.0, 0.1, True),
        Attack("trees", (0.1,), 200, 0.0, 1.0, True),
        Attack("mlp", (1e-3, 3e-4), 30, 0.05, 2.0, True),
        Attack("deep", (1e-3, 3e-4), 16, 0.05, 12.0, False),
        Attack("fine-tuned", (3e-4,), 12, 0.05, 9.0, False),
    )
}
"""In words:

- linear: logistic regression on the flattened features; linear-pooled: on each channel's mean
- posterior: of codewords, the exact posterior given the release
- trees: gradient-boosted trees on at most 512 pooled columns
- mlp: two hidden layers
- deep: the run's own back, untrained, so a network of full depth
- fine-tuned: the same from the weights with which the cloud finished (the attacker is the cloud)
"""


@dataclass(frozen=True)
class Reading:
    """What one attacker says."""

    val_scores: Mapping[str, Floats]  # attribute → (M, K); M validation releases
    test_scores: Mapping[str, Floats]  # attribute → (N, K)
    all_releases: Mapping[str, tuple[Floats, Floats]]  # attribute → (M', K) and (N, K), from all releases of an image
    epochs: int  # trained
    planned: int  # of so many, had there been time
    shortened: bool  # by the budget


def available(evidence: Evidence, run_dir: Path) -> tuple[str, ...]:
    """The attacks that make sense for such features."""
    names = ["linear"]
    if len(evidence.feature_shape) > 1:
        names.append("linear-pooled")
    if isinstance(evidence.mechanism, Discrete):
        names.append("posterior")
    names += ["trees", "mlp", "deep"]
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
    """
    phase = f"{evidence.name} {attack.name} {rate:g} seed {seed}" + (
        f" {attributes[0]}" if len(attributes) == 1 else ""
    )
    if attack.name == "posterior":
        return _read_by_posterior(evidence, attributes)
    if attack.name == "trees":
        return _read_with_trees(
            evidence, attack, attributes, rate=rate, seed=seed, clock=clock, monitor=monitor, phase=phase
        )
    outputs = [len(evidence.classes[name]) for name in attributes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "audit", attack.name))
        network = _network(evidence, attack.name, sum(outputs), seed=seed, back_file=back_file)
        return _train(
            evidence,
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


# -- networks


class Standardise(nn.Module):
    """Features to mean 0 and deviation 1 each, by the attacker's own images, then flattened: (B, *F) → (B, D)."""

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, sample_NF: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_F", sample_NF.mean(dim=0))
        self.register_buffer("scale_F", 1 / (sample_NF.std(dim=0) + 1e-3 * sample_NF.std() + 1e-6))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Standardise and flatten."""
        return ((features_BF - self.mean_F) * self.scale_F).flatten(1)


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


def _network(evidence: Evidence, name: str, outputs: int, *, seed: int, back_file: Path) -> nn.Module:
    config, shape = evidence.config, evidence.feature_shape
    if name in ("deep", "fine-tuned"):
        if config.method == "cloud":
            network = zoo.build(**{**config.whole(outputs), "seed": seed})
        else:
            network = divide(**{**config.division(outputs), "seed": seed}).back
        if name == "fine-tuned":
            fresh = network.state_dict()
            trained = load_file(back_file)
            # All but the last layer, which has another number of outputs.
            network.load_state_dict(
                {k: v for k, v in trained.items() if k in fresh and v.shape == fresh[k].shape}, strict=False
            )
        return network
    pool = Pool(shape, {"linear": math.prod(shape), "linear-pooled": 1, "mlp": _MLP_COLUMNS}[name])
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "standardise"))
    some = torch.randperm(len(evidence.train), generator=generator)[:2048]
    standardise = Standardise(pool(evidence.draw(evidence.train, generator, some)))
    columns = standardise.mean_F.numel()
    if name != "mlp":
        return nn.Sequential(pool, standardise, nn.Linear(columns, outputs))
    return nn.Sequential(
        pool,
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


class _Draws:
    """Releases of the training images, batch by batch: fresh ones with noise, else one of each view, made once."""

    def __init__(self, evidence: Evidence, generator: torch.Generator) -> None:
        self.evidence, self.generator = evidence, generator
        self.views_VNF: tuple[Tensor, ...] = ()
        if not evidence.noisy:
            train = evidence.train
            self.views_VNF = tuple(
                evidence.draw(train, generator, view=view).to(train.views_VNF[view].dtype)
                for view in range(len(train.views_VNF))
            )

    def __call__(self, rows: Tensor) -> Tensor:
        if not self.views_VNF:
            return self.evidence.draw(self.evidence.train, self.generator, rows)
        chosen_B = torch.randint(len(self.views_VNF), (len(rows),), generator=self.generator)
        picked_VBF = torch.stack([view_NF[rows] for view_NF in self.views_VNF])
        return picked_VBF[chosen_B, torch.arange(len(rows))].float()


def _train(
    evidence: Evidence,
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
    device = pick_device(evidence.config.hardware.cloud_device, "hardware.cloud_device")
    network = network.to(device)
    if evidence.config.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "draws"))
    draws = _Draws(evidence, generator)
    val_NF = _val_releases(evidence)
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
    best_epoch = dict.fromkeys(attributes, 0)
    at_val: dict[str, Floats] = {}
    at_test: dict[str, Floats] = {}
    at_all: dict[str, tuple[Floats, Floats]] = {}
    repeated = _repeated_releases(evidence)
    begun = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(images, generator=generator)
        for part in order.split(size)[:per_epoch]:
            set_learning_rate(optimizer, peak=rate, step=step, steps=planned * per_epoch)
            features_BF = _placed(draws(part), evidence, device)
            with evidence.autocast(device.type):
                logits_BO = network(features_BF)
            loss = _balanced_loss(logits_BO, labels_NA[part].to(device), weights)
            loss.backward()
            apply_gradients(optimizer, clip_norm=5.0)
            step += 1
            if step == min(_TIMED_STEPS, per_epoch) and not math.isinf(clock.remaining()):
                planned = _affordable(clock, epochs, (time.perf_counter() - begun) / step * per_epoch)
            if step % 8 == 0:
                monitor.update(Update("audit", phase, min(step, planned * per_epoch), planned * per_epoch))
        val_scores = dict(zip(attributes, _scores(network, val_NF, outputs, evidence, device), strict=True))
        # Of equally good epochs the later one: where AUROC is 1 already, the margin still grows.
        better = [n for n in attributes if selection_score(val_scores[n], val_truth[n]) >= best[n]]
        if better:
            test_scores = dict(
                zip(attributes, _scores(network, evidence.test_features_NF, outputs, evidence, device), strict=True)
            )
            for name in better:
                best[name], best_epoch[name] = selection_score(val_scores[name], val_truth[name]), epoch
                at_val[name], at_test[name] = val_scores[name], test_scores[name]
            if repeated:
                val_all, test_all = (
                    dict(zip(attributes, _joint_scores(network, parts, outputs, evidence, device), strict=True))
                    for parts in repeated
                )
                at_all |= {name: (val_all[name], test_all[name]) for name in better}
        patience = max(4, planned // 3)
        stale = epoch - max(best_epoch.values()) >= patience
        if epoch + 1 >= planned or stale or clock.remaining() == 0:
            break
    monitor.update(Update("audit", phase, planned * per_epoch, planned * per_epoch))
    return Reading(at_val, at_test, at_all, epoch + 1, epochs, shortened=planned < epochs or clock.remaining() == 0)


def _affordable(clock: Clock, epochs: int, seconds_per_epoch: float) -> int:
    fit = int(clock.remaining() / seconds_per_epoch)
    if fit < min(_FEWEST_EPOCHS, epochs):
        raise OutOfTime(
            f"{_FEWEST_EPOCHS} epochs would take {_FEWEST_EPOCHS * seconds_per_epoch:.0f} s; "
            f"its share of the budget was {clock.remaining():.0f} s"
        )
    return min(epochs, fit)


def _val_releases(evidence: Evidence) -> Tensor:
    """The attacker's validation images, each released ``_VAL_DRAWS`` times where there is noise: (M, *F)."""
    generator = torch.Generator().manual_seed(derive_seed(evidence.config.seed, "audit", "val"))
    draws = _VAL_DRAWS if evidence.noisy else 1
    return torch.cat([evidence.draw(evidence.val, generator, view=0) for _ in range(draws)])


def _repeated_releases(evidence: Evidence) -> tuple[list[Tensor], list[Tensor]] | None:
    """As many releases of each validation and each protected image as a training image has; None where that is one.

    The protected images crossed the link once; these are simulated, to say what an attacker has on a training image.
    """
    releases = min(evidence.config.releases, _MOST_RELEASES)
    if not evidence.noisy or releases < 2:
        return None
    generator = torch.Generator().manual_seed(derive_seed(evidence.config.seed, "audit", "releases"))
    rows = torch.arange(len(evidence.test))
    bounded_NF = torch.cat([evidence.bounded(evidence.images(evidence.test, part)) for part in rows.split(_BATCH)])
    at_val = [evidence.draw(evidence.val, generator, view=0) for _ in range(releases)]
    at_test = [
        torch.cat([evidence.release(part, generator) for part in bounded_NF.split(evidence.batch_size)])
        for _ in range(releases)
    ]
    return at_val, at_test


def _joint_scores(
    network: nn.Module,
    releases_RNF: Sequence[Tensor],
    outputs: Sequence[int],
    evidence: Evidence,
    device: torch.device,
) -> list[Floats]:
    """What the network says of all releases of an image together: the product of its answers (their noise differs)."""
    scores = [_scores(network, features_NF, outputs, evidence, device) for features_NF in releases_RNF]
    joint = []
    for each in zip(*scores, strict=True):
        logs_NK = sum(np.log(np.maximum(scores_NK, 1e-9)) for scores_NK in each)
        shares_NK = np.exp(logs_NK - np.max(logs_NK, axis=1, keepdims=True))
        joint.append(np.asarray(shares_NK / shares_NK.sum(axis=1, keepdims=True)))
    return joint


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
def _scores(
    network: nn.Module, features_NF: Tensor, outputs: Sequence[int], evidence: Evidence, device: torch.device
) -> list[Floats]:
    """Probabilities (N, K) for each attribute."""
    network.eval()
    with evidence.autocast(device.type):
        logits_NO = torch.cat([network(_placed(part, evidence, device)).float() for part in features_NF.split(256)])
    return [
        torch.softmax(logits_NK, dim=1).double().cpu().numpy() for logits_NK in logits_NO.split(list(outputs), dim=1)
    ]


def _placed(features_BF: Tensor, evidence: Evidence, device: torch.device) -> Tensor:
    features_BF = features_BF.to(device)
    channels_last = evidence.config.train.channels_last and features_BF.dim() == 4
    return features_BF.contiguous(memory_format=torch.channels_last) if channels_last else features_BF


# -- codewords


def _read_by_posterior(evidence: Evidence, attributes: Sequence[str]) -> Reading:
    """P(class | release) ∝ Σ_k P(codeword k | class) · P(release | k): counted, and exact in the noise law (Bayes)."""
    mechanism = evidence.mechanism
    assert isinstance(mechanism, Discrete)
    codes_N = torch.cat([view_NF.argmax(dim=1) for view_NF in evidence.train.views_VNF])
    at_val: dict[str, Floats] = {}
    at_test: dict[str, Floats] = {}
    outcomes_OK = mechanism.outcomes() if evidence.noisy else torch.eye(mechanism.codewords)
    channel_KO = (mechanism.channel() if evidence.noisy else torch.eye(mechanism.codewords)).double().numpy()
    val_N, test_N = (
        torch.cdist(released_NK, outcomes_OK).argmin(dim=1).numpy()
        for released_NK in (_val_releases(evidence), evidence.test_features_NF)
    )
    for name in attributes:
        labels_N = evidence.train.labels[name].repeat(len(evidence.train.views_VNF))
        counts_SK = np.full((len(evidence.classes[name]), mechanism.codewords), 1e-3)
        known = (labels_N >= 0).numpy()
        np.add.at(counts_SK, (labels_N.numpy()[known], codes_N.numpy()[known]), 1.0)
        likelihood_SO = counts_SK / counts_SK.sum(axis=1, keepdims=True) @ channel_KO
        posterior_OS = (likelihood_SO / likelihood_SO.sum(axis=0)).T
        at_val[name], at_test[name] = posterior_OS[val_N], posterior_OS[test_N]
    return Reading(at_val, at_test, {}, 1, 1, shortened=False)


# -- trees


def _read_with_trees(
    evidence: Evidence,
    attack: Attack,
    attributes: Sequence[str],
    *,
    rate: float,
    seed: int,
    clock: Clock,
    monitor: Monitor,
    phase: str,
) -> Reading:
    pool = Pool(evidence.feature_shape, _TREE_COLUMNS)
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "draws"))
    train: Auxiliary = evidence.train
    draws = _TREE_DRAWS if evidence.noisy else 1
    views = range(len(train.views_VNF))
    train_ND = torch.cat(
        [_pooled(pool, evidence.draw(train, generator, view=view)) for _ in range(draws) for view in views]
    ).numpy()
    val_ND = _pooled(pool, _val_releases(evidence)).numpy()
    test_ND = _pooled(pool, evidence.test_features_NF).numpy()
    at_val: dict[str, Floats] = {}
    at_test: dict[str, Floats] = {}
    longest = 0.0
    for place, name in enumerate(attributes):
        if longest > clock.remaining():
            raise OutOfTime(
                f"trees take {longest:.0f} s for each of {len(attributes)} attributes; "
                f"after {place} of them {clock.remaining():.0f} s were left"
            )
        begun = time.perf_counter()
        labels = np.tile(train.labels[name].numpy(), draws * len(views))
        truth = val_labels(evidence, name)
        known, val_known = labels >= 0, truth >= 0
        _, at_val[name], at_test[name] = fit_trees(
            train_ND[known],
            labels[known],
            val_ND[val_known],
            truth[val_known],
            val_ND,
            test_ND,
            classes=len(evidence.classes[name]),
            learning_rate=rate,
            rounds=attack.epochs,
            seed=seed,
        )
        longest = max(longest, time.perf_counter() - begun)
        monitor.update(Update("audit", phase, place + 1, len(attributes)))
    return Reading(at_val, at_test, {}, attack.epochs, attack.epochs, shortened=False)


def _pooled(pool: nn.Module, features_NF: Tensor) -> Tensor:
    return torch.cat([pool(part).flatten(1) for part in features_NF.split(1024)])
