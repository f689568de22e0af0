"""What a codec is, and what all codecs share."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["Codec", "decoding_error", "reconstruction_error"]

_ALIGNMENT = 64  # bytes


class Codec(Protocol):
    """Turns the features of one batch into bytes and back.

    ``payload`` holds the features, ``side`` what is needed beside it to decode (``b""`` where nothing is).
    Both sides know batch size, feature shape and dtype from the stream header, so neither repeats them.
    """

    @property
    def name(self) -> str:
        """The name that a stream header carries."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that it encodes and gives back."""

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """Payload and side of features of shape (B, *F) and of :attr:`dtype`, B ≥ 1; ``pack`` checks this.

        Raises:
            CodecError: for a shape that the codec does not take, or values that it cannot represent (NaN, infinities).
        """

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Features:
        """The features, of shape (batch, *feature_shape): contiguous, writable, aligned to 64 bytes.

        Nothing larger than the result is allocated before the payload's own claims are checked against it. Decoded
        numbers may be NaN or infinite; ``unpack`` checks this.

        Raises:
            CodecError: when the bytes are not what :meth:`encode` makes of such features.
        """

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """Payload and side together are never more bytes than this, whatever the features hold."""


def new_features(
    batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any], of: np.dtype[Any], codec: str
) -> NDArray[Any]:
    """Memory for decoded features, uninitialised and aligned to 64 bytes. ``of`` is what the codec decodes to."""
    if dtype != of:
        raise CodecError(f"codec {codec}: decodes to {of}, not {dtype}; both sides need the same codec.name")
    if batch < 1 or not feature_shape or min(feature_shape) < 1:
        raise CodecError(f"codec {codec}: cannot decode {batch} features of shape {feature_shape}")
    size = batch * math.prod(feature_shape) * of.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(of).reshape(batch, *feature_shape)


def check_length(data: Bytes, length: int, what: str, codec: str) -> None:
    """Raise a :class:`CodecError` unless ``data`` is exactly so many bytes long."""
    if len(data) != length:
        raise CodecError(f"codec {codec}: {what} must be {length} bytes, got {len(data)}: it is truncated or corrupt")


def reconstruction_error(codec: Codec, features_BF: Features) -> dict[str, float]:
    """What one round trip costs.

    Returns:
        ``bytes`` (payload and side together), ``bytes_per_sample``, and :func:`decoding_error`.
    """
    payload, side = codec.encode(features_BF)
    size = len(payload) + len(side)
    error = decoding_error(codec, payload, side, features_BF)
    return {"bytes": size, "bytes_per_sample": size / len(features_BF), **error}


def decoding_error(codec: Codec, payload: Bytes, side: bytes, features_BF: Features) -> dict[str, float]:
    """By how much what is decoded differs from the features (B, *F) that were encoded.

    Returns:
        The largest (``max_abs``) and root-mean-square (``rmse``) difference over all elements, in the features' own
        units; and ``energy_kept``, 1 - sum of squared differences / sum of squared features (1 where all features are
        zero and came back so).
    """
    shape = features_BF.shape
    decoded_BF = codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=features_BF.dtype)
    original_BF = features_BF.astype(np.float64)
    difference_BF = decoded_BF - original_BF
    lost, energy = float(np.square(difference_BF).sum()), float(np.square(original_BF).sum())
    return {
        "max_abs": float(np.abs(difference_BF).max()),
        "rmse": math.sqrt(lost / difference_BF.size),
        "energy_kept": 1 - lost / energy if energy else float(lost == 0),
    }
