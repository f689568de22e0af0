"""MaxEnt-ARL: an adversary that is driven to the largest entropy.

Roy and Boddeti, "Mitigating Information Leakage in Image Representations: A Maximum Entropy Approach" (CVPR 2019,
arXiv 1904.05514), its game of three: the discriminator minimises its cross-entropy on the sensitive label; the encoder
minimises ``CE(target) + α · KL(D(s | z) ‖ uniform)``, which is ``log S`` minus the entropy of the discriminator's
answer. (The library's ``adversary.confusion: uniform`` has the two distributions in the other order.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from published.learner import Defence, Seen
from smartedge.methods.protected_step import as_constants
from smartedge.models.layout import Layout
from smartedge.models.suppression.trunk import trunk

__all__ = ["Adversary", "MaxEntropy", "divergence_from_uniform"]


class Adversary(nn.Module):
    """A head on features that learns the sensitive label beside the front, one step for each of the front's."""

    def __init__(self, shape: str, feature_shape: tuple[int, ...], layout: Layout, *, lr: float = 1e-3) -> None:
        super().__init__()
        hidden, width = trunk(shape, feature_shape, layout)
        self.network = nn.Sequential(hidden, nn.Linear(width, 2))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)

    def learn(self, features_BF: Tensor, sensitive_B: Tensor) -> None:
        """One step on features without their graph."""
        loss = F.cross_entropy(self.network(features_BF.detach()), sensitive_B)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def answer(self, features_BF: Tensor) -> Tensor:
        """Logits (B, 2), differentiable in the features alone."""
        with as_constants(self.network):
            logits_BS: Tensor = self.network(features_BF)
        return logits_BS


class MaxEntropy(Defence):
    def __init__(self, weight: float, adversary: Adversary) -> None:
        super().__init__()
        self.weight = weight
        self.adversary = adversary

    def penalty(self, features_BF: Tensor, seen: Seen) -> Tensor:
        self.adversary.learn(features_BF, seen.sensitive_B)
        return self.weight * divergence_from_uniform(self.adversary.answer(features_BF))


def divergence_from_uniform(logits_BS: Tensor) -> Tensor:
    """``KL(D ‖ uniform) = log S − entropy(D)``, mean over the batch: 0 for an even answer, log S for a sure one."""
    logs_BS = F.log_softmax(logits_BS.float(), dim=1)
    return math.log(logits_BS.shape[1]) + (logs_BS.exp() * logs_BS).sum(dim=1).mean()
