"""The run directory of a fleet's cloud, with figures of eight edges, one of them in trouble."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.fleet_run import EdgeFigures, FleetFigures
from smartedge.artifacts.results import Figures
from smartedge.artifacts.summary import CloudSummary, Session

NAMES = ("bakery", "door", "gate", "gatehouse-north-of-the-old-harbour", "hall", "lift", "yard-2", "yard-3")


def figures(accuracy: float) -> Figures:
    """Of a single-label task."""
    return Figures(loss=1.2, accuracy=accuracy, balanced_accuracy=accuracy - 0.01, auroc=0.9, base_rate=0.1)


def fleet_figures() -> FleetFigures:
    """The edge ``gate`` is an outlier and capped, ``hall`` is in quarantine, ``lift`` has lost frames."""
    edges = {}
    for number, name in enumerate(NAMES):
        edges[name] = EdgeFigures(
            cut="layer1" if number % 2 else "layer3",
            frames=12_345 + number,
            images=395_040 + number,
            bytes=1_834_000_000,
            learned=12_345 if name != "hall" else 4000,
            lag=0 if name != "hall" else 8349,
            gaps=37 if name == "lift" else 0,
            refused=2 if name == "hall" else 0,
            closed=name != "hall",
            quarantined=4000 if name == "hall" else None,
            capped=name == "gate",
            loss=2.4 if name == "gate" else 1.3 + 0.01 * number,
            outlier=9.4 if name == "gate" else 1.0 + 0.1 * number,
            drift=1.0 + 0.03 * number,
            test=None if name == "hall" else figures(0.5 + 0.01 * number),
        )
    return of_edges(edges, jain=0.931)


def of_edges(edges: dict[str, EdgeFigures], *, jain: float) -> FleetFigures:
    """The figures of a run that has not ended, with a budget."""
    return FleetFigures(
        complete=False,
        model="resnet18",
        schedule="joint",
        epsilon=4.0,
        delta=1e-5,
        label_epsilon=None,
        jain=jain,
        edges=edges,
    )


def write_fleet(folder: Path) -> Path:
    """Write the files; returns the run directory."""
    cloud = folder / "cloud"
    cloud.mkdir(parents=True)
    fleet_figures().write(cloud / "fleet.json")
    CloudSummary(
        finished=False,
        session=Session(started=1.0, ended=2.0, epochs=3),
        busy_seconds=1.0,
        test=figures(0.529),
        frames=98_788,
        peak_rss_bytes=400_000_000,
    ).write(cloud / "summary.json")
    return folder
