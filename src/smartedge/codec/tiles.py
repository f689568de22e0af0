"""A codec that lays the channels of a frame side by side, and sends them as one grey picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import check_length, new_features
from smartedge.codec.pictures import PictureFormat, read_picture, write_picture
from smartedge.codec.quantise import RANGE_BYTES, by_range, from_levels, level_values, quantise, range_count
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["TileCodec"]

_LONGEST_SIDE = 16383  # WebP's
_LARGEST_AREA = 2**26  # pixels: a picture for which Pillow does not warn of a decompression bomb


@dataclass(frozen=True)
class TileCodec:
    """Each channel of each map (B, C, H, W) becomes a tile of 256 grey levels, and all tiles one WebP or AVIF.

    Levels span each channel's minimum to its maximum, as ``uint8``'s do; ``side`` holds them. What the image codec
    loses is stated by decoding (:func:`smartedge.codec.reconstruction_error`); there is no bound. Tiles lie channel by
    channel, in rows, in a picture about as wide as high. Where the file would not be smaller than the levels, the
    levels are sent instead, so a payload of B * C * H * W bytes is those.
    """

    name: str
    format: PictureFormat
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`; the features must be maps of shape (B, C, H, W)."""
        batch, shape = len(features_BF), features_BF.shape[1:]
        rows, columns = self._grid(batch, shape)
        channels, height, width = shape
        levels_RN, side = quantise(by_range(features_BF, 8), 8, self.name)
        levels = levels_RN.reshape(batch * channels, height, width)
        tiles = np.zeros((rows * columns, height, width), np.uint8)
        tiles[: len(levels)] = levels
        picture = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
        file = write_picture(picture, self.format)
        return file if len(file) < levels.size else levels.tobytes(), side

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.float32]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        rows, columns = self._grid(batch, feature_shape)
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        channels, height, width = feature_shape
        values_RL = level_values(side, range_count(batch, feature_shape, 8), 8, self.name)
        size = features_BF.size
        if len(payload) < size:
            picture = read_picture(
                bytes(payload),
                self.format,
                width=columns * width,
                height=rows * height,
                mode="L",
                what=f"codec {self.name}: the picture",
            )
            tiles = picture.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)
            levels = tiles[: batch * channels]
        else:
            check_length(payload, size, "payload", self.name)
            levels = np.frombuffer(payload, np.uint8)
        from_levels(levels, values_RL, out_BF=features_BF)
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        return batch * math.prod(feature_shape) + RANGE_BYTES * range_count(batch, feature_shape, 8)

    def _grid(self, batch: int, feature_shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of tiles."""
        if len(feature_shape) != 3 or batch < 1 or min(feature_shape) < 1:
            raise CodecError(f"codec {self.name}: takes maps of shape (C, H, W), got {feature_shape}; use uint8")
        channels, height, width = feature_shape
        count = batch * channels
        columns = min(count, math.ceil(math.sqrt(count * height / width)))
        rows = math.ceil(count / columns)
        high, wide = rows * height, columns * width
        if max(high, wide) > _LONGEST_SIDE or high * wide > _LARGEST_AREA:
            raise CodecError(
                f"codec {self.name}: {batch} maps of shape {feature_shape} make a picture of {wide}x{high}, beyond "
                "what an image codec takes; lower train.batch_size"
            )
        return rows, columns
