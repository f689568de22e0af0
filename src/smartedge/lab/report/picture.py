"""Several runs as one picture (PNG), for example for a README or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smartedge.files import replacing
from smartedge.lab.judging.text import fewer_epochs
from smartedge.lab.report.canvas import CLOUD, EDGE, INK, MUTED
from smartedge.lab.report.read import Run, read_run
from smartedge.lab.report.run_verdict import margin
from smartedge.methods.schedules import get_schedule

__all__ = ["write_picture"]

LINK = "#8a94a0"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
    "xtick.bottom": False,
    "xtick.labelbottom": False,
    "ytick.left": False,
    "text.color": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,
}
_SENT = {"features": "features", "images": "the images", "nothing": "nothing"}
_SHOWN = 10
_SLOWER = 10  # a small computer beside a server's core


def write_picture(run_dirs: Sequence[Path], out: Path) -> Path:
    """Draw accuracy, bytes and time of several runs side by side, under some of their test images.

    Args:
        run_dirs: run directories, in the order in which they are shown.
        out: where to write the PNG.

    Raises:
        RunError: a directory holds no ``results.json``, or a file is damaged.
    """
    runs = [read_run(folder) for folder in run_dirs]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(14, 0.62 * len(runs) + 3.4), dpi=120, layout="constrained", facecolor="white")
        figure.set_layout_engine("constrained", h_pad=0.1)  # inches, so that no label is cut off at the top
        rows = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[1.8, 0.62 * len(runs) + 1.2])))
        above, below = rows.tolist()
        _images(above.subplots(1, _SHOWN), runs)
        accuracy, sent, work, time = below.subplots(1, 4, sharey=True)
        most = max(run.results.epochs for run in runs)
        names = [_name(run, most) for run in runs]
        accuracy.set_yticks(range(len(runs)), names)
        accuracy.invert_yaxis()
        _accuracy(accuracy, runs)
        _bytes(sent, runs)
        _work(work, runs)
        _time(time, runs)
        with replacing(out) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    return out


def _name(run: Run, most_epochs: int) -> str:
    schedule = get_schedule(run.results.schedule)
    notes = ["each image once" if schedule.once else schedule.name] if schedule.front_first else []
    notes += fewer_epochs(run.results.epochs, most_epochs)
    return run.method.name + (f"\n({', '.join(notes)})" if notes else "")


def _images(axes: Sequence[Axes], runs: Sequence[Run]) -> None:
    samples = next((run.samples for run in runs if run.samples is not None), None)
    names = runs[0].results.task.names
    if samples is not None and samples["labels"].ndim == 1:
        title = f"Test images and their label {', '.join(runs[0].results.task.columns)}"
        axes[0].figure.suptitle(title, x=0.005, ha="left", fontsize=12)
    for place, axis in enumerate(axes):
        axis.set_axis_off()
        if samples is not None and place < len(samples["images"]):
            axis.imshow(samples["images"][place].transpose(1, 2, 0))
            if samples["labels"].ndim == 1:
                axis.set_title(str(names[int(samples["labels"][place])]), loc="center", fontsize=10, color=MUTED)


def _accuracy(axis: Axes, runs: Sequence[Run]) -> None:
    guess = min(run.results.chance for run in runs)
    axis.set_title(f"Balanced accuracy, 95 % interval\n(bars begin at {100 * guess:.0f} %: guessing)")
    for row, run in enumerate(runs):
        test = run.results.test
        value = test.present[run.final].balanced_accuracy
        axis.barh(row, value - guess, left=guess, height=0.52, color=CLOUD if run.method.has_cloud else EDGE)
        width = margin(run.results, test.present[run.final])
        axis.errorbar(value, row, xerr=width, color=INK, capsize=3, elinewidth=1.4)
        text = f"{100 * value:.1f} %"
        axis.text(guess + 0.01, row, text, va="center", color="white", fontweight="bold", fontsize=10)
        if test.exit:
            text = f"exit {100 * test.exit.balanced_accuracy:.1f} %"
            axis.text(value + width + 0.015, row, text, va="center", color=EDGE, fontsize=10)
    axis.set_xlim(guess, 1 + 0.45 * (1 - guess))


def _bytes(axis: Axes, runs: Sequence[Run]) -> None:
    axis.set_title("What is sent, per training image")
    totals = [run.results.bytes_total.up + run.results.bytes_total.down for run in runs]
    each = [total / run.results.data.train for total, run in zip(totals, runs, strict=True)]
    most = max(each) or 1
    for row, (run, value) in enumerate(zip(runs, each, strict=True)):
        axis.barh(row, value, height=0.52, color=LINK)
        what = _SENT[run.method.sends] + ("\nand gradients" if run.method.answered else "")
        text = f"{value / 1000:,.1f} kB: {what}" if run.method.has_cloud else what
        axis.text(value + 0.01 * most, row, text, va="center", fontsize=10)
    axis.set_xlim(0, 1.75 * most)


def _work(axis: Axes, runs: Sequence[Run]) -> None:
    axis.set_title("Edge's computing, all epochs")
    values = [run.results.edge_work for run in runs]
    for row, value in enumerate(values):
        axis.barh(row, value, height=0.52, color=EDGE)
        axis.text(value + 0.01 * max(values), row, f"{value:.1f} s", va="center", fontsize=10)
    axis.set_xlim(0, 1.3 * max(values))


def seconds_with_slower_edge(run: Run, slower: float) -> float:
    """Seconds of an epoch if the edge computed so many times as long, computed from what was measured.

    Where the sides work at the same time, the slower one of them counts. Else the edge's further time is added.

    Args:
        run: a finished run.
        slower: the edge's time, divided by that of the edge which was measured; at least 1.
    """
    measured, stages = run.results.seconds_per_epoch, run.results.stage_seconds
    edge = stages.edge + (stages.encode or 0.0)
    in_turn = run.method.answered or not run.method.has_cloud or get_schedule(run.results.schedule).front_first
    return measured + (slower - 1) * edge if in_turn else max(measured, slower * edge)


def _time(axis: Axes, runs: Sequence[Run]) -> None:
    """Seconds of all epochs: measured, where both sides had equal cores; and with a slower edge."""
    axis.set_title(f"Time of all epochs; light: computed,\nif the edge were {_SLOWER} times slower")
    values = [run.results.epochs * seconds_with_slower_edge(run, _SLOWER) for run in runs]
    for row, (run, value) in enumerate(zip(runs, values, strict=True)):
        measured = run.results.epochs * run.results.seconds_per_epoch
        axis.barh(row, value, height=0.52, color=MUTED, alpha=0.25)
        axis.barh(row, measured, height=0.52, color=MUTED)
        text = f"{measured:.0f} s" if value == measured else f"{measured:.0f} s, {value:.0f} s"
        axis.text(value + 0.01 * max(values), row, text, va="center", fontsize=10)
    axis.set_xlim(0, 1.45 * max(values))
