"""Figures of attack accuracy: attackers of one attribute, several attributes, and the points of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from smartedge.lab.judging.leakage import AttackResult, Leak
from smartedge.lab.judging.text import known
from smartedge.lab.report.canvas import (
    ATTACK,
    CLOUD,
    INK,
    LIMIT,
    LINE,
    MUTED,
    PAPER,
    PERCENT,
    WIDTH,
    Canvas,
    Figure,
    Look,
    drawing,
    label_rows,
    save_png,
    short,
    to_svg,
)
from smartedge.lab.report.labels import MARK, label_points
from smartedge.metrics import rounded_up

__all__ = ["MOST_ROWS", "Point", "attackers", "attributes", "frontier", "frontier_png", "over_setting"]

# The references that attacks are compared with. Each line has its own dash.
_BOUNDS = ("no attacker exceeds", "DP bound", "noise bound")  # names of lines
_LINES: dict[str, Look] = {
    "chance": {"color": MUTED, "linestyle": (0, (1, 1.6)), "linewidth": 1.6},
    "label floor": {"color": INK, "linestyle": (0, (5, 2)), "linewidth": 1.6},
    "prediction floor": {"color": INK, "linestyle": (0, (5, 1.5, 1, 1.5)), "linewidth": 1.3},
    "undefended, best": {"color": ATTACK, "linestyle": (0, (6, 2)), "linewidth": 1.8},
    "no attacker exceeds": {"color": LIMIT, "linestyle": "-", "linewidth": 2.2},
    "DP bound": {"color": INK, "linestyle": "-", "linewidth": 2.2},
    "noise bound": {"color": MUTED, "linestyle": "-", "linewidth": 1.6},
}
_ON_SENT: Look = {
    "marker": "s", "markerfacecolor": ATTACK, "markeredgecolor": ATTACK, "markersize": MARK, "linestyle": "none",
    "zorder": 4,
}  # fmt: skip
_DESIRED: Look = {**_ON_SENT, "markerfacecolor": CLOUD, "markeredgecolor": CLOUD}
_UNDEFENDED: Look = {
    "marker": "o", "markerfacecolor": PAPER, "markeredgecolor": ATTACK, "markersize": 6.5, "markeredgewidth": 1.8,
    "linestyle": "none", "zorder": 5,
}  # fmt: skip
_FLOOR: Look = {
    "marker": "|", "markeredgecolor": INK, "markeredgewidth": 2.2, "markersize": 11, "linestyle": "none", "zorder": 3
}  # fmt: skip
_BOUND: Look = {
    "marker": ">", "markerfacecolor": INK, "markeredgecolor": INK, "markersize": 5, "linestyle": "none", "zorder": 3
}  # fmt: skip
_NOISE_BOUND: Look = {
    "marker": ">", "markerfacecolor": PAPER, "markeredgecolor": INK, "markersize": 5.5, "linestyle": "none", "zorder": 3
}  # fmt: skip
_KEPT: Look = {"color": CLOUD, "linestyle": (0, (9, 2)), "linewidth": 1.3}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MOST_ROWS = len(_DASHES)  # number of lines that a reader can distinguish


def attackers(leak: Leak) -> Figure:
    """Balanced accuracy of each attacker on one attribute, with the references as lines."""
    lines = dict(leak.lines)
    words = []
    rows = list(leak.attacks)
    if stronger := leak.training_image:
        rows.append(AttackResult(f"training image: {stronger.name}", stronger.value, stronger.interval))
    with drawing(WIDTH, 1.75 + 0.3 * len(rows)) as canvas:
        axes = canvas.subplots()
        for y, attack in enumerate(rows):
            if attack.interval:
                axes.plot(attack.interval, [y, y], color=ATTACK, linewidth=2.4, solid_capstyle="butt", zorder=3)
            axes.plot(attack.value, y, **_ON_SENT)
            words.append(f"{attack.name} {100 * attack.value:.1f} %")
        for name, value in lines.items():
            axes.axvline(value, **_LINES[name], zorder=2)
        label_rows(axes, [short(attack.name, 26) for attack in rows])
        _shares(axes, [leak.chance, *lines.values(), *_spread(leak)])
        limits = [limit for limit in (leak.bound, leak.noise_bound) if limit is not None]
        if limits:
            axes.axvspan(min(limits), axes.get_xlim()[1], facecolor=LINE, alpha=0.6, zorder=0)
        axes.set_xlabel(f"balanced accuracy on {short(leak.name, 30)}")
        handles = [Line2D([], [], label="on what was sent", **_ON_SENT)]
        handles += _line_handles(lines)
        canvas.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1.8, columnspacing=0.6)
        alt = f"Attackers on {leak.name}, balanced accuracy on what was sent: {'; '.join(words)}. {_line_words(lines)}."
        return Figure(to_svg(canvas, alt), f"How well attackers read {leak.name}", alt)


def attributes(leaks: Sequence[Leak]) -> Figure:
    """The best attack on each attribute, beside the undefended front and the label floor."""
    words = []
    with drawing(WIDTH, 1.35 + 0.27 * len(leaks)) as canvas:
        axes = canvas.subplots()
        for y, leak in enumerate(leaks):
            best = leak.worst.value
            text = f"{leak.name}: best attack {100 * best:.1f} %"
            if leak.undefended is not None:
                axes.plot([best, leak.undefended], [y, y], color=LINE, linewidth=1.4, zorder=1)
                axes.plot(leak.undefended, y, **_UNDEFENDED)
                text += f", undefended {100 * leak.undefended:.1f} %"
            if leak.floor is not None:
                axes.plot(leak.floor, y, **_FLOOR)
                text += f", label floor {100 * leak.floor:.1f} %"
            axes.plot(best, y, **_ON_SENT)
            words.append(text)
        chances = {leak.chance for leak in leaks}
        for chance in chances:
            axes.axvline(chance, **_LINES["chance"], zorder=2)
        label_rows(axes, [short(leak.name) for leak in leaks])
        _shares(axes, [value for leak in leaks for value in (*_spread(leak), leak.floor, leak.undefended, leak.chance)])
        axes.set_xlabel("balanced accuracy, best attacker (dotted: chance)")
        handles = [
            Line2D([], [], label="on what was sent", **_ON_SENT),
            Line2D([], [], label="undefended front", **_UNDEFENDED),
            Line2D([], [], label="label floor", **_FLOOR),
        ]
        canvas.legend(handles=handles, loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1)
        alt = "Attributes audited. " + "; ".join(words) + "."
        return Figure(to_svg(canvas, alt), "How well the best attacker reads each attribute", alt)


# ---- sweeps


@dataclass(frozen=True)
class Point:
    """One setting of a sweep, over its seeds. Accuracies are balanced, as (mean, standard deviation)."""

    label: str
    values: tuple[str, ...]  # the values of the axes, as text
    desired: tuple[float, float]
    attack: tuple[float, float] | None  # the best attack on the attribute shown
    bound: float | None  # an upper limit for every attacker of one release, from (ε, δ)
    noise_bound: float | None  # the same limit from the distribution of the noise, where it is lower


def frontier(
    points: Sequence[Point], lines: Mapping[str, float], desired: float | None, attribute: str, task: str
) -> Figure:
    """Desired accuracy against the best attack.

    Args:
        points: the settings of the sweep that were audited.
        lines: references of the attack, by the names of :attr:`Leak.lines`.
        desired: balanced accuracy of the undefended run on the desired label.
        attribute: the sensitive one.
        task: the desired label's name.
    """
    with drawing(WIDTH, 4.2) as canvas:
        alt = _frontier(canvas, points, lines, desired, attribute, task)
        return Figure(to_svg(canvas, alt), f"{task} kept, {attribute} hidden: balanced accuracies", alt)


def frontier_png(
    points: Sequence[Point], lines: Mapping[str, float], desired: float | None, attribute: str, task: str, path: Path
) -> Path:
    """:func:`frontier` as a PNG on white."""
    with drawing(6.4, 5.0) as canvas:
        _frontier(canvas, points, lines, desired, attribute, task)
        return save_png(canvas, path)


def _frontier(
    canvas: Canvas,
    points: Sequence[Point],
    lines: Mapping[str, float],
    desired: float | None,
    attribute: str,
    task: str,
) -> str:
    """Draw the frontier and return its description."""
    axes = canvas.subplots()
    audited = [(point, point.attack) for point in points if point.attack is not None]
    words = []
    rows: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for point, attack in audited:
        rows.setdefault(point.values[1:], []).append((attack[0], point.desired[0]))
    for i, row in enumerate(rows.values()):
        axes.plot(*zip(*row, strict=True), color=MUTED, linewidth=1.1, linestyle=_DASHES[i % 4], zorder=1)
    for point, (x, dx) in audited:
        y, dy = point.desired
        axes.errorbar(x, y, xerr=dx or None, yerr=dy or None, fmt="none", ecolor=ATTACK, elinewidth=1.4, zorder=3)
        axes.plot(x, y, **_ON_SENT)
        for limit, look in ((point.bound, _BOUND), (point.noise_bound, _NOISE_BOUND)):
            if limit is not None:
                axes.plot([x, limit], [y, y], color=LINE, linewidth=1.2, zorder=0)
                axes.plot(limit, y, **look)
        words.append(_in_words(point, task, f"best attack on {attribute}"))
    for name, value in lines.items():
        axes.axvline(value, **_LINES[name], zorder=2)
    if desired is not None:
        axes.axhline(desired, **_KEPT, zorder=2)
    shown = [value for point, (x, dx) in audited for value in (x - dx, x + dx, point.bound, point.noise_bound)]
    _shares(axes, [*shown, *lines.values()])
    axes.yaxis.set_major_formatter(PERCENT)
    axes.margins(y=0.16)
    axes.set_xlabel(f"best attack on {short(attribute)} (left is better)")
    axes.set_ylabel(f"{short(task)} (up is better)")
    handles = [Line2D([], [], label="a setting of the sweep", **_ON_SENT)]
    if any(point.bound is not None for point, _ in audited):
        handles.append(Line2D([], [], label="its DP bound", **_BOUND))
    if any(point.noise_bound is not None for point, _ in audited):
        handles.append(Line2D([], [], label="its noise bound", **_NOISE_BOUND))
    handles += _line_handles(lines)
    if desired is not None:
        handles.append(Line2D([], [], label=f"undefended {short(task, 12)} {100 * desired:.1f} %", **_KEPT))
    canvas.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1.8, columnspacing=0.6)
    labels = [(point.label, x, point.desired[0]) for point, (x, _) in audited]
    limits = [(limit, point.desired[0]) for point, _ in audited for limit in (point.bound, point.noise_bound) if limit]
    bars = [
        place
        for point, (x, dx) in audited
        for y, dy in [point.desired]
        for part in (-1.0, -0.5, 0.5, 1.0)
        for place in ((x + part * dx, y), (x, y + part * dy))
    ]
    label_points(canvas, axes, labels, [*limits, *bars], lines.values(), desired)
    alt = f"Desired accuracy against the best attack. {'; '.join(words)}. {_line_words(lines)}"
    return alt + (f", undefended {task} {100 * desired:.1f} %." if desired is not None else ".")


def over_setting(
    setting: str,
    rows: Mapping[str, Sequence[Point]],
    axis: int,
    lines: Mapping[str, float],
    desired: float | None,
    attribute: str | None,
    task: str,
) -> Figure:
    """Desired accuracy and the best attack over the values of one setting.

    Args:
        setting: its name, as shown on the axis.
        rows: at most :data:`MOST_ROWS` lines. The key is the text of the other settings' values (empty where there
            are none); the points come in the order of this setting's values.
        axis: the index of the setting in ``Point.values``.
        lines: references of the attack.
        desired: balanced accuracy of the undefended run on the desired label.
        attribute: the sensitive one, where there was an audit.
        task: the desired label's name.
    """
    ticks = list(dict.fromkeys(point.values[axis] for points in rows.values() for point in points))
    words = []
    handles = [Line2D([], [], color=CLOUD, **{**_DESIRED, "linestyle": "-"}, label=short(task))]
    with drawing(WIDTH, 3.2 + 0.11 * (len(rows) + len(lines))) as canvas:
        axes = canvas.subplots()
        for dash, points in zip(_DASHES, rows.values(), strict=False):
            xs = [ticks.index(point.values[axis]) for point in points]
            _line(axes, xs, [point.desired for point in points], CLOUD, _DESIRED, dash)
            audited = [(x, point.attack) for x, point in zip(xs, points, strict=True) if point.attack is not None]
            _line(axes, [x for x, _ in audited], [attack for _, attack in audited], ATTACK, _ON_SENT, dash)
            for line, limits in (
                ("DP bound", [point.bound for point in points]),
                ("noise bound", [point.noise_bound for point in points]),
            ):
                drawn = [(x, limit) for x, limit in zip(xs, limits, strict=True) if limit is not None]
                if drawn:
                    axes.plot(
                        *zip(*drawn, strict=True), **{**_LINES[line], "linestyle": dash}, marker=">", markersize=4
                    )
            words += [_in_words(point, task, "best attack") for point in points]
        every = [point for points in rows.values() for point in points]
        if any(point.attack is not None for point in every):
            handles.append(Line2D([], [], color=ATTACK, **{**_ON_SENT, "linestyle": "-"}, label="best attack"))
        if any(point.bound is not None for point in every):
            handles.append(Line2D([], [], **_LINES["DP bound"], label="DP bound"))
        if any(point.noise_bound is not None for point in every):
            handles.append(Line2D([], [], **_LINES["noise bound"], label="noise bound"))
        handles += [
            Line2D([], [], color=MUTED, linestyle=dash, label=short(others, 26))
            for dash, others in zip(_DASHES, rows, strict=False)
            if others
        ]
        for name, value in lines.items():
            axes.axhline(value, **_LINES[name], zorder=1)
        handles += _line_handles(lines)
        if desired is not None:
            axes.axhline(desired, **_KEPT, zorder=1)
            handles.append(Line2D([], [], label=f"undefended {short(task, 12)} {100 * desired:.1f} %", **_KEPT))
        axes.set_xticks(range(len(ticks)), [short(tick, 12) for tick in ticks])
        axes.set_xlim(-0.35, len(ticks) - 0.65)
        axes.set_xlabel(setting)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="x")
        canvas.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=2, columnspacing=0.8)
        title = f"{task}{f', and the best attack on {attribute},' if attribute else ''} over {setting}"
        alt = f"{title}: balanced accuracy. {'; '.join(words)}. {_line_words(lines)}."
        return Figure(to_svg(canvas, alt), title, alt)


def _line_handles(lines: Mapping[str, float]) -> list[Line2D]:
    """The entries of the references in a legend."""
    return [Line2D([], [], label=_of_line(name, value), **_LINES[name]) for name, value in lines.items()]


def _line_words(lines: Mapping[str, float]) -> str:
    """The references, for readers who do not see the drawing."""
    return "Lines: " + ", ".join(_of_line(name, value) for name, value in lines.items())


def _of_line(name: str, value: float) -> str:
    """A reference with its figure; upper bounds are rounded up."""
    return f"{name} {100 * (rounded_up(value) if name in _BOUNDS else value):.1f} %"


def _in_words(point: Point, task: str, attack: str) -> str:
    """The figures of a point, for readers who do not see the drawing."""
    text = f"{point.label}: {task} {100 * point.desired[0]:.1f} %"
    if point.attack is not None:
        text += f", {attack} {100 * point.attack[0]:.1f} %"
    if point.bound is not None:
        text += ", " + _of_line("DP bound", point.bound)
    if point.noise_bound is not None:
        text += ", " + _of_line("noise bound", point.noise_bound)
    return text


def _line(
    axes: Axes,
    xs: Sequence[float],
    values: Sequence[tuple[float, float]],
    colour: str,
    look: Mapping[str, Any],
    dash: Any,
) -> None:
    """Draw means, joined by a line, and standard deviations as bars."""
    means, spreads = np.array(values, dtype=float).reshape(-1, 2).T
    if spreads.any():
        axes.errorbar(xs, means, yerr=spreads, fmt="none", ecolor=colour, elinewidth=1.2, zorder=2)
    axes.plot(xs, means, color=colour, linewidth=1.6, **{**look, "linestyle": dash})


def _spread(leak: Leak) -> list[float]:
    attacks = [*leak.attacks, leak.worst]
    ends = [end for attack in attacks for end in (attack.interval or ())]
    return [*ends, *(attack.value for attack in attacks)]


def _shares(axes: Axes, values: Sequence[float | None]) -> None:
    """Set the horizontal axis, of balanced accuracy, so that it shows all of these values."""
    shown = [value for value in values if known(value)]
    low, high = min(shown, default=0.5), max(shown, default=1.0)
    room = max(0.02, 0.06 * (high - low))
    axes.set_xlim(max(0.0, low - room), min(1.0, high) + room)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(6))
