"""Finds edges that do not fit the others, and caps what they change.

Two robust statistics are kept for each edge. Its training loss, of late: wrong labels make it large. The mean of its
features: another camera, a broken lens or a wrong front moves it. Both are compared with the median over the edges, in
units of the median absolute deviation, which up to half of the edges cannot move far.

An honest edge with unusual data is an outlier too. So nothing is capped unless ``fleet.max_influence`` is set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartedge.types import Features

__all__ = ["Influence"]

_FEWEST = 4  # edges that are needed to say what is usual
_LATEST = 0.1  # weight of the latest window in the running means
_FIRST = 10  # frames of an edge with which later ones are compared
_WINDOWS = 20  # windows of an edge before it is judged
_FAR = 5.0  # robust standard deviations
_LEAST_SHARE, _LEAST = 0.05, 0.05  # of the median, and in nats: the spread counts as no less
_MAD = 1.4826  # the standard deviation of a normal law, in median absolute deviations


class Influence:
    """Losses and features of each edge, and the edges that are capped.

    Args:
        most: share of its images that an outlier keeps; None: nothing is capped.
    """

    def __init__(self, most: float | None) -> None:
        self._most = most
        self.capped: tuple[str, ...] = ()
        self._losses: dict[str, float] = {}
        self._windows: dict[str, int] = {}
        self._means: dict[str, NDArray[np.float64]] = {}
        self._first: dict[str, NDArray[np.float64]] = {}  # mean over the first frames
        self._frames: dict[str, int] = {}  # seen

    def see(self, edge: str, features_BF: Features) -> None:
        """Take the features of a frame into the edge's mean."""
        mean_D = features_BF.reshape(len(features_BF), -1).mean(axis=0, dtype=np.float64)
        known_D = self._means.get(edge)
        self._means[edge] = mean_D if known_D is None else known_D + _LATEST * (mean_D - known_D)
        seen = self._frames[edge] = self._frames.get(edge, 0) + 1
        if seen <= _FIRST:
            self._first[edge] = mean_D if seen == 1 else self._first[edge] + (mean_D - self._first[edge]) / seen

    def note(self, edge_B: NDArray[np.str_], loss_B: NDArray[np.float64]) -> None:
        """Take the training loss of each image of a step into the mean of the edge that sent it."""
        for edge in np.unique(edge_B).tolist():
            loss = float(loss_B[edge_B == edge].mean())
            known = self._losses.get(edge, loss)
            self._losses[edge] = known + _LATEST * (loss - known)
            self._windows[edge] = self._windows.get(edge, 0) + 1

    def judge(self) -> None:
        """Cap the edges whose loss lies far above that of the others; let go those whose loss does not any more."""
        judged = {edge: loss for edge, loss in self._losses.items() if self._windows[edge] >= _WINDOWS}
        if self._most is None or len(judged) < _FEWEST:
            return
        losses = np.array(list(judged.values()))
        middle = float(np.median(losses))
        spread = max(_MAD * float(np.median(np.abs(losses - middle))), _LEAST_SHARE * middle, _LEAST)
        far = {edge for edge, loss in judged.items() if loss > middle + _FAR * spread}
        if self._most == 0:  # no loss of it is measured any more
            far |= set(self.capped)
        self.capped = tuple(sorted(far))

    def kept(self, images: int) -> int:
        """How many images of a frame of a capped edge are learned from."""
        return images if self._most is None else round(self._most * images)

    def loss(self, edge: str) -> float | None:
        """The running mean of the training loss on the edge's images; None where there is none."""
        return self._losses.get(edge)

    def distances(self) -> dict[str, float]:
        """Edge → how far its features' mean lies from the median edge's, in robust standard deviations.

        Edges with equally many numbers are compared: those with one cut. Three at least are needed.
        """
        found: dict[str, float] = {}
        for edges in self._alike():
            means_ED = np.stack([self._means[edge] for edge in edges])
            away_E = np.linalg.norm(means_ED - np.median(means_ED, axis=0), axis=1)
            usual = _MAD * float(np.median(away_E))
            found |= {edge: float(away) / max(usual, 1e-12) for edge, away in zip(edges, away_E, strict=True)}
        return found

    def drifts(self) -> dict[str, float]:
        """Edge → how far its features' mean moved since its first frames, divided by how far the median edge's moved.

        Edges are compared as in :meth:`distances`.
        """
        found: dict[str, float] = {}
        for edges in self._alike():
            moved = {edge: float(np.linalg.norm(self._means[edge] - self._first[edge])) for edge in edges}
            usual = float(np.median(list(moved.values())))
            found |= {edge: each / max(usual, 1e-12) for edge, each in moved.items()}
        return found

    def _alike(self) -> list[list[str]]:
        """The edges whose features have equally many numbers; three at least."""
        sizes = sorted({mean_D.size for mean_D in self._means.values()})
        groups = [[edge for edge in sorted(self._means) if self._means[edge].size == size] for size in sizes]
        return [group for group in groups if len(group) >= 3]
