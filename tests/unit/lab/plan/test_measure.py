"""What the planner measures in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartedge.config import load_config
from smartedge.lab.plan import measure
from smartedge.lab.plan.images import sample_images


def test_the_peak_of_an_edge_is_taken_before_its_process_divides_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def watch(name: str) -> None:
        usual = getattr(measure, name)
        monkeypatch.setattr(measure, name, lambda *given, **named: happened.append(name) or usual(*given, **named))

    for name in ("read_answer", "divide", "_own_peak_bytes"):
        watch(name)
    monkeypatch.setattr("smartedge.methods.hierarchical.divide", measure.divide)
    config = load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "data": {"image_size": 16, "limit": {"train": 8, "val": 4, "test": 4}, "cache_dir": str(tmp_path)},
            "model": {"name": "narrow:build", "cut": "layer1"},
            "train": {"batch_size": 4},
        }
    )
    answer = measure.figures_of_cut(config, ["uint8"], sample_images(config), repeats=1)
    assert happened[:3] == ["read_answer", "_own_peak_bytes", "divide"]
    assert answer["figures"]["build_seconds"] > 0
