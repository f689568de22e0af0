from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from smartedge.codec import get_codec, reconstruction_error
from smartedge.errors import CodecError


def smooth_images(batch: int = 4, size: int = 32) -> np.ndarray:
    x = np.linspace(0, 3, size)
    channels = [(np.sin(x[:, None] * (i + 1)) + np.cos(x[None] * (i + 2)) + 2) * 60 for i in range(3)]
    return np.stack([channels] * batch).astype(np.uint8)


def test_differences_make_photographs_small() -> None:
    images_BCHW = smooth_images()
    payload, _ = get_codec("image").encode(images_BCHW)
    assert len(payload) < 0.2 * images_BCHW.size


def test_jpeg_is_pillows_of_quality_90() -> None:
    images_BCHW = smooth_images(2)
    payload, side = get_codec("jpeg").encode(images_BCHW)
    (length,) = struct.unpack_from("<I", payload)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(images_BCHW[0].transpose(1, 2, 0))).save(file, "JPEG", quality=90)
    assert payload[4 : 4 + length] == file.getvalue() and side == b""
    decoded_BCHW = get_codec("jpeg").decode(payload, side, batch=2, feature_shape=(3, 32, 32), dtype=np.dtype(np.uint8))
    assert np.abs(decoded_BCHW.astype(int) - images_BCHW).mean() < 5


@pytest.mark.parametrize("family", ["jpeg", "webp", "avif"])
def test_lower_quality_is_smaller_and_worse(family: str) -> None:
    images_BCHW = smooth_images(2, 64)
    noise = np.random.default_rng(0).integers(0, 40, images_BCHW.shape, np.uint8)
    images_BCHW = images_BCHW // 2 + noise
    low, high = (reconstruction_error(get_codec(f"{family}-{quality}"), images_BCHW) for quality in (20, 80))
    assert low["bytes"] < 0.7 * high["bytes"] < 0.7 * images_BCHW.size
    assert low["rmse"] > 1.1 * high["rmse"]


@pytest.mark.parametrize("name", ["jpeg-75", "webp-75", "avif-75"])
def test_what_would_not_shrink_is_sent_as_it_is(name: str) -> None:
    images_BCHW = smooth_images(3, 32)
    images_BCHW[1] = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    codec = get_codec(name.replace("75", "100"))
    tiny_BCHW = images_BCHW[:, :, :3, :3]
    payload, _ = codec.encode(tiny_BCHW)
    assert payload[:4] == struct.pack("<I", 27) and len(payload) == 3 * 31 == codec.max_bytes(3, (3, 3, 3))
    assert np.array_equal(
        codec.decode(payload, b"", batch=3, feature_shape=(3, 3, 3), dtype=np.dtype(np.uint8)), tiny_BCHW
    )
    payload, _ = codec.encode(images_BCHW)
    assert len(payload) < codec.max_bytes(3, (3, 32, 32))


def test_a_file_larger_than_its_pixels_is_refused() -> None:
    """The encoder sends the pixels then; a decoder that took both would leave the bytes of a frame without a bound."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    assert file.tell() > 3 * 8 * 8
    payload = struct.pack("<I", file.tell()) + file.getvalue()
    with pytest.raises(CodecError, match="image 0 is longer than its pixels"):
        get_codec("jpeg").decode(payload, b"", batch=1, feature_shape=(3, 8, 8), dtype=np.dtype(np.uint8))


def test_jpeg_takes_rgb_only() -> None:
    with pytest.raises(CodecError, match=r"shape \(3, H, W\)"):
        get_codec("jpeg").encode(np.zeros((1, 1, 8, 8), np.uint8))


@pytest.mark.parametrize(
    ("mode", "size", "format"),
    [("RGB", (32, 33), "JPEG"), ("L", (32, 32), "JPEG"), ("CMYK", (32, 32), "JPEG"), ("RGB", (32, 32), "PNG")],
)
def test_jpeg_of_another_kind_is_refused(mode: str, size: tuple[int, int], format: str) -> None:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format)
    payload = struct.pack("<I", file.tell()) + file.getvalue()
    with pytest.raises(CodecError, match="image 0"):
        get_codec("jpeg").decode(payload, b"", batch=1, feature_shape=(3, 32, 32), dtype=np.dtype(np.uint8))


def test_a_jpeg_bomb_is_refused_before_it_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0")  # the frame header: marker, length, precision, then height and width
    data[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    payload = struct.pack("<I", len(data)) + bytes(data)
    with pytest.raises(CodecError, match="image 0"):
        get_codec("jpeg").decode(payload, b"", batch=1, feature_shape=(3, 32, 32), dtype=np.dtype(np.uint8))
