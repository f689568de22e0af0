"""Codecs: features to bytes and back.

A codec turns the features of one batch into a ``payload`` and a small ``side`` (ranges and the like), and back.
All numbers in both are little-endian. Which codecs exist is the table below and nothing else.

=========  ========  ========  =============================================================  ====================
name       takes     lossless  what is sent                                                   error
=========  ========  ========  =============================================================  ====================
float32    float32   yes       the numbers as they are                                        none
float16    float32   no        IEEE half precision; beyond ±65504 is a ``CodecError``         ≤ 2⁻¹¹ of the value
uint8      float32   no        256 levels between each channel's minimum and maximum, zstd    ≤ half a step
image      uint8     yes       differences of neighbouring pixels, zstd                       none
jpeg       uint8     no        one JPEG of quality 90 per image                               as JPEG's
=========  ========  ========  =============================================================  ====================
"""

from __future__ import annotations

import difflib

from smartedge.codec.base import Codec, reconstruction_error
from smartedge.codec.image import JpegCodec, PixelCodec
from smartedge.codec.pack import pack, unpack
from smartedge.codec.quantise import AffineUint8Codec, Float16Codec, Float32Codec
from smartedge.errors import CodecError
from smartedge.types import FeatureBatch, Frame, StreamHeader, feature_dtype

__all__ = ["Codec", "codec_names", "get_codec", "pack", "reconstruction_error", "unpack", "unpack_frame"]

_CODECS: dict[str, Codec] = {
    "float32": Float32Codec(),
    "float16": Float16Codec(),
    "uint8": AffineUint8Codec(),
    "image": PixelCodec(),
    "jpeg": JpegCodec(),
}


def codec_names() -> tuple[str, ...]:
    """The names that :func:`get_codec` knows."""
    return tuple(_CODECS)


def get_codec(name: str) -> Codec:
    """The codec of that name. Codecs hold no state, so one instance serves every caller and thread.

    Raises:
        CodecError: when there is none of that name.
    """
    if name in _CODECS:
        return _CODECS[name]
    near = difflib.get_close_matches(name, _CODECS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CodecError(f"codec.name: there is no codec {name!r}; {hint}choose one of {', '.join(_CODECS)}")


def unpack_frame(frame: Frame, header: StreamHeader) -> FeatureBatch:
    """Decode a frame as its stream's header says; see :func:`unpack`."""
    return unpack(
        frame.batch,
        get_codec(header.codec),
        feature_shape=header.feature_shape,
        dtype=feature_dtype(header.feature_dtype),
        task_kind=header.task_kind,
        outputs=header.outputs,
    )
