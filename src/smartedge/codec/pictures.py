"""Image files within a payload: written by Pillow, and read back only when they are exactly what was expected.

A decoder allocates what a file's header claims. So each file's own structure is read first, and no decoder sees a
file that claims another size than the one that both sides know.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image, features

from smartedge.errors import CodecError

__all__ = ["PictureFormat", "read_picture", "write_picture"]


@dataclass(frozen=True)
class PictureFormat:
    """An image format and how it is written."""

    kind: Literal["JPEG", "WEBP", "AVIF"]
    quality: int  # 1 to 100, on the format's own scale
    options: dict[str, Any] = field(default_factory=dict)  # for Pillow

    def check_support(self) -> None:
        """Raise a :class:`CodecError` where this installation of Pillow lacks the format."""
        feature = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif"}[self.kind]
        if not features.check(feature):
            raise CodecError(
                f"codec.name: the Pillow installed here cannot read and write {self.kind}; install pillow 11.3 or "
                "newer from a wheel, or choose another codec"
            )


def write_picture(pixels: np.ndarray, picture_format: PictureFormat) -> bytes:
    """A file of uint8 pixels, (H, W, 3) for RGB or (H, W) for grey."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(file, picture_format.kind, quality=picture_format.quality, **picture_format.options)
    return file.getvalue()


def read_picture(
    data: bytes, picture_format: PictureFormat, *, width: int, height: int, mode: Literal["RGB", "L"], what: str
) -> np.ndarray:
    """The pixels of a file that came from anybody.

    Args:
        data: the file.
        picture_format: only this format is tried.
        width: pixels that it must have.
        height: likewise.
        mode: what its pixels must be, or (grey from formats that know colour alone) are converted to.
        what: begins the error message, such as ``"codec jpeg: image 3"``.

    Returns:
        uint8 (height, width, 3) or (height, width).

    Raises:
        CodecError: when it is not such a file, or cannot be decoded.
    """
    kind = picture_format.kind
    claimed = _CLAIMS[kind](data) if kind in _CLAIMS else (width, height)  # Pillow reads a JPEG's without decoding
    if claimed != (width, height):
        found = "another kind of file" if claimed is None else f"one of {claimed[0]}x{claimed[1]}"
        raise CodecError(f"{what} must be a plain {kind} of {width}x{height}, got {found}")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            stored = "RGB" if kind == "WEBP" else mode  # WebP has no grey
            frames = getattr(image, "n_frames", 1)
            fits = image.mode == stored and image.size == (width, height) and frames == 1
            found = f"{frames} in {image.mode} of {image.size[0]}x{image.size[1]}"
            pixels = np.array(image.convert(mode)) if fits else None
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        raise CodecError(f"{what} is no readable {kind} ({error!r})") from error
    if pixels is None:
        raise CodecError(f"{what} must be one {kind} picture in {stored} of {width}x{height}, got {found}")
    return pixels


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP of one lossy frame, RFC 9649 section 2.5 and RFC 6386 section 9.1; None for others.

    Pillow's decoder allocates the canvas on opening, before it would tell its size.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8 " or data[23:26] != b"\x9d\x01\x2a":
        return None
    riff, chunk = struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 16)[0]
    if riff + 8 != len(data) or 20 + chunk + chunk % 2 != len(data):
        return None
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _avif_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an AVIF of one still image, from its AV1 stream itself; None for anything else.

    The container states a size too, but libavif decodes what the stream holds, and scales the result: a file of 766
    bytes that claims 64x64 makes it decode 8000x8000. So the container may hold one AV1 image and nothing else, and
    that image one sequence header and one frame (AV1 specification 5.3 to 5.5; ISO/IEC 14496-12 for the boxes).
    """
    try:
        top = list(_boxes(data, 0, len(data)))
        if [name for name, _, _ in top] != [b"ftyp", b"meta", b"mdat"]:
            return None
        (_, meta_start, meta_end), (_, start, end) = top[1:]
        boxes = list(_boxes(data, meta_start + 4, meta_end))
        meta = {name: data[first:last] for name, first, last in boxes}
        if len(boxes) != 5 or meta.keys() != {b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp"}:
            return None  # references, grids, or data elsewhere
        # One item of type av01, in one extent, which is the whole of mdat.
        if meta[b"iinf"][4:6] != b"\0\1" or meta[b"iinf"][14:15] != b"\2" or meta[b"iinf"][22:26] != b"av01":
            return None
        if struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, start, end - start) != meta[b"iloc"][4:]:
            return None
        return _av1_size(data[start:end])
    except (ValueError, struct.error, IndexError):
        return None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, and begin and end of the content, of each ISO box."""
    while start < end:
        size, name = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            raise ValueError("a box that does not fit")
        yield name, start + 8, start + size
        start += size


def _av1_size(stream: bytes) -> tuple[int, int] | None:
    """(width, height) of an AV1 still picture: temporal delimiter, sequence header, frame."""
    kinds, sizes, place = [], [], 0
    while place < len(stream):
        kind, length, place = stream[place], 0, place + 1
        for shift in range(0, 28, 7):  # leb128
            byte, place = stream[place], place + 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        kinds.append(kind)
        if kind == 0x0A:  # a sequence header with its length: type 1
            bits = int.from_bytes(stream[place : place + 12], "big")
            take = _bit_reader(bits, 96)
            if (take(3), take(1), take(1)) != (0, 1, 1):  # main profile, still picture, reduced header
                return None
            take(5)
            width_bits, height_bits = take(4) + 1, take(4) + 1
            sizes.append((take(width_bits) + 1, take(height_bits) + 1))
        place += length
    return sizes[0] if kinds == [0x12, 0x0A, 0x32] and place == len(stream) else None


def _bit_reader(bits: int, left: int) -> Any:
    """A function that takes the next bits of a number, from the highest."""

    def take(count: int) -> int:
        nonlocal left
        left -= count
        return bits >> left & (1 << count) - 1

    return take


_CLAIMS = {"WEBP": _webp_size, "AVIF": _avif_size}
