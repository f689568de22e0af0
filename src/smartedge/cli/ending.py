"""What a side that ran alone says when it has finished: what it reached, and what to do next."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.results import Figures
from smartedge.artifacts.summary import CloudSummary, EdgeSummary
from smartedge.errors import RunError

__all__ = ["cloud_ended", "edge_ended"]


def edge_ended(run_dir: Path, *, has_cloud: bool) -> str:
    """The last line of ``smartedge edge``."""
    try:
        summary = EdgeSummary.read(run_dir / "edge" / "summary.json")
    except RunError:  # an edge that only releases has no figures
        return f"done; the cloud has everything. What was released: smartedge ledger {run_dir}"
    sent = sum(summary.traffic.up.values())
    images = max(1, sum(summary.traffic.images.values()))
    text = f"done: {_reached('exit' if has_cloud else 'network', summary.test)}"
    if not has_cloud:
        return f"{text}; next: smartedge report {run_dir}"
    return (
        f"{text}; {sent / 1e6:.1f} MB sent, {sent / images:.0f} bytes an image; next, when the cloud has finished too: "
        f"smartedge collect {run_dir} CLOUD:RUN, or with --connect HOST:PORT of 'smartedge serve'"
    )


def cloud_ended(run_dir: Path, *, several_edges: bool) -> str:
    """The last line of ``smartedge cloud``."""
    try:
        summary = CloudSummary.read(run_dir / "cloud" / "summary.json")
    except RunError:
        return "done"
    text = f"done: {_reached('back', summary.test)}"
    if several_edges:
        return f"{text}; next: smartedge report {run_dir}; to answer from here: smartedge serve {run_dir}"
    return (
        f"{text}; next, on the edge: smartedge collect RUN THIS-MACHINE:{run_dir.resolve()}; to answer from here: "
        f"smartedge serve {run_dir}"
    )


def _reached(head: str, figures: Figures | None) -> str:
    if figures is None:
        return "no test images were measured on this side"
    return f"{head} {100 * figures.balanced_accuracy:.1f} % balanced accuracy (test)"
