from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, features

from smartedge.codec.pictures import PictureFormat, _avif_size, _webp_size, read_picture, write_picture
from smartedge.errors import CodecError

WEBP, AVIF = PictureFormat("WEBP", 50), PictureFormat("AVIF", 50, {"speed": 10, "max_threads": 1})
RNG = np.random.default_rng(0)
EXIF = Image.Exif()
EXIF[0x010E] = "a description"


@pytest.mark.parametrize("quality", [1, 50, 100])
@pytest.mark.parametrize("shape", [(1, 1, 3), (64, 48, 3), (33, 300), (300, 2, 3)])
def test_sizes_are_read_from_what_pillow_writes(quality: int, shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    for kind, size_of in (("WEBP", _webp_size), ("AVIF", _avif_size)):
        file = write_picture(pixels, PictureFormat(kind, quality))  # type: ignore[arg-type]
        assert size_of(file) == (shape[1], shape[0])


def saved(size: tuple[int, int], kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "picture_format"),
    [
        (saved((8, 8), "WEBP", lossless=True), WEBP),
        (saved((8, 8), "WEBP", "RGBA"), WEBP),
        (saved((8, 8), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]), WEBP),
        (saved((8, 8), "WEBP", exif=EXIF), WEBP),
        (saved((8, 8), "AVIF", "RGBA"), AVIF),
        (saved((8, 8), "AVIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]), AVIF),
        (saved((8, 8), "AVIF", exif=EXIF), AVIF),
        (saved((8, 8), "PNG"), AVIF),
        (saved((8, 8), "JPEG"), WEBP),
        (b"", WEBP),
        (b"", AVIF),
    ],
)
def test_other_kinds_of_file_are_refused(file: bytes, picture_format: PictureFormat) -> None:
    with pytest.raises(CodecError, match="must be a plain"):
        read_picture(file, picture_format, width=8, height=8, mode="RGB", what="image 0")


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (saved((9, 8), "JPEG"), "1 in RGB of 9x8"),
        (saved((8, 8), "JPEG", "L"), "1 in L of 8x8"),
        (saved((8, 8), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]), "2 in RGB of 8x8"),
    ],
)
def test_a_jpeg_is_one_picture_of_the_size_and_mode_that_is_expected(file: bytes, found: str) -> None:
    """Pillow opens a file of several JPEG pictures (MPO) as a JPEG."""
    with pytest.raises(CodecError, match=f"image 0 must be one JPEG picture in RGB of 8x8, got {found}"):
        read_picture(file, PictureFormat("JPEG", 50), width=8, height=8, mode="RGB", what="image 0")


def changed_avif(*, stream: bytes | None = None, meta: bytes = b"", iloc: bytes | None = None) -> bytes:
    """An AVIF of 8x8 with another AV1 stream, one more box, or another place of its data."""
    file = saved((8, 8), "AVIF", quality=50)
    start = file.index(b"mdat") - 4
    stream = file[start + 8 :] if stream is None else stream
    head = bytearray(file[:start] + meta)
    place = head.index(b"meta") - 4
    struct.pack_into(">I", head, place, len(head) - place)
    place = head.index(b"iloc") + 18
    head[place : place + 8] = struct.pack(">II", len(head) + 8, len(stream)) if iloc is None else iloc
    return bytes(head) + struct.pack(">I4s", len(stream) + 8, b"mdat") + stream


def av1_parts() -> tuple[bytes, bytes, bytes]:
    """Temporal delimiter, sequence header and frame of an AVIF of 8x8."""
    file = saved((8, 8), "AVIF", quality=50)
    stream = file[file.index(b"mdat") + 4 :]
    end = 4 + stream[3]
    assert stream[:3] == b"\x12\0\x0a" and stream[end] == 0x32
    return stream[:2], stream[2:end], stream[end:]


def test_an_avif_holds_one_image_and_nothing_else() -> None:
    delimiter, header, frame = av1_parts()
    size = _avif_size
    assert size(changed_avif()) == size(changed_avif(stream=delimiter + header + frame)) == (8, 8)
    assert size(changed_avif(stream=delimiter + header + frame + frame)) is None
    assert size(changed_avif(stream=delimiter + header + header + frame)) is None
    assert size(changed_avif(stream=delimiter + frame)) is None
    assert size(changed_avif(stream=delimiter + header + frame[:-1])) is None
    assert (
        size(changed_avif(stream=delimiter + bytes([header[0], header[1], header[2] & 0xEF]) + header[3:] + frame))
        is None
    )
    assert size(changed_avif(meta=struct.pack(">I4s", 12, b"idat") + b"data")) is None
    assert size(changed_avif(meta=struct.pack(">I4sIH", 14, b"pitm", 0, 1))) is None  # as there is one already
    assert size(changed_avif(iloc=struct.pack(">II", 0, 100))) is None
    for cut in range(len(changed_avif())):
        assert size(changed_avif()[:cut]) is None


def test_a_webp_holds_one_frame_and_nothing_else() -> None:
    file = saved((8, 8), "WEBP", quality=50)
    assert _webp_size(file) == (8, 8)
    assert _webp_size(file[:4] + struct.pack("<I", len(file)) + file[8:]) is None
    assert _webp_size(file[:16] + struct.pack("<I", 2) + file[20:]) is None
    more = file + struct.pack("<4sI", b"EXIF", 0)
    assert _webp_size(more[:4] + struct.pack("<I", len(more) - 8) + more[8:]) is None
    for cut in range(len(file)):
        assert _webp_size(file[:cut]) is None


def test_an_avif_whose_container_lies_about_the_size_is_refused() -> None:
    """libavif would decode the 3000x3000 that the stream holds, and scale it to the 8x8 that the container claims."""
    bomb = saved((3000, 3000), "AVIF", quality=1, speed=10)
    place = bomb.index(b"ispe") + 8
    bomb = bomb[:place] + struct.pack(">II", 8, 8) + bomb[place + 8 :]
    with Image.open(io.BytesIO(bomb)) as image:
        assert image.size == (8, 8)
    with pytest.raises(CodecError, match="8x8, got one of 3000x3000"):
        read_picture(bomb, AVIF, width=8, height=8, mode="RGB", what="image 0")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_a_file_that_claims_another_size_is_not_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's WebP decoder allocates the canvas on opening."""
    bomb = saved((16, 9), kind, quality=1)
    if kind == "WEBP":
        bomb = bomb[:26] + struct.pack("<HH", 16383, 9) + bomb[30:]
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(CodecError, match=r"8x9, got one of \d+x9"):
        read_picture(bomb, PictureFormat(kind, 50), width=8, height=9, mode="RGB", what="image 0")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_format_that_pillow_lacks_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PictureFormat(kind, 50).check_support()  # type: ignore[arg-type]
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(CodecError, match=f"cannot read and write {kind}"):
        PictureFormat(kind, 50).check_support()  # type: ignore[arg-type]
