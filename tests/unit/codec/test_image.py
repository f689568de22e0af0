from __future__ import annotations

import io
import struct

import pytest
import torch
from PIL import Image

from smartedge.codec import get_codec
from smartedge.errors import CodecError


def smooth_images(batch: int = 4, size: int = 32) -> torch.Tensor:
    x = torch.linspace(0, 3, size)
    channels = [(torch.sin(x[:, None] * (i + 1)) + torch.cos(x[None] * (i + 2)) + 2) * 60 for i in range(3)]
    return torch.stack(channels).expand(batch, -1, -1, -1).to(torch.uint8)


def test_differences_make_photographs_small() -> None:
    images_BCHW = smooth_images()
    payload, _ = get_codec("image").encode(images_BCHW)
    assert len(payload) < 0.2 * images_BCHW.numel()


def test_jpeg_is_pillows_of_quality_90() -> None:
    images_BCHW = smooth_images(2)
    payload, side = get_codec("jpeg").encode(images_BCHW)
    (length,) = struct.unpack_from("<I", payload)
    file = io.BytesIO()
    Image.fromarray(images_BCHW[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
    assert payload[4 : 4 + length] == file.getvalue() and side == b""
    decoded_BCHW = get_codec("jpeg").decode(payload, side, batch=2, feature_shape=(3, 32, 32), dtype=torch.uint8)
    assert (decoded_BCHW.float() - images_BCHW.float()).abs().mean() < 5


def test_jpeg_takes_rgb_only() -> None:
    with pytest.raises(CodecError, match=r"shape \(3, H, W\)"):
        get_codec("jpeg").encode(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("mode", "size", "format"),
    [("RGB", (8, 9), "JPEG"), ("L", (8, 8), "JPEG"), ("CMYK", (8, 8), "JPEG"), ("RGB", (8, 8), "PNG")],
)
def test_jpeg_of_another_kind_is_refused(mode: str, size: tuple[int, int], format: str) -> None:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format)
    payload = struct.pack("<I", file.tell()) + file.getvalue()
    with pytest.raises(CodecError, match="image 0"):
        get_codec("jpeg").decode(payload, b"", batch=1, feature_shape=(3, 8, 8), dtype=torch.uint8)


def test_a_jpeg_bomb_is_refused_before_it_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0")  # the frame header: marker, length, precision, then height and width
    data[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    payload = struct.pack("<I", len(data)) + bytes(data)
    with pytest.raises(CodecError, match="image 0"):
        get_codec("jpeg").decode(payload, b"", batch=1, feature_shape=(3, 8, 8), dtype=torch.uint8)
