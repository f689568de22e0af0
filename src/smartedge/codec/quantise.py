"""Codecs for feature maps: float32, float16, and 256 levels per channel."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from smartedge.codec.base import check_features, check_length, new_features
from smartedge.codec.entropy import compress, decompress
from smartedge.errors import CodecError

__all__ = ["AffineUint8Codec", "Float16Codec", "Float32Codec"]


class Float32Codec:
    """The numbers as they are: 4 bytes each. Not compressed, so that it is the fixed reference for the others."""

    name = "float32"
    lossless = True
    dtype = torch.float32

    def encode(self, features_BF: Tensor) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        features_BF = _finite(features_BF, self.name)
        return features_BF.numpy().tobytes(), b""

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """See :meth:`smartedge.codec.Codec.decode`."""
        return _decode_plain(payload, side, batch, feature_shape, dtype, np.dtype("<f4"), self.name)


class Float16Codec:
    """IEEE half precision: 2 bytes a number, relative error ≤ 2⁻¹¹ (absolute ≤ 2⁻²⁵ below 2⁻¹⁴).

    A value that half precision cannot hold (magnitude beyond 65504) is an error, never clamped in silence.
    """

    name = "float16"
    lossless = False
    dtype = torch.float32

    def encode(self, features_BF: Tensor) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        half_BF = _finite(features_BF, self.name).half()
        if not torch.isfinite(half_BF).all():
            raise CodecError(
                f"codec {self.name}: a feature has magnitude {features_BF.abs().max().item():g}, but half precision "
                "ends at 65504; choose codec.name uint8 or float32, or a bounded cut (model.bottleneck)"
            )
        return half_BF.numpy().tobytes(), b""

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """See :meth:`smartedge.codec.Codec.decode`."""
        return _decode_plain(payload, side, batch, feature_shape, dtype, np.dtype("<f2"), self.name)


class AffineUint8Codec:
    """256 levels, evenly spaced between the minimum and the maximum of each channel over the frame, then zstd.

    The error is at most half a step, (maximum - minimum) / 510 of the channel, plus float32 rounding; minimum and
    maximum themselves survive exactly, so encoding what was decoded changes nothing more.

    The channel is the first axis of a feature map (C, H, W) or vector (D,), and the last axis of tokens (T, D):
    there each of the D embedding dimensions has a scale of its own, while the T tokens are positions, as H and W are.
    (A channels-last map (H, W, C), as Swin's, is coded per row: correct, with coarser steps.)

    ``side`` holds the C minima, then the C maxima, as float32. The levels are sent channel by channel, since values
    of one channel resemble each other.
    """

    name = "uint8"
    lossless = False
    dtype = torch.float32

    def encode(self, features_BF: Tensor) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        check_features(features_BF, self.dtype, self.name)
        features_BF = features_BF.detach().cpu()
        axis = _channel_axis(features_BF.dim() - 1)
        features_CN = features_BF.movedim(axis, 0).flatten(1)
        low_C1, high_C1 = torch.aminmax(features_CN, dim=1, keepdim=True)
        range_C1 = high_C1 - low_C1
        if not torch.isfinite(range_C1).all():
            raise CodecError(
                f"codec {self.name}: features hold NaN, infinities, or a range beyond float32's; training has diverged"
            )
        # A constant channel has range 0 and becomes level 0, which decodes to that constant.
        weight_CN = (features_CN - low_C1).div_(range_C1.masked_fill(range_C1 == 0, 1))
        levels_CN = weight_CN.mul_(255).round_().to(torch.uint8)
        side = torch.stack([low_C1, high_C1]).numpy().astype("<f4").tobytes()
        return compress(levels_CN.numpy().tobytes()), side

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """See :meth:`smartedge.codec.Codec.decode`."""
        size = batch * math.prod(feature_shape)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        by_channel_CBF = features_BF.movedim(_channel_axis(len(feature_shape)), 0)
        channels = by_channel_CBF.shape[0]
        check_length(side, 2 * channels * 4, "side", self.name)
        ranges = torch.from_numpy(np.frombuffer(side, "<f4").astype(np.float32)).view(2, channels)
        low_C, high_C = ranges
        if not (torch.isfinite(high_C - low_C).all() and (low_C <= high_C).all()):
            raise CodecError(f"codec {self.name}: side holds no valid ranges: it is corrupt")
        levels = np.frombuffer(decompress(payload, size, self.name), np.uint8)
        weight_CBF = torch.from_numpy(levels.astype(np.float32)).div_(255).view(by_channel_CBF.shape)
        per_channel = (channels,) + (1,) * len(feature_shape)
        torch.lerp(low_C.view(per_channel), high_C.view(per_channel), weight_CBF, out=by_channel_CBF)
        return features_BF


def _channel_axis(feature_dims: int) -> int:
    """Which axis of (B, *F) is the channel, see :class:`AffineUint8Codec`."""
    return 2 if feature_dims == 2 else 1


def _finite(features_BF: Tensor, codec: str) -> Tensor:
    """The features, checked, as a contiguous tensor on the CPU."""
    check_features(features_BF, torch.float32, codec)
    features_BF = features_BF.detach().cpu().contiguous()
    if not torch.isfinite(torch.stack(torch.aminmax(features_BF))).all():  # aminmax passes NaN on
        raise CodecError(f"codec {codec}: features hold NaN or infinities; training has diverged")
    return features_BF


def _decode_plain(
    payload: bytes,
    side: bytes,
    batch: int,
    feature_shape: tuple[int, ...],
    dtype: torch.dtype,
    stored: np.dtype[np.floating],
    codec: str,
) -> Tensor:
    """Numbers stored one after the other, as float32."""
    check_length(side, 0, "side", codec)
    check_length(payload, batch * math.prod(feature_shape) * stored.itemsize, "payload", codec)
    features_BF = new_features(batch, feature_shape, dtype, torch.float32, codec)
    features_BF.numpy().reshape(-1)[:] = np.frombuffer(payload, stored)
    if not torch.isfinite(torch.stack(torch.aminmax(features_BF))).all():
        raise CodecError(f"codec {codec}: the payload holds NaN or infinities: it is corrupt")
    return features_BF
