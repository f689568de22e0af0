"""The figure of exit and back."""

from __future__ import annotations

from typing import Any

import pytest

from smartedge.artifacts.results import Figures
from smartedge.lab.report import plots


@pytest.mark.parametrize("gain", [0.0, 0.004, 0.08])
def test_the_axis_of_the_gain_shows_points_and_cuts_no_number_off(gain, monkeypatch):
    drawn: list[Any] = []

    def keep(canvas: Any, alt: str) -> str:
        drawn.append(canvas)
        return ""

    monkeypatch.setattr(plots, "to_svg", keep)
    figures = Figures(loss=0.5, accuracy=0.5, balanced_accuracy=0.5, auroc=None, base_rate=0.5)
    both = [plots.Head("exit", "edge", figures), plots.Head("back", "cloud", figures)]
    plots.heads(both, {"accuracy": gain}, {"accuracy": (gain - 0.001, gain + 0.001)})
    canvas = drawn[0]
    canvas.canvas.draw()
    lower = canvas.axes[1]
    low, high = lower.get_xlim()
    assert low <= -1 and high >= max(1, 100 * gain)
    shown = [tick.label1 for tick in lower.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert len(shown) >= 3
    edge = canvas.bbox.width
    assert all(label.get_window_extent().x0 >= 0 and label.get_window_extent().x1 <= edge for label in shown)
