"""The plan as a picture: time by cut, stacked by stage; alone as PNG, or with its table and reasons as one HTML file.

Needs matplotlib and jinja2, which come with the extra ``cloud``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.artifacts.plan import Prediction
from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.files import disk_error
from smartedge.lab.plan.cost import STAGES
from smartedge.lab.plan.search import Plan, describe, explain, figures_of
from smartedge.methods.base import METHODS, get_method

if TYPE_CHECKING:
    from smartedge.lab.report.canvas import Canvas
    from smartedge.lab.report.canvas import Figure as Drawing

__all__ = ["draw_plan", "rows_by_cut"]

_TITLE = "Predicted time of an epoch, by cut"
_BAR, _LINE, _GAP = 0.17, 0.17, 0.12  # inches: a bar's height, that of a line of text, and what lies between two rows


def draw_plan(plan: Plan, path: Path) -> Path:
    """Write the picture (``.png``) or a page around it (``.html``).

    Raises:
        ConfigError: another ending, matplotlib is not installed, or the file cannot be written.
    """
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"--plot {path}: give a name that ends in .png or .html")
    try:
        from smartedge.lab.report import canvas as surface
        from smartedge.lab.report.page import write_page
    except ImportError as error:
        raise ConfigError(f"--plot: needs matplotlib and jinja2 ({error}); run: {how_to_install('cloud')}") from error
    rows = rows_by_cut(plan)
    try:
        texts = [textwrap.fill(_said(*row), 50) for row in rows]
        height = _BAR + _GAP + _LINE * (1 + max(text.count("\n") for text in texts))  # of a row
        with surface.drawing(surface.WIDTH, 1.3 + height * len(rows)) as canvas:
            _bars(canvas, rows, texts, height)
            if path.suffix == ".png":
                return surface.save_png(canvas, path)
            alt = _alt(rows)
            figure = surface.Figure(surface.to_svg(canvas, alt), _TITLE, alt)
        return write_page(path, "plan.html.j2", _page(plan, figure))
    except OSError as error:
        raise ConfigError(f"--plot {path}: {disk_error(error)}") from error


def rows_by_cut(plan: Plan) -> list[tuple[str, Prediction]]:
    """Label and prediction of each bar: the fastest choice at each cut, in the network's order, then the other methods.

    The cuts are those of the settings' method. If it does not divide the network, they are those of the first method
    that does. Choices that the constraints allow come before the others.
    """
    method = plan.method if get_method(plan.method).divides else next(m.name for m in METHODS.values() if m.divides)
    by_cut: dict[str, Prediction] = {}
    for prediction in plan.ranked:
        if prediction.choice.method == method and prediction.choice.cut is not None:
            by_cut.setdefault(prediction.choice.cut, prediction)
    rows = [(name, by_cut[name]) for name in plan.setting.edge.all_cuts if name in by_cut]
    for other in METHODS:
        first = plan.first_of(other)
        if first is not None and not (rows and other == method):
            at = f" at {first.choice.cut}" if first.choice.cut else ""
            rows.append((f"{other}{at}", first))
    return rows


def _said(name: str, prediction: Prediction) -> str:
    """The text above a bar."""
    broken = f" (not allowed: {', '.join(prediction.rejected)})" if prediction.rejected else ""
    return f"{name}: {prediction.seconds_per_epoch:.3g} s{broken}"


def _bars(canvas: Canvas, rows: Sequence[tuple[str, Prediction]], texts: Sequence[str], height: float) -> None:
    """The bars, and above each one its text: beside them it would not fit on a phone. A row has ``height`` inches."""
    from smartedge.lab.report.canvas import INK
    from smartedge.lab.report.canvas import STAGES as LOOKS

    axes: Any = canvas.subplots()
    for y, ((_, prediction), text) in enumerate(zip(rows, texts, strict=True)):
        left = 0.0
        for stage in STAGES:
            colour, hatch = LOOKS[stage]
            busy = prediction.stage_seconds[stage]
            name = stage if y == 0 else None
            axes.barh(y, busy, left=left, color=colour, hatch=hatch, height=_BAR / height, label=name)
            left += busy
        label = "wall clock" if y == 0 else None
        look = {"color": "white", "markeredgecolor": INK, "markersize": 6.5, "zorder": 5}
        axes.plot([prediction.seconds_per_epoch], [y], "D", label=label, **look)
        axes.annotate(text, (0, y - 0.5 * _BAR / height), xytext=(2, 3), textcoords="offset points")
    longest = max(max(p.seconds_per_epoch, sum(p.stage_seconds.values())) for _, p in rows)
    axes.set_xlim(0, 1.05 * longest or 1)
    axes.set_ylim(len(rows) - 1 + 1.2 * _BAR / height, 0.9 * _BAR / height - 1)
    axes.set_yticks([])
    axes.set_xlabel("seconds per epoch, predicted\n(bars: each stage by itself)")
    canvas.legend(loc="outside upper left", ncols=3, columnspacing=1)


def _alt(rows: Sequence[tuple[str, Prediction]]) -> str:
    said = (
        f"{name} {p.seconds_per_epoch:.3g} s ("
        + ", ".join(f"{stage} {p.stage_seconds[stage]:.3g}" for stage in STAGES)
        + ")"
        for name, p in rows
    )
    return f"{_TITLE}: {'; '.join(said)}."


def _page(plan: Plan, figure: Drawing) -> dict[str, object]:
    """The values that the template ``plan.html.j2`` shows."""
    setting = plan.setting
    where = "one machine" if setting.same_machine else f"edge {setting.edge.name}, cloud {setting.cloud.name}"
    rows = []
    for prediction in plan.ranked:
        broken = f" (not allowed: {', '.join(prediction.rejected)})" if prediction.rejected else ""
        rows.append((describe(prediction.choice) + broken, not prediction.rejected, figures_of(prediction).values()))
    return {
        "title": "Plan",
        "lede": f"{where}; link {setting.link}; predicted, not measured",
        "reasons": explain(plan),
        "figure": figure,
        "heads": list(figures_of(plan.ranked[0])),
        "rows": rows,
    }
