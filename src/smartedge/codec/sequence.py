"""Images of a frame by their differences to the image before: for cameras, whose pictures resemble each other.

All of it stays within one frame. Its first image stands by itself (the *key image* of video codecs), so a frame can be
decoded alone, whatever was lost, sent again or sent in another order. Any other image is coded by differences only
where it resembles the image before: a new scene is a key image too. A mark for each image says which it is.

The marks take one bit an image, the first image in the lowest bit; a set bit stands for differences.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.bits import pack_bits, packed_size, unpack_bits
from smartedge.errors import CodecError
from smartedge.types import Bytes

__all__ = ["PREVIOUS", "differences", "marks_bytes", "read_marks", "resembling", "restored", "write_marks"]

PREVIOUS = "-previous"  # the end of such a codec's name

_Level = TypeVar("_Level", bound=np.integer[Any])


def resembling(values_CBS: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images lie nearer to the image before than to the mean of their channels over the frame, bool (B,).

    Distances are sums of magnitudes: of two Laplace distributions, the one with the smaller mean magnitude has the
    lower entropy, whatever the step between levels is.
    """
    values_CBS = values_CBS.astype(np.float32, copy=False)
    marks_B = np.zeros(values_CBS.shape[1], np.bool_)
    alone_B = np.abs(values_CBS - values_CBS.mean((1, 2), keepdims=True)).sum((0, 2))
    marks_B[1:] = np.abs(np.diff(values_CBS, axis=1)).sum((0, 2)) < alone_B[1:]
    return marks_B


def differences(levels_CBS: NDArray[_Level], marks_B: NDArray[np.bool_]) -> NDArray[_Level]:
    """The levels, less those of the image before where an image is marked. uint8 wraps around."""
    coded_CBS = levels_CBS.copy()
    coded_CBS[:, 1:] -= levels_CBS[:, :-1] * marks_B[None, 1:, None]
    return coded_CBS


def restored(coded_CBS: NDArray[_Level], marks_B: NDArray[np.bool_]) -> NDArray[_Level]:
    """What :func:`differences` was given; the first image is not marked."""
    levels_CBS = coded_CBS.copy()
    for key, end in pairwise([*np.flatnonzero(~marks_B).tolist(), len(marks_B)]):
        if end - key > 1:
            run_CRS = coded_CBS[:, key:end]
            levels_CBS[:, key:end] = np.cumsum(run_CRS, axis=1, dtype=run_CRS.dtype)
    return levels_CBS


def marks_bytes(batch: int) -> int:
    """Bytes that the marks of so many images take."""
    return packed_size(batch, 1)


def write_marks(marks_B: NDArray[np.bool_]) -> bytes:
    """See the module's description."""
    return pack_bits(marks_B.astype(np.uint8), 1)


def read_marks(payload: Bytes, batch: int, codec: str) -> NDArray[np.bool_]:
    """The marks that a payload begins with.

    Raises:
        CodecError: it is too short, the first image is marked, or there are more marks than images.
    """
    size = marks_bytes(batch)
    if len(payload) < size:
        raise CodecError(f"codec {codec}: the payload ends within its marks: it is truncated")
    found = unpack_bits(payload[:size], 1, 8 * size)
    if found[0] or found[batch:].any():
        raise CodecError(f"codec {codec}: the first image, or one too many, is sent by differences: it is corrupt")
    return found[:batch].astype(np.bool_)
