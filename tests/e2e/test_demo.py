"""The demo, with few images: all of its runs, the table, the report and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from smartedge.artifacts.results import Results
from smartedge.artifacts.run import Speed
from smartedge.cli import app
from smartedge.cli.demo import RUNS, epochs_in_the_same_time
from smartedge.config import load_config
from smartedge.methods import speed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]


def test_the_demo_compares_all_ways_in_the_precision_that_its_first_run_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forked_sides: None
) -> None:
    def measured(*_: object) -> Speed:
        return Speed(precision="bfloat16", channels_last=False, seconds={"float32": 2.0, "bfloat16": 1.0}, threads=1)

    monkeypatch.setattr(speed, "measure_speed", measured)
    few = ["--set", "epochs=3", "--set", "data.limit={train: 70, val: 20, test: 20}"]
    assert app.main(["demo", "--out", str(tmp_path), *few]) == 0
    printed = capsys.readouterr().out
    for folder, changes in RUNS.items():
        config = load_config(tmp_path / folder / "config.yaml")
        assert (config.method, config.train.precision) == (changes["method"], "bfloat16")
        facts = json.loads((tmp_path / folder / "run.json").read_text())
        assert (facts["speed"] is not None) == (folder == "hierarchical")  # one measurement, for all of them
        assert (tmp_path / folder / "report.html").exists()
    hierarchical, local = (Results.read(tmp_path / name / "results.json") for name in ("hierarchical", "local"))
    fair, epochs = tmp_path / "local-in-the-same-time", epochs_in_the_same_time(hierarchical, local)
    assert fair.exists() == (epochs < 3)
    if fair.exists():  # as much computing on the edge, not less
        assert Results.read(fair / "results.json").epochs == epochs
    assert "All runs compute in bfloat16" in printed
    for line in ("hierarchical, each image once", "Compared with local", str(tmp_path / "report.html")):
        assert line in printed
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 1000
