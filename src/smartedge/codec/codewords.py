"""A codec for released codewords: numbers that are 0 or 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import check_length, new_features
from smartedge.codec.bits import pack_bits, packed_size, unpack_bits
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["CodewordCodec"]

_SUBSETS = b"\x01"  # the side where rows are packed as K bits


class CodewordCodec:
    """Lossless: rows of K ≤ 256 numbers, each 0 or 1, along the last axis of features (B, K) or (B, G, K).

    Where every row has a single 1 (one codeword), its place is sent in ceil(log2 K) bits, and ``side`` is empty;
    otherwise (subsets) each row is K bits, and ``side`` is one byte. Not compressed: after a randomised response
    there is little to gain.
    """

    name = "code"
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        words = self._words(features_BF.shape[1:])
        rows_NK = features_BF.reshape(-1, words)
        if not np.isin(rows_NK, (0, 1)).all():
            raise CodecError(
                f"codec {self.name}: takes codewords, numbers that are 0 or 1, but the features hold others (or NaN); "
                "set model.codebook, or choose codec.name uint8"
            )
        if (np.count_nonzero(rows_NK, axis=1) == 1).all():
            return pack_bits(rows_NK.argmax(1).astype(np.uint8), _place_bits(words)), b""
        return pack_bits(rows_NK.astype(np.uint8), 1), _SUBSETS

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.float32]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        words = self._words(feature_shape)
        rows_NK = features_BF.reshape(-1, words)
        if side == _SUBSETS:
            check_length(payload, packed_size(rows_NK.size, 1), "payload", self.name)
            rows_NK[:] = unpack_bits(payload, 1, rows_NK.size).reshape(rows_NK.shape)
            return features_BF
        check_length(side, 0, "side", self.name)
        check_length(payload, packed_size(len(rows_NK), _place_bits(words)), "payload", self.name)
        places = unpack_bits(payload, _place_bits(words), len(rows_NK))
        if places.max() >= words:
            raise CodecError(f"codec {self.name}: the payload names codeword {places.max()} of {words}: it is corrupt")
        rows_NK[:] = 0
        rows_NK[np.arange(len(rows_NK)), places] = 1
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        return packed_size(batch * math.prod(feature_shape), 1) + len(_SUBSETS)

    def _words(self, feature_shape: tuple[int, ...]) -> int:
        if feature_shape[-1] > 256:
            raise CodecError(f"codec {self.name}: takes at most 256 codewords, got features of shape {feature_shape}")
        return feature_shape[-1]


def _place_bits(words: int) -> int:
    """Bits by which one of that many places is named."""
    return max(1, (words - 1).bit_length())
