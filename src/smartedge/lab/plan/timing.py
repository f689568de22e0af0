"""Times a piece of work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from smartedge.artifacts.profile import Timing

__all__ = ["timed"]

_LEAST, _LONG_S = 3, 1.0


def timed(work: Callable[[int], object], *, images: int, repeats: int, pause_s: float = 0.0) -> Timing:
    """The median time per image of ``repeats`` calls of ``work(number)``. Two calls before them are not counted.

    Args:
        work: gets the number of the call, from 0.
        images: that one call goes through.
        repeats: calls that count; three where these have taken a second.
        pause_s: seconds of sleep before each call, for work that waits for other work between its calls.
    """
    wall: list[float] = []
    cpu: list[float] = []
    for number in range(repeats + 2):
        time.sleep(pause_s)
        begun, begun_cpu = time.perf_counter(), time.process_time()
        work(number)
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - begun_cpu)
        if len(wall) >= 2 + _LEAST and sum(wall[2:]) > _LONG_S:
            break
    middle = statistics.median(wall[2:])
    quarters = np.percentile(wall[2:], [25, 75])
    return Timing(
        seconds=middle / images,
        cpu_seconds=statistics.median(cpu[2:]) / images,
        spread=float(quarters[1] - quarters[0]) / middle if middle else 0.0,
        first_seconds=max(0.0, wall[0] - middle),
    )
