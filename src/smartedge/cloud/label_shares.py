"""How often each edge sends each label, and what the back's answers are corrected by.

The edges' labels may be skewed: one edge sends mostly cats, another one mostly ships. Features show which edge sent
them, above all where each edge trains a front of its own. So the back learns to answer by the edge: what comes from the
first one is a cat. That is right for the training images, and wrong for any other image.

Logit adjustment (Menon et al., arXiv 2007.07314, section 4) prevents it. In training ``log(share of the label at this
edge ÷ share at all edges)`` is added to the logits. The loss is then small without the back knowing the edge. In
evaluation nothing is added. Where all edges have equal shares the correction is zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartedge.methods.back_step import label_channel
from smartedge.types import Labels

__all__ = ["LabelShares"]

_PRIOR = 20.0  # images: an edge's shares begin at those of all edges, as if it had sent so many with them
_LEAST = 1e-3  # a share counts as no less, since randomised labels can give an estimate of zero or below


class LabelShares:
    """Counts the labels of each edge.

    Args:
        label_epsilon: with which labels are randomised; None: they are clear.
    """

    def __init__(self, label_epsilon: float | None) -> None:
        self._label_epsilon = label_epsilon
        self._counts: dict[str, NDArray[np.float64]] = {}  # edge -> images of each class; (2, K) no and yes of columns

    def clear(self) -> None:
        """Forget all edges."""
        self._counts.clear()

    def see(self, edge: str, labels: Labels | NDArray[np.uint8], outputs: int) -> None:
        """Count labels, (B,) or (B, K), of an edge. ``outputs`` is K."""
        if labels.ndim == 1:
            counts = np.bincount(labels.astype(np.int64), minlength=outputs).astype(np.float64)
        else:
            counts = np.stack([(labels == value).sum(axis=0, dtype=np.float64) for value in (0, 1)])  # some are blank
        known = self._counts.get(edge)
        self._counts[edge] = counts if known is None else known + counts

    def offsets(self, edge_B: NDArray[np.str_]) -> NDArray[np.float32] | None:
        """What is added to the logits of images of these edges, float32 (B, K). None where only one edge is known."""
        if len(self._counts) < 2:
            return None
        total = np.sum(list(self._counts.values()), axis=0)
        pooled = total / total.sum(axis=0)
        known, index_B = np.unique(edge_B, return_inverse=True)
        rows = []
        for edge in known.tolist():
            counts = self._counts.get(edge, 0 * total)
            shares = (counts + _PRIOR * pooled) / (counts.sum(axis=0) + _PRIOR)
            ratio = np.log(self._true(shares)) - np.log(self._true(pooled))
            rows.append(ratio if ratio.ndim == 1 else ratio[1] - ratio[0])
        return np.stack(rows).astype(np.float32)[index_B]

    def _true(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The shares of the true labels, (K,) or (2, K), from those of randomised ones: q = p T, so p = q T⁻¹."""
        if self._label_epsilon is not None:
            kind, outputs = ("single", len(shares)) if shares.ndim == 1 else ("multi", shares.shape[1])
            channel_JJ = label_channel(self._label_epsilon, outputs, kind).double().numpy()
            shares = np.linalg.solve(channel_JJ.T, shares)
        shares = shares.clip(min=_LEAST)
        true: NDArray[np.float64] = shares / shares.sum(axis=0)
        return true

    def state(self) -> dict[str, list[float] | list[list[float]]]:
        """For a checkpoint."""
        return {edge: counts.tolist() for edge, counts in self._counts.items()}

    def load_state(self, state: dict[str, list[float] | list[list[float]]]) -> None:
        """Restore a state."""
        self._counts = {edge: np.array(counts, np.float64) for edge, counts in state.items()}
