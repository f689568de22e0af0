"""Codecs that only benchmarks/anchors.py compares with: mosaics of images, and feature tiles in HEVC.

They have the interface of ``smartedge.codec``, but nothing sends with them, so they do not guard against hostile bytes.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smartedge.codec import Codec, get_codec
from smartedge.codec.image import PictureCodec
from smartedge.codec.pictures import PictureFormat, write_picture
from smartedge.codec.quantise import by_range, from_levels, level_values, quantise, range_count

__all__ = ["get_anchor"]


def get_anchor(name: str) -> Codec:
    """The package's own codec of that name, or one of those here.

    ``mosaic-FORMAT-QUALITY``: FORMAT is webp or avif, QUALITY as in ``webp-50``. ``tile-hevc-CRF``: x265's constant
    rate factor, from 0 (best) to 51.
    """
    kind, _, rest = name.partition("-")
    if kind == "mosaic":
        alone = get_codec(rest)
        assert isinstance(alone, PictureCodec)
        return MosaicCodec(name, alone.format)  # type: ignore[return-value]
    if name.startswith("tile-hevc-"):
        return HevcTiles(name, int(name.rpartition("-")[2]))  # type: ignore[return-value]
    return get_codec(name)


@dataclass(frozen=True)
class MosaicCodec:
    """The images of a frame (B, 3, H, W) in rows of one picture, about as wide as high: they share its headers."""

    name: str
    format: PictureFormat

    def encode(self, images_BCHW: NDArray[np.uint8]) -> tuple[bytes, bytes]:
        return write_picture(_side_by_side(images_BCHW), self.format), b""

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[np.uint8]
    ) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(payload)) as picture:
            return _apart(np.array(picture.convert("RGB")), batch, feature_shape)


@dataclass(frozen=True)
class HevcTiles:
    """Each channel of each map (B, C, H, W) as a tile of 256 grey levels, all tiles one intra picture of HEVC.

    Levels and order are those of :class:`smartedge.codec.tiles.TileCodec`.
    """

    name: str
    crf: int

    def encode(self, features_BCHW: NDArray[np.float32]) -> tuple[bytes, bytes]:
        levels_RN, side = quantise(by_range(features_BCHW, 8), 8, self.name)
        batch, channels, height, width = features_BCHW.shape
        picture = _side_by_side(levels_RN.reshape(batch * channels, 1, height, width))[:, :, 0]
        return _hevc(np.ascontiguousarray(picture), self.crf), side

    def decode(
        self, payload: bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[np.float32]
    ) -> NDArray[np.float32]:
        import av  # not everywhere that the other anchors run

        channels, height, width = feature_shape
        with av.open(io.BytesIO(payload), "r", format="hevc") as file:
            (frame,) = file.decode(video=0)
        picture = frame.to_ndarray(format="gray").astype(np.uint8)[:, :, None]
        levels = _apart(picture, batch * channels, (1, height, width))[:, 0]
        features_BF = np.empty((batch, *feature_shape), np.float32)
        values_RL = level_values(side, range_count(batch, feature_shape, 8), 8, self.name)
        from_levels(levels, values_RL, out_BF=features_BF)
        return features_BF


def _grid(count: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def _side_by_side(images_BCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows * H, columns * W, C)"""
    count, channels, height, width = images_BCHW.shape
    rows, columns = _grid(count)
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:count] = images_BCHW
    grid = cells.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, channels))


def _apart(picture: NDArray[np.uint8], count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The images again, (B, C, H, W)."""
    channels, height, width = shape
    rows, columns = _grid(count)
    grid = picture[: rows * height, : columns * width].reshape(rows, height, columns, width, channels)
    return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3).reshape(rows * columns, channels, height, width)[:count])


def _hevc(picture: NDArray[np.uint8], crf: int) -> bytes:
    """One grey intra picture with all headers that a decoder needs."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=1)
        stream.height, stream.width = picture.shape
        stream.pix_fmt = "gray"
        stream.options = {"crf": str(crf), "preset": "medium", "x265-params": "info=0:log-level=none:keyint=1"}
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))
    return file.getvalue()
