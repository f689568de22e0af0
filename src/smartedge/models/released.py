"""Simulated releases: what a head on the edge learns from is what would be released, and with what probability.

Noise on a feature map is drawn: every image has one outcome, its own noisy features. A release of codewords has few
outcomes, so the expectation over them is computed exactly: the head answers each outcome once, and an image's loss is
the mean of its losses over the outcomes, weighted by their probabilities. Both are one case here.

Letters beside those of :mod:`smartedge.types`: ``O`` outcomes that an image can have (1 where noise is drawn);
``N`` rows that a head answers (B where noise is drawn, O otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models.exits import probabilities

__all__ = ["SimulatedRelease"]


@dataclass(frozen=True)
class SimulatedRelease:
    """What would be released of a batch, as a head on the edge gets it.

    Attributes:
        features_NF: float32; one draw for each image (N = B), or all outcomes (N = O).
        shares_BO: float32, rows sum to 1: the probability of each outcome for each image; differentiable in the
            front's parameters. None where row ``n`` of the features is image ``n``.
    """

    features_NF: Tensor
    shares_BO: Tensor | None = None

    def detach(self) -> SimulatedRelease:
        """The same, apart from the graph."""
        return SimulatedRelease(self.features_NF.detach(), None if self.shares_BO is None else self.shares_BO.detach())

    def paired(self, answers_NX: Tensor) -> Tensor:
        """A head's answers (N, ...) to the rows, for every image and outcome: (B, O, ...)."""
        if self.shares_BO is None:
            return answers_NX.unsqueeze(1)
        return answers_NX.unsqueeze(0).expand(len(self.shares_BO), *answers_NX.shape)

    def answers(self, head: nn.Module) -> Tensor:
        """Logits (B, O, K) of a head that gets the features alone."""
        return self.paired(head(self.features_NF))

    def expect(self, values_BO: Tensor) -> Tensor:
        """The expectation over an image's outcomes: (B, O, ...) → (B, ...)."""
        if self.shares_BO is None:
            return values_BO.squeeze(1)
        shares = self.shares_BO.reshape(*self.shares_BO.shape, *[1] * (values_BO.dim() - 2))
        return (shares * values_BO).sum(dim=1)

    def mean_logits(self, logits_BOK: Tensor, task_kind: str) -> Tensor:
        """Logits (B, K), float32, of the mean answer: the expectation of a head's probabilities over the outcomes.

        Args:
            logits_BOK: a head's, as :meth:`answers` gives them.
            task_kind: ``single`` or ``multi``.
        """
        if self.shares_BO is None:
            return logits_BOK.squeeze(1).float()
        batch, outcomes, outputs = logits_BOK.shape
        scores_BOK = probabilities(logits_BOK.reshape(-1, outputs), task_kind).reshape(batch, outcomes, outputs)
        scores_BK = self.expect(scores_BOK)
        tiny = torch.finfo(torch.float32).tiny
        if task_kind == "single":
            return scores_BK.clamp(min=tiny).log()
        return scores_BK.clamp(min=tiny).log() - (1 - scores_BK).clamp(min=tiny).log()

    def similarities(self) -> Tensor:
        """How alike the releases of two images are, (B, B) in [0, 1].

        For :func:`smartedge.models.suppression.confusion.hsic`.

        Drawn noise: a Gaussian kernel ``exp(−d²/2σ²)`` on the flattened features, σ² the median of the squared
        distances d² (not differentiated). Outcomes: the probability that both images show the same one, which is the
        expectation of the kernel that compares outcomes for equality; 1 on the diagonal.
        """
        if self.shares_BO is not None:
            same_BB = self.shares_BO @ self.shares_BO.T
            return same_BB - torch.diag(same_BB.diagonal()) + torch.eye(len(same_BB), device=same_BB.device)
        rows_BD = self.features_NF.flatten(1)
        squares_B = rows_BD.square().sum(dim=1)
        distances_BB = (squares_B[:, None] + squares_B[None, :] - 2 * rows_BD @ rows_BD.T).clamp(min=0)
        apart = ~torch.eye(len(rows_BD), dtype=torch.bool, device=rows_BD.device)
        median = distances_BB.detach()[apart].median().clamp(min=1e-12)
        return torch.exp(-distances_BB / (2 * median))
