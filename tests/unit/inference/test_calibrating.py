"""The temperature of an exit, and thresholds that reach a goal."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.artifacts.front import Calibration
from smartedge.errors import ConfigError
from smartedge.inference.calibrating import NEVER, Goal, _rows, fit_temperature
from smartedge.types import Task

SINGLE = Task("single", ("kind",), ("a", "b", "c"))
MULTI = Task("multi", ("x", "y"), ("x", "y"))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    """Labels are drawn from the softmax of the logits, which are then made too large by a known factor.

    At 40 000 labels the estimate's standard error is below 1 %: 5 % is more than five of them (below 1e-6).
    """
    random = np.random.default_rng(0)
    logits_NK = random.normal(0, 1.5, (40_000, 3)).astype(np.float32)
    chances = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    labels = (random.random((40_000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(logits_NK * np.float32(temperature), labels, SINGLE) == pytest.approx(temperature, rel=0.05)
    single = logits_NK[:, :2]
    several = (random.random((40_000, 2)) < 1 / (1 + np.exp(-single))).astype(np.float32)
    assert fit_temperature(single * np.float32(temperature), several, MULTI) == pytest.approx(temperature, rel=0.05)


def calibration(back: bool = True) -> Calibration:
    """100 images: the exit is right on the 80 of which it is sure, the back on 95 of all."""
    sure = np.linspace(0.5, 0.995, 100)
    exit_right = (np.arange(100) >= 20).astype(float)
    back_right = (np.arange(100) >= 5).astype(float)
    rows = _rows(sure, exit_right, back_right if back else None)
    return Calibration(temperature=1, images=100, exit_accuracy=0.8, back_accuracy=0.95 if back else None, rows=rows)


def test_a_share_that_may_be_offloaded():
    found = Goal(offload=0.1).threshold(calibration())
    assert (np.linspace(0.5, 0.995, 100) < found).sum() in (9, 10)
    assert Goal(offload=0.0).threshold(calibration()) == 0.5, "no image has less"
    assert Goal(offload=1.0).threshold(calibration()) == NEVER


def test_points_that_may_be_lost():
    """With the 20 least sure images at the back, all that the exit answers is right: as good as the back alone."""
    sure = np.linspace(0.5, 0.995, 100)
    assert (sure < Goal(lose=0.0).threshold(calibration())).sum() == 20
    assert (sure < Goal(lose=0.05).threshold(calibration())).sum() == 15
    assert Goal(lose=0.2).threshold(calibration()) == 0.0
    with pytest.raises(ConfigError, match="how accurate the back is"):
        Goal(lose=0.1).threshold(calibration(back=False))


def test_the_first_row_offloads_nothing_and_the_last_everything():
    rows = calibration().rows
    assert (rows[0].threshold, rows[0].offloaded, rows[0].accuracy) == (0.0, 0.0, 0.8)
    assert (rows[-1].threshold, rows[-1].offloaded, rows[-1].accuracy) == (NEVER, 1.0, 0.95)
    assert [row.offloaded for row in rows] == sorted(row.offloaded for row in rows)
