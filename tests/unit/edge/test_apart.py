"""Front and exit from another process: those of this one, or a reason why there are none."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from smartedge.edge import apart
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


class Given(io.BytesIO):
    """Standard input of the process below: it is read after it was closed."""

    def close(self) -> None:
        self.seek(0)


class Answers(io.BytesIO):
    """Its standard output. It runs when that is first read."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self._given: Given | None = given

    def read(self, size: int | None = -1) -> bytes:
        if self._given is not None:
            given, self._given = self._given, None
            with tempfile.TemporaryFile() as file, patch.object(sys, "stdin", SimpleNamespace(buffer=given)):
                before = os.dup(1)
                os.dup2(file.fileno(), 1)
                try:
                    apart.main()
                finally:
                    os.dup2(before, 1)
                    os.close(before)
                file.seek(0)
                self.write(file.read())
            self.seek(0)
        return super().read(size)


class Here:
    """The other process within this one, which is quicker."""

    def __init__(self, *_: object, **__: object) -> None:
        self.stdin = Given()
        self.stdout = Answers(self.stdin)

    def kill(self) -> None: ...

    def wait(self) -> None: ...


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that torch was told to use."""
    threads: list[int] = []
    monkeypatch.setattr(apart, "subprocess", SimpleNamespace(Popen=Here, PIPE=None))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    return threads


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
        division.give(plan, devices={"hardware.edge_device": device}, threads=3)
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


def test_what_is_wrong_with_network_or_device_is_told(own, in_this_process):
    with pytest.raises(CutError) as here:
        divide(blueprint(f"{own}:known", "7"))
    with pytest.raises(CutError) as there:
        divide_apart(blueprint(f"{own}:known", "7"), print)
    assert str(there.value) == str(here.value)
    with pytest.raises(ConfigError, match=r"hardware\.edge_device: 'cuda:77' is not usable here"):
        divide_apart(blueprint("nothing:at_all"), print, device="cuda:77")
    assert in_this_process == [3, 3]


def test_a_network_that_cannot_be_handed_over_is_left_to_this_process(own, in_this_process):
    told: list[str] = []
    assert divide_apart(blueprint(f"{own}:unusual"), told.append) is None
    assert len(told) == 1 and "takes more memory" in told[0] and "pickle" in told[0]


@pytest.mark.parametrize("function", ["checked_network", "divide"])
def test_what_fails_for_another_reason_is_left_to_this_process_too(own, in_this_process, monkeypatch, function):
    def fail(*_: object) -> None:
        raise LookupError("no such layer")

    monkeypatch.setattr(f"smartedge.models.network.{function}", fail)
    told: list[str] = []
    assert divide_apart(blueprint(f"{own}:known"), told.append) is None
    assert len(told) == 1 and told[0].endswith("takes more memory: no such layer")


def test_a_process_that_is_killed_leaves_it_to_this_one(own):
    told: list[str] = []
    assert divide_apart(blueprint(f"{own}:killed"), told.append) is None
    assert len(told) == 1 and "takes more memory" in told[0] and "ended early" in told[0]


def test_parts_of_a_class_that_is_not_here(own, in_this_process, tmp_path, monkeypatch):
    made = divide_apart(blueprint(f"{own}:known"), print)
    (tmp_path / f"{own}.py").unlink()
    monkeypatch.delitem(sys.modules, own)
    told: list[str] = []
    assert made is not None and open_parts(made, told.append) is None
    assert len(told) == 1 and own in told[0]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_libraries_of_networks_are_imported_as_for_a_network_of_this_process(library, monkeypatch):
    def load() -> None:
        raise LookupError(f"{library} was asked for")

    monkeypatch.setattr(f"smartedge.models.compat.load_{library}", load)
    told: list[str] = []
    assert open_parts(f"c{library}.parts\nFront\n.".encode(), told.append) is None
    assert len(told) == 1 and f"{library} was asked for" in told[0]


def test_what_is_seen_at_once_is_told_before_the_network_is_recorded(in_this_process):
    with Division() as division:
        division.give(Blueprint("resnet18", "layer9", 2, 64, 0), devices={"hardware.edge_device": "cpu"}, threads=1)
        with pytest.raises(CutError, match="no module or operation of that name"):
            division.check()


def test_all_devices_are_looked_at(own, in_this_process):
    with Division() as division:
        division.give(
            blueprint(f"{own}:known"),
            devices={"hardware.edge_device": "cpu", "hardware.cloud_device": "cuda:77"},
            threads=1,
        )
        with pytest.raises(ConfigError, match=r"hardware\.cloud_device: 'cuda:77' is not usable here"):
            division.check()
