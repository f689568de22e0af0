"""What ``auto`` chooses: the fastest way, but only where it is clearly faster; and what is named stays."""

from __future__ import annotations

import pytest
import torch

from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.methods import speed

CPU = torch.device("cpu")
NETWORK = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def chosen(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, bool], float], **train: object):
    def measured(config, device, ways):
        return {way: seconds[way] for way in ways}

    monkeypatch.setattr(speed, "_fastest_steps", measured)
    found = speed.measure_speed(load_config({"train": train}), CPU)
    return found.precision, found.channels_last


SECONDS = {("float32", False): 1.0, ("float32", True): 0.95, ("bfloat16", False): 0.8, ("bfloat16", True): 0.4}
AUTO = {"precision": "auto", "channels_last": "auto"}


def test_the_fastest_way_is_chosen(monkeypatch):
    assert chosen(monkeypatch, SECONDS, **AUTO) == ("bfloat16", True)


def test_float32_stays_where_nothing_is_clearly_faster(monkeypatch):
    assert chosen(monkeypatch, {way: max(seconds, 0.92) for way, seconds in SECONDS.items()}, **AUTO) == (
        "float32",
        False,
    )


def test_what_is_named_is_kept(monkeypatch):
    assert chosen(monkeypatch, SECONDS, precision="float32", channels_last="auto") == ("float32", False)
    assert chosen(monkeypatch, SECONDS, precision="auto", channels_last=False) == ("bfloat16", False)


def test_a_measurement_leaves_random_numbers_and_threads_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "_BUDGET_S", 0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick_network.py").write_text(NETWORK)
    model = {"name": "quick_network:build", "cut": "0", "bottleneck": None}
    settings = {"data": {"image_size": 16}, "model": model, "hardware": {"threads": 2}, "train": AUTO}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    found = speed.measure_speed(load_config(settings), CPU)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1
    assert set(found.seconds) == {"float32", "float32, channels last", "bfloat16", "bfloat16, channels last"}
    assert min(found.seconds.values()) > 0


def test_a_side_alone_needs_exact_settings():
    with pytest.raises(ConfigError, match=r"train\.precision.*'auto' is measured by 'smartedge train'"):
        load_config({"train": {"precision": "auto"}}).without_auto()
    assert load_config({}).without_auto() == load_config({})
