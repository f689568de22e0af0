"""``auto``: a run keeps what was measured when it began, and says so."""

from __future__ import annotations

import json

from smartedge.artifacts.run import Speed
from smartedge.config import load_config
from smartedge.methods import speed
from smartedge.runs.progress import Quiet
from smartedge.training import train


def test_a_resumed_run_keeps_what_was_measured_at_first(tiny_config, monkeypatch):
    config = tiny_config("run", epochs=1, train={"batch_size": 16, "precision": "auto", "channels_last": "auto"})
    measured = []

    def measure(*_):
        measured.append(Speed(precision="bfloat16", channels_last=not measured, seconds={"float32": 1.0}, threads=1))
        return measured[-1]

    monkeypatch.setattr(speed, "measure_speed", measure)
    train(config, single_process=True, monitor=Quiet())
    kept = load_config(config.run_dir / "config.yaml")
    assert (kept.train.precision, kept.train.channels_last) == ("bfloat16", True) and not kept.automatic
    assert json.loads((config.run_dir / "run.json").read_text())["speed"] == measured[0].model_dump()
    train(config, resume=True, single_process=True, monitor=Quiet())  # with the second measurement it would be refused
    assert len(measured) == 1
