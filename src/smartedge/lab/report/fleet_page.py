"""The page of a fleet's cloud: what it knows of each edge. It needs no file of any edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smartedge.artifacts.audit import Audit
from smartedge.artifacts.fleet_run import EdgeFigures, FleetFigures
from smartedge.artifacts.results import Figures
from smartedge.artifacts.summary import CloudSummary
from smartedge.lab.judging.guarantee import pair
from smartedge.lab.judging.text import count, percent, short_number
from smartedge.lab.report.page import write_page

__all__ = ["is_fleet", "write_fleet_report"]

AUDITS = "audits"  # folder in the run directory: for each edge the audit.json that was made there, as EDGE.json
_FAR = 5.0  # robust standard deviations, as in smartedge.cloud.order.influence


def is_fleet(run_dir: Path) -> bool:
    """Whether a run directory is that of a fleet's cloud: it has figures of edges, and the folder of none."""
    return (run_dir / "cloud" / "fleet.json").exists() and not (run_dir / "edge").exists()


def write_fleet_report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the report of a fleet's cloud as one HTML file that needs no network.

    Args:
        run_dir: the cloud's run directory. Audits that were made on the edges are shown where they were copied to
            ``audits/EDGE.json``.
        out: where to write; default ``run_dir/report.html``.

    Raises:
        RunError: a file is missing, damaged or of a version that this program does not know.
    """
    fleet = FleetFigures.read(run_dir / "cloud" / "fleet.json")
    summary = CloudSummary.read(run_dir / "cloud" / "summary.json")
    audits = {
        edge: Audit.read(file) for edge in sorted(fleet.edges) if (file := run_dir / AUDITS / f"{edge}.json").exists()
    }
    page = {
        "title": f"Fleet of {len(fleet.edges)} edges",
        "fleet": fleet,
        "test": summary.test,
        "budget": "none set" if fleet.epsilon is None else pair(fleet.epsilon, fleet.delta),
        "rows": [_row(name, figures) for name, figures in fleet.edges.items()],
        "images": sum(figures.images for figures in fleet.edges.values()),
        "bytes": sum(figures.bytes for figures in fleet.edges.values()),
        "headline": _headline(fleet, summary.test),
        "sentences": _sentences(fleet),
        "tone": "good" if fleet.complete and not any(map(_is_wrong, fleet.edges.values())) else "open",
        "leaks": _leaks(audits),
        "unaudited": sorted(fleet.edges.keys() - audits.keys()),
    }
    return write_page(run_dir / "report.html" if out is None else out, "fleet.html.j2", page)


@dataclass(frozen=True)
class _Row:
    """An edge, as the table shows it."""

    name: str
    figures: EdgeFigures
    state: str


def _row(name: str, figures: EdgeFigures) -> _Row:
    states = ["everything sent" if figures.closed else "not finished"]
    if figures.quarantined is not None:
        states.append(f"in quarantine from frame {figures.quarantined}")
    if figures.capped:
        states.append("capped")
    return _Row(name, figures, ", ".join(states))


def _is_wrong(figures: EdgeFigures) -> bool:
    far = figures.outlier is not None and figures.outlier > _FAR
    return figures.quarantined is not None or figures.capped or figures.gaps > 0 or far


def _headline(fleet: FleetFigures, test: Figures | None) -> str:
    state = "The run is complete." if fleet.complete else "The run is not complete."
    scores = {name: each.test.accuracy for name, each in fleet.edges.items() if each.test is not None}
    if test is None or not scores:
        return state
    worst = min(scores, key=lambda name: scores[name])
    right = f"{percent(test.accuracy)} of all test images are answered rightly"
    return f"{state} {right}, and {percent(scores[worst])} of those of {worst}, the lowest share."


def _sentences(fleet: FleetFigures) -> list[str]:
    """What somebody who runs the fleet has to know."""
    edges = fleet.edges.items()
    found = []
    for name, figures in edges:
        if figures.quarantined is not None:
            found.append(f"{name} is in quarantine: training failed on its frame {figures.quarantined}.")
        if figures.capped:
            found.append(f"{name} is capped: its training loss lies far above that of the others.")
        if figures.outlier is not None and figures.outlier > _FAR:
            far = short_number(figures.outlier)
            found.append(f"The features of {name} lie {far} robust standard deviations from those of the other edges.")
        if figures.gaps:
            found.append(f"{count(figures.gaps)} frames of {name} were lost on the way.")
    if waiting := [name for name, figures in edges if not figures.closed]:
        found.append(f"Not everything has come from {', '.join(waiting)}.")
    if fleet.jain is not None and fleet.jain < 0.95:
        found.append("The edges were not learned from evenly: see Jain's index.")
    return found or ["No edge is an outlier, none is capped, and no frame is missing."]


def _leaks(audits: dict[str, Audit]) -> list[tuple[str, str, float, float, int, bool]]:
    """For each audited attribute and edge: attribute, edge, best attack, label floor or chance, edges, is the worst."""
    rows = []
    attributes = sorted({name for audit in audits.values() for name in audit.attributes})
    for attribute in attributes:
        found = {}
        for edge, audit in audits.items():
            block = audit.attributes.get(attribute)
            if block is not None and block.best is not None and not block.desired:
                floor = block.floor.balanced_accuracy if block.floor is not None else block.chance
                found[edge] = (block.best.balanced_accuracy, floor)
        if not found:
            continue
        worst = max(found, key=lambda edge: found[edge][0])
        rows += [(attribute, edge, *found[edge], len(found), edge == worst) for edge in sorted(found)]
    return rows
