"""The figures of a run and of a comparison: curves, heads, offloading, times, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from smartedge.artifacts.metrics import EpochFigures
from smartedge.artifacts.results import Figures
from smartedge.lab.judging.text import known
from smartedge.lab.report.canvas import (
    CLOUD,
    EDGE,
    INK,
    MUTED,
    PAPER,
    PERCENT,
    STAGES,
    WIDTH,
    Figure,
    at_end,
    drawing,
    in_two_lines,
    label_rows,
    mark,
    to_svg,
)
from smartedge.metrics import OffloadingCurve

__all__ = ["Figure", "Head", "bars", "curves", "dots", "heads", "offloading", "series", "stages"]

_LEAST_GAIN = 1.2  # points that the axis of the cloud gain shows to each side: an axis of hundredths shows nothing


@dataclass(frozen=True)
class Head:
    """One head's test figures, as drawn."""

    name: str
    side: str  # "edge" or "cloud"
    figures: Figures


def curves(metrics: Sequence[EpochFigures], names: Mapping[str, str], figure: str, title: str) -> Figure | None:
    """Loss or balanced accuracy of both sides per epoch, on the training and validation images."""
    percent = figure != "loss"
    words = []
    with drawing(WIDTH, 3.1) as canvas:
        axes = canvas.subplots()
        for side, colour, marker in (("edge", EDGE, "o"), ("cloud", CLOUD, "s")):
            for split, dash, label in (("train", (0, (4, 2)), "training"), ("val", "-", "validation")):
                points = [
                    (entry.epoch + 1, getattr(entry, figure))
                    for entry in metrics
                    if entry.side == side and entry.split == split and known(getattr(entry, figure))
                ]
                if not points:
                    continue
                name = f"{names[side]}, {label}"
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    linestyle=dash,
                    linewidth=1.6,
                    marker=marker,
                    markersize=4,
                    markerfacecolor=colour if split == "val" else PAPER,
                    label=name,
                )
                first, last = (f"{100 * y:.1f} %" if percent else f"{y:.3f}" for _, y in (points[0], points[-1]))
                words.append(f"{name}: from {first} to {last}")
        if not words:
            return None
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if percent:
            axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="x")
        wide = max(len(name) for name in names.values()) > 12
        canvas.legend(loc="outside upper left", ncols=1 if wide else 2, handlelength=1.8, columnspacing=0.7)
        alt = f"{title} per epoch. " + "; ".join(words) + "."
        return Figure(to_svg(canvas, alt), title, alt)


def heads(both: Sequence[Head], gain: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Figure:
    """The exit's and the back's test figures, and their difference with its interval."""
    rows = [("accuracy", "Accuracy"), ("balanced_accuracy", "Balanced accuracy"), ("auroc", "AUROC")]
    rows = [(key, label) for key, label in rows if all(known(getattr(head.figures, key)) for head in both)]
    gains = [(key, label) for key, label in rows if key in gain]
    words = []
    with drawing(WIDTH, 3.3) as canvas:
        upper, lower = canvas.subplots(2, height_ratios=[len(rows) + 0.6, len(gains) + 0.4])
        for y, (key, label) in enumerate(rows):
            values = [getattr(head.figures, key) for head in both]
            upper.plot(values, [y] * len(values), color=MUTED, linewidth=1.2, zorder=1)
            for head, value in zip(both, values, strict=True):
                upper.plot(value, y, **mark(head.side))
            words.append(
                f"{label}: " + ", ".join(f"{h.name} {100 * v:.1f} %" for h, v in zip(both, values, strict=True))
            )
        label_rows(upper, [label for _, label in rows])
        upper.xaxis.set_major_formatter(PERCENT)
        upper.xaxis.set_major_locator(MaxNLocator(5))
        upper.margins(x=0.12)
        marks = [Line2D([], [], label=head.name, **mark(head.side)) for head in both]
        canvas.legend(handles=marks, loc="outside upper left", ncols=2)
        for y, (key, label) in enumerate(gains):
            if key in intervals:
                low, high = intervals[key]
                lower.plot([100 * low, 100 * high], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
            lower.plot(100 * gain[key], y, "D", color=INK, markersize=5.5)
            words.append(f"cloud gain in {label.lower()} {100 * gain[key]:+.1f} points")
        lower.axvline(0, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)))
        label_rows(lower, [label for _, label in gains])
        lower.set_xlabel("cloud gain, points" + (" (line: 95 % interval)" if intervals else ""))
        lower.margins(x=0.12)
        low, high = lower.get_xlim()
        lower.set_xlim(min(low, -_LEAST_GAIN), max(high, _LEAST_GAIN))
        lower.xaxis.set_major_locator(MaxNLocator(5))
        alt = "On the test images. " + "; ".join(words) + "."
        return Figure(to_svg(canvas, alt), "Exit and back", alt)


def offloading(curve: OffloadingCurve) -> Figure:
    """Balanced accuracy over the share of images that go to the cloud."""
    share, balanced = curve.offloaded_share, curve.balanced_accuracy
    some = np.unique(np.linspace(0, len(share) - 1, 200).astype(int))
    best = int(balanced.argmax())
    with drawing(WIDTH, 3.1) as canvas:
        axes = canvas.subplots()
        axes.plot(share[some], balanced[some], color=INK, linewidth=1.6)
        axes.plot(share[0], balanced[0], **mark("edge"), label="all by the exit", clip_on=False)
        axes.plot(share[-1], balanced[-1], **mark("cloud"), label="all by the back", clip_on=False)
        axes.plot(share[best], balanced[best], "*", color=INK, markersize=10, label="best", zorder=5, linestyle="none")
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("images whose features go to the cloud")
        canvas.legend(loc="outside upper left", ncols=3, handletextpad=0.2)
        alt = (
            f"Balanced accuracy when only unsure images are offloaded: {100 * balanced[0]:.1f} % with none, "
            f"{100 * balanced[best]:.1f} % at best with {100 * share[best]:.0f} % of the images, "
            f"{100 * balanced[-1]:.1f} % with all."
        )
        return Figure(to_svg(canvas, alt), "Balanced accuracy versus offloading", alt)


def stages(seconds: Mapping[str, float], wall: float) -> Figure:
    """The stages one after another, beside the wall-clock time of an epoch, in which they overlap."""
    slowest = max(seconds, key=lambda name: seconds[name])
    with drawing(WIDTH, 2.3) as canvas:
        axes = canvas.subplots()
        left = 0.0
        for name, busy in seconds.items():
            colour, hatch = STAGES[name]
            axes.barh(0, busy, left=left, color=colour, hatch=hatch, height=0.62, label=name)
            left += busy
        axes.barh(1, wall, color=INK, height=0.62)
        axes.barh(2, seconds[slowest], color=STAGES[slowest][0], hatch=STAGES[slowest][1], height=0.62)
        for y, value in enumerate((left, wall, seconds[slowest])):
            at_end(axes, value, y, f"{value:.3g} s")
        label_rows(axes, ["One after another", "As run", f"Slowest ({slowest})"])
        axes.set_xlim(0, 1.2 * max(left, wall) or 1)
        axes.set_xlabel("seconds per epoch")
        canvas.legend(loc="outside upper left", ncols=4)
        alt = (
            "Seconds per epoch: "
            + ", ".join(f"{name} busy {busy:.3g}" for name, busy in seconds.items())
            + f"; one after another {left:.3g}, wall clock {wall:.3g}."
        )
        return Figure(to_svg(canvas, alt), "Time of an epoch", alt)


def bars(
    rows: Sequence[tuple[str, float, str]], title: str, label: str, texts: Sequence[str], *, log: bool = False
) -> Figure:
    """Horizontal bars, one per row of (name, value, look), each with its text at the end.

    A look is "edge", "cloud", "own" (the run that the others are compared with) or "other".
    """
    looks = {"edge": (EDGE, "///"), "cloud": (CLOUD, "\\\\\\"), "own": (INK, ""), "other": (MUTED, "")}
    values = [value for _, value, _ in rows]
    with drawing(WIDTH, 0.85 + 0.36 * len(rows)) as canvas:
        axes = canvas.subplots()
        top = max([1.0 if log else 0.0, *values])
        if log:
            axes.set_xscale("log")
            axes.set_xlim(1, max(10.0, top**1.35))  # set before the bars, which may all be zero
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
            axes.minorticks_off()
        else:
            axes.set_xlim(0, 1.3 * top or 1)  # room for the texts
            axes.xaxis.set_major_locator(MaxNLocator(6))
        for y, (_, value, look) in enumerate(rows):
            colour, hatch = looks[look]
            axes.barh(y, value, color=colour, hatch=hatch, height=0.62)
            at_end(axes, max(value, 1) if log else value, y, texts[y])
        label_rows(axes, [in_two_lines(name) for name, _, _ in rows])
        axes.set_xlabel(label)
        alt = f"{title}. " + "; ".join(f"{name} {text}" for (name, _, _), text in zip(rows, texts, strict=True)) + "."
        return Figure(to_svg(canvas, alt), title, alt)


def dots(
    rows: Sequence[str], both: Mapping[str, tuple[str, Sequence[float]]], title: str, *, chance: float | None = None
) -> Figure:
    """Balanced accuracy per row; ``both`` maps "edge" and "cloud" to (name, values). A missing value is nan."""
    values_SR = np.array([values for _, values in both.values()], dtype=float)
    words = []
    with drawing(WIDTH, 1.0 + 0.3 * len(rows)) as canvas:
        axes = canvas.subplots()
        for y, row in enumerate(rows):
            axes.plot(values_SR[:, y], [y] * len(both), color=MUTED, linewidth=1, zorder=1)
            words.append(
                f"{row}: "
                + ", ".join(f"{name} {100 * values[y]:.1f} %" for name, values in both.values() if known(values[y]))
            )
        for side, (name, values) in both.items():
            axes.plot(values, np.arange(len(rows)), **mark(side), label=name)
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)))
        label_rows(axes, [in_two_lines(row) for row in rows])
        axes.xaxis.set_major_formatter(PERCENT)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12)
        axes.set_xlabel("balanced accuracy" + (" (dashed: chance)" if chance is not None else ""))
        canvas.legend(loc="outside upper left", ncols=2)
        alt = f"{title}. " + "; ".join(words) + "."
        return Figure(to_svg(canvas, alt), title, alt)


def series(lines: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """One line per run of a comparison: its figure in each epoch. Each run has its own dash and marker."""
    title = "Balanced accuracy on the validation images"
    dashes = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]
    with drawing(WIDTH, 3.1) as canvas:
        axes = canvas.subplots()
        for i, (name, points) in enumerate(lines.items()):
            axes.plot(
                *zip(*points, strict=True),
                color=(INK, MUTED)[(i + i // 4) % 2],  # edge and cloud have colours, runs have not
                linestyle=dashes[i % 4],
                marker="osD^vPX*"[i % 8],
                markersize=4,
                linewidth=1.6,
                label=in_two_lines(name),
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="x")
        canvas.legend(loc="outside upper left", ncols=2, handlelength=1.8, columnspacing=0.7)
        alt = f"{title}. " + "; ".join(f"{name} ends at {100 * points[-1][1]:.1f} %" for name, points in lines.items())
        return Figure(to_svg(canvas, alt), title, alt)


def _power(value: float) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"
