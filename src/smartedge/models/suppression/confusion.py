"""What adversarial exits learn, and what the front minimises so that they cannot: losses, weights and targets.

**Letters.** ``z`` is what is released of an image, ``s`` its sensitive label (one of S classes), ``y`` its desired
label, ``D(s | z)`` an exit's answer. ``p`` are shares in the training images. Further shape letters: ``O`` as in
:mod:`smartedge.models.released`; ``Y`` is the number of desired classes (1 if the exit is not shown the desired label).

**What an exit learns.** It minimises a weighted cross-entropy, ``E[w(s, y) · −log D(s | z, y)]``. The minimum is at
``D ∝ p(s | z, y) · w(s, y)``. So an exit that finds nothing in z answers ``t(s | y) ∝ p(s | y) · w(s, y)``. The front
must drive the exit to this answer t, whatever the weights are. A term with another target would reward a front that
*writes* something about s into z.

**The confusion terms.**

===============  =====================================  ==================  =======================================
``confusion``    exit sees, learns with                 so t is             the front minimises
===============  =====================================  ==================  =======================================
``minimax``      z, w(s) = 1 / (S p(s))                 (equal shares)      −weighted cross-entropy
                                                                            (Ganin & Lempitsky 2015)
``uniform``      z, w(s) = 1 / (S p(s))                 equal shares        KL(t ‖ D)
``prior``        z, w = 1                               p(s)                KL(t ‖ D)
``conditional``  z and y, w(s, y) = 1 / (S p(s | y))    equal shares        KL(t ‖ D)
===============  =====================================  ==================  =======================================

The first three want z independent of s. Where s and y correlate, that contradicts the task: z must tell y, and y tells
something about s. ``conditional`` wants z independent of s *given* y. At its optimum an attacker learns nothing about s
beyond what the desired label itself tells (the label floor), and the term does not work against the desired label.
Its weights balance the sensitive classes within every desired class. The target is then "equal shares", and rare
combinations count as much as common ones. A combination that does not occur in training has weight and target 0.

The target stands first in the KL divergence. The gradient by the exit's logits is then ``D − t``, which does not vanish
where the exit is sure of its answer.

**Multi-label tasks** have too many combinations of y to count. There ``conditional`` learns without weights. A small
head is trained on the labels alone; its answer ``q(s | y)`` is the target t. An exit's logits are this head's logits
plus what the exit finds in z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Balance", "adversary_losses", "balance", "confusion_losses", "hsic", "rise_at"]

_HEAVIEST = 20.0  # weight of a rare combination at most; the target follows, see balance()


@dataclass(frozen=True)
class Balance:
    """The weights of an exit's loss, and the answer of an exit that finds nothing in z. Both float32 (Y, S)."""

    weights_YS: Tensor
    targets_YS: Tensor

    def rows(self, table_YS: Tensor, desired_B: Tensor | None) -> Tensor:
        """The row of each image, (B, S), or (1, S) where all have the same."""
        return table_YS if desired_B is None or len(table_YS) == 1 else table_YS[desired_B]


def balance(counts_YS: Tensor, confusion: str) -> Balance:
    """Weights and targets of one sensitive column.

    Args:
        counts_YS: how many training images have each combination of desired and sensitive class; Y is 1 where the
            exit is not shown the desired label.
        confusion: ``prior`` does not weight, the others balance the sensitive classes in each row. A weight is at most
            20; the targets are then those of the weights in force, as the module's text derives.
    """
    shares_YS = counts_YS.float() / counts_YS.sum(dim=1, keepdim=True).clamp(min=1)
    present_YS = (counts_YS > 0).float()
    if confusion == "prior":
        weights_YS = present_YS
    else:
        kinds_Y1 = present_YS.sum(dim=1, keepdim=True).clamp(min=1)
        weights_YS = (present_YS / (kinds_Y1 * shares_YS.clamp(min=1e-12))).clamp(max=_HEAVIEST)
    tilted_YS = shares_YS * weights_YS
    return Balance(weights_YS, tilted_YS / tilted_YS.sum(dim=1, keepdim=True).clamp(min=1e-12))


def adversary_losses(logits_BOS: Tensor, sensitive_B: Tensor, weights_BS: Tensor) -> Tensor:
    """Weighted cross-entropy of every image and outcome, (B, O): what an exit minimises."""
    found_BOS = F.log_softmax(logits_BOS.float(), dim=2)
    weights_B = weights_BS.expand(len(sensitive_B), -1).gather(1, sensitive_B[:, None]).squeeze(1)
    index_BO1 = sensitive_B[:, None, None].expand(*found_BOS.shape[:2], 1)
    return -weights_B[:, None] * found_BOS.gather(2, index_BO1).squeeze(2)


def confusion_losses(
    logits_BOS: Tensor, sensitive_B: Tensor, weights_BS: Tensor, targets_BS: Tensor, confusion: str
) -> Tensor:
    """What the front minimises, of every image and outcome, (B, O).

    ``minimax``: the negative of the exit's own loss. Otherwise ``KL(t ‖ D)``, 0 where the exit answers its target.

    Args:
        logits_BOS: an exit's answers.
        sensitive_B: int64 sensitive labels; only ``minimax`` looks at them.
        weights_BS: of the exit's loss, or (1, S).
        targets_BS: rows of t, or (1, S).
        confusion: one of the four terms.
    """
    if confusion == "minimax":
        return -adversary_losses(logits_BOS, sensitive_B, weights_BS)
    found_BOS = F.log_softmax(logits_BOS.float(), dim=2)
    targets_B1S = targets_BS[:, None, :]
    return (torch.xlogy(targets_B1S, targets_B1S) - targets_B1S * found_BOS).sum(dim=2)


def rise_at(step: int, steps: int, *, warmup: float) -> float:
    """The factor of a weight at a step, counted from 0, of ``steps``: from 0 to 1 over the share ``warmup``."""
    rising = warmup * steps
    return 1.0 if step >= rising else step / rising


def hsic(similarities_BB: Tensor, sensitive_B: Tensor, groups_B: Tensor | None = None) -> Tensor:
    """Kernel dependence of what is released on the sensitive label: ``tr(K H L H) / (m − 1)²``, a scalar ≥ 0.

    The biased estimator of Gretton et al. 2005 (eq. 9), with ``L`` the kernel that compares labels for equality and
    ``H = I − 1/m``. It is 0 for an infinite sample only where the two are independent (the kernel on z is
    characteristic).

    Args:
        similarities_BB: K, see :meth:`smartedge.models.released.SimulatedRelease.similarities`.
        sensitive_B: int64 labels.
        groups_B: int64; then dependence *within* each group (a desired class), averaged with the groups' sizes as
            weights. Groups of fewer than 4 images, or of one sensitive class, have nothing to say and count as 0.
    """
    total = similarities_BB.new_zeros(())
    groups = [None] if groups_B is None else [int(group) for group in groups_B.unique()]
    for group in groups:
        rows = torch.arange(len(sensitive_B), device=sensitive_B.device)
        rows = rows if group is None else rows[groups_B == group]
        size = len(rows)
        if size < 4:
            continue
        kernel_mm = similarities_BB[rows][:, rows]
        same_mm = (sensitive_B[rows, None] == sensitive_B[None, rows]).float()
        centred_mm = same_mm - same_mm.mean(dim=0, keepdim=True)
        centred_mm = centred_mm - centred_mm.mean(dim=1, keepdim=True)
        # tr(K H L H) = sum of K * (H L H), both symmetric.
        total = total + size / len(sensitive_B) * (kernel_mm * centred_mm).sum() / (size - 1) ** 2
    return total
