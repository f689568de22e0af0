"""NoPeek: distance correlation between image and features.

Vepakomma, Singh, Gupta and Raskar, "NoPeek: Information leakage reduction to share activations in distributed deep
learning" (ICDM Workshops 2020, arXiv 2008.09161), its loss: the front minimises ``α₁ · DCOR(X, Z) + α₂ · CE(Y)``.
Here α₂ is 1 and α₁ is ``weight``. Distance correlation is that of Székely, Rizzo and Bakirov (Annals of Statistics
35(6), 2007, definitions 4 and 5): of the batch, from its double-centred distances.

NoPeek protects the *image* against reconstruction. It does not know the sensitive label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from published.learner import Defence, Seen

__all__ = ["NoPeek", "distance_correlation"]


class NoPeek(Defence):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def penalty(self, features_BF: Tensor, seen: Seen) -> Tensor:
        return self.weight * distance_correlation(seen.inputs_BCHW, features_BF)


def distance_correlation(first_BF: Tensor, second_BF: Tensor) -> Tensor:
    """The sample distance correlation of two variables, a scalar from 0 to 1; 1 where one is the other, scaled.

    ``dCov² = mean(A · B)`` with A and B the double-centred distances, and
    ``dCor = √(dCov² / √(dVar²(first) dVar²(second)))``.
    It is 0 where one of the variables does not vary.
    """
    first_BB, second_BB = _centred_distances(first_BF), _centred_distances(second_BF)
    variances = (first_BB.square().mean() * second_BB.square().mean()).sqrt()
    return ((first_BB * second_BB).mean().clamp(min=1e-12) / variances.clamp(min=1e-12)).sqrt() * (variances > 1e-12)


def _centred_distances(rows_BF: Tensor) -> Tensor:
    rows_BD = rows_BF.float().flatten(1)
    squares_B = rows_BD.square().sum(dim=1)
    squared_BB = squares_B[:, None] + squares_B[None, :] - 2 * rows_BD @ rows_BD.T
    # What is left of equal rows is rounding: their distance is 0. The root has no gradient there, so it is not taken.
    apart_BB = squared_BB > 1e-6 * squares_B.max()
    distances_BB = torch.where(apart_BB, torch.where(apart_BB, squared_BB, 1.0).sqrt(), 0.0)
    return (
        distances_BB
        - distances_BB.mean(dim=0, keepdim=True)
        - distances_BB.mean(dim=1, keepdim=True)
        + distances_BB.mean()
    )
