"""When each frame leaves each stage of a pipeline with bounded queues.

Frames pass the stages in order, and a stage works on one frame at a time. At most ``rooms[s]`` frames can wait before
stage ``s``. If this queue is full, the stage before it keeps its finished frame and stops (blocking after service).
With work ``w``, the time ``D`` at which frame ``k`` leaves stage ``s`` is

    D[k, s] = max( max(D[k, s-1], D[k-1, s], ready[s]) + w[k, s],   D[k - rooms[s+1] - 1, s+1] )

This is the recurrence of a tandem queue with finite buffers (Dallery & Gershwin, *Manufacturing flow line systems*,
Queueing Systems 12, 1992). With equal frames it agrees with a simple rule: after the first frame, one frame leaves per
``max_s w[s]``, so an epoch takes about as long as its slowest stage. But it also covers what this rule leaves out: a
full queue slows the stages before it down to the slowest stage after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smartedge.types import Floats, SplitName

__all__ = ["Pass", "coarsen", "departures", "slowdowns"]


@dataclass
class Pass:
    """One pass over a split."""

    split: SplitName
    work: np.ndarray  # seconds (frames, stages): data, edge, encode, link, cloud
    cpu: tuple[float, float]  # seconds of processor time of all frames, at edge and cloud
    bytes_up: float
    images: int
    stands_for: float  # real frames per row
    saving: tuple[float, float] = (0.0, 0.0)  # seconds of the work that edge and cloud spend on a checkpoint

    def save(self, *, edge_s: float, cloud_s: float) -> None:
        """After the last frame both sides write a checkpoint."""
        self.saving = (edge_s, cloud_s)
        self.work[-1, 1] += edge_s
        self.work[-1, 4] += cloud_s


def departures(work_FS: Floats, rooms: Sequence[int | None], ready: Sequence[float] | None = None) -> Floats:
    """Times (F, S), in seconds from the start, at which frame F leaves stage S.

    Args:
        work_FS: seconds that each stage works on each frame.
        rooms: frames that may wait before each stage, ``None`` for any number; the first one does not matter.
        ready: seconds before which a stage does not begin; default: zeros.
    """
    frames, stages = work_FS.shape
    before_first = list(ready) if ready is not None else [0.0] * stages
    left: list[list[float]] = []
    previous = before_first
    for k, work in enumerate(work_FS.tolist()):
        row = [0.0] * stages
        arrived = 0.0
        for s in range(stages):
            arrived = row[s] = max(arrived, previous[s]) + work[s]
            if s + 1 < stages and (room := rooms[s + 1]) is not None and k > room:
                # The queue before the next stage has a free place when frame k-room-1 has left that stage.
                arrived = row[s] = max(arrived, left[k - room - 1][s + 1])
        left.append(row)
        previous = row
    return np.array(left, dtype=np.float64).reshape(frames, stages)


def coarsen(frames: int, most: int) -> tuple[int, float]:
    """A smaller number of larger frames in place of ``frames``, and how many real frames each one stands for.

    Larger frames take longer to fill the pipeline at its start; otherwise its time stays the same. So the relative
    error is about 1 ÷ ``most``.
    """
    count = min(frames, most)
    return count, frames / count if count else 1.0


def slowdowns(alone: tuple[float, float], slowdown: float) -> tuple[float, float]:
    """Factors on the times of edge and cloud where they share a machine.

    While both sides compute, each has 1/s of its speed. At worst that is for as long as the side with less work
    computes: m·s seconds. The other one then takes M + m·(s - 1). A slower link may keep them apart for a while. That
    is left out: else a faster link could be predicted slower, since more would overlap.

    Args:
        alone: seconds that edge and cloud would compute alone.
        slowdown: s.
    """
    edge, cloud = alone
    longer = (slowdown - 1) * min(edge, cloud)
    return 1 + longer / edge if edge else 1.0, 1 + longer / cloud if cloud else 1.0
