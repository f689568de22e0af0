"""A released batch to an encoded one, and an encoded one to features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import Codec
from smartedge.errors import CodecError
from smartedge.types import EncodedBatch, FeatureBatch, Labels, ReleasedBatch

__all__ = ["pack", "unpack"]


def pack(released: ReleasedBatch, codec: Codec) -> EncodedBatch:
    """Encode what was released, and nothing else: the type is the privacy gate.

    Returns:
        Labels as int64 (B,) for a single-label task, as uint8 (B, K) for a multi-label one.

    Raises:
        TypeError: for anything but a :class:`~smartedge.types.ReleasedBatch`.
        CodecError: when the codec cannot encode the features, or ids, features and labels do not belong together.
    """
    if type(released) is not ReleasedBatch:
        raise TypeError(f"pack() takes a ReleasedBatch from smartedge.privacy.release, not {type(released).__name__}")
    ids = np.ascontiguousarray(released.ids, dtype=np.int64)
    features_BF, labels = released.features_BF, released.labels
    if not (ids.ndim == 1 and len(ids) == len(features_BF) == len(labels)):
        raise CodecError(
            f"pack: {len(ids)} ids, {len(features_BF)} feature maps and {len(labels)} labels must be one each per image"
        )
    payload, side = codec.encode(features_BF)
    return EncodedBatch(ids=ids, labels=_compact(labels), payload=payload, side=side)


def unpack(
    encoded: EncodedBatch,
    codec: Codec,
    *,
    feature_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    task_kind: str,
    outputs: int,
) -> FeatureBatch:
    """Decode a batch.

    Args:
        encoded: what :func:`pack` made, or what came over the link.
        codec: the codec that it was packed with.
        feature_shape: F, without the batch dimension.
        dtype: of the features, float32 or (for images) uint8.
        task_kind: ``"single"`` or ``"multi"``.
        outputs: K, the classes of a single-label task or the columns of a multi-label one.

    Returns:
        Labels as int64 (B,) for a single-label task, as float32 (B, K) in {0, 1} for a multi-label one.

    Raises:
        CodecError: when the payload cannot be decoded or is longer than it can be, or the labels are not of this task.
    """
    batch = len(encoded.ids)
    size, most = len(encoded.payload) + len(encoded.side), codec.max_bytes(batch, feature_shape)
    if size > most:
        raise CodecError(
            f"unpack: {batch} feature maps of shape {feature_shape} are never more than {most} bytes by codec "
            f"{codec.name}, got {size}; both sides need the same codec.name"
        )
    labels = encoded.labels
    expected_shape = (batch,) if task_kind == "single" else (batch, outputs)
    limit = outputs if task_kind == "single" else 2
    if labels.shape != expected_shape or (batch and not (0 <= int(labels.min()) <= int(labels.max()) < limit)):
        raise CodecError(
            f"unpack: labels of a {task_kind}-label task with {outputs} outputs must have shape {expected_shape} and "
            f"values 0 to {limit - 1}, got shape {labels.shape}"
        )
    features_BF = codec.decode(encoded.payload, encoded.side, batch=batch, feature_shape=feature_shape, dtype=dtype)
    typed: Labels = labels.astype(np.int64) if task_kind == "single" else labels.astype(np.float32)
    return FeatureBatch(encoded.ids, features_BF, typed)


def _compact(labels: Labels) -> NDArray[np.int64] | NDArray[np.uint8]:
    if labels.dtype == np.int64 and labels.ndim == 1:
        return labels.astype(np.int64, copy=False)
    if labels.dtype == np.float32 and labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all()):
        return labels.astype(np.uint8)
    raise CodecError(
        f"pack: labels must be int64 (B,), or float32 (B, K) holding only 0 and 1, got {labels.dtype} {labels.shape}"
    )
