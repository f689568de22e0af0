"""Sample images for the report: protected images of every combination of labels, and their best reconstructions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from smartedge.runs.checkpoint import save_weights

__all__ = ["combinations", "write_samples"]

_EACH = 2  # images of every combination
_MOST_CLASSES = 2  # of each label; more would not fit a picture


def combinations(desired_N: Tensor, sensitive_N: Tensor) -> Tensor:
    """Positions of the sample images, int64 (R,): up to two of each combination of desired and sensitive label.

    Args:
        desired_N: int64 (N,), the desired class, or the first column of a multi-label task.
        sensitive_N: int64 (N,), −1 where unknown.
    """
    rows = []
    for desired, sensitive in itertools.product(range(_MOST_CLASSES), repeat=2):
        rows.append(torch.nonzero((desired_N == desired) & (sensitive_N == sensitive)).flatten()[:_EACH])
    return torch.cat(rows)


def write_samples(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, object]) -> None:
    """Write ``samples.safetensors`` (docs/audit-schema.md); ``notes`` go into its metadata, each as JSON.

    Only its owner may read the file, since it holds images.
    """
    metadata = {name: json.dumps(value) for name, value in notes.items()}
    save_weights(path, tensors, metadata=metadata)
