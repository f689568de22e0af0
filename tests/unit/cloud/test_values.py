"""Which values of features are taken."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.cloud.ingest.values import largest_value
from smartedge.codec import get_codec
from smartedge.config import load_config

BOTTLENECK = {"bottleneck": [4, 2, 2]}


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({}, 1e6),
        ({"model": BOTTLENECK}, 1.5),
        ({"model": {"codebook": 8}}, 1.5),
        ({"model": {"codebook": 8}, "dp": {"mechanism": "randomised-response", "epsilon": 1.0}}, 1.5),
        ({"model": BOTTLENECK, "dp": {"mechanism": "gaussian", "sigma": 2.0, "clip": 3.0}}, 1.5 * 3 + 24),
        ({"model": BOTTLENECK, "dp": {"mechanism": "gaussian", "sigma": 2.0}}, 1.5 * 4 + 24),
        ({"model": BOTTLENECK, "dp": {"mechanism": "laplace", "sigma": 2.0}}, 1.5 * 4 + 60),
        ({"model": BOTTLENECK, "dp": {"mechanism": "gaussian", "epsilon": 1.0}}, 1e6),
    ],
)
def test_the_bound_follows_from_bottleneck_and_noise(settings: dict[str, object], largest: float) -> None:
    assert largest_value(load_config(settings), get_codec("uint8")) == largest


def test_a_coarse_codec_may_double_a_value() -> None:
    noisy = load_config({"model": BOTTLENECK, "dp": {"mechanism": "gaussian", "sigma": 2.0, "clip": 3.0}})
    plain = load_config({"model": BOTTLENECK})
    assert largest_value(plain, get_codec("learned-16")) == 2
    assert largest_value(noisy, get_codec("learned-16")) == 2 * (3 + 24)


@pytest.mark.parametrize("dp", [{}, {"mechanism": "gaussian", "sigma": 0.5, "clip": 1.0}])
def test_what_an_honest_edge_sends_by_a_coarse_codec_is_within_the_bound(dp: dict[str, object]) -> None:
    """With few bytes the codec's step is nearly twice the largest feature, and so is what is decoded."""
    model = {"bottleneck": [16, 4, 4]}
    config = load_config({"model": model, "dp": dp, "codec": {"name": "learned", "bytes": 16}})
    random = np.random.default_rng(0)
    features_BF = random.uniform(-1, 1, (64, 16, 4, 4)).astype(np.float32)
    if dp:
        features_BF += random.normal(0, 0.5, features_BF.shape).astype(np.float32)
    codec = get_codec(config.codec_name)
    payload, side = codec.encode(features_BF)
    decoded_BF = codec.decode(payload, side, batch=64, feature_shape=(16, 4, 4), dtype=np.dtype(np.float32))
    assert 1.5 < np.abs(decoded_BF).max() <= largest_value(config, codec)
