"""A stream header for tests, which name only what matters to them."""

from __future__ import annotations

import dataclasses
from typing import Any

from smartedge.types import StreamHeader, Task

__all__ = ["stream_header"]

_HEADER = StreamHeader.of(
    run="run",
    agreement={},
    task=Task("single", ("label",), ("no", "yes")),
    codec="float32",
    feature_shape=(2, 2, 2),
    batch_size=4,
    split="train",
    frames=1,
    train_steps=1,
)


def stream_header(**changes: Any) -> StreamHeader:
    """One frame of one training epoch, float32 features of shape (2, 2, 2), two classes, with ``changes``."""
    return dataclasses.replace(_HEADER, **changes)
