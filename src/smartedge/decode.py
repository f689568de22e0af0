"""One image file to a square of pixels. Needs no torch, so that an edge without torch reads images as training does."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["Item", "decode", "is_lfs_pointer"]

Item = bytes | Path | NDArray[np.uint8] | None
"""One image before decoding: a file's bytes, a file's path, pixels (H, W) or (H, W, 3), or None if there is none."""

Pixels = NDArray[np.uint8]


def is_lfs_pointer(data: bytes) -> bool:
    """Whether these are the first bytes of a git-LFS pointer, which stands for a file that was not fetched."""
    return data.startswith(b"version https://git-lfs")


def decode(item: Item, image_size: int) -> Pixels | str:
    """One image as uint8 (S, S, 3), or the reason why not.

    The longer side is cropped about the middle, then the square is resized with antialiasing. An orientation
    noted by a camera is applied; transparency is dropped; grey values of 16 bits are divided by 256.
    """
    if item is None:
        return "no image"
    try:
        if isinstance(item, Path):
            item = item.read_bytes()
        if isinstance(item, bytes):
            return _decode_bytes(item, image_size)
        return _square(Image.fromarray(item).convert("RGB"), image_size)
    except FileNotFoundError:
        return "image file missing"
    except PermissionError:
        return "image file may not be read (permissions)"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "image too large"
    except Exception as error:  # damaged files make decoders raise anything
        return "image truncated" if "truncated" in str(error).lower() else "image cannot be decoded"


def _decode_bytes(encoded: bytes, image_size: int) -> Pixels | str:
    if not encoded:
        return "no image"
    if is_lfs_pointer(encoded):
        return "a git-LFS pointer, not the image (run 'git lfs pull')"
    with Image.open(io.BytesIO(encoded)) as image:
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
            return "image too large"
        if image.mode == "F":
            return "pixels are not whole numbers"
        if image.mode.startswith("I"):
            shallow = _eight_bits(image)
            return "more than 16 bits per channel" if shallow is None else _square(shallow.convert("RGB"), image_size)
        image.draft("RGB", (2 * image_size, 2 * image_size))  # large JPEGs are decoded at a fraction of their size
        return _square(ImageOps.exif_transpose(image).convert("RGB"), image_size)


def _eight_bits(image: Image.Image) -> Image.Image | None:
    """An image of 16 bits per pixel divided by 256; None where a pixel has more bits."""
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.min() < 0 or values.max() >= 2**16:
        return None
    return Image.fromarray((values >> 8).astype(np.uint8))


def _square(image: Image.Image, image_size: int) -> Pixels:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(image)
