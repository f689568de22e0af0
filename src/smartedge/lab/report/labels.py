"""Writes a text beside each point of a figure, where it covers least."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import BboxBase

from smartedge.lab.report.canvas import PAPER, Canvas

__all__ = ["MARK", "label_points"]

MARK = 7  # size of a point, points
_PAPER = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.6, "pad": 0.5}  # lines behind a text do not strike it out
_CHARACTERS = 24  # of a line: about half of a figure


def label_points(
    canvas: Canvas,
    axes: Axes,
    labels: Sequence[tuple[str, float, float]],
    others: Iterable[tuple[float, float]],
    upright: Iterable[float],
    level: float | None,
) -> None:
    """Write each label beside its point, where it covers least. Points that touch share one text.

    Args:
        canvas: as it will be seen.
        axes: with the points and lines.
        labels: texts, with their points.
        others: points without a text.
        upright: where vertical lines are.
        level: where a horizontal line is.
    """
    canvas.draw_without_rendering()  # positions on the canvas are known only after this
    marks = [axes.transData.transform((x, y)) for _, x, y in labels]
    points = [*marks, *(axes.transData.transform(place) for place in others)]
    columns = [axes.transData.transform((x, 0.0))[0] for x in upright]
    height = None if level is None else axes.transData.transform((0.0, level))[1]
    near = MARK * canvas.dpi / 72
    groups: list[list[int]] = []
    for i, mark in enumerate(marks):
        touching = [group for group in groups if any(np.abs(mark - marks[j]).max() < near for j in group)]
        groups = [group for group in groups if group not in touching] + [sorted([*itertools.chain(*touching), i])]
    taken: list[BboxBase] = []
    for group in groups:
        text = textwrap.fill(" · ".join(labels[i][0] for i in group), _CHARACTERS)
        at = max((labels[i][1:] for i in group), key=lambda place: place[0])
        written = axes.annotate(text, at, xytext=(0, 0), textcoords="offset points", bbox=_PAPER)
        written.set_in_layout(False)  # the axes stay where they are: a long text could leave them no room

        def covered(place: tuple[int, int], written: Annotation = written) -> int:
            """What the text would cover there. Texts and points count more than lines, and the figure's edge most."""
            box = _at(written, place).get_window_extent()
            outside = box.x0 < canvas.bbox.x0 or box.x1 > canvas.bbox.x1
            lines = sum(box.x0 < x < box.x1 for x in columns) + (height is not None and box.y0 < height < box.y1)
            return 99 * int(outside) + 9 * int(box.count_overlaps(taken) + box.count_contains(points)) + int(lines)

        best = min(itertools.product((7, -7), (5, -13, -4)), key=covered)
        taken.append(_at(written, best).get_window_extent())


def _at(written: Annotation, place: tuple[int, int]) -> Annotation:
    """Put a text there: points to the right of its mark, and above it."""
    written.xyann = place
    written.set_horizontalalignment("left" if place[0] > 0 else "right")
    return written
