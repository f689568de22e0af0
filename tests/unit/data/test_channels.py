"""Images of other channels than red, green and blue: files, arrays, .npz, and data sets given in Python."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from smartedge.config import load_config
from smartedge.data import open_dataset
from smartedge.data.layouts.in_python import keep_given
from smartedge.errors import DataError
from smartedge.images.decode import Fit, decode
from smartedge.images.size import ImageSize
from smartedge.launch.datasets import dataset_of, with_given_data

PIXELS = np.random.default_rng(0).integers(256, size=(24, 8, 12, 5), dtype=np.uint8)
LABELS = np.arange(24) % 2
FIVE = ImageSize(8, 12, 5)


def tiff(pages: list[np.ndarray]) -> bytes:
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(buffer := io.BytesIO(), "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def planes(pixels_HWC: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(pixels_HWC[..., channel]) for channel in range(pixels_HWC.shape[2])]


def encode(image: Image.Image, kind: str) -> bytes:
    image.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


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
    assert decode(file, ImageSize(8, 12, 2)) == "image too large"


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_npz_files_of_five_channels(first: bool, deep: bool, tmp_path: Path, cache: Path) -> None:
    pixels = PIXELS.astype(np.uint16) << 8 if deep else PIXELS
    pixels = pixels.transpose(0, 3, 1, 2) if first else pixels
    arrays = {f"{split}_images": pixels for split in ("train", "val", "test")}
    np.savez(tmp_path / "m.npz", **arrays, train_labels=LABELS, val_labels=LABELS, test_labels=LABELS)
    data = open_dataset(str(tmp_path / "m.npz"), "label", image_size=FIVE, cache_dir=cache)
    found = data.splits["train"].read(np.arange(24)).images_BCHW
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1), PIXELS)
    with pytest.raises(DataError, match=r"said in data.image_size: HEIGHTxWIDTHxCHANNELS"):
        open_dataset(str(tmp_path / "m.npz"), "label", image_size=16, cache_dir=cache)


@pytest.mark.parametrize("given", [PIXELS, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()), PIXELS / 255])
def test_arrays_of_five_channels_are_given_in_python(given: object, tmp_path: Path, cache: Path) -> None:
    keep_given({"train": (given, LABELS)}, tmp_path / "kept", ("label",), 5)
    data = open_dataset(str(tmp_path / "kept"), "label", image_size=FIVE, cache_dir=cache)
    split = data.splits["train"]
    np.testing.assert_array_equal(split.read(np.arange(len(split))).images_BCHW.permute(0, 2, 3, 1), PIXELS[split.ids])
    with pytest.raises(DataError, match=r"shape .*data.image_size"):
        keep_given({"train": (given, LABELS)}, tmp_path / "other", ("label",))


def test_the_settings_say_how_many_channels_given_arrays_have(tmp_path: Path, cache: Path) -> None:
    config = load_config({"run_dir": str(tmp_path / "run"), "data": {"image_size": "8x12x5", "cache_dir": str(cache)}})
    whole = dataset_of(with_given_data(config, {"train": (PIXELS, LABELS)}))
    assert whole.splits["train"].read(np.arange(2)).images_BCHW.shape == (2, 5, 8, 12)
