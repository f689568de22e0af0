"""Files and arrays decoded to pixels of one size, and image files found in folders."""

from __future__ import annotations

import base64
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from smartedge.images import decode as module
from smartedge.images.decode import Fit, decode, is_hidden, looks_like_base64, walk
from smartedge.images.size import ImageSize

PIXELS = np.random.default_rng(0).integers(256, size=(1, 8, 12, 5), dtype=np.uint8)
FIVE = ImageSize(8, 12, 5)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pages: list[np.ndarray]) -> bytes:
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(buffer := io.BytesIO(), "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def planes(pixels_HWC: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(pixels_HWC[..., channel]) for channel in range(pixels_HWC.shape[2])]


def test_the_middle_of_a_picture_is_kept() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    for pixels in (wide, wide.transpose(1, 0, 2)):
        result = decode(encode(Image.fromarray(pixels)), 10)
        assert not isinstance(result, str)
        assert (result == 200).all()


@pytest.mark.parametrize(
    ("fit", "columns"),
    [("crop", "RRGGGGBB"), ("squash", "RRRGGBBB"), ("letterbox", "RRRGGBBB")],
)
@pytest.mark.parametrize("upright", [False, True])
def test_how_a_picture_becomes_square(fit: Fit, columns: str, upright: bool) -> None:
    """Bands of red, green and blue, 24, 16 and 24 wide and 32 high."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    for band, (start, end) in enumerate(((0, 24), (24, 40), (40, 64))):
        pixels[:, start:end, band] = 255
    pixels = pixels.transpose(1, 0, 2) if upright else pixels
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    for item in (pixels, buffer.getvalue()):
        found = decode(item, 8, fit)
        assert isinstance(found, np.ndarray) and found.shape == (8, 8, 3)
        found = found.transpose(1, 0, 2) if upright else found
        assert "".join("RGB"[int(pixel.argmax())] for pixel in found[4]) == columns
        assert bool((found[[0, -1]] == 0).all()) == (fit == "letterbox")


@pytest.mark.parametrize(
    ("fit", "columns"),
    [("crop", "RRGGGGBB"), ("squash", "RRGGGGBB"), ("letterbox", "--RGGB--")],
)
@pytest.mark.parametrize("upright", [False, True])
def test_how_a_picture_becomes_a_rectangle(fit: Fit, columns: str, upright: bool) -> None:
    """Bands of red, green and blue, 8, 16 and 8 wide and 32 high, become 8 wide and 4 high."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    for band, (start, end) in enumerate(((0, 8), (8, 24), (24, 32))):
        pixels[:, start:end, band] = 255
    pixels[[0, -1]] = 255  # white above and below: a crop leaves it out
    pixels = pixels.transpose(1, 0, 2) if upright else pixels
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    for item in (pixels, buffer.getvalue()):
        found = decode(item, ImageSize(8, 4) if upright else ImageSize(4, 8), fit)
        assert isinstance(found, np.ndarray) and found.shape == ((8, 4, 3) if upright else (4, 8, 3))
        found = found.transpose(1, 0, 2) if upright else found
        shown = "".join("RGB"[int(pixel.argmax())] if pixel.max() > 40 else "-" for pixel in found[2])
        assert shown == columns
        white = int(np.sort(found[0], axis=1)[:, 0].max())  # the least of red, green and blue
        assert (white == 0) == (fit == "crop")


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    for item in (pixels, encode(Image.fromarray(pixels))):
        np.testing.assert_array_equal(decode(item, 16), pixels)


def test_shrinking_averages() -> None:
    """Without antialiasing a fine pattern would give stripes."""
    pixels = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    result = decode(pixels, 8)
    assert not isinstance(result, str)
    assert np.abs(result[1:-1, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    white = Image.new("RGB", (9, 9), (250, 250, 250))
    result = decode(encode(white.quantize() if mode == "P" else white.convert(mode), kind), 8)
    assert not isinstance(result, str)
    assert result.shape == (8, 8, 3)
    assert np.abs(result.astype(int) - 250).max() <= 6


def test_a_cameras_orientation_is_applied() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    result = decode(encode(Image.fromarray(pixels), exif=exif), 8)
    np.testing.assert_array_equal(result, np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_in_every_orientation_is_what_pillow_makes_of_a_copy(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(256, size=(9, 14, 3), dtype=np.uint8)
    encoded = encode(Image.fromarray(pixels).convert(mode), "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    np.testing.assert_array_equal(decode(encoded, ImageSize(upright.height, upright.width)), np.asarray(upright))


def test_a_large_jpeg_keeps_its_colours() -> None:
    result = decode(encode(Image.new("RGB", (900, 700), (180, 60, 30)), "JPEG", quality=95), 32)
    assert not isinstance(result, str)
    assert np.abs(result.reshape(-1, 3).mean(0) - (180, 60, 30)).max() < 4


def test_grey_values_of_16_bits_are_divided_by_256() -> None:
    for value, shade in ((0, 0), (255, 0), (256, 1), (40_000, 156), (65_535, 255)):
        result = decode(encode(Image.new("I;16", (9, 9), value)), 8)
        assert not isinstance(result, str)
        assert result.shape == (8, 8, 3)
        assert np.unique(result).tolist() == [shade]


def test_what_cannot_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    assert decode(None, 8) == "no image"
    assert decode(b"", 8) == "no image"
    assert decode(b"certainly not a picture", 8) == "image cannot be decoded"
    assert decode(encode(noise, "JPEG")[:2000], 8) == "image truncated"
    assert decode(tmp_path / "absent.png", 8) == "image file missing"
    assert decode(tmp_path, 8) == "not a file but a folder, pipe or device"
    deep = Image.fromarray(np.full((9, 9), 2**16, np.int32))
    assert decode(encode(deep, "TIFF"), 8) == "more than 16 bits per channel (scale them to 16)"
    assert decode(encode(Image.new("F", (9, 9), 0.5), "TIFF"), 8).startswith("pixels are not whole numbers (")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    assert decode(pointer, 8) == "a git-LFS pointer, not the image (run 'git lfs pull')"
    for limit in (15 * 15, 12 * 12, 10 * 10):  # a little and much too large for Pillow's own limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode(encode(Image.new("RGB", (16, 16))), 8).startswith("image too large (over ")


def test_of_a_tiff_file_whose_zero_is_white_shades_are_turned_round() -> None:
    shades = np.array([[0, 255, 256, 2**16 - 1]], np.uint16).repeat(2, axis=0)
    blacks, whites = (b"\x06\x01\x03\x00\x01\x00\x00\x00" + bytes([meaning]) for meaning in (1, 0))  # tag 262
    file = encode(Image.fromarray(shades), "TIFF")
    assert file.count(blacks) == 1
    size = ImageSize(2, 4, 1)
    assert decode(file, size)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert decode(file.replace(blacks, whites), size)[0, :, 0].tolist() == [255, 255, 254, 0]


def test_a_large_jpeg_keeps_what_the_asked_size_can_show() -> None:
    """It is decoded at a fraction of its size, which must not be below what is asked for in either direction."""
    blocks = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    picture = Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8))).convert("RGB")
    whole, fraction = (decode(encode(picture, kind), ImageSize(16, 64)) for kind in ("PNG", "JPEG"))
    assert np.abs(whole.astype(int) - fraction.astype(int)).mean() < 4


def test_pages_of_a_tiff_file_are_channels() -> None:
    np.testing.assert_array_equal(decode(tiff(planes(PIXELS[0])), FIVE), PIXELS[0])
    np.testing.assert_array_equal(decode(tiff(planes(PIXELS[0, ..., :3])), ImageSize(8, 12)), PIXELS[0, ..., :3])
    deep = [plane.astype(np.uint16) << 8 | 77 for plane in planes(PIXELS[0])]
    np.testing.assert_array_equal(decode(tiff(deep), FIVE), PIXELS[0])


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "LA"])
def test_bands_of_a_file_are_channels(mode: str) -> None:
    bands = len(mode)
    pixels = PIXELS[0, ..., :bands]
    file = encode(Image.fromarray(pixels, mode), "TIFF" if mode == "CMYK" else "PNG")
    found = decode(file, ImageSize(8, 12, bands))
    np.testing.assert_array_equal(found, pixels)  # also where it is transparent
    half = decode(file, ImageSize(4, 6, bands))
    assert isinstance(half, np.ndarray)
    assert np.abs(half.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 12  # transparency weighs no channel


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_each_channel_is_fitted_as_a_grey_image_is(fit: Fit) -> None:
    found = decode(PIXELS[0], ImageSize(6, 6, 5), fit)
    for channel, plane in enumerate(planes(PIXELS[0])):
        grey = decode(plane, ImageSize(6, 6, 1), fit)
        assert isinstance(grey, np.ndarray) and grey.shape == (6, 6, 1)
        np.testing.assert_array_equal(found[..., channel], grey[..., 0])


def test_one_channel_is_grey() -> None:
    colours = PIXELS[0, ..., :3]
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    for item in (colours, encode(Image.fromarray(colours), "PNG"), grey, encode(Image.fromarray(grey), "PNG")):
        np.testing.assert_array_equal(decode(item, ImageSize(8, 12, 1)), grey[..., None])


@pytest.mark.parametrize(
    ("item", "size", "words"),
    [
        (PIXELS[0, ..., :3], FIVE, "it has 3 channels; data.image_size asks for 5"),
        (PIXELS[0], ImageSize(8, 12), "it has 5 channels; data.image_size asks for 3"),
        (encode(Image.fromarray(PIXELS[0, ..., :3]), "PNG"), ImageSize(8, 12, 4), "it has 3 channels"),
        (tiff(planes(PIXELS[0])), ImageSize(8, 12, 4), "it has 5 channels"),
        (tiff([PIXELS[0, ..., 0], PIXELS[0, :4, :, 0]]), ImageSize(8, 12, 2), "its pages have different sizes"),
    ],
)
def test_another_number_of_channels_is_a_reason(item: bytes | np.ndarray, size: ImageSize, words: str) -> None:
    assert words in str(decode(item, size))


def test_pages_beyond_the_channels_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may have thousands of large pages."""
    decoded = []
    monkeypatch.setattr(TiffImageFile, "load_end", lambda image: decoded.append(image.tell()))
    for size in (FIVE, ImageSize(8, 12, 4)):
        assert "it has 6 channels" in str(decode(tiff([PIXELS[0, ..., 0]] * 6), size))
    assert decoded == []


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_holds_for_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8 * 12)
    file = tiff([PIXELS[0, ..., 0], np.zeros((8, 13), np.uint8)])
    assert decode(file, ImageSize(8, 12, 2)).startswith("image too large (over ")


def test_other_files_of_several_channels_are_a_reason() -> None:
    several = encode(
        Image.fromarray(PIXELS[0, ..., :3]), "TIFF", save_all=True, append_images=[Image.new("L", (12, 8))]
    )
    assert "asks for 2" in str(decode(several, ImageSize(8, 12, 2)))
    mixed = tiff([PIXELS[0, ..., 0], PIXELS[0, ..., :3]])
    assert decode(mixed, ImageSize(8, 12, 2)) == "its pages have several bands each"
    fractions = tiff([PIXELS[0, ..., 0].astype(np.float32)] * 2)
    assert str(decode(fractions, ImageSize(8, 12, 2))).startswith("pixels are not whole numbers")


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_turned_as_a_camera_says(channels: int) -> None:
    page = Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) << 8)
    found = decode(encode(page, "TIFF", tiffinfo={274: 6}), ImageSize(12, 8, channels))  # by a quarter, clockwise
    np.testing.assert_array_equal(found, np.repeat(np.rot90(PIXELS[0, ..., :1], -1), channels, axis=2))


@pytest.mark.parametrize("clear", [None, 0])
def test_a_palette_has_three_channels_and_with_transparency_four(clear: int | None) -> None:
    palette = Image.fromarray(PIXELS[0, ..., :3]).quantize(16)
    file = encode(palette, **({} if clear is None else {"transparency": clear}))
    mode = "RGB" if clear is None else "RGBA"
    np.testing.assert_array_equal(decode(file, ImageSize(8, 12, len(mode))), Image.open(io.BytesIO(file)).convert(mode))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (8, 8), (1, 2, 3))))
    for most, read in ((file.stat().st_size, True), (file.stat().st_size - 1, False)):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        assert isinstance(decode(file, 8), np.ndarray) == read
        assert read or decode(file, 8).startswith("image too large (over ")


def test_images_are_found_in_order_and_others_are_counted_by_their_ending(tmp_path: Path) -> None:
    names = ("b/2.PNG", "b/10.jpg", "a.webp", "a/x.tiff", "a/notes.TXT", "README", "c.txt")
    hidden = (
        ".git/1.png",
        "__MACOSX/2.png",
        "a/.3.png",
        "a/._x.tiff",
        "@eaDir/4.png",
        "$RECYCLE.BIN/5.png",
        "lost+found/6.png",
    )
    for name in (*names, *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "d").symlink_to(tmp_path / "b", target_is_directory=True)
    found = ["a.webp", "a/x.tiff", "b/10.jpg", "b/2.PNG"]
    others: Counter[str] = Counter()
    assert [str(path.relative_to(tmp_path)) for path in walk(tmp_path, others)] == found
    assert others == {".txt": 2, "": 1, "hidden .png": 1}
    assert [str(path.relative_to(tmp_path)) for path in walk(tmp_path)] == found
    assert list(walk(tmp_path / "b")) == [tmp_path / found[2], tmp_path / found[3]], "a link to what is above"


@pytest.mark.parametrize(
    ("name", "hidden"), [(".a", True), ("__a", True), ("@a", True), ("$a", True), ("_a", False), ("a.b", False)]
)
def test_what_a_system_keeps_for_itself_is_hidden(name: str, hidden: bool) -> None:
    assert is_hidden(name) == hidden
    assert is_hidden("System Volume Information") and is_hidden("lost+found")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "absent"))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
def test_an_image_in_base64_is_recognised(kind: str) -> None:
    text = base64.b64encode(encode(Image.new("RGB", (8, 8)), kind)).decode()
    assert looks_like_base64(text) and looks_like_base64("data:image/png;base64," + text)
    assert not looks_like_base64(f"images/{text}")
