"""Batches of decoded images: joined, divided, and marked with the edge that sent them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from smartedge.cloud.store.feature_log import cut_of
from smartedge.types import FeatureBatch, Features, StreamHeader

__all__ = ["features_of", "gather", "join", "sent_by", "take"]


def join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """All images of several batches as one."""
    edges = [batch.edge_B for batch in batches if batch.edge_B is not None]
    cuts = [batch.cut_B for batch in batches if batch.cut_B is not None]
    return FeatureBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.features_BF for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate(edges) if edges else None,
        np.concatenate(cuts) if cuts else None,
    )


def take(batch: FeatureBatch, index: np.ndarray | slice) -> FeatureBatch:
    """The images at some positions of a batch."""
    return FeatureBatch(
        batch.ids[index],
        batch.features_BF[index],
        batch.labels[index],
        None if batch.edge_B is None else batch.edge_B[index],
        None if batch.cut_B is None else batch.cut_B[index],
    )


def gather(batches: Sequence[FeatureBatch], index: NDArray[np.int64], *, pinned: bool = False) -> FeatureBatch:
    """The images at some positions of several batches, as :func:`take` of :func:`join`, but each map is copied once.

    Args:
        batches: of one kind.
        index: positions among all images of all batches.
        pinned: put the features into memory that a GPU reads by itself.
    """
    ends = np.cumsum([len(batch.ids) for batch in batches])
    which = np.searchsorted(ends, index, side="right")
    rows = index - np.concatenate([[0], ends])[which]
    features_BF = _empty(len(index), batches[0].features_BF, pinned=pinned)
    for place, (number, row) in enumerate(zip(which.tolist(), rows.tolist(), strict=True)):
        features_BF[place] = batches[number].features_BF[row]
    nothing = [replace(batch, features_BF=np.empty((len(batch.ids), 0), np.float32)) for batch in batches]
    return replace(take(join(nothing), index), features_BF=features_BF)


def _empty(count: int, like: Features, *, pinned: bool) -> Features:
    """Memory for the features of so many images."""
    shape = (count, *like.shape[1:])
    if not pinned or like.dtype == object:
        return np.empty(shape, like.dtype)
    numbers: Features = torch.empty(shape, dtype=torch.from_numpy(like[:0]).dtype, pin_memory=True).numpy()
    return numbers


def sent_by(edge: str, header: StreamHeader, batch: FeatureBatch, *, several_cuts: bool) -> FeatureBatch:
    """A decoded frame with the names of the edge that sent it, and of the cut at which it enters the back."""
    count, features_BF = len(batch.ids), batch.features_BF
    if several_cuts:  # frames of different shapes are joined
        features_BF = np.empty(count, object)
        for row, features_F in enumerate(batch.features_BF):
            features_BF[row] = features_F
    return FeatureBatch(batch.ids, features_BF, batch.labels, np.full(count, edge), np.full(count, cut_of(header)))


def features_of(features_BF: Features, rows: np.ndarray) -> Features:
    """The features of some images that enter at the same cut, (B, *F)."""
    return np.stack(features_BF[rows].tolist()) if features_BF.dtype == object else features_BF[rows]
