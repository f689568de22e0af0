"""A stream header for tests, which name only what matters to them."""

from __future__ import annotations

import dataclasses
from typing import Any

from smartedge.types import StreamHeader
from smartedge.wire.frame import PROTOCOL

__all__ = ["stream_header"]

_HEADER = StreamHeader(
    protocol=PROTOCOL,
    run="run",
    agreement="{}",
    method="hierarchical",
    schedule="joint",
    codec="float32",
    feature_shape=(2, 2, 2),
    feature_dtype="float32",
    task_kind="single",
    outputs=2,
    batch_size=4,
    epoch=0,
    split="train",
    first_seq=0,
    frames=1,
    train_steps=1,
)


def stream_header(**changes: Any) -> StreamHeader:
    """One frame of one training epoch, float32 features of shape (2, 2, 2), two classes, with ``changes``."""
    return dataclasses.replace(_HEADER, **changes)
