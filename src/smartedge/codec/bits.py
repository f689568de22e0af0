"""Few bytes: small whole numbers as bits without gaps, and bytes through zstd."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import CodecError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["compress", "decompress", "max_compressed", "pack_bits", "packed_size", "unpack_bits"]

# Level 1 on packed levels, by measurement (docs/decisions/0009-codecs.md): higher levels, a trained dictionary and an
# ANS coder with a model per channel take 2 to 100 times as long and save little or nothing.
_LEVEL = 1
_LARGEST_WINDOW = 21  # log2 of the bytes that zstd may keep while it decompresses; level 1 needs 19


def packed_size(count: int, width: int) -> int:
    """Bytes that ``count`` numbers of ``width`` bits take."""
    return (count * width + 7) // 8


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """uint8 numbers below 2**width, 1 ≤ width ≤ 8, one after the other, lowest bit first; zeros fill the last byte."""
    flat = values.reshape(-1)
    if width == 8:
        return flat.tobytes()
    if 8 % width:
        bits = np.unpackbits(flat[:, None], axis=1, count=width, bitorder="little")
        return np.packbits(bits, bitorder="little").tobytes()
    # Numbers that share a byte lie side by side in one integer: shifted onto each other, its lowest byte is theirs.
    # Fifty times as fast as going by single bits.
    together = 8 // width
    if rest := -len(flat) % together:
        flat = np.concatenate([flat, np.zeros(rest, np.uint8)])
    wide = np.ascontiguousarray(flat).view(f"<u{together}")
    packed = wide.copy()
    for place in range(1, together):
        packed |= wide >> ((8 - width) * place)
    return packed.astype(np.uint8).tobytes()


def unpack_bits(data: bytes | memoryview, width: int, count: int) -> NDArray[np.uint8]:
    """What :func:`pack_bits` was given, as uint8 (count,); ``data`` must be :func:`packed_size` bytes."""
    packed = np.frombuffer(data, np.uint8)
    if width == 8:
        return packed
    if 8 % width:
        bits = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
        codes: NDArray[np.uint8] = np.packbits(bits, axis=1, bitorder="little")[:, 0]
        return codes
    together = 8 // width
    wide = packed.astype(f"<u{together}")
    mask = wide.dtype.type(2**width - 1)
    values = wide & mask
    for place in range(1, together):
        values |= (wide >> (width * place) & mask) << (8 * place)
    unpacked: NDArray[np.uint8] = values.view(np.uint8)[:count]
    return unpacked


def compress(values: bytes | NDArray[np.uint8], width: int = 8) -> bytes:
    """Bytes below 2**width (a contiguous array may have any shape), without gaps between them, as one zstd frame."""
    plain = values if isinstance(values, bytes) else values.data
    return zstd.compress(plain if width == 8 else pack_bits(np.frombuffer(plain, np.uint8), width), level=_LEVEL)


def max_compressed(size: int) -> int:
    """No ``size`` bytes become more than this by :func:`compress` (``ZSTD_COMPRESSBOUND`` of zstd.h)."""
    return size + (size >> 8) + (max(0, 2**17 - size) >> 11)


def decompress(data: bytes | memoryview, count: int, codec: str, width: int = 8) -> NDArray[np.uint8]:
    """The ``count`` numbers that :func:`compress` was given, uint8 (count,).

    zstd writes no more than their size + 1 bytes, and keeps no more than it needs for their size. So a decompression
    bomb costs no more memory than an honest payload.

    Raises:
        CodecError: when ``data`` is no zstd frame, or not one of so many numbers.
    """
    size = packed_size(count, width)
    window = min(_LARGEST_WINDOW, max(10, size.bit_length()))
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
    problem = "another length"
    try:
        plain = decompressor.decompress(data, max_length=size + 1)
        if len(plain) == size and decompressor.eof and not decompressor.unused_data:
            return np.frombuffer(plain, np.uint8) if width == 8 else unpack_bits(plain, width, count)
    except zstd.ZstdError as error:
        problem = str(error)
    raise CodecError(
        f"codec {codec}: the payload is not {size} bytes in one zstd frame ({problem}): it is truncated or corrupt, "
        "or the two sides disagree about feature shape or codec"
    )
