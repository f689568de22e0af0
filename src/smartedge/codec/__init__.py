"""Codecs: features to bytes and back.

A codec turns the features of one batch into a ``payload`` and a small ``side`` (ranges and the like), and back.
All numbers in both are little-endian. Which codecs exist is the table below and nothing else. How they compare on
real features, and why these: docs/decisions/0009-codecs.md.

=============  ======================  ========================================================  ====================
name           takes                   what is sent                                              error
=============  ======================  ========================================================  ====================
float32        float32                 the numbers as they are                                   none
float16        float32                 IEEE half precision; beyond ±65504 is a ``CodecError``    ≤ 2⁻¹¹ of the value
uint8          float32                 256 levels between each channel's minimum and maximum     ≤ half a step
uint4, uint2,  float32                 16, 4, 2 levels over the range of each channel that has   ≤ half a step within
uint1                                  the least squared error                                   the range
topk-P%        float32                 the P % of largest magnitude of each image, 16 levels     1 - energy kept
tile-webp-Q,   float32 (C, H, W)       one grey picture of all channels of the frame             by decoding
tile-avif-Q
learned-N      float32                 evenly spaced levels by an entropy coder: at most N bytes   ≤ half a step, which
                                       per image of a frame                                      the frame decides
code           float32 0/1 (..., K)    one codeword: ceil(log2 K) bits; a subset: K bits         none
image          uint8                   differences of neighbouring pixels                        none
jpeg-Q, jpeg,  uint8 (3, H, W)         one file per image; ``jpeg`` is jpeg-90                   by decoding
webp-Q, avif-Q
=============  ======================  ========================================================  ====================

``uint8-previous`` and so on, and ``learned-N-previous``, send images of a camera by their differences to the image
before (:mod:`smartedge.codec.sequence`). The error of each is that of the codec without ``-previous``.

Q is the quality on the image codec's own scale, 1 to 100; P is above 0 and at most 50; N is 16 to 999999. uint8 to
uint1, topk and image are compressed by zstd. AVIF needs a Pillow built with it (11.3 or newer, from a wheel).

``base`` is the interface. In the order of the table: ``floats``, ``quantise``, ``sparse``, ``tiles``, ``learned``,
``codewords``, ``image``; ``sequence`` for images of a camera. They share ``bits``, the image files of ``pictures``,
and the entropy coder ``rans`` with its tables of ``frequencies``.
"""

from __future__ import annotations

import re

import numpy as np

from smartedge.codec.base import Codec, decoding_error, reconstruction_error
from smartedge.codec.codewords import CodewordCodec
from smartedge.codec.floats import Float16Codec, Float32Codec
from smartedge.codec.image import PictureCodec, PixelCodec
from smartedge.codec.learned import FEWEST_BYTES, LearnedCodec
from smartedge.codec.pictures import PictureFormat
from smartedge.codec.quantise import AffineCodec
from smartedge.codec.sequence import PREVIOUS
from smartedge.codec.sparse import TopKCodec
from smartedge.codec.tiles import TileCodec
from smartedge.errors import CodecError, FrameError
from smartedge.types import BLANK, EncodedBatch, FeatureBatch, ReleasedBatch, StreamHeader

__all__ = [
    "CODECS",
    "Codec",
    "LearnedCodec",
    "codec_names",
    "decoding_error",
    "get_codec",
    "pack",
    "reconstruction_error",
    "unpack",
]

CODECS: dict[str, Codec] = {
    "float32": Float32Codec(),
    "float16": Float16Codec(),
    "uint8": AffineCodec(8),
    "uint4": AffineCodec(4),
    "uint2": AffineCodec(2),
    "uint1": AffineCodec(1),
    **{codec.name: codec for codec in (AffineCodec(bits, previous=True) for bits in (8, 4, 2, 1))},
    "code": CodewordCodec(),
    "image": PixelCodec(),
    "jpeg": PictureCodec("jpeg", PictureFormat("JPEG", 90)),
}
_LARGEST = float(np.finfo(np.float32).max)
_LABEL_DTYPES = {"single": np.int64, "multi": np.float32}
_WITH_A_NUMBER = (
    "learned-N",
    "learned-N-previous",
    "topk-P%",
    "tile-webp-Q",
    "tile-avif-Q",
    "jpeg-Q",
    "webp-Q",
    "avif-Q",
)

# Images are the rival that we are compared with, so they are coded well; tiles are coded on the edge beside training,
# so fast: slower settings take three to five times as long and save 3 % (docs/decisions/0009-codecs.md).
_WEBP, _WEBP_TILES = {"method": 6}, {"method": 0}
_AVIF, _AVIF_TILES = {"speed": 6, "max_threads": 1}, {"speed": 10, "max_threads": 1}


def codec_names() -> tuple[str, ...]:
    """The names that :func:`get_codec` knows; Q is a quality of 1 to 100, P a number up to 50, N bytes."""
    return (*CODECS, *_WITH_A_NUMBER)


def get_codec(name: str) -> Codec:
    """The codec of that name. Codecs hold no state, so one instance serves every caller and thread.

    Raises:
        CodecError: when there is none of that name, its number is out of range, or it needs an image format that the
            Pillow installed here lacks.
    """
    if name in CODECS:
        return CODECS[name]
    if found := re.fullmatch(r"topk-([0-9]{1,2}(?:\.[0-9]{1,4})?)%", name):
        percent = float(found[1])
        if not 0 < percent <= 50:
            raise CodecError(f"codec.name: {name!r} must keep more than 0 % and at most 50 %; write topk-5%, say")
        return TopKCodec(percent, name)
    if found := re.fullmatch(rf"learned-([0-9]{{1,6}})({PREVIOUS})?", name):
        target = int(found[1])
        if target < FEWEST_BYTES:
            raise CodecError(f"codec.bytes: an image takes {FEWEST_BYTES} bytes or more by codec learned, not {target}")
        return LearnedCodec(target, previous=found[2] is not None)
    if found := re.fullmatch(r"(tile-webp|tile-avif|jpeg|webp|avif)-([0-9]{1,3})", name):
        family, quality = found[1], int(found[2])
        if not 1 <= quality <= 100:
            raise CodecError(f"codec.name: {name!r} must have a quality of 1 to 100; write {family}-50, say")
        codec = _of_pictures(name, family, quality)
        codec.format.check_support()
        return codec
    import difflib  # for this message alone

    near = difflib.get_close_matches(name.lower(), codec_names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CodecError(f"codec.name: there is no codec {name!r}; {hint}choose one of {', '.join(codec_names())}")


def _of_pictures(name: str, family: str, quality: int) -> PictureCodec | TileCodec:
    if family == "tile-webp":
        return TileCodec(name, PictureFormat("WEBP", quality, _WEBP_TILES))
    if family == "tile-avif":
        return TileCodec(name, PictureFormat("AVIF", quality, _AVIF_TILES))
    if family == "webp":
        return PictureCodec(name, PictureFormat("WEBP", quality, _WEBP))
    if family == "avif":
        return PictureCodec(name, PictureFormat("AVIF", quality, _AVIF))
    return PictureCodec(name, PictureFormat("JPEG", quality))


def pack(released: ReleasedBatch, codec: Codec) -> EncodedBatch:
    """Encode what was released, and nothing else: the type is the privacy gate.

    Args:
        released: B images, from :func:`smartedge.release` or a gate.
        codec: from :func:`get_codec`; its ``dtype`` must be that of the features.

    Returns:
        Labels as int64 (B,) for a single-label task, as uint8 (B, K) for a multi-label one, BLANK where one is NaN.

    Raises:
        TypeError: for anything but a :class:`~smartedge.types.ReleasedBatch`.
        CodecError: when the codec cannot encode the features (dtype, shape, values), or ids, features and labels do not
            belong together.
    """
    if type(released) is not ReleasedBatch:
        raise TypeError(f"pack() takes a ReleasedBatch from smartedge.privacy.release, not {type(released).__name__}")
    ids, features_BF = np.ascontiguousarray(released.ids, dtype=np.int64), released.features_BF
    labels: np.ndarray = released.labels
    if features_BF.dtype != codec.dtype:
        raise CodecError(f"pack: codec {codec.name} takes {codec.dtype}, not {features_BF.dtype}; change codec.name")
    if features_BF.ndim < 2 or features_BF.size == 0:
        raise CodecError(
            f"pack: features must have a batch dimension, one more, and no empty one, got {features_BF.shape}"
        )
    if not (ids.ndim == 1 and len(ids) == len(features_BF) == len(labels)):
        raise CodecError(
            f"pack: {len(ids)} ids, {len(features_BF)} feature maps and {len(labels)} labels must be one each per image"
        )
    if labels.dtype != np.int64 or labels.ndim != 1:
        blank_BK = np.isnan(labels) if labels.dtype == np.float32 else np.False_
        if labels.dtype != np.float32 or labels.ndim != 2 or not bool(((labels == 0) | (labels == 1) | blank_BK).all()):
            raise CodecError(
                "pack: labels must be int64 (B,), or float32 (B, K) holding only 0, 1 and NaN, "
                f"got {labels.dtype} {labels.shape}"
            )
        labels = np.where(blank_BK, BLANK, np.nan_to_num(labels)).astype(np.uint8)
    payload, side = codec.encode(features_BF)
    return EncodedBatch(ids=ids, labels=labels, payload=payload, side=side)


def unpack(encoded: EncodedBatch, header: StreamHeader, *, largest: float = _LARGEST) -> FeatureBatch:
    """Decode a batch as its stream's header says: codec, shape and dtype of the features, kind of task.

    Args:
        encoded: what :func:`pack` made, or what came over the link and was checked there.
        header: of its stream.
        largest: no feature may have a larger magnitude. Images, uint8, may have any value.

    Returns:
        ``ids``, int64 (B,); ``features_BF``, (B, *F); and ``labels``, int64 (B,) for a single-label task, or float32
        (B, K) in {0, 1} for a multi-label one, NaN where an image lacks a label.

    Raises:
        CodecError: when the payload cannot be decoded, or is longer than it can be.
        FrameError: a feature is not finite, or too large.
    """
    codec, batch, shape = get_codec(header.codec), len(encoded.ids), header.feature_shape
    size, most = len(encoded.payload) + len(encoded.side), codec.max_bytes(batch, shape)
    if size > most:
        raise CodecError(
            f"unpack: {batch} feature maps of shape {shape} are never more than {most} bytes by codec {codec.name}, "
            f"got {size}; both sides need the same codec.name"
        )
    dtype = np.dtype(header.feature_dtype)
    features_BF = codec.decode(encoded.payload, encoded.side, batch=batch, feature_shape=shape, dtype=dtype)
    if dtype == np.float32:
        low, high = float(features_BF.min()), float(features_BF.max())  # NaN, where one is in it
        if not (-largest <= low and high <= largest):
            raise FrameError(
                f"features reach from {low:g} to {high:g}, but those of this run stay within ±{largest:g}; has the "
                "front diverged? Lower train.lr"
            )
    labels = encoded.labels.astype(_LABEL_DTYPES[header.task_kind])
    if header.blanks:
        labels[encoded.labels == BLANK] = np.nan
    return FeatureBatch(encoded.ids, features_BF, labels)
