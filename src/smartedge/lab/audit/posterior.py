"""Attackers that compute and do not learn: the posterior of an attribute given what was released."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smartedge.lab.audit.attacks import Reading
from smartedge.lab.audit.certificate.posterior import posterior_attack
from smartedge.lab.audit.crowd import numbered
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.inputs import val_releases
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats

__all__ = ["read_by_mixture", "read_by_posterior"]


_WORK = 5e8  # releases times own images that are compared, for four numbers: some seconds


def read_by_posterior(evidence: Evidence, attributes: Sequence[str]) -> Reading:
    """Compute P(class | releases, label) ∝ Σ_k P(k | class, label) · Π_r P(release r | k).

    The first factor is counted on the attacker's own images; the second is exact. It depends only on how many of the
    image's releases contain codeword k, because each release has one of two probabilities.
    """
    channel_KO, train = evidence.mechanism.channel(), evidence.train
    assert channel_KO is not None
    codes_N = torch.cat([view_NF.argmax(dim=1) for view_NF in train.views_VNF]).numpy()
    single = evidence.labelled and evidence.task.kind == "single"
    groups = evidence.task.outputs if single else 1

    def group_of(desired_N: Tensor) -> NDArray[np.int64]:
        return desired_N.numpy() if single else np.zeros(len(desired_N), dtype=np.int64)

    group_N = np.tile(group_of(train.desired), len(train.views_VNF))
    seen = [
        (torch.round(released_NK * evidence.releases).double().numpy() * evidence.log_odds, group_of(desired_N))
        for released_NK, desired_N in (val_releases(evidence), (evidence.test_features_NF, evidence.test_desired))
    ]
    scores: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    for name in attributes:
        labels_N = np.tile(train.labels[name].numpy(), len(train.views_VNF))
        counts_GSK = np.full((groups, len(evidence.classes[name]), len(channel_KO)), 1e-3)
        known = labels_N >= 0
        np.add.at(counts_GSK, (group_N[known], labels_N[known], codes_N[known]), 1.0)
        # All classes are treated as equally frequent over all groups together, not within each group.
        share_GSK = counts_GSK / counts_GSK.sum(axis=(0, 2), keepdims=True)
        for into, (weight_NK, of_N) in zip(scores, seen, strict=True):
            odds_NK = np.exp(weight_NK - weight_NK.max(axis=1, keepdims=True))
            likelihood_NS = np.einsum("nk,nsk->ns", odds_NK, share_GSK[of_N])
            into[name] = likelihood_NS / likelihood_NS.sum(axis=1, keepdims=True)
    return Reading(*scores, 1, 1)


def read_by_mixture(evidence: Evidence, attributes: Sequence[str]) -> Reading:
    """P(class | release, label), each class taken for the mixture of the release laws of the attacker's own images.

    Of many images, some at random: as many as a few seconds allow.
    """
    train, law, numbers = evidence.train, evidence.law, math.prod(evidence.feature_shape)
    assert law is not None
    views = len(train.views_VNF)
    sides = (val_releases(evidence), (evidence.test_features_NF, evidence.test_desired))
    most = int(_WORK / sum(len(released_NF) for released_NF, _ in sides) / max(1, numbers / 4))
    rng = np.random.default_rng(derive_seed(evidence.seed, "audit", "mixture"))
    rows = rng.permutation(views * len(train))[: max(most, 100)]
    own_NF = torch.cat(train.views_VNF).float().numpy()[rows]
    own_N, *codes_of = numbered([train.desired.numpy(), *(desired_N.numpy() for _, desired_N in sides)])
    own_labels_N = np.tile(own_N, views)[rows] if evidence.labelled else None
    scores: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    for name in attributes:
        classes_N = np.tile(train.labels[name].numpy(), views)[rows]
        for into, (released_NF, _), codes_N in zip(scores, sides, codes_of, strict=True):
            into[name] = posterior_attack(
                law,
                own_NF,
                classes_N,
                released_NF.numpy()[None],  # the mean of all releases is sufficient
                classes=len(evidence.classes[name]),
                own_labels_N=own_labels_N,
                labels_M=codes_N if evidence.labelled else None,
            )
    return Reading(*scores, 1, 1)
