from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from smartedge.codec import get_codec, reconstruction_error
from smartedge.errors import CodecError

NAMES = ("tile-webp-90", "tile-avif-90")


def smooth_maps(batch: int = 4, channels: int = 6, size: int = 16) -> np.ndarray:
    x = np.linspace(0, 3, size)
    wave = np.sin(x[:, None] * 2) + np.cos(x[None] * 3)
    maps = wave * np.arange(1, channels + 1)[:, None, None] + np.arange(batch)[:, None, None, None] / 10
    return maps.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_smooth_maps_become_small_and_stay_alike(name: str) -> None:
    features_BF = smooth_maps()
    stated = reconstruction_error(get_codec(name), features_BF)
    assert stated["bytes"] < 0.5 * features_BF.size  # of a byte a number
    assert stated["rmse"] < 0.05 * float(features_BF.std())


@pytest.mark.parametrize("name", NAMES)
def test_every_tile_comes_back_to_its_place(name: str) -> None:
    """Maps of one grey each, all different: a picture in which tiles were mixed up would give other numbers."""
    features_BF = np.arange(5 * 7, dtype=np.float32).reshape(5, 7, 1, 1).repeat(8, axis=2).repeat(16, axis=3)
    payload, side = get_codec(name).encode(features_BF)
    assert len(payload) < features_BF.size
    decoded_BF = get_codec(name).decode(payload, side, batch=5, feature_shape=(7, 8, 16), dtype=np.dtype(np.float32))
    assert np.abs(decoded_BF - features_BF).max() < 1  # of a channel's range of 28


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_size_is_refused(name: str) -> None:
    kind = name.split("-")[1].upper()
    _, side = get_codec(name).encode(smooth_maps())
    for pixels in (np.zeros((16, 16), np.uint8), np.zeros((4000, 4000), np.uint8)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, quality=1)
        with pytest.raises(CodecError, match=f"codec {name}: the picture must be"):
            get_codec(name).decode(
                file.getvalue(), side, batch=400, feature_shape=(6, 16, 16), dtype=np.dtype(np.float32)
            )


def test_noise_is_sent_as_levels() -> None:
    features_BF = np.random.default_rng(0).random((4, 6, 16, 16), np.float32)
    codec = get_codec("tile-webp-100")
    payload, side = codec.encode(features_BF)
    assert len(payload) == features_BF.size
    decoded_BF = codec.decode(payload, side, batch=4, feature_shape=(6, 16, 16), dtype=np.dtype(np.float32))
    assert np.abs(decoded_BF - features_BF).max() <= 1 / 510 + 1e-6


def test_takes_maps_that_fit_a_picture() -> None:
    codec = get_codec("tile-webp-50")
    with pytest.raises(CodecError, match=r"shape \(C, H, W\)"):
        codec.encode(np.zeros((2, 8), np.float32))
    with pytest.raises(CodecError, match=r"lower train\.batch_size"):
        codec.encode(np.zeros((1, 1, 20000, 1), np.float32))
    with pytest.raises(CodecError, match=r"lower train\.batch_size"):
        codec.decode(b"", b"", batch=2**16, feature_shape=(64, 16, 16), dtype=np.dtype(np.float32))
