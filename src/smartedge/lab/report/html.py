"""The pages: what the figures say in plain words, and everything that the templates show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.artifacts.results import Figures, MachineFacts, Results
from smartedge.lab.report import plots
from smartedge.lab.report.gallery import gallery, network_name
from smartedge.lab.report.guarantee import guarantee
from smartedge.lab.report.leakage import read_leaks
from smartedge.lab.report.page import data_uri, write_page
from smartedge.lab.report.privacy import privacy_page, privacy_verdict
from smartedge.lab.report.read import Run, read_run
from smartedge.lab.report.text import known, percent, points, seconds, short_number, size, times
from smartedge.lab.report.verdict import heads, verdict
from smartedge.methods.schedules import get_schedule
from smartedge.metrics import OffloadingCurve, answers, confidence, evaluate, gain_interval, offloading_curve

__all__ = ["write_comparison", "write_report"]

SAMPLES = 24
_CONFUSION_CLASSES = 20  # above that, the most frequent mistakes are listed instead of a table


def write_report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the report of one run as one HTML file that needs no network.

    Args:
        run_dir: a run directory that holds ``results.json``; what else is read, where it is there, is listed in
            ``docs/results-schema.md``.
        out: where to write; default ``run_dir/report.html``.

    Returns:
        The path of the file written.

    Raises:
        RunError: there is no ``results.json``, or a file is damaged or of a version that this program does not know.
    """
    run = read_run(run_dir)
    path = run_dir / "report.html" if out is None else out
    return write_page(path, "run.html.j2", _run_page(run))


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


# ---- the page of one run


def _run_page(run: Run) -> dict[str, object]:
    results = run.results
    names = heads(results.method)
    test = results.test.present
    both = _both_answers(run)
    intervals = gain_interval(*both, run.kind) if both else {}
    curve = offloading_curve(*both) if both else None
    sides = {"edge": names["exit"], "cloud": names["back"]}
    drawn_heads = [
        plots.Head(names[head], side, test[head])
        for head, side in (("exit", "edge"), ("back", "cloud"))
        if head in test
    ]
    gain = run.gain
    busy, wall = run.stage_seconds, results.seconds_per_epoch
    privacy = privacy_page(run)
    judged = verdict(run, intervals.get("balanced_accuracy"), curve)
    if run.method.has_cloud:
        judged.sentences.append(f"{guarantee(results).headline} {privacy_verdict(run).headline}")
    return {
        "run": run,
        "results": results,
        "title": _title(results),
        "verdict": judged,
        "privacy": privacy,
        "heads": [(names[head], figures) for head, figures in test.items()],
        "final": test[run.final],
        "final_name": names[run.final],
        "intervals": intervals,
        "chance": 1 / len(results.task.names) if run.kind == "single" else 0.5,
        "curve_figures": [
            figure
            for figure in (
                plots.curves(run.metrics, sides, "loss", "Loss"),
                plots.curves(run.metrics, sides, "balanced_accuracy", "Balanced accuracy"),
            )
            if figure
        ],
        "heads_figure": plots.heads(drawn_heads, gain, intervals) if gain and len(drawn_heads) == 2 else None,
        "offloading_figure": plots.offloading(curve) if curve else None,
        "offloading_rows": _offloading_rows(curve, results.bytes_per_image.up) if curve else [],
        "bytes_figure": _bytes_figure(results),
        "stage_seconds": busy,
        "stages_figure": plots.stages(busy, wall),
        "overlap": sum(busy.values()) / wall if wall > 0 else None,
        "slowest_ratio": wall / max(busy.values()) if max(busy.values()) > 0 else None,
        "columns_figure": _columns_figure(run, names) if run.kind == "multi" else None,
        "confusions": _confusions(run, names) if run.kind == "single" else [],
        "samples": _samples(run, names),
        "machine": _facts(results.machine),
        "versions": {name: version for name, version in results.versions.items() if name != "smartedge"},
    }


def _facts(machine: MachineFacts) -> MachineFacts:
    """``memory_bytes: 8e9`` is shown as ``memory: 8.00 GB``."""
    return {
        name.removesuffix("_bytes"): size(float(value)) if name.endswith("_bytes") else value
        for name, value in machine.items()
    }


def _title(results: Results) -> str:
    title = results.model
    if results.cut:
        title += f" cut at {results.cut}"
    if results.bottleneck:
        title += f", bottleneck {'×'.join(str(length) for length in results.bottleneck)}"
    return title


def _both_answers(run: Run) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Labels, and the probabilities of exit and back, where the run holds both."""
    stored = run.predictions
    if stored is None or "exit" not in stored or "back" not in stored:
        return None
    return stored["labels"], stored["exit"], stored["back"]


def _offloading_rows(curve: OffloadingCurve, bytes_up: float) -> list[dict[str, float | bool]]:
    """The curve at round shares and at its best, as a table."""
    shares = curve.offloaded_share
    best = int(curve.balanced_accuracy.argmax())
    nearest = [int(np.abs(shares - share).argmin()) for share in (0, 0.1, 0.25, 0.5, 1)]
    return [
        {
            "share": shares[i],
            "threshold": curve.threshold[i],
            "balanced_accuracy": curve.balanced_accuracy[i],
            "accuracy": curve.accuracy[i],
            "bytes": shares[i] * bytes_up,
            "best": i == best,
        }
        for i in sorted({*nearest, best})
    ]


def _bytes_figure(results: Results) -> plots.Figure:
    sent = results.bytes_per_image
    rows = [
        ("Up, as sent", sent.up, "edge"),
        ("Down, as sent", sent.down, "cloud"),
        ("JPEG, quality 90", sent.reference.jpeg_q90, "other"),
        ("Raw pixels, uint8", sent.reference.raw_uint8, "other"),
    ]
    if sent.reference.feature_float32 is not None:
        rows.append(("Feature map, float32", sent.reference.feature_float32, "other"))
    return plots.bars(rows, "Bytes per image", "bytes, logarithmic", [size(value) for _, value, _ in rows], log=True)


def _columns_figure(run: Run, names: Mapping[str, str]) -> plots.Figure | None:
    """Balanced accuracy of every column of a multi-label task, best first by the worse of the heads."""
    stored = run.predictions or {}
    sides = {}
    for head, side in (("exit", "edge"), ("back", "cloud")):
        if head in stored:
            labels, scores = stored["labels"], stored[head]
            figures = [evaluate(labels[:, [k]], scores[:, [k]], "multi") for k in range(scores.shape[1])]
            sides[side] = (names[head], np.array([figure["balanced_accuracy"] for figure in figures], dtype=float))
    if not sides:
        return None
    order = np.argsort(-np.min([values for _, values in sides.values()], axis=0), kind="stable")
    rows = [run.results.task.names[k] for k in order]
    ordered = {side: (name, values[order].tolist()) for side, (name, values) in sides.items()}
    return plots.dots(rows, ordered, "Balanced accuracy per column", chance=0.5)


@dataclass(frozen=True)
class Confusion:
    """How often each true class got each answer."""

    head: str
    names: list[str]
    counts: list[list[int]]  # [true][answered]
    shares: list[list[float]]  # the same, as shares of the true class
    shades: list[list[float]]  # 0..1; the root of the share, so that rare mistakes can be seen
    mistakes: list[tuple[str, str, int, float]]  # most frequent first; shown instead where classes are many
    table: bool


def _confusions(run: Run, names: Mapping[str, str]) -> list[Confusion]:
    stored = run.predictions or {}
    classes = run.results.task.names
    found = []
    for head in ("exit", "back"):
        if head not in stored:
            continue
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (stored["labels"].astype(np.int64), answers(stored[head], "single")), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        wrong = counts - np.diag(np.diag(counts))
        worst = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:10]]
        mistakes = [(classes[t], classes[a], int(wrong[t, a]), float(shares[t, a])) for t, a in worst if wrong[t, a]]
        found.append(
            Confusion(
                head=names[head],
                names=list(classes),
                counts=counts.tolist(),
                shares=shares.tolist(),
                shades=np.sqrt(shares).tolist(),
                mistakes=mistakes,
                table=len(classes) <= _CONFUSION_CLASSES,
            )
        )
    return found


@dataclass(frozen=True)
class Answer:
    """What a head said about a sample."""

    head: str
    text: str
    mark: str  # "right", "wrong", or "partly" where some columns of several are wrong
    sure: float  # its confidence


@dataclass(frozen=True)
class Sample:
    """A test image with what is true and what each head said."""

    image: str  # data URI
    id: int
    truth: str
    answers: list[Answer]


def _samples(run: Run, names: Mapping[str, str]) -> list[Sample]:
    if run.samples is None:
        return []
    classes, kind = run.results.task.names, run.kind
    stored = run.predictions or {"ids": np.zeros(0, dtype=np.int64)}
    place = {int(id_): row for row, id_ in enumerate(stored["ids"])}
    shown = []
    for pixels, id_, label in list(zip(*(run.samples[n] for n in ("images", "ids", "labels")), strict=True))[:SAMPLES]:
        said = []
        row = place.get(int(id_))
        for head in ("exit", "back"):
            if row is None or head not in stored:
                continue
            scores = stored[head][row : row + 1]
            answer = answers(scores, kind)[0]
            if kind == "single":
                text, mark = classes[int(answer)], "right" if answer == label else "wrong"
            else:
                wrong = [classes[k] for k in np.flatnonzero(answer != label)]
                text = f"{len(classes) - len(wrong)} of {len(classes)} right"
                if wrong:
                    text += f", not {', '.join(wrong[:3])}" + ("…" if len(wrong) > 3 else "")
                mark = "partly" if wrong else "right"
            said.append(Answer(names[head], text, mark, float(confidence(scores, kind)[0])))
        if kind == "single":
            truth = classes[int(label)]
        else:
            truth = ", ".join(classes[k] for k in np.flatnonzero(label)) or "none"
        shown.append(Sample(data_uri(pixels), int(id_), truth, said))
    return shown


# ---- the page of several runs


def _comparison_page(runs: Sequence[Run]) -> dict[str, object]:
    names = _run_names(runs)
    finals = [run.results.test.present[run.final] for run in runs]
    first = next((i for i, run in enumerate(runs) if run.method.has_exit), 0)
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
    looks = ["edge" if i == first else "other" for i in range(len(runs))]

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
        figures.insert(1, plots.series(lines, "Balanced accuracy on the validation images"))
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
                "head": heads(run.results.method),
                "promise": _promise(run),
                "leaks": {leak.name: leak for leak in read_leaks(run.audit)} if run.audit else {},
            }
            for name, run, final in zip(names, runs, finals, strict=True)
        ],
        "attributes": _attributes(runs),
        "gallery": gallery(runs),
        "first": first,
        "headline": _comparison_headline(names, finals, first),
        "sentences": [_beside(names, runs, finals, first, i) for i in range(len(runs)) if i != first],
        "differences": _differences(runs),
        "figures": figures,
    }


_ATTRIBUTES = 5  # that a comparison has rows for


def _attributes(runs: Sequence[Run]) -> list[str]:
    """The attributes audited in any of the runs, those worst hidden first."""
    names = [leak.name for run in runs if run.audit for leak in read_leaks(run.audit)]
    return list(dict.fromkeys(names))[:_ATTRIBUTES]


def _promise(run: Run) -> str:
    """The guarantee of all releases of an image, in a few characters."""
    privacy = run.results.privacy
    if privacy is None or not known(privacy.vector_epsilon_total):
        return "none" if run.method.has_cloud else "nothing sent"
    return f"ε = {short_number(privacy.vector_epsilon_total)}"


def _answered(runs: Sequence[Run], side: str) -> list[float]:
    """Balanced accuracy of what each run answers on that side, nan where it answers nothing there."""
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
    """The method, and as much more as tells the runs apart."""
    facts = [(run.results.method, run.results.schedule, network_name(run)) for run in runs]
    differ = [len(set(column)) > 1 for column in zip(*facts, strict=True)]
    names = []
    for method, schedule, model in facts:
        parts = [method] if differ[0] or not any(differ) else []
        parts += [schedule] if get_schedule(schedule).front_first and (differ[1] or not any(differ)) else []
        parts += [model] if differ[2] else []
        names.append(", ".join(parts) or method)
    return [
        f"{name} ({run.directory.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _comparison_headline(names: Sequence[str], finals: Sequence[Figures], first: int) -> str:
    text = f"{_capital(names[first])} reached {percent(finals[first].balanced_accuracy)} balanced accuracy"
    others = [i for i in range(len(names)) if i != first]
    if not others:
        return text + "."
    best = max(others, key=lambda i: finals[i].balanced_accuracy)
    difference = finals[first].balanced_accuracy - finals[best].balanced_accuracy
    how = f"{100 * abs(difference):.1f}\N{NO-BREAK SPACE}points {'more' if difference > 0 else 'less'} than"
    if round(100 * difference, 1) == 0:
        how = "as much as"
    return f"{text}, {how} the best of the others ({names[best]}, {percent(finals[best].balanced_accuracy)})."


def _beside(names: Sequence[str], runs: Sequence[Run], finals: Sequence[Figures], first: int, other: int) -> str:
    """The first run beside another: accuracy, bytes and time, as differences and ratios."""
    mine, theirs = runs[first].results, runs[other].results
    difference = finals[first].balanced_accuracy - finals[other].balanced_accuracy
    text = f"Beside {names[other]}: {points(difference)} points of balanced accuracy"
    my_bytes, their_bytes = (r.bytes_per_image.up + r.bytes_per_image.down for r in (mine, theirs))
    if min(my_bytes, their_bytes) > 0:
        factor = my_bytes / their_bytes
        how = f"{times(factor)} times more" if factor > 1 else f"{times(1 / factor)} times fewer"
        text += f"; {'as many' if 0.995 < factor < 1.005 else how} bytes per image, both ways together"
    else:
        text += f"; {size(my_bytes)} per image instead of {size(their_bytes)}"
    if theirs.seconds_per_epoch > 0:
        text += f"; {times(mine.seconds_per_epoch / theirs.seconds_per_epoch)} times its time per epoch"
    my_peak, their_peak = mine.edge_peak_rss_bytes, theirs.edge_peak_rss_bytes
    if known(my_peak) and known(their_peak):
        text += f"; {times(my_peak / their_peak)} times its peak memory on the edge"
    return text + "."


def _differences(runs: Sequence[Run]) -> list[str]:
    """Settings that must agree for a fair comparison, and do not."""
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
