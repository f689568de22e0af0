"""Texts beside points."""

from __future__ import annotations

import pytest
from matplotlib.text import Annotation
from matplotlib.transforms import BboxBase

from smartedge.lab.report.canvas import WIDTH, drawing
from smartedge.lab.report.labels import label_points


def boxes(
    labels: list[tuple[str, float, float]],
    upright: list[float],
    level: float | None,
    others: list[tuple[float, float]] | None = None,
) -> list[BboxBase]:
    """Where the texts lie, in units of axes from 0 to 1."""
    with drawing(6.4, 5.0) as canvas:
        axes = canvas.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        label_points(canvas, axes, labels, others or [], upright, level)
        texts = [each for each in axes.get_children() if isinstance(each, Annotation)]
        return [text.get_window_extent().transformed(axes.transData.inverted()) for text in texts]


@pytest.mark.parametrize("level", [0.45, 0.47, 0.49, 0.50, 0.51, 0.53, 0.55])
def test_a_text_is_on_no_line_where_there_is_room(level: float) -> None:
    (box,) = boxes([("λ 0", 0.5, 0.5)], [0.52], level)
    assert not box.x0 < 0.52 < box.x1
    assert not box.y0 < level < box.y1


def test_texts_and_points_are_worse_than_lines() -> None:
    """Points all around leave one place, on a line."""
    around = [("", 0.5, 0.53), ("", 0.54, 0.5), ("", 0.54, 0.47), ("", 0.46, 0.53), ("", 0.46, 0.5), ("", 0.5, 0.55)]
    with_line, without = (boxes([("λ 0", 0.5, 0.5), *around], upright, None)[0] for upright in ([0.47], []))
    assert with_line.bounds == pytest.approx(without.bounds, rel=1e-9)


def test_a_text_is_on_no_other_point() -> None:
    (free,) = boxes([("λ 0", 0.5, 0.5)], [], None)
    there = ((free.x0 + free.x1) / 2, (free.y0 + free.y1) / 2)
    (box,) = boxes([("λ 0", 0.5, 0.5)], [], None, [there])
    assert not box.contains(*there)


def test_without_lines_a_text_is_to_the_right_and_above() -> None:
    (box,) = boxes([("λ 0", 0.5, 0.5)], [], None)
    assert box.x0 > 0.5
    assert box.y0 > 0.5


@pytest.mark.parametrize("x", [0.05, 0.95])
def test_a_long_text_stays_in_the_figure_and_leaves_the_axes_their_room(x: float) -> None:
    text = "λ 1, bottleneck 8x2x2, σ 0.4"
    with drawing(WIDTH, 3.0) as canvas:
        axes = canvas.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        label_points(canvas, axes, [(text, x, 0.5), (text, x, 0.5)], [], [], None)
        canvas.draw_without_rendering()
        (written,) = (each for each in axes.get_children() if isinstance(each, Annotation))
        box = written.get_window_extent()
        assert canvas.bbox.x0 < box.x0 < box.x1 < canvas.bbox.x1
        assert axes.get_window_extent().width > 0.8 * canvas.bbox.width
