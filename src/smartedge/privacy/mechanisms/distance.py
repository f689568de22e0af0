"""The distance (total variation) between two laws of releases."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

__all__ = ["laplace_product_distance"]

_CELLS = 2**18  # of the composed privacy loss
_FEWEST, _MOST = 64, 2**14  # of one number's loss; with more cells float64 loses their differences
_CERTAIN = 80.0  # from this ε of one number on, the distance is 1 in float64
_ROUNDING = 1e-12  # more than the rounding error of the Fourier transforms


@lru_cache(maxsize=64)
def laplace_product_distance(epsilon: float, numbers: int) -> float:
    """Total variation between two vectors of ``numbers`` independent Laplace variables, each shifted by ε scales.

    For one number it is 1 − e^(−ε/2). For more it is the expectation of (1 − e^(−S))₊, where S is the sum of the
    numbers' privacy losses. Their law is put on a grid, and Fourier transforms convolve it with itself.

    The grid law is the one whose divergence curve δ(e^t) joins the true values at the grid's points by straight lines
    ("connect the dots", Doroshenko et al. 2022). The curve is convex, so the result is never too small. For up to
    65 000 numbers it is too large by less than 10⁻⁶.

    Args:
        epsilon: shift ÷ scale of each number, > 0.
        numbers: D ≥ 1.
    """
    if numbers == 1 or epsilon > _CERTAIN:
        return -math.expm1(-epsilon / 2)
    return _on_a_grid(epsilon, numbers, cells=min(_MOST, max(_FEWEST, _CELLS // numbers)))


def _on_a_grid(epsilon: float, numbers: int, *, cells: int) -> float:
    """The distance for two numbers or more; ``cells`` is the number of grid cells for the loss of one number."""
    losses = np.linspace(-epsilon, epsilon, cells + 1)
    # δ at the points, and slopes between them. Below the grid the slope is −1, since no ratio is smaller; above it, 0.
    delta = -np.expm1((losses - epsilon) / 2)
    ratio = np.exp(losses)
    slopes = np.concatenate([[-1.0], np.diff(delta) / np.diff(ratio), [0.0]])
    masses = ratio * np.diff(slopes)
    size = 2 ** math.ceil(math.log2(cells * numbers + 1))
    composed = np.fft.irfft(np.fft.rfft(masses, size) ** numbers, size)[: cells * numbers + 1]
    total = np.linspace(-numbers * epsilon, numbers * epsilon, cells * numbers + 1)
    above = total > 0
    return min(1.0, float(np.maximum(composed[above], 0.0) @ -np.expm1(-total[above])) + _ROUNDING)
