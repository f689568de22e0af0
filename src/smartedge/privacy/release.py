"""The gate: the only maker of a :class:`~smartedge.types.ReleasedBatch`.

Packing for the wire takes nothing else, so raw features cannot leave the edge by accident. Sending without protection
is a release too; it is recorded as what it is, with ε = ∞.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from smartedge.types import _RELEASE_KEY, ReleasedBatch, ReleaseEvent

__all__ = ["release"]

UNPROTECTED = ReleaseEvent(mechanism="none", epsilon=math.inf, delta=0.0, labels_travel=True)


def release(ids: np.ndarray, features_BF: Tensor, labels: Tensor) -> ReleasedBatch:
    """Release a batch as it is: no clipping, no noise, labels in clear.

    Args:
        ids: int64 (B,), the images' indices in their split.
        features_BF: (B, *F), float32 feature maps or uint8 images. Detached from the graph here.
        labels: int64 (B,) or float32 (B, K).
    """
    return ReleasedBatch(ids, features_BF.detach(), labels, UNPROTECTED, key=_RELEASE_KEY)
