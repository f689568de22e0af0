"""Shredder: noise tensors are learned for a network that stays as it is.

Mireshghallah, Taram, Ramrakhyani, Jalali, Tullsen and Esmaeilzadeh, "Shredder: Learning Noise Distributions to Protect
Inference Privacy" (ASPLOS 2020, arXiv 1905.11814), its loss: a noise tensor n is drawn from a Laplace distribution and
trained with the network's weights frozen, ``loss = CE(task of z + n) − λ · Σ|nᵢ|``: large noise that the task can bear.
Several tensors are trained. For each image that is sent, one of them is drawn and added.

Simplified: the tensors themselves are the collection; the paper also fits a Laplace distribution to each of them, and
draws new tensors of the same order of magnitudes. The noise is one of a few known tensors, so it is no noise law that
could hide one image among others: nothing can be certified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from published.learner import Defence

__all__ = ["LearnedNoise", "shredder_loss"]


class LearnedNoise(Defence):
    """A collection of noise tensors (N, *F).

    Args:
        feature_shape: F.
        tensors: how many are learned.
        scale: b of the Laplace distribution from which they start, in the features' units.
        seed: of the start, and of what is drawn for an image.
    """

    def __init__(self, feature_shape: tuple[int, ...], tensors: int, scale: float, *, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        uniform_NF = torch.rand((tensors, *feature_shape), generator=self.generator) - 0.5
        start_NF = -scale * uniform_NF.sign() * torch.log1p(-2 * uniform_NF.abs().clamp(max=0.4999999))
        self.noise_NF = nn.Parameter(start_NF)

    def release(self, features_BF: Tensor) -> Tensor:
        chosen_B = torch.randint(len(self.noise_NF), (len(features_BF),), generator=self.generator)
        return features_BF + self.noise_NF[chosen_B].to(features_BF.dtype)

    def fit(
        self,
        batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
        task: nn.Module,
        *,
        rate: float,
        epochs: int,
        lr: float,
    ) -> None:
        """Train the tensors.

        Args:
            batches: gives the pairs of features and desired labels of one epoch.
            task: the frozen rest of the network, features (B, *F) → logits (B, K).
            rate: λ, for the *mean* of ``|nᵢ|`` over the numbers of a tensor.
            epochs: passes over the batches.
            lr: of Adam.
        """
        task.eval().requires_grad_(False)
        optimizer = torch.optim.Adam([self.noise_NF], lr=lr)
        for _ in range(epochs):
            for features_BF, labels_B in batches():
                loss = shredder_loss(task(self.release(features_BF)), labels_B, self.noise_NF, rate)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()


def shredder_loss(logits_BK: Tensor, labels_B: Tensor, noise_NF: Tensor, rate: float) -> Tensor:
    """``CE − λ · mean|n|``: the task's loss, less a reward for the size of the noise."""
    return F.cross_entropy(logits_BK.float(), labels_B) - rate * noise_NF.abs().mean()
