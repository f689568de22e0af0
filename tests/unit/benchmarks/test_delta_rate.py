"""Rates at equal accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from delta_rate import bytes_at, delta_rate, frontier

CURVE = [(50.0, 0.60), (100.0, 0.68), (200.0, 0.72), (400.0, 0.74)]


def test_half_the_bytes_at_every_accuracy_is_minus_half() -> None:
    half = [(bytes_ / 2, accuracy) for bytes_, accuracy in CURVE]
    assert delta_rate(half, CURVE) == pytest.approx(-0.5, abs=1e-12)
    assert delta_rate(CURVE, half) == pytest.approx(1.0, abs=1e-12)
    assert delta_rate(CURVE, CURVE) == pytest.approx(0.0, abs=1e-12)


def test_only_accuracies_that_both_curves_reach_count() -> None:
    # Equal up to 0.72, and without a point beyond it.
    assert delta_rate(CURVE[:3], CURVE) == pytest.approx(0.0, abs=0.02)
    higher = [(bytes_, accuracy + 0.5) for bytes_, accuracy in CURVE]
    assert delta_rate(CURVE, higher) is None
    assert delta_rate(CURVE[:1], CURVE) is None


def test_a_straight_line_of_logarithms_has_its_mean_in_the_middle() -> None:
    line = [(float(np.exp(10 * accuracy)), accuracy) for accuracy in (0.1, 0.2, 0.4)]
    flat = [(float(np.exp(10 * accuracy) * np.exp(accuracy)), accuracy) for accuracy in (0.1, 0.2, 0.4)]
    assert delta_rate(flat, line) == pytest.approx(np.exp(0.25) - 1, rel=1e-9)


def test_a_point_that_another_one_beats_is_left_out() -> None:
    assert frontier([*CURVE, (150.0, 0.65), (100.0, 0.61)]) == CURVE


def test_bytes_at_an_accuracy() -> None:
    assert bytes_at(CURVE, 0.68) == pytest.approx(100.0, rel=1e-12)
    assert bytes_at(CURVE, 0.5) == 50.0
    assert bytes_at(CURVE, 0.75) is None
    assert 100 < (bytes_at(CURVE, 0.70) or 0) < 200
