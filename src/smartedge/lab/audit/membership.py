"""Membership of a release: were the released features made from a given candidate image?

The attacker sends the candidate through the white-box front and computes how likely the release is for it. The
statistic is −‖z − f(x)‖² for Gaussian noise and without noise, −‖z − f(x)‖₁ for Laplace noise. For codewords, it is
whether the release contains the candidate's codeword. A second statistic is calibrated: it subtracts the likelihood of
the release for the attacker's own images, because a release that is likely for every image says nothing. The better of
the two statistics counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from smartedge import metrics
from smartedge.artifacts.attacks import Membership, MembershipFigures
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.judge import balanced_accuracy_interval, choose_threshold
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats

__all__ = ["membership"]

_REFERENCES = 512  # own images that the calibrated statistic uses
_BATCH = 128

Likelihood = Callable[[Tensor, Tensor], Tensor]  # releases (N, D), candidates (M, D) → (N, M)


def membership(evidence: Evidence, *, clock: Clock) -> Membership:
    """Judge the attack on every protected image.

    Args:
        evidence: releases of the protected images, and the features behind them.
        clock: looked at after every batch.

    Raises:
        OutOfTime: the time is over.

    Returns:
        ``any`` (the false candidate is another test image) and ``same_label`` (one with the same desired label), each
        with ``auroc``, ``balanced_accuracy`` at a threshold chosen on one half of the images and judged on the other,
        ``ci95`` of it, ``statistic`` (``likelihood`` or ``calibrated``), ``pairs``. ``same_label`` is None where no
        two images share a label.
    """
    released_ND = evidence.test_features_NF.flatten(1)
    truth_ND = evidence.bounded_test_NF.flatten(1)
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, "audit", "membership"))
    chosen = torch.randperm(len(evidence.train), generator=generator)[:_REFERENCES]
    reference_MD = evidence.train.views_VNF[0][chosen].float().flatten(1)
    likelihood = _likelihood(evidence)
    expected = []
    for part in released_ND.split(_BATCH):
        clock.check()
        expected.append(torch.logsumexp(likelihood(part, reference_MD), dim=1))
    expected_N = torch.cat(expected)
    figures: dict[str, MembershipFigures | None] = {}
    for name, groups in (("any", None), ("same_label", evidence.test_desired)):
        clock.check()
        others = _others(len(released_ND), groups, generator)
        if others is None:
            figures[name] = None
            continue
        rows, false = others
        real_N, false_N = (
            torch.cat([likelihood(r[None], c[None])[0] for r, c in zip(released_ND[rows], truth_ND[of], strict=True)])
            for of in (rows, false)
        )
        shift_N = expected_N[rows]
        judged = {
            "likelihood": _judge(real_N.double().numpy(), false_N.double().numpy()),
            "calibrated": _judge((real_N - shift_N).double().numpy(), (false_N - shift_N).double().numpy()),
        }
        best = max(judged, key=lambda key: judged[key].auroc)
        figures[name] = judged[best].model_copy(update={"statistic": best})
    return Membership.model_validate(figures)


def _likelihood(evidence: Evidence) -> Likelihood:
    """Log-likelihood of each release for each candidate, up to a constant."""
    mechanism = evidence.mechanism
    if mechanism.channel() is not None:
        # The release contains the candidate's codeword, or it does not.
        weight = evidence.log_odds
        return lambda released_ND, candidate_MD: weight * (released_ND @ candidate_MD.T).double()
    sigma = mechanism.sigma if evidence.noisy else None
    if sigma is not None and mechanism.noise_norm == 1:
        scale = sigma / math.sqrt(2)
        return lambda released_ND, candidate_MD: -torch.cdist(released_ND, candidate_MD, p=1.0) / scale
    # Without noise only the codec's rounding differs. Its mean square distance is the scale.
    variance = _rounding(evidence) if sigma is None else sigma**2
    return lambda released_ND, candidate_MD: (
        -torch.cdist(released_ND, candidate_MD, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * variance)
    )


def _rounding(evidence: Evidence) -> float:
    """Mean square error of the codec, per number; a small positive number where the codec is exact."""
    sample_NF = evidence.train.views_VNF[0][: evidence.batch_size].float()
    coded_NF = evidence.release(sample_NF, torch.Generator().manual_seed(0))
    return max(float((coded_NF - sample_NF).flatten(1).square().mean()), 1e-6 * float(sample_NF.var()) + 1e-12)


def _others(count: int, groups: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Pair each image with another one, from the same group where groups are given. Single images are left out."""
    if groups is None:
        members = [torch.arange(count)]
    else:
        _, group_of = torch.unique(groups, dim=0, return_inverse=True)
        members = [torch.nonzero(group_of == g).flatten() for g in range(int(group_of.max()) + 1)]
    rows, others = [], []
    for group in members:
        if len(group) > 1:
            mixed = group[torch.randperm(len(group), generator=generator)]
            rows.append(mixed)
            others.append(mixed.roll(1))  # a cycle: no image is paired with itself
    return (torch.cat(rows), torch.cat(others)) if rows else None


def _judge(real_N: Floats, false_N: Floats) -> MembershipFigures:
    """Choose the threshold on the even positions and judge on the odd ones; AUROC is over all."""
    scores = np.concatenate([real_N, false_N])
    labels = np.repeat([1, 0], [len(real_N), len(false_N)]).astype(np.int64)
    half = np.concatenate([np.arange(len(real_N)), np.arange(len(false_N))]) % 2 == 0
    threshold = choose_threshold(scores[half], labels[half])
    right = (scores[~half] > threshold) == labels[~half]
    balanced, interval = balanced_accuracy_interval(labels[~half], right)
    area = metrics.evaluate(labels, np.stack([-scores, scores], axis=1), "single")["auroc"]
    assert area is not None
    return MembershipFigures(auroc=area, balanced_accuracy=balanced, ci95=interval, statistic="", pairs=len(labels))
