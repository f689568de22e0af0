"""Shares the cloud's training fairly among edges.

Stride scheduling (Waldspurger and Weihl, MIT/LCS/TM-528, 1995): every edge has a clock, which a frame of it moves by
1/weight. The edge whose clock is behind gives the next frame. An edge that had nothing to give gets no credit for that
time: its clock is set to the present one when it comes back. So neither a silent edge nor one that sends much takes
anything from the others.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FairShare", "capped"]

_MOST_OF_MEDIAN = 4.0  # an edge's announced images count as no more than this many times the median edge's


class FairShare:
    """The clocks of the edges."""

    def __init__(self) -> None:
        self._clocks: dict[str, float] = {}
        self._now = 0.0
        self._waiting: set[str] = set()

    def draw(self, ready: Mapping[str, int], weights: Mapping[str, float], size: int) -> list[str]:
        """The edges of the next frames, one for each frame, in order.

        Args:
            ready: edge → how many frames it has to give.
            weights: edge → its share, in any unit; all larger than 0.
            size: how many frames are wanted. Fewer are drawn where fewer are ready.
        """
        left = {edge: count for edge, count in ready.items() if count > 0}
        for edge in left.keys() - self._waiting:
            self._clocks[edge] = max(self._clocks.get(edge, 0.0), self._now)
        drawn: list[str] = []
        while left and len(drawn) < size:
            edge = min(left, key=lambda name: (self._clocks[name] + 1 / weights[name], name))
            self._clocks[edge] += 1 / weights[edge]
            drawn.append(edge)
            left[edge] -= 1
            if not left[edge]:
                del left[edge]
        self._waiting = set(left)
        if left:
            self._now = max(self._now, min(self._clocks[edge] for edge in left))
        elif drawn:
            self._now = max(self._now, max(self._clocks[edge] for edge in drawn))
        return drawn


def capped(announced: Mapping[str, int]) -> dict[str, float]:
    """Weights from the number of training images that each edge announced.

    No edge counts as more than four times the median edge, so that announcing much gains little.
    """
    sizes = sorted(announced.values())
    most = _MOST_OF_MEDIAN * sizes[(len(sizes) - 1) // 2] if sizes else 0
    return {edge: float(max(1, min(count, most))) for edge, count in announced.items()}
