"""The page of one run: the values that its template shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.artifacts.results import Figures, MachineFacts, Results
from smartedge.lab.judging.guarantee import guarantee
from smartedge.lab.judging.text import size
from smartedge.lab.report import plots
from smartedge.lab.report.page import data_uri, write_page
from smartedge.lab.report.privacy import privacy_page, privacy_verdict
from smartedge.lab.report.read import Run, read_run
from smartedge.lab.report.run_verdict import margin, verdict
from smartedge.metrics import OffloadingCurve, answers, confidence, evaluate, gain_interval, offloading_curve

__all__ = ["write_report"]

SAMPLES = 24
_CONFUSION_CLASSES = 20  # above that, the most frequent mistakes are listed instead of a table


def write_report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the report of one run as one HTML file that needs no network.

    Args:
        run_dir: a run directory that holds ``results.json``. ``docs/results-schema.md`` lists the other files that
            are read where they are there.
        out: where to write; default ``run_dir/report.html``.

    Returns:
        The path of the file written.

    Raises:
        RunError: there is no ``results.json``, or a file is damaged or of a version that this program does not know.
    """
    run = read_run(run_dir)
    path = run_dir / "report.html" if out is None else out
    return write_page(path, "run.html.j2", _run_page(run))


def _run_page(run: Run) -> dict[str, object]:
    results = run.results
    names = run.method.heads
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
        "chance": results.chance,
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
        "offloading_rows": _offloading_rows(curve, results, test[run.final]) if curve else [],
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
    """The facts as the page shows them: ``memory_bytes: 8e9`` becomes ``memory: 8.00 GB``."""
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
    """Labels, probabilities of the exit, probabilities of the back; None where the run lacks one of the heads."""
    stored = run.predictions
    if stored is None or "exit" not in stored or "back" not in stored:
        return None
    return stored["labels"], stored["exit"], stored["back"]


def _offloading_rows(curve: OffloadingCurve, results: Results, final: Figures) -> list[dict[str, float | bool]]:
    """Rows of a table: the curve at round shares and at its best point."""
    shares = curve.offloaded_share
    best = int(curve.balanced_accuracy.argmax())
    nearest = [int(np.abs(shares - share).argmin()) for share in (0, 0.1, 0.25, 0.5, 1)]
    return [
        {
            "share": shares[i],
            "threshold": curve.threshold[i],
            "balanced_accuracy": curve.balanced_accuracy[i],
            "margin": margin(results, final.model_copy(update={"balanced_accuracy": curve.balanced_accuracy[i]})),
            "accuracy": curve.accuracy[i],
            "bytes": shares[i] * results.bytes_per_image.up,
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
    """Balanced accuracy of every column of a multi-label task, ordered by the worse of the two heads."""
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
    """The confusion matrix of one head."""

    head: str
    names: list[str]
    counts: list[list[int]]  # [true][answered]
    shares: list[list[float]]  # counts as shares of the true class
    shades: list[list[float]]  # 0..1: the square root of the share, so that rare mistakes are visible
    # (true, answered, count, share), most frequent first; shown where there are many classes
    mistakes: list[tuple[str, str, int, float]]
    table: bool  # whether the page shows the matrix, or the list of mistakes


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
    """The answer of one head to one sample."""

    head: str
    text: str
    mark: str  # "right", "wrong", or "partly" where some columns of several are wrong
    sure: float  # its confidence


@dataclass(frozen=True)
class Sample:
    """A test image with its true label and the answers of the heads."""

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
