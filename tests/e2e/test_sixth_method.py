"""A method that is not in the package is one line in the table and one module: settings, training, results, report."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import smartedge
from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.methods.base import METHODS, Method
from smartedge.models.network import divide
from smartedge.runs.progress import Quiet


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    monkeypatch.setitem(METHODS, "fixed", Method("fixed", "fixed_front", sends="features"))


@pytest.mark.parametrize(("schedule", "releases"), [("joint", 3), ("freeze-and-log", 1)])
def test_it_is_trained_to_its_end_and_reported(schedule, releases, tiny_config, open_log):
    config = tiny_config("run", method="fixed", schedule=schedule)
    results = smartedge.train(config, single_process=True, monitor=Quiet())
    assert (results.method, results.releases_per_image, results.codec) == ("fixed", releases, "uint8")
    assert results.test.exit is None and results.test.back is not None
    divided = divide(config.division(len(results.task.names)))
    front, back = (load_file(config.run_dir / f"{part}.safetensors") for part in ("edge/front", "cloud/back"))
    assert all(torch.equal(front[name], tensor) for name, tensor in divided.front.state_dict().items())
    assert any(not torch.equal(back[name], tensor) for name, tensor in divided.back.state_dict().items())
    assert not any(stream.answered for stream in open_log(config.run_dir).streams)
    page = smartedge.write_report(config.run_dir)
    assert "fixed" in page.read_text(encoding="utf-8")


def test_it_refuses_what_its_facts_refuse():
    with pytest.raises(ConfigError) as caught:
        load_config({"method": "fixed", "schedule": "two-stage", "codec": {"name": "jpeg"}, "dp": {"label_epsilon": 1}})
    for key in ("codec.name", "schedule", "dp"):
        assert f"\n  {key}: " in str(caught.value)
