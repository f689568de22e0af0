"""Does an order of images tell their labels?"""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.data.label_order import order_tells

RANDOM = np.random.default_rng(0).integers(0, 2, 900)
GROUPS = np.repeat(np.random.default_rng(0).integers(0, 2, 225), 4)  # persons of four images each


@pytest.mark.parametrize(
    ("labels", "tells"),
    [
        (RANDOM, False),
        (np.sort(RANDOM), True),
        (GROUPS, True),
        (np.arange(900) % 2, True),
        (np.arange(900), False),  # everybody once
        (np.zeros(900, int), False),
        (np.array([1]), False),
        (np.array([], int), False),
    ],
)
def test_what_changes_more_or_less_often_than_by_chance_is_told(labels: np.ndarray, tells: bool) -> None:
    assert order_tells(labels) == tells
