"""Front and exit from another process: those of this one, or a reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smartedge.edge.apart import Division, open_parts, read_answer
from smartedge.errors import ConfigError, CutError
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide

OWN = """
import os
from torch import nn

print("a line that is no answer")

class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

class Unusual(Doubled):
    def __init__(self):
        super().__init__()
        self.made = lambda: None

def known(num_classes, inner=Doubled):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), inner(), nn.Flatten(), nn.Linear(144, num_classes))

def unusual(num_classes):
    return known(num_classes, Unusual)

def killed(num_classes):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with networks of a user."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{abs(hash(tmp_path))}"  # no module of another test
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def blueprint(name: str, at: str = "2") -> Blueprint:
    return Blueprint(name, at, 3, 8, 7)


def divide_apart(plan: Blueprint, tell: Callable[[str], None], device: str = "cpu") -> bytes | None:
    with Division() as division:
        division.give(plan, devices={"hardware.edge_device": device}, threads=1)
        division.check()
        return read_answer(division.answer, tell)


def test_front_and_exit_are_those_of_this_process(own, capfd):
    told: list[str] = []
    plan = blueprint(f"{own}:known")
    made = divide_apart(plan, told.append)
    assert made is not None and told == []
    parts, here = open_parts(made, told.append), divide(plan)
    assert parts is not None and told == []
    assert (parts.feature_shape, parts.layout) == (here.feature_shape, here.layout)
    images = torch.randn(2, 3, 8, 8)
    for found, expected in ((parts.front, here.front), (parts.task_exit, here.task_exit)):
        assert list(found.state_dict()) == list(expected.state_dict())
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name
        assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in expected.parameters()]
    for mode in (True, False):
        outputs = [each.task_exit.train(mode)(each.front.train(mode)(images)) for each in (parts, here)]
        assert torch.equal(*outputs)
    assert "a line that is no answer" in capfd.readouterr().err


def test_what_is_wrong_with_network_or_device_is_told(own):
    with pytest.raises(CutError) as here:
        divide(blueprint(f"{own}:known", "7"))
    with pytest.raises(CutError) as there:
        divide_apart(blueprint(f"{own}:known", "7"), print)
    assert str(there.value) == str(here.value)
    with pytest.raises(ConfigError, match=r"hardware\.edge_device: 'cuda:77' is not usable here"):
        divide_apart(blueprint("nothing:at_all"), print, device="cuda:77")


@pytest.mark.parametrize(("factory", "reason"), [("unusual", "pickle"), ("killed", "ended early")])
def test_a_network_that_cannot_be_handed_over_is_left_to_this_process(own, factory, reason):
    told: list[str] = []
    assert divide_apart(blueprint(f"{own}:{factory}"), told.append) is None
    assert len(told) == 1 and "takes more memory" in told[0] and reason in told[0]


def test_parts_of_a_class_that_is_not_here(own, tmp_path):
    made = divide_apart(blueprint(f"{own}:known"), print)
    (tmp_path / f"{own}.py").unlink()
    told: list[str] = []
    assert made is not None and open_parts(made, told.append) is None
    assert len(told) == 1 and own in told[0]


def test_what_is_seen_at_once_is_told_before_the_network_is_recorded():
    with Division() as division:
        division.give(Blueprint("resnet18", "layer9", 2, 64, 0), devices={"hardware.edge_device": "cpu"}, threads=1)
        with pytest.raises(CutError, match="no module or operation of that name"):
            division.check()


def test_all_devices_are_looked_at(own):
    with Division() as division:
        division.give(
            blueprint(f"{own}:known"),
            devices={"hardware.edge_device": "cpu", "hardware.cloud_device": "cuda:77"},
            threads=1,
        )
        with pytest.raises(ConfigError, match=r"hardware\.cloud_device: 'cuda:77' is not usable here"):
            division.check()
