"""Which values of features are taken."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.cloud.values import check_values, largest_value
from smartedge.config import load_config
from smartedge.errors import FrameError

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


@pytest.mark.parametrize("value", [3e38, -3e38, np.nan, np.inf, -np.inf, 1.6, -1.6])
def test_one_value_out_of_range_is_enough(value: float) -> None:
    features_BF = np.zeros((3, 2, 2), np.float32)
    check_values(features_BF, 1.5, "frame 0")
    features_BF[1, 0, 1] = value
    with pytest.raises(FrameError, match="frame 0: its features reach from"):
        check_values(features_BF, 1.5, "frame 0")


def test_images_and_the_bound_itself_are_taken() -> None:
    check_values(np.full((2, 3), 255, np.uint8), 1.5, "frame 0")
    check_values(np.array([[1.5, -1.5]], np.float32), 1.5, "frame 0")
    check_values(np.zeros((0, 3), np.float32), 1.5, "frame 0")
