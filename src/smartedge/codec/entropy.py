"""Entropy coding: Arrow's zstd, with the size of the result known beforehand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from smartedge.errors import CodecError

__all__ = ["compress", "decompress", "max_compressed"]

# Level 1 on packed levels, by measurement (docs/decisions/0009-codecs.md): higher levels, a trained dictionary and an
# ANS coder with a model per channel take 2 to 100 times as long and save little or nothing.
_ZSTD = pa.Codec("zstd", compression_level=1)


def compress(data: bytes | np.ndarray) -> bytes:
    """``data`` (bytes, or a contiguous array) as one zstd frame."""
    compressed: bytes = _ZSTD.compress(data, asbytes=True)
    return compressed


def max_compressed(size: int) -> int:
    """No ``size`` bytes become more than this by :func:`compress` (``ZSTD_COMPRESSBOUND`` of zstd.h)."""
    return size + (size >> 8) + (max(0, 2**17 - size) >> 11)


def decompress(data: bytes | memoryview, size: int, codec: str) -> memoryview:
    """What :func:`compress` was given, which must be exactly ``size`` bytes.

    zstd writes into a buffer of ``size`` bytes and stops with an error where the data would not fit or not fill it,
    so a decompression bomb costs no more memory than an honest payload.

    Raises:
        CodecError: when ``data`` is no zstd frame, or not one of ``size`` bytes.
    """
    try:
        return memoryview(_ZSTD.decompress(data, size))
    except (OSError, pa.ArrowException) as error:
        raise CodecError(
            f"codec {codec}: the payload is not {size} bytes in one zstd frame ({error}): it is truncated or corrupt, "
            "or the two sides disagree about feature shape or codec"
        ) from error
