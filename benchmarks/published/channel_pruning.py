"""DISCO: a filter network chooses for each image the channels that are not sent.

Singh, Chopra, Vepakomma, Sharma, Garza, Zhang and Raskar, "DISCO: Dynamic and Invariant Sensitive Channel Obfuscation
for deep neural networks" (CVPR 2021, arXiv 2012.11025). The filter gives every channel a score. The share R of
channels with the lowest scores is set to zero, in training by a steep sigmoid around the threshold (temperature
1/30), so that the scores have a gradient. Three parts learn: an adversary its loss on the sensitive label from the
pruned features; the front the task alone; the filter ``(1 − α) · CE(task) − α · CE(adversary)``.

Simplified: the filter is two convolutions instead of a residual network, and images are not divided into tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from published.learner import Defence, Seen
from published.max_entropy import Adversary
from smartedge.models.exits import TaskExit

__all__ = ["ChannelPruning", "keep_of"]

_TEMPERATURE = 1 / 30


class ChannelPruning(Defence):
    """Prunes maps (B, C, H, W); ``keep`` of the C channels are sent."""

    def __init__(self, alpha: float, keep: int, feature_shape: tuple[int, ...], adversary: Adversary) -> None:
        super().__init__()
        self.alpha, self.keep = alpha, keep
        self.filter = TaskExit(feature_shape, feature_shape[0], width=64, depth=2, layout="channels-first")
        self.adversary = adversary

    def learned(self) -> Iterable[nn.Parameter]:
        return self.filter.parameters()

    def release(self, features_BF: Tensor) -> Tensor:
        mask_BC = self._mask(features_BF)
        # The task's gradient reaches the filter with the weight 1 − α, and the front with the weight 1.
        mask_BC = (1 - self.alpha) * mask_BC + self.alpha * mask_BC.detach()
        return features_BF * mask_BC[:, :, None, None]

    def penalty(self, features_BF: Tensor, seen: Seen) -> Tensor:
        """−α · CE(adversary): only the filter feels it, not the front."""
        features_BF = features_BF.detach()
        pruned_BF = features_BF * self._mask(features_BF)[:, :, None, None]
        self.adversary.learn(pruned_BF, seen.sensitive_B)
        return -self.alpha * F.cross_entropy(self.adversary.answer(pruned_BF), seen.sensitive_B)

    def _mask(self, features_BF: Tensor) -> Tensor:
        scores_BC = self.filter(features_BF.detach()).float()
        return keep_of(scores_BC, self.keep, soft=self.training)

    @property
    def sent_bytes(self) -> int:
        """Bytes of the mask that travels with the kept channels: one bit for each channel."""
        return math.ceil(self.filter.classify.out_features / 8)


def keep_of(scores_BC: Tensor, keep: int, *, soft: bool) -> Tensor:
    """1 for the ``keep`` channels with the highest scores, 0 for the others; float32 (B, C).

    ``soft``: a sigmoid of the temperature 1/30 around the middle between the last kept and the first pruned score.
    """
    ranked_BC = scores_BC.sort(dim=1, descending=True).values
    if keep >= scores_BC.shape[1]:
        return torch.ones_like(scores_BC)
    threshold_B1 = (ranked_BC[:, keep - 1 : keep] + ranked_BC[:, keep : keep + 1]) / 2
    if soft:
        return torch.sigmoid((scores_BC - threshold_B1) / _TEMPERATURE)
    mask_BC = torch.zeros_like(scores_BC)
    return mask_BC.scatter(1, scores_BC.topk(keep, dim=1).indices, 1.0)
