"""The page that compares several runs: the values that its template shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smartedge.artifacts.results import Figures, Results
from smartedge.lab.judging.guarantee import pair
from smartedge.lab.judging.leakage import read_leaks
from smartedge.lab.judging.text import fewer_epochs, known, percent, points, seconds, size, times
from smartedge.lab.report import plots
from smartedge.lab.report.gallery import gallery, network_name, told_apart
from smartedge.lab.report.page import write_page
from smartedge.lab.report.read import Run, read_run
from smartedge.lab.report.run_verdict import margin
from smartedge.methods.schedules import get_schedule

__all__ = ["compared", "write_comparison"]
_ATTRIBUTES = 5  # a comparison has a row for so many attributes at most
_NOTHING_BESIDE = 100  # from this ratio on, both amounts are told in its place


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write one table and charts over several runs, such as the four methods on the same data, as one HTML file.

    Args:
        run_dirs: run directories, in the order in which they are shown.
        out: where to write.

    Returns:
        ``out``.

    Raises:
        RunError: a directory holds no ``results.json``, or a file is damaged or of a version that this program does not
            know.
        ValueError: there is no run.
    """
    if not run_dirs:
        raise ValueError("there is no run to compare; name at least one run directory")
    return write_page(out, "comparison.html.j2", _comparison_page([read_run(directory) for directory in run_dirs]))


def compared(run_dirs: Sequence[Path]) -> list[str]:
    """The sentences at the top of that page: the first divided run beside each of the others.

    Raises:
        RunError: as :func:`write_comparison`.
    """
    runs = [read_run(directory) for directory in run_dirs]
    names, finals, first = _run_names(runs), _finals(runs), _first(runs)
    return [_comparison_headline(names, runs, finals, first), *_sentences(names, runs, finals, first)]


def _finals(runs: Sequence[Run]) -> list[Figures]:
    return [run.results.test.present[run.final] for run in runs]


def _first(runs: Sequence[Run]) -> int:
    """The run that the others are compared with."""
    return next((i for i, run in enumerate(runs) if run.method.has_exit), 0)


def _sentences(names: Sequence[str], runs: Sequence[Run], finals: Sequence[Figures], first: int) -> list[str]:
    return [_beside(names, runs, finals, first, i) for i in range(len(runs)) if i != first]


def _comparison_page(runs: Sequence[Run]) -> dict[str, object]:
    names, finals, first = _run_names(runs), _finals(runs), _first(runs)
    lines = {}
    for name, run in zip(names, runs, strict=True):
        side = "edge" if run.final == "exit" or not run.method.has_cloud else "cloud"
        points_ = [
            (entry.epoch + 1, entry.balanced_accuracy)
            for entry in run.metrics
            if (entry.side, entry.split) == (side, "val") and known(entry.balanced_accuracy)
        ]
        if points_:
            lines[name] = points_
    looks = ["own" if i == first else "other" for i in range(len(runs))]

    def drawn(values: Sequence[float], title: str, label: str, text: Any, *, log: bool = False) -> plots.Figure:
        rows = list(zip(names, values, looks, strict=True))
        return plots.bars(rows, title, label, [text(value) for value in values], log=log)

    answered = {
        "edge": ("answered on the edge", _answered(runs, "edge")),
        "cloud": ("in the cloud", _answered(runs, "cloud")),
    }
    figures = [
        plots.dots(names, answered, "Balanced accuracy on the test images"),
        drawn([run.results.seconds_per_epoch for run in runs], "Time of an epoch", "seconds", seconds),
        drawn([run.results.bytes_per_image.up for run in runs], "Bytes up per image", "logarithmic", size, log=True),
        drawn(
            [run.results.bytes_per_image.down for run in runs],
            "Bytes down per image",
            "logarithmic",
            size,
            log=True,
        ),
    ]
    if lines:
        figures.insert(1, plots.series(lines))
    peaks = [peak for run in runs if known(peak := run.results.edge_peak_rss_bytes)]
    if len(peaks) == len(runs):
        megabytes = [peak / 1e6 for peak in peaks]
        figures.append(drawn(megabytes, "Peak memory of the edge", "MB", lambda value: size(1e6 * value)))
    return {
        "title": _capital(", ".join(names)) if len(runs) < 6 else f"{len(runs)} runs",
        "columns": [
            {
                "name": name,
                "run": run,
                "results": run.results,
                "final": final,
                "head": run.method.heads,
                "promise": _promise(run),
                "leaks": {leak.name: leak for leak in read_leaks(run.audit)} if run.audit else {},
            }
            for name, run, final in zip(names, runs, finals, strict=True)
        ],
        "attributes": _attributes(runs),
        "gallery": gallery(runs),
        "first": first,
        "headline": _comparison_headline(names, runs, finals, first),
        "sentences": _sentences(names, runs, finals, first),
        "differences": _differences(runs),
        "figures": figures,
    }


def _attributes(runs: Sequence[Run]) -> list[str]:
    """The attributes that any of the runs was audited for, the worst hidden first."""
    names = [leak.name for run in runs if run.audit for leak in read_leaks(run.audit)]
    return list(dict.fromkeys(names))[:_ATTRIBUTES]


def _promise(run: Run) -> str:
    """The guarantee of all releases of an image, in a few characters."""
    privacy = run.results.privacy
    if privacy is None or not known(privacy.vector_epsilon_total):
        return "none" if run.method.has_cloud else "nothing sent"
    alone = "; training images alone" if privacy.apply_to == "training" else ""
    return pair(privacy.vector_epsilon_total, privacy.delta_total) + alone


def _answered(runs: Sequence[Run], side: str) -> list[float]:
    """Balanced accuracy of each run's answers on one side; nan where it gives no answers there."""
    values = []
    for run in runs:
        test = run.results.test
        everything_on_edge = not run.method.has_cloud
        head = (test.exit or (test.back if everything_on_edge else None)) if side == "edge" else test.back
        if head is None or (side == "cloud" and everything_on_edge):
            values.append(math.nan)
        else:
            values.append(head.balanced_accuracy)
    return values


def _run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its method, and its schedule, network and epochs where the runs differ in them."""
    facts = [(run.results.method, run.results.schedule, network_name(run), run.results.epochs) for run in runs]
    most = max(run.results.epochs for run in runs)
    differ = [len(set(column)) > 1 for column in zip(*facts, strict=True)]
    names = []
    for method, schedule, model, epochs in facts:
        parts = [method] if differ[0] or not any(differ) else []
        parts += [schedule] if get_schedule(schedule).front_first and (differ[1] or not any(differ)) else []
        parts += [model] if differ[2] else []
        parts += fewer_epochs(epochs, most)
        head, *notes = parts or [method]
        names.append(f"{head} ({', '.join(notes)})" if notes else head)
    return told_apart(names, runs)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _comparison_headline(names: Sequence[str], runs: Sequence[Run], finals: Sequence[Figures], first: int) -> str:
    """The first run beside the best of the others. Runs are ranked only where their difference is shown."""
    text = f"{_capital(names[first])} reached {percent(finals[first].balanced_accuracy)} balanced accuracy"
    others = [i for i in range(len(names)) if i != first]
    if not others:
        return text + "."
    best = max(others, key=lambda i: finals[i].balanced_accuracy)
    difference = finals[first].balanced_accuracy - finals[best].balanced_accuracy
    rival = f"the best of the others ({names[best]}, {percent(finals[best].balanced_accuracy)})"
    if abs(difference) <= _margin(runs, finals, first, best):
        return f"{text}. No difference to {rival} is shown."
    how = f"{100 * abs(difference):.1f}\N{NO-BREAK SPACE}points {'more' if difference > 0 else 'less'} than"
    return f"{text}, {how} {rival}."


def _margin(runs: Sequence[Run], finals: Sequence[Figures], one: int, other: int) -> float:
    """Half the 95 % interval of the difference of two runs, as if their test images were different ones."""
    return math.hypot(margin(runs[one].results, finals[one]), margin(runs[other].results, finals[other]))


def _beside(names: Sequence[str], runs: Sequence[Run], finals: Sequence[Figures], first: int, other: int) -> str:
    """The first run compared with another: accuracy, bytes, time and the edge's work, as differences and ratios."""
    mine, theirs = runs[first].results, runs[other].results
    difference = finals[first].balanced_accuracy - finals[other].balanced_accuracy
    width = _margin(runs, finals, first, other)
    text = (
        f"Compared with {names[other]}: {points(difference)} points of balanced accuracy (95 % interval "
        f"{points(difference - width)} to {points(difference + width)})"
    )
    if theirs.method != mine.method and runs[other].method.sends == "images":
        text = text.replace(":", ", which sends the images:", 1)
    my_bytes, their_bytes = (r.bytes_total.up + r.bytes_total.down for r in (mine, theirs))
    if min(my_bytes, their_bytes) > 0:
        factor = my_bytes / their_bytes
        how = f"{times(factor)} times more" if factor > 1 else f"{times(1 / factor)} times fewer"
        text += f"; {'as many' if 0.995 < factor < 1.005 else how} bytes in the whole run, both ways together"
    else:
        text += f"; {size(my_bytes)} in the whole run instead of {size(their_bytes)}"
    epochs = mine.epochs / theirs.epochs
    if theirs.seconds_per_epoch > 0:
        text += f"; {times(epochs * mine.seconds_per_epoch / theirs.seconds_per_epoch)} times its time"
    if theirs.edge_work > mine.edge_work / _NOTHING_BESIDE:
        text += f"; {times(mine.edge_work / theirs.edge_work)} times its computing on the edge"
    elif mine.edge_work > 0:
        text += f"; {seconds(mine.edge_work)} of computing on the edge instead of {seconds(theirs.edge_work)}"
    my_peak, their_peak = mine.edge_peak_rss_bytes, theirs.edge_peak_rss_bytes
    if known(my_peak) and known(their_peak):
        text += f"; {times(my_peak / their_peak)} times its peak memory on the edge"
    return text + "."


def _differences(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ, although a fair comparison needs them equal."""
    wanted: dict[str, Callable[[Results], object]] = {
        "data": lambda r: r.data.path,
        "task": lambda r: ", ".join(r.task.columns),
        "image size": lambda r: r.data.image_size,
        "training images": lambda r: r.data.train,
        "test images": lambda r: r.data.test,
        "model": lambda r: r.model,
        "epochs": lambda r: r.epochs,
        "seed": lambda r: r.seed,
        "machine": lambda r: r.machine,
    }
    found = []
    for name, get in wanted.items():
        values = list(dict.fromkeys(str(get(run.results)) for run in runs))
        if len(values) > 1:
            found.append(f"{name}: {' / '.join(values)}")
    return found
