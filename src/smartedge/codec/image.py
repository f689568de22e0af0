"""Codecs for uint8 images, for the baseline that uploads them."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smartedge.codec.base import check_features, check_length, new_features
from smartedge.codec.entropy import compress, decompress
from smartedge.errors import CodecError

__all__ = ["JpegCodec", "PixelCodec"]

_QUALITY = 90
_LENGTH = struct.Struct("<I")


class PixelCodec:
    """Lossless: each pixel as its difference from its left and upper neighbours (modulo 256), then zstd.

    On photographs this is as small as PNG; zstd alone would save nothing.
    """

    name = "image"
    lossless = True
    dtype = torch.uint8

    def encode(self, features_BF: Tensor) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        check_features(features_BF, self.dtype, self.name)
        pixels = features_BF.detach().cpu().numpy()
        for axis in _neighbour_axes(pixels.ndim):
            pixels = np.diff(pixels, axis=axis, prepend=np.uint8(0))
        return compress(pixels.tobytes()), b""

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """See :meth:`smartedge.codec.Codec.decode`."""
        check_length(side, 0, "side", self.name)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        size = batch * math.prod(feature_shape)
        pixels = np.frombuffer(decompress(payload, size, self.name), np.uint8).reshape(features_BF.shape)
        for axis in _neighbour_axes(pixels.ndim):
            pixels = np.cumsum(pixels, axis=axis, dtype=np.uint8)
        features_BF.numpy()[:] = pixels
        return features_BF


class JpegCodec:
    """One JPEG of quality 90 (chroma at half resolution) per RGB image, each after its length as uint32."""

    name = "jpeg"
    lossless = False
    dtype = torch.uint8

    def encode(self, features_BF: Tensor) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`; the features must be images of shape (B, 3, H, W)."""
        check_features(features_BF, self.dtype, self.name)
        _check_rgb(tuple(features_BF.shape[1:]), self.name)
        parts = []
        for image_HWC in features_BF.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy():
            file = io.BytesIO()
            Image.fromarray(image_HWC).save(file, "JPEG", quality=_QUALITY)
            parts += [_LENGTH.pack(file.tell()), file.getvalue()]
        return b"".join(parts), b""

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """See :meth:`smartedge.codec.Codec.decode`."""
        check_length(side, 0, "side", self.name)
        _check_rgb(feature_shape, self.name)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        offset = 0
        for index in range(batch):
            start = offset + _LENGTH.size
            length = int.from_bytes(payload[offset:start], "little")
            offset = start + length
            if len(payload) < offset:
                raise CodecError(f"codec {self.name}: the payload ends within image {index} of {batch}: truncated")
            image_HWC = _read_jpeg(payload[start:offset], feature_shape, index)
            features_BF[index] = torch.from_numpy(image_HWC).permute(2, 0, 1)
        check_length(payload, offset, "payload", self.name)
        return features_BF


def _read_jpeg(data: bytes, shape: tuple[int, ...], index: int) -> np.ndarray:
    """The pixels (H, W, 3) of one JPEG, which is decoded only when its header gives the size and mode expected."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            fits = image.mode == "RGB" and image.size == (shape[2], shape[1])
            pixels = np.array(image) if fits else None
            found = f"a {image.mode} JPEG of {image.size[0]}x{image.size[1]}"
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        raise CodecError(f"codec jpeg: image {index} is no readable JPEG ({error!r})") from error
    if pixels is None:
        raise CodecError(f"codec jpeg: image {index} must be an RGB JPEG of {shape[2]}x{shape[1]}, got {found}")
    return pixels


def _check_rgb(feature_shape: tuple[int, ...], codec: str) -> None:
    if len(feature_shape) != 3 or feature_shape[0] != 3:
        raise CodecError(f"codec {codec}: takes images of shape (3, H, W), got {feature_shape}; use codec.name image")


def _neighbour_axes(dims: int) -> range:
    """The last two axes, never the batch axis."""
    return range(max(1, dims - 2), dims)
