"""The evidence of given features: the attackers' own ones, and releases of the protected ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.codec import get_codec
from smartedge.lab.audit.evidence import Auxiliary, Crossing, Evidence, Persons
from smartedge.lab.audit.features.deep import deep_network
from smartedge.lab.audit.features.table import Column, FeatureTable
from smartedge.methods.differentiable import differentiable
from smartedge.models.layout import layout_of_shape
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.machine import pick_device
from smartedge.runs.seeds import derive_seed
from smartedge.types import SplitName, Task

__all__ = ["FeaturesEvidence", "evidence_of"]

_BATCH = 128
_ROWS = 1024  # images that are taken together, at most
_NUMBERS = 2**18  # of them, at most
_FARTHEST = 1e6  # deviations from the mean
_NO_LABEL = Task("single", (), ("any",))  # where there is no desired label: it tells nothing


@dataclass(frozen=True, kw_only=True)
class FeaturesEvidence(Evidence):
    """The evidence of features that somebody else computed. There are no images, no front and no back."""

    digest: str  # of the features and labels
    columns: tuple[str, ...]  # sensitive ones
    chosen_seed: int
    sent: Crossing
    clean_test_NF: Tensor

    @property
    def seed(self) -> int:
        """As the caller chose it."""
        return self.chosen_seed

    @property
    def sensitive(self) -> tuple[str, ...]:
        """All columns that are read."""
        return self.columns

    @property
    def crossing(self) -> Crossing:
        """As the caller stated it."""
        return self.sent

    @property
    def batch_size(self) -> int:
        """Images that are released together."""
        return _BATCH

    @property
    def device(self) -> torch.device:
        """The best one of this machine."""
        return pick_device("auto", "device")

    @property
    def half_precision(self) -> bool:
        """No."""
        return False

    @property
    def channels_last(self) -> bool:
        """No."""
        return False

    @property
    def origin(self) -> object:
        """A digest of the features and labels, and the seed."""
        return [self.digest, self.chosen_seed]

    @property
    def own_split(self) -> str:
        """``train``."""
        return "train"

    @property
    def bounded_test_NF(self) -> Tensor:
        """The protected features, clipped."""
        return self.clean_test_NF

    def deep_network(self, outputs: int, *, seed: int) -> nn.Module:
        """A residual network, or a transformer for tokens."""
        return deep_network(self.feature_shape, self.layout, outputs)


def evidence_of(table: FeatureTable, mechanism: Mechanism, *, sent: Crossing, seed: int) -> FeaturesEvidence:
    """Clip the features, and release the protected ones once.

    Args:
        table: the features, clean ones if the mechanism adds noise.
        mechanism: makes the releases.
        sent: what else crosses.
        seed: seed of noise and attackers.
    """
    shape = tuple(table.features_NF.shape[1:])
    twin = differentiable(mechanism)
    rows = {split: torch.from_numpy(places) for split, places in table.splits.items()}
    noisy = mechanism.name != "none"
    features_NF = torch.from_numpy(table.features_NF)
    if noisy:
        # By the mechanism itself: its twin takes norms in float32, which are infinite from 1.8e19 on.
        bounded_NF = torch.cat([torch.from_numpy(mechanism.bound(part.numpy())) for part in features_NF.split(_ROWS)])
    else:
        bounded_NF = _of_one_scale(features_NF, rows["train"])
    test_NF = bounded_NF[rows["test"]]
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit", "release"))
    released = [twin.simulate(part, generator=generator) for part in test_NF.split(_BATCH)] if noisy else [test_NF]
    desired_N = torch.zeros(len(bounded_NF), dtype=torch.int64)
    task = _NO_LABEL
    if table.desired is not None:
        task, desired_N = Task("single", ("labels",), table.desired.classes), torch.from_numpy(table.desired.codes_N)

    def labels(columns: tuple[Column, ...], split: SplitName) -> dict[str, Tensor]:
        return {column.name: torch.from_numpy(column.codes_N)[rows[split]] for column in columns}

    def own(split: SplitName) -> Auxiliary:
        seen = False if table.made else None
        return Auxiliary((bounded_NF[rows[split]],), labels(table.sensitive, split), desired_N[rows[split]], seen=seen)

    persons = None
    if table.persons_N is not None:
        persons_N = torch.from_numpy(table.persons_N)
        persons = Persons("persons", persons_N[rows["train"]], persons_N[rows["val"]], persons_N[rows["test"]])
    return FeaturesEvidence(
        name="defended",
        task=task,
        feature_shape=shape,
        layout="codeword" if mechanism.channel() is not None else layout_of_shape(shape),
        mechanism=mechanism,
        noisy=noisy,
        codec=get_codec("float32"),
        classes={column.name: column.classes for column in table.sensitive},
        train=own("train"),
        val=own("val"),
        test_ids=rows["test"],
        test_features_NF=torch.cat(released),
        test_labels=labels(table.sensitive, "test"),
        test_desired=desired_N[rows["test"]],
        exit_scores={},
        persons=persons,
        digest=table.digest(),
        columns=tuple(column.name for column in table.sensitive),
        chosen_seed=seed,
        sent=sent,
        clean_test_NF=test_NF,
    )


def _of_one_scale(features_NF: Tensor, own: Tensor) -> Tensor:
    """Each number with mean 0 and deviation 1 over the images ``own``; 0 where it is the same in all of these.

    It tells an attacker the same. But a network learns nothing from numbers of 1e-30, nor from small ones beside large.
    """
    rows = max(1, min(_ROWS, _NUMBERS // features_NF[0].numel()))  # so that a part stays in the processor's cache
    parts = features_NF[own].split(rows)
    mean_F = sum((part.double().sum(dim=0) for part in parts[1:]), parts[0].double().sum(dim=0)) / len(own)
    first, *others = ((part.double() - mean_F).square_().sum(dim=0) for part in parts)
    deviation_F = (sum(others, first) / len(own)).sqrt()
    varies_F = torch.zeros_like(mean_F, dtype=torch.bool)
    for part in parts:
        varies_F |= (part != parts[0][0]).any(dim=0)
    scale_F = torch.where(varies_F, 1 / deviation_F, 0.0)
    scaled_NF = torch.empty_like(features_NF)
    for part, into in zip(features_NF.split(rows), scaled_NF.split(rows), strict=True):
        into.copy_(part.double().sub_(mean_F).mul_(scale_F).clamp_(-_FARTHEST, _FARTHEST))
    return scaled_NF
