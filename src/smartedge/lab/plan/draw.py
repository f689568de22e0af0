"""The plan as a picture: time by cut, stacked by stage; alone as PNG, or with its table and reasons as one HTML file.

Needs matplotlib, which comes with the extra ``cloud``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.files import disk_error, write_atomically
from smartedge.lab.plan.cost import STAGES
from smartedge.lab.plan.job import Prediction
from smartedge.lab.plan.search import Plan, describe, explain
from smartedge.methods.base import METHODS, get_method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_plan", "rows_by_cut"]

_TITLE = "Predicted time of an epoch, by cut"
_STYLE = """
:root { --ink: #1b1f24; --muted: #59636e; --line: #d1d9e1; --edge: #b45309; --cloud: #1d5fd6; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaef; --muted: #9aa5b1; --line: #39424d; --edge: #f0a35e; --cloud: #7aa7ff; --paper: #14181d; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; font-family: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; width: 100%; }
th, td { text-align: right; padding: 0.2rem 0.6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.out { color: var(--muted); }
"""


def draw_plan(plan: Plan, path: Path) -> Path:
    """Write the picture (``.png``) or a page around it (``.html``).

    Raises:
        ConfigError: another ending, matplotlib is not installed, or the file cannot be written.
    """
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"--plot {path}: give a name that ends in .png or .html")
    try:
        from smartedge.lab.report import canvas as surface
    except ImportError as error:
        raise ConfigError(f"--plot: needs matplotlib ({error}); run: {how_to_install('cloud')}") from error
    rows = rows_by_cut(plan)
    try:
        with surface.drawing(1.6 * surface.WIDTH, 1.25 + 0.36 * len(rows)) as canvas:
            _bars(canvas, rows)
            if path.suffix == ".png":
                return surface.save_png(canvas, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _page(plan, surface.to_svg(canvas, _alt(rows))))
            return path
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


def _bars(canvas: Figure, rows: Sequence[tuple[str, Prediction]]) -> None:
    from smartedge.lab.report.canvas import INK, label_rows, short
    from smartedge.lab.report.canvas import STAGES as LOOKS

    axes: Any = canvas.subplots()
    for y, (_, prediction) in enumerate(rows):
        left = 0.0
        for stage in STAGES:
            colour, hatch = LOOKS[stage]
            busy = prediction.stage_seconds[stage]
            name = stage if y == 0 else None
            axes.barh(y, busy, left=left, color=colour, hatch=hatch, height=0.62, label=name)
            left += busy
        wall = prediction.seconds_per_epoch
        label = "wall clock" if y == 0 else None
        axes.plot([wall], [y], "D", color="white", markeredgecolor=INK, markersize=6.5, zorder=5, label=label)
        text = f"{wall:.3g} s" + (f"  not allowed: {', '.join(prediction.rejected)}" if prediction.rejected else "")
        axes.annotate(text, (max(left, wall), y), xytext=(8, 0), textcoords="offset points", va="center")
    label_rows(axes, [short(name, 26) for name, _ in rows])
    longest = max(max(p.seconds_per_epoch, sum(p.stage_seconds.values())) for _, p in rows)
    axes.set_xlim(0, 1.25 * longest or 1)
    axes.set_xlabel("seconds per epoch, predicted (bars: each stage by itself)")
    canvas.legend(loc="outside upper left", ncols=5, columnspacing=1)


def _alt(rows: Sequence[tuple[str, Prediction]]) -> str:
    said = (
        f"{name} {p.seconds_per_epoch:.3g} s ("
        + ", ".join(f"{stage} {p.stage_seconds[stage]:.3g}" for stage in STAGES)
        + ")"
        for name, p in rows
    )
    return f"{_TITLE}: {'; '.join(said)}."


def _page(plan: Plan, svg: str) -> str:
    setting = plan.setting
    where = "one machine" if setting.same_machine else f"edge {setting.edge.name}, cloud {setting.cloud.name}"
    reasons = "".join(f"<p>{escape(line)}</p>" for line in explain(plan))
    heads = (
        "choice",
        "s/epoch",
        *STAGES,
        "s in all",
        "bytes/image",
        "MB sent",
        "edge MiB",
        "edge J, modelled",
        "depth",
    )
    body = "".join(_table_row(p) for p in plan.ranked)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Plan</title><style>{_STYLE}</style></head><body>"
        f"<h1>Plan</h1><p>{escape(where)}; link {escape(str(setting.link))}; predicted, not measured.</p>{reasons}"
        f'<h2>{_TITLE}</h2>{svg}<h2>All choices</h2><div class="wide"><table><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div></body></html>\n"
    )


def _table_row(p: Prediction) -> str:
    joules = p.energy.total
    cells = [
        describe(p.choice) + (f" (not allowed: {', '.join(p.rejected)})" if p.rejected else ""),
        f"{p.seconds_per_epoch:.3g}",
        *(f"{p.stage_seconds[stage]:.3g}" for stage in STAGES),
        f"{p.seconds_total:.4g}",
        f"{p.bytes_up_per_image:,.0f}",
        f"{(p.bytes_up_total + p.bytes_down_total) / 1e6:,.1f}",
        f"{p.edge_peak_bytes / 2**20:,.0f}",
        "–" if joules is None else f"{joules:,.0f}",
        f"{p.depth:.2f}",
    ]
    kind = ' class="out"' if p.rejected else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
