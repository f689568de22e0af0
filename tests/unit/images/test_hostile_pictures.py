"""Files that are called images: pixels as they are meant, or what the file is and what to do."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from smartedge.images.decode import decode


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image"),
        (b"\0\0\0\x20ftypisom" + bytes(64), "a video"),
        (b"\0\0\0\x20ftypheim" + bytes(64), "a HEIC image"),
        (b"\0\0\0\x20ftypcrx " + bytes(64), "photograph of the kind 'crx '"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b'{"message": "not found"}', "JSON or an HTML page, not an image"),
        (bytes(128) + b"DICM" + bytes(64), "a DICOM file"),
        (b"%PDF-1.4" + bytes(64), "a PDF file"),
        (b"8BPS\0\1" + bytes(60), "a Photoshop file"),
        (b"\x93NUMPY" + bytes(60), "an array of NumPy"),
        (b"\x1f\x8b" + bytes(40), "compressed by gzip"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "an HTML page"),
    ],
)
def test_files_of_other_kinds_are_named(data: bytes, says: str) -> None:
    reason = decode(data, 8)
    assert isinstance(reason, str)
    assert says in reason
    assert reason.endswith(")")  # what to do


def _tiff(values: np.ndarray, photometric: int) -> bytes:
    Image.fromarray(values).save(buffer := io.BytesIO(), "TIFF", tiffinfo={262: photometric})
    return buffer.getvalue()


@pytest.mark.parametrize(("photometric", "expected"), [(0, 21), (1, 234)])
def test_white_is_zero_in_16_bits(photometric: int, expected: int) -> None:
    pixels = decode(_tiff(np.full((8, 8), 60_000, np.uint16), photometric), 8)
    assert not isinstance(pixels, str)
    assert set(np.unique(pixels)) == {expected}


def test_an_avif_image_is_no_video() -> None:
    Image.new("RGB", (16, 16), (200, 10, 10)).save(buffer := io.BytesIO(), "AVIF")
    assert not isinstance(decode(buffer.getvalue(), 8), str)
