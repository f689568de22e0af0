"""What edges send, known without torch in the process that takes frames in."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from small_cloud import CONFIG as SMALL

from smartedge.cloud.back import build_back
from smartedge.cloud.ingest import shapes
from smartedge.cloud.ingest.shapes import shapes_of
from smartedge.config import load_config
from smartedge.errors import CutError, RunError

CONFIG = load_config(SMALL, {"model": {"name": "resnet18"}})  # which the other process finds, too


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"bottleneck": [4, 2, 2]}},
        {"model": {"codebook": 16, "bottleneck": None}, "dp": {"mechanism": "randomised-response", "epsilon": 1.0}},
        pytest.param({"model": {"bottleneck": None}}, id="the network says it"),
    ],
)
def test_the_shapes_are_those_of_the_network(changes, monkeypatch) -> None:
    config = load_config(CONFIG, changes)
    if config.model.codebook or config.model.bottleneck:
        monkeypatch.setattr(shapes, "subprocess", None)  # no other process is needed
    assert shapes_of(config) == build_back(config, 2)[1]


def test_a_network_that_cannot_be_had_is_the_same_error(monkeypatch, capsys) -> None:
    def run(command, *, input, **_):  # here, without seconds for another process
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        exec(command[-1].partition("\n")[2], {})  # this process is not to end with its parent
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(shapes.subprocess, "run", run)
    config = load_config(CONFIG, {"model": {"cut": "nowhere", "bottleneck": None}})
    with pytest.raises(CutError, match="nowhere"):
        shapes_of(config)


def test_a_machine_without_torch_says_what_helps(monkeypatch) -> None:
    monkeypatch.setattr(shapes, "_PROGRAM", "import torch_that_is_not_there")
    with pytest.raises(RunError, match=r"Set model.bottleneck on all sides .* pip install .*\[train\]"):
        shapes_of(load_config(CONFIG, {"model": {"bottleneck": None}}))


def test_a_process_that_takes_frames_in_has_no_torch() -> None:
    program = "import smartedge.cli.ingest, smartedge.launch.ingest, smartedge.cloud.ingest.figures, sys; "
    program += "import smartedge.wire.jetstream.receiver; print(sorted({'torch', 'torchvision'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
