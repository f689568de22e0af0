"""Codecs of the anchors: what they give back is what they were given, but for the quality asked for."""

from __future__ import annotations

import numpy as np
import pytest
from anchor_codecs import get_anchor


@pytest.mark.parametrize("count", [64, 7])
def test_images_of_a_mosaic_come_back_in_their_places(count: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (count, 3, 1, 1), np.uint8)
    images = np.broadcast_to(colours, (count, 3, 32, 32)).copy()
    codec = get_anchor("mosaic-webp-95")
    payload, side = codec.encode(images)
    back = codec.decode(payload, side, batch=count, feature_shape=(3, 32, 32), dtype=images.dtype)
    inner = np.s_[:, :, 8:24, 8:24]  # chroma of neighbours mixes at the edges
    assert back.shape == images.shape
    assert np.abs(back[inner].astype(int) - images[inner]).mean() < 6


def test_hevc_tiles_come_back_the_closer_the_more_bytes_they_take() -> None:
    features = np.tanh(np.random.default_rng(0).standard_normal((12, 16, 4, 4))).astype(np.float32)
    errors, sizes = [], []
    for name in ("tile-hevc-4", "tile-hevc-30"):
        codec = get_anchor(name)
        payload, side = codec.encode(features)
        back = codec.decode(payload, side, batch=12, feature_shape=(16, 4, 4), dtype=features.dtype)
        errors.append(float(np.sqrt(((back - features) ** 2).mean())))
        sizes.append(len(payload))
    assert errors[0] < 0.01 < errors[1] < 0.2
    assert sizes[0] > 2 * sizes[1]
