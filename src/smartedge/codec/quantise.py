"""The codecs for feature maps with 256, 16, 4 or 2 evenly spaced levels per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import new_features
from smartedge.codec.bits import compress, decompress, max_compressed, packed_size
from smartedge.codec.sequence import (
    PREVIOUS,
    differences,
    marks_bytes,
    read_marks,
    resembling,
    restored,
    write_marks,
)
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = [
    "AffineCodec",
    "by_range",
    "channel_axis",
    "fit_ranges",
    "from_levels",
    "level_values",
    "quantise",
    "range_count",
    "saturated",
]

RANGE_BYTES = 8  # lowest and highest level as float32

# Shares of a channel's values below and above which its levels may end, by bits; the range of least squared error
# among these and the full range is taken. At 8 bits it is always the full range (see AffineCodec).
_TAILS: dict[int, tuple[float, ...]] = {
    8: (),
    4: (0.001, 0.003, 0.01, 0.02, 0.04),
    2: (0.01, 0.03, 0.06, 0.1, 0.15),
    1: (0.05, 0.1, 0.15, 0.2, 0.25),
}
_MOST_SATURATED = 0.25  # of a channel's values; beyond it the channel keeps its full range
_SAMPLE = 1024  # values per channel by which ranges are compared
_LEAST_STEP = np.float32(1e-30)  # of a range, in units of the full one: its inverse is finite
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class AffineCodec:
    """2**bits levels, evenly spaced between a lowest and a highest one of each channel, packed, then zstd.

    With step = (highest - lowest) / (2**bits - 1), the error of a value between lowest - step / 2 and
    highest + step / 2 is at most step / 2, plus float32 rounding. A value beyond saturates: it becomes the level that
    is nearest. At most a quarter of a channel's values do in a frame (:func:`saturated` counts them).

    ``uint8`` spans minimum and maximum, so nothing saturates, both survive exactly, and encoding what was decoded
    changes nothing more. That is also its range of least squared error: to leave one outlier out costs more than the
    finer step gains, unless the channel has about 12 * 255² = 780 000 values in the frame. With 4, 2 and 1 bits the
    finer step is worth it; there, of several ranges between quantiles, the one of least squared error is taken.

    The channel is the first axis of a feature map (C, H, W) or vector (D,), and the last axis of tokens (T, D):
    there each of the D embedding dimensions has a scale of its own, while the T tokens are positions, as H and W are.
    (Where a network works on channels-last maps, as Swin does, they cross channels-first all the same.)
    Where the ranges would take more than a sixteenth of the levels' bits (vectors, a single image of few numbers),
    all channels share one range.

    ``side`` holds the lowest levels, then the highest, as float32. The levels are sent channel by channel, since
    values of one channel resemble each other.

    With ``previous``, images that resemble the one before are sent by the differences of their levels, modulo 2**bits
    (:mod:`smartedge.codec.sequence`), and ``payload`` begins with the marks. What is decoded is the same.
    """

    bits: int  # 8, 4, 2 or 1
    previous: bool = False
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @property
    def name(self) -> str:
        """``uint8``, ``uint4``, ``uint2`` or ``uint1``; ``uint8-previous`` and so on."""
        return f"uint{self.bits}{PREVIOUS * self.previous}"

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        levels_RN, side = quantise(by_range(features_BF, self.bits), self.bits, self.name)
        if not self.previous:
            return compress(levels_RN, self.bits), side
        levels_CBS = _by_image(levels_RN, features_BF.shape)
        marks_B = resembling(levels_CBS)
        alone = compress(levels_RN, self.bits)
        if not marks_B.any():
            return write_marks(marks_B) + alone, side
        coded = compress(differences(levels_CBS, marks_B) & self._highest, self.bits)
        if len(alone) <= len(coded):  # noise in the image before may cost more than that image tells
            return write_marks(np.zeros_like(marks_B)) + alone, side
        return write_marks(marks_B) + coded, side

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.float32]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        values_RL = level_values(side, range_count(batch, feature_shape, self.bits), self.bits, self.name)
        marks_B = read_marks(payload, batch, self.name) if self.previous else None
        start = 0 if marks_B is None else marks_bytes(batch)
        levels = decompress(payload[start:], features_BF.size, self.name, self.bits)
        if marks_B is not None:
            levels = restored(_by_image(levels, features_BF.shape), marks_B) & self._highest
        from_levels(levels, values_RL, out_BF=features_BF)
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        levels = packed_size(batch * math.prod(feature_shape), self.bits)
        ranges = RANGE_BYTES * range_count(batch, feature_shape, self.bits)
        return max_compressed(levels) + ranges + marks_bytes(batch) * self.previous

    @property
    def _highest(self) -> np.uint8:
        """The highest level."""
        return np.uint8(2**self.bits - 1)


def range_count(batch: int, feature_shape: tuple[int, ...], bits: int) -> int:
    """R: one range per channel, or one for all where those would take more than a sixteenth of the levels' bits."""
    channels = (batch, *feature_shape)[channel_axis(len(feature_shape))]
    bits_of_levels = batch * math.prod(feature_shape) // channels * bits
    return channels if bits_of_levels >= 16 * 8 * RANGE_BYTES else 1


def by_range(features_BF: Features, bits: int) -> NDArray[np.float32]:
    """Features (B, *F) as float32 (R, N), channel by channel, in memory of their own."""
    ranges = range_count(len(features_BF), features_BF.shape[1:], bits)
    channels_CBF = np.moveaxis(features_BF, channel_axis(features_BF.ndim - 1), 0)
    values_CBF = np.empty(channels_CBF.shape, np.float32)
    _copy(channels_CBF, values_CBF)
    return values_CBF.reshape(ranges, -1)


def _by_image(levels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Levels, channel by channel, of features of that shape (B, *F): as (C, B, S)."""
    return levels.reshape(shape[channel_axis(len(shape) - 1)], shape[0], -1)


def quantise(values_RN: NDArray[np.float32], bits: int, codec: str) -> tuple[NDArray[np.uint8], bytes]:
    """The nearest levels, uint8 (R, N), and as side the R lowest levels, then the R highest ones, as float32.

    Computed in place: ``values_RN`` is spent.

    Raises:
        CodecError: for NaN, infinities, and ranges beyond float32's.
    """
    ranges_2R = fit_ranges(values_RN, bits, codec)
    low_R1, high_R1 = ranges_2R[:, :, None]
    range_R1 = high_R1 - low_R1
    # A constant row has range 0 and becomes level 0, which decodes to that constant.
    values_RN -= low_R1
    with np.errstate(over="ignore"):  # far beyond a narrow range: infinity, which is clipped like the others
        values_RN /= np.where(range_R1 == 0, np.float32(1), range_R1)
        values_RN *= np.float32(2**bits - 1)
    np.rint(values_RN, out=values_RN)
    if _TAILS[bits]:  # otherwise the range is the full one, and no value is beyond it
        np.clip(values_RN, 0, 2**bits - 1, out=values_RN)
    return values_RN.astype(np.uint8), ranges_2R.astype("<f4", copy=False).tobytes()


def fit_ranges(values_RN: NDArray[np.float32], bits: int, codec: str) -> NDArray[np.float32]:
    """Lowest and highest level of each row, float32 (2, R), see :class:`AffineCodec`.

    Raises:
        CodecError: for NaN, infinities, and ranges beyond float32's.
    """
    full_2R = np.stack([values_RN.min(axis=1), values_RN.max(axis=1)])  # both pass NaN on
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(full_2R[1] - full_2R[0]).all()
    if not finite:
        raise CodecError(
            f"codec {codec}: features hold NaN, infinities, or a range beyond float32's; training has diverged"
        )
    if not _TAILS[bits]:
        return full_2R
    values = values_RN
    if values.shape[1] > _SAMPLE:  # evenly spread places, in no step with rows and columns
        values = values[:, (np.arange(_SAMPLE) * _GOLDEN % 1 * values.shape[1]).astype(np.int64)]
    ordered = np.sort(values, axis=1)
    last = ordered.shape[1] - 1
    tails = [int(tail * last) for tail in _TAILS[bits]]
    candidates = [full_2R, *(np.stack([ordered[:, tail], ordered[:, last - tail]]) for tail in tails)]
    errors = _squared_errors(ordered, candidates, bits)
    best_R = errors.argmin(0)
    chosen_2R = np.ascontiguousarray(np.stack(candidates)[best_R, :, np.arange(len(best_R))].T)
    too_many_R = saturated(values_RN, chosen_2R, bits) > _MOST_SATURATED * values_RN.shape[1]
    return np.where(too_many_R, full_2R, chosen_2R)


def _squared_errors(values_RN: np.ndarray, candidates: list[np.ndarray], bits: int) -> np.ndarray:
    """Squared error of each row (R, N) in levels of each candidate range (2, R), float32 (candidates, R).

    In units of the row's first candidate range, which holds all its values, so that no square overflows.
    """
    origin_R1, end_R1 = candidates[0][:, :, None]
    unit_R1 = np.where(end_R1 == origin_R1, np.float32(1), end_R1 - origin_R1)
    values_RN = (values_RN - origin_R1) / unit_R1
    errors = []
    for candidate in candidates:
        low_R1, high_R1 = (candidate[:, :, None] - origin_R1) / unit_R1
        step_R1 = (high_R1 - low_R1) / np.float32(2**bits - 1)
        inverse_R1 = 1 / np.where(step_R1 < _LEAST_STEP, np.float32(1), step_R1)
        decoded_RN = (values_RN - low_R1) * inverse_R1
        np.rint(decoded_RN, out=decoded_RN)
        np.clip(decoded_RN, 0, 2**bits - 1, out=decoded_RN)
        decoded_RN *= step_R1
        decoded_RN += low_R1 - values_RN
        errors.append(np.einsum("rn,rn->r", decoded_RN, decoded_RN))
    return np.stack(errors)


def saturated(values_RN: NDArray[np.float32], ranges_2R: NDArray[np.float32], bits: int) -> NDArray[np.intp]:
    """How many values of each row lie more than half a step beyond its levels, int64 (R,)."""
    low_R1, high_R1 = ranges_2R[:, :, None]
    half_R1 = (high_R1 - low_R1) / np.float32(2 * (2**bits - 1))
    with np.errstate(over="ignore"):  # no value is beyond an infinite end
        lowest_R1, highest_R1 = low_R1 - half_R1, high_R1 + half_R1
    count_R: NDArray[np.intp] = np.count_nonzero(values_RN > highest_R1, axis=1)
    if (values_RN.min(axis=1) < lowest_R1[:, 0]).any():  # after a ReLU none is: a look costs less than counting
        count_R += np.count_nonzero(values_RN < lowest_R1, axis=1)
    return count_R


def level_values(side: bytes, ranges: int, bits: int, codec: str) -> NDArray[np.float32]:
    """The number that each level of each row stands for, float32 (R, 2**bits), by the side that :func:`quantise` gave.

    The lowest and the highest level are the ends of the range exactly. In between, the sum is rounded once.

    Raises:
        CodecError: the side does not hold so many ranges.
    """
    if len(side) != RANGE_BYTES * ranges:
        raise CodecError(f"codec {codec}: side must be {RANGE_BYTES * ranges} bytes, got {len(side)}: it is corrupt")
    low_R1, high_R1 = np.frombuffer(side, "<f4").astype(np.float32).reshape(2, ranges, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        range_R1 = high_R1 - low_R1
    if not (np.isfinite(range_R1).all() and (low_R1 <= high_R1).all()):
        raise CodecError(f"codec {codec}: side holds no valid ranges: it is corrupt")
    weight_L = np.arange(2**bits, dtype=np.float32) / np.float32(2**bits - 1)
    # From the nearer end; float64 holds the product of two float32 exactly.
    near_RL = np.where(weight_L < 0.5, low_R1, high_R1)
    weight_L = np.where(weight_L < 0.5, weight_L, weight_L - np.float32(1))
    levels_RL: NDArray[np.float32] = (weight_L * range_R1.astype(np.float64) + near_RL).astype(np.float32)
    return levels_RL


def from_levels(levels: NDArray[np.uint8], values_RL: NDArray[np.float32], *, out_BF: NDArray[np.float32]) -> None:
    """Write what uint8 levels, channel by channel, stand for into features (B, *F)."""
    by_channel_CBF = np.moveaxis(out_BF, channel_axis(out_BF.ndim - 1), 0)
    levels_CBF = levels.reshape(by_channel_CBF.shape)
    if len(values_RL) == 1:
        by_channel_CBF[...] = values_RL[0][levels_CBF]
        return
    contiguous_CBF = np.empty(by_channel_CBF.shape, np.float32)  # a look-up into strided memory takes twice as long
    for values_L, levels_BF, channel_BF in zip(values_RL, levels_CBF, contiguous_CBF, strict=True):
        np.take(values_L, levels_BF, out=channel_BF, mode="clip")  # without `mode`, numpy copies `out`
    _copy(contiguous_CBF, by_channel_CBF)


def _copy(source_CBF: Features, target_CBF: NDArray[np.float32]) -> None:
    """Copy numbers between two orders in memory, both seen channel by channel."""
    if source_CBF.ndim != 3:
        target_CBF[...] = source_CBF
        return
    for image in range(source_CBF.shape[1]):  # tokens are transposed: in the cache, one by one
        target_CBF[:, image] = source_CBF[:, image]


def channel_axis(feature_dims: int) -> int:
    """Which axis of (B, *F) is the channel, see :class:`AffineCodec`."""
    return 2 if feature_dims == 2 else 1
