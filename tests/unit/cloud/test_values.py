"""Which values of features are taken."""

from __future__ import annotations

import pytest

from smartedge.cloud.values import largest_value
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
    assert largest_value(load_config(settings)) == largest
