"""A codec that sends the largest numbers of each image alone."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import check_length, new_features
from smartedge.codec.bits import compress, decompress, max_compressed, packed_size
from smartedge.codec.quantise import RANGE_BYTES, level_values, quantise
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["TopKCodec"]

_BITS = 4  # of a number kept: its rounding is small beside what is left out
_LENGTHS = struct.Struct("<II")  # bytes of the gaps, before and after zstd
_FURTHER = 255  # a gap of at least this many: pass so many places and read on


@dataclass(frozen=True)
class TopKCodec:
    """The k numbers of largest magnitude of each image, k = percent of all, at least 1; the others come back as 0.

    The k of largest magnitude hold at least k / prod(F) of an image's sum of squares; how much more is what
    :func:`smartedge.codec.reconstruction_error` states as ``energy_kept``. The numbers kept are sent in 16 levels over
    one range for the frame (see :class:`~smartedge.codec.quantise.AffineCodec`).

    ``payload`` is two zstd frames, the places and the levels. Over all images of the batch one after the other, a
    place is the count of places left out since the one before, one byte each, where 255 stands for "255 left out, and
    the next byte counts on". Shorter than a bitmap while k is at most a tenth, since numbers kept lie together.
    ``side`` holds the number of those bytes, and the length of their zstd frame, as uint32, then the range as float32.
    """

    percent: float  # 0 < percent ≤ 50
    name: str
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    def kept(self, feature_shape: tuple[int, ...]) -> int:
        """How many numbers of each image are sent, for features of that shape."""
        return max(1, round(self.percent / 100 * math.prod(feature_shape)))

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        values_BN = features_BF.reshape(len(features_BF), -1).astype(np.float32, copy=False)
        batch, size = values_BN.shape
        kept = self.kept(features_BF.shape[1:])
        order_BN = np.argpartition(np.abs(values_BN), size - kept, axis=1)
        within_BK = np.sort(order_BN[:, size - kept :], axis=1)
        places = (within_BK + np.arange(batch)[:, None] * size).reshape(-1)
        values_1N = np.take_along_axis(values_BN, within_BK, axis=1).reshape(1, -1)
        # NaN and infinities have the largest magnitudes of all, so they are among what is checked here.
        levels_1N, range_bytes = quantise(values_1N, _BITS, self.name)
        levels = compress(levels_1N, _BITS)
        gaps = _to_gaps(places)
        packed_gaps = compress(gaps)
        return packed_gaps + levels, _LENGTHS.pack(len(gaps), len(packed_gaps)) + range_bytes

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.float32]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        check_length(side, _LENGTHS.size + RANGE_BYTES, "side", self.name)
        gap_count, gap_bytes = _LENGTHS.unpack_from(side)
        values_1L = level_values(side[_LENGTHS.size :], 1, _BITS, self.name)
        size, count = math.prod(feature_shape), batch * self.kept(feature_shape)
        if not count <= gap_count <= _most_gaps(count, batch * size) or gap_bytes > len(payload):
            raise CodecError(f"codec {self.name}: side claims impossible lengths: it is corrupt")
        gaps = decompress(payload[:gap_bytes], gap_count, self.name)
        places = _to_places(gaps)
        if (
            len(places) != count
            or gaps[-1] == _FURTHER
            or not np.array_equal(places // size, np.arange(count) // (count // batch))
        ):
            raise CodecError(
                f"codec {self.name}: the payload does not give {count // batch} places in each of {batch} images"
            )
        levels = decompress(payload[gap_bytes:], count, self.name, _BITS)
        features_BF.fill(0)
        features_BF.reshape(-1)[places] = values_1L[0, levels]
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        size, count = math.prod(feature_shape), batch * self.kept(feature_shape)
        gaps, levels = _most_gaps(count, batch * size), packed_size(count, _BITS)
        return max_compressed(gaps) + max_compressed(levels) + _LENGTHS.size + RANGE_BYTES


def _most_gaps(count: int, size: int) -> int:
    """Bytes that ``count`` places among ``size`` take at most."""
    return count + size // _FURTHER


def _to_gaps(places: np.ndarray) -> np.ndarray:
    """Rising places, int64 (N,), as the uint8 of the class's description."""
    further, rest = np.divmod(np.diff(places, prepend=-1) - 1, _FURTHER)
    ends = np.cumsum(further + 1) - 1
    gaps = np.full(ends[-1] + 1, _FURTHER, np.uint8)
    gaps[ends] = rest
    return gaps


def _to_places(gaps: np.ndarray) -> np.ndarray:
    """What :func:`_to_gaps` was given."""
    is_place = gaps != _FURTHER
    places: np.ndarray = np.cumsum(gaps + is_place.astype(np.int64))[is_place] - 1
    return places
