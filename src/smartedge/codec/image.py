"""Codecs for uint8 images, for the baseline that uploads them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import check_length, new_features
from smartedge.codec.bits import compress, decompress, max_compressed
from smartedge.codec.pictures import PictureFormat, read_picture, write_picture
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["PictureCodec", "PixelCodec"]

_LENGTH = struct.Struct("<I")


class PixelCodec:
    """Lossless: each pixel as its difference from its left and upper neighbours (modulo 256), then zstd.

    On photographs this is as small as PNG; zstd alone would save nothing.
    """

    name = "image"
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        pixels = features_BF
        for axis in _neighbour_axes(pixels.ndim):
            pixels = np.diff(pixels, axis=axis, prepend=np.uint8(0))
        return compress(np.ascontiguousarray(pixels)), b""

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.uint8]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        check_length(side, 0, "side", self.name)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        size = batch * math.prod(feature_shape)
        pixels = decompress(payload, size, self.name).reshape(features_BF.shape)
        for axis in _neighbour_axes(pixels.ndim):
            pixels = np.cumsum(pixels, axis=axis, dtype=np.uint8)
        features_BF[:] = pixels
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        return max_compressed(batch * math.prod(feature_shape))


@dataclass(frozen=True)
class PictureCodec:
    """One JPEG, WebP or AVIF per RGB image, each after its length as uint32.

    An image whose file would not be smaller than its 3 * H * W pixels is sent as those, row by row in RGB: so a length
    of 3 * H * W says what follows, and no content takes more.
    """

    name: str
    format: PictureFormat
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`; the features must be images of shape (B, 3, H, W)."""
        _check_rgb(features_BF.shape[1:], self.name)
        parts = []
        for pixels_HWC in np.ascontiguousarray(features_BF.transpose(0, 2, 3, 1)):
            file = write_picture(pixels_HWC, self.format)
            data = file if len(file) < pixels_HWC.size else pixels_HWC.tobytes()
            parts += [_LENGTH.pack(len(data)), data]
        return b"".join(parts), b""

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.uint8]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        check_length(side, 0, "side", self.name)
        _check_rgb(feature_shape, self.name)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        channels, height, width = feature_shape
        offset = 0
        for index in range(batch):
            start = offset + _LENGTH.size
            length = int.from_bytes(payload[offset:start], "little")
            offset = start + length
            what = f"codec {self.name}: image {index}"
            if len(payload) < offset:
                raise CodecError(f"{what} of {batch}: the payload ends within it: truncated")
            if length > math.prod(feature_shape):
                raise CodecError(f"{what} is longer than its pixels: corrupt")
            data = payload[start:offset]
            if length == math.prod(feature_shape):
                pixels_HWC = np.frombuffer(data, np.uint8).reshape(height, width, channels)
            else:
                pixels_HWC = read_picture(bytes(data), self.format, width=width, height=height, mode="RGB", what=what)
            features_BF[index] = pixels_HWC.transpose(2, 0, 1)
        check_length(payload, offset, "payload", self.name)
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        return batch * (_LENGTH.size + math.prod(feature_shape))


def _check_rgb(feature_shape: tuple[int, ...], codec: str) -> None:
    if len(feature_shape) != 3 or feature_shape[0] != 3:
        raise CodecError(f"codec {codec}: takes images of shape (3, H, W), got {feature_shape}; use codec.name image")


def _neighbour_axes(dims: int) -> range:
    """The last two axes, never the batch axis."""
    return range(max(1, dims - 2), dims)
