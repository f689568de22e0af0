"""Random projection: a random matrix maps the features to fewer numbers.

Liu, Kargupta and Ryan, "Random Projection-Based Multiplicative Data Perturbation for Privacy Preserving Distributed
Data Mining" (IEEE TKDE 18(1), 2006): ``u = R x / (√k σ_r)``, R a k×m matrix of independent normal numbers.
Inner products are kept in expectation. The matrix is drawn once, after the front is trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from published.learner import Defence

__all__ = ["RandomProjection"]


class RandomProjection(Defence):
    matrix_DK: Tensor

    def __init__(self, feature_shape: tuple[int, ...], numbers: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        matrix_DK = torch.randn(math.prod(feature_shape), numbers, generator=generator) / math.sqrt(numbers)
        self.register_buffer("matrix_DK", matrix_DK)

    def release(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → (B, K)."""
        return features_BF.float().flatten(1) @ self.matrix_DK
