"""The last line of a side that ran alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartedge.artifacts.results import Figures
from smartedge.artifacts.summary import CloudSummary, EdgeSummary, TrafficTotals
from smartedge.cli.ending import cloud_ended, edge_ended

REACHED = Figures(loss=0.2, accuracy=0.93, balanced_accuracy=0.925, auroc=None, base_rate=0.5)
TRAFFIC = TrafficTotals.model_construct(up={"train": 4_000_000, "test": 1_000_000}, images={"train": 900, "test": 100})


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    edge = EdgeSummary.model_construct(test=REACHED, traffic=TRAFFIC)
    monkeypatch.setattr(EdgeSummary, "read", classmethod(lambda cls, path: edge))
    cloud = CloudSummary.model_construct(test=REACHED)
    monkeypatch.setattr(CloudSummary, "read", classmethod(lambda cls, path: cloud))
    return tmp_path / "run"


def test_the_edge_says_what_it_reached_and_what_comes_next(ended):
    text = edge_ended(ended, has_cloud=True)
    assert text.startswith("done: exit 92.5 % balanced accuracy (test); 5.0 MB sent, 5000 bytes an image; next")
    assert text.endswith(f"smartedge collect {ended} CLOUD:RUN, or with --connect HOST:PORT of 'smartedge serve'")
    assert edge_ended(ended, has_cloud=False).endswith(f"next: smartedge report {ended}")


def test_the_cloud_says_what_it_reached_and_what_comes_next(ended):
    text = cloud_ended(ended, several_edges=False)
    assert text.startswith("done: back 92.5 % balanced accuracy (test); next, on the edge: smartedge collect RUN")
    assert text.endswith(f"to answer from here: smartedge serve {ended}")
    several = cloud_ended(ended, several_edges=True)
    assert several.endswith(f"next: smartedge report {ended}; to answer from here: smartedge serve {ended}")


def test_a_side_without_figures_ends_all_the_same(tmp_path):
    assert "smartedge ledger" in edge_ended(tmp_path, has_cloud=True)
    assert cloud_ended(tmp_path, several_edges=False) == "done"
