"""``smartedge cuts`` as users call it."""

from __future__ import annotations

import json
import re
import sys

import pytest

from smartedge.cli.app import main
from smartedge.models.cutting.cut import list_cuts
from smartedge.models.zoo.networks import build


def test_the_table_names_every_cut_and_its_shape(capsys):
    assert main(["cuts", "resnet18", "--input", "3x64x64"]) == 0

    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    cuts = list_cuts(build("resnet18", outputs=10, image_size=64, seed=0), (3, 64, 64))
    assert [row[0] for row in rows] == [cut.name for cut in cuts]
    layer1 = next(row for row in rows if row[0] == "layer1")
    assert layer1[1:5] == ["64x16x16", "64.0", "157,504", "11,024,138"]


def test_json_carries_every_field(capsys):
    assert main(["cuts", "vgg11", "--input", "3x32x32", "--outputs", "7", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    cuts = list_cuts(build("vgg11", outputs=7, image_size=32, seed=0), (3, 32, 32))
    assert [(row["name"], row["shape"], row["back_flops"]) for row in rows] == [
        (cut.name, list(cut.shape), cut.back_flops) for cut in cuts
    ]
    assert rows[0]["dtype"] == "float32"


def test_stock_leaves_the_stem_as_published(capsys):
    shapes = []
    for options in ([], ["--stock"]):
        main(["cuts", "resnet18", "--input", "3x32x32", "--json", *options])
        shapes.append(json.loads(capsys.readouterr().out)[0]["shape"])
    assert shapes == [[64, 32, 32], [64, 16, 16]]


def test_without_input_the_network_s_own_size_is_taken_and_told(capsys):
    assert main(["cuts", "mobilevit_xxs", "--json"]) == 0

    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["shape"] == [16, 128, 128]  # half of 256, each way
    assert captured.err == "images of 3x256x256; --input chooses another size\n"


def test_the_help_shows_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["cuts", "--help"])
    assert "$ smartedge cuts resnet18 --input 3x64x64" in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["64", "64x64", "3x64"])
def test_an_impossible_input_is_a_setting_error(shape, capsys):
    assert main(["cuts", "resnet18", "--input", shape]) == 2
    assert "3x64x64" in capsys.readouterr().err


def test_an_unknown_network_is_a_cut_error(capsys):
    assert main(["cuts", "resnet19"]) == 4
    assert "did you mean resnet18" in capsys.readouterr().err


OWN = """
import torch
from torch import nn
class Branches(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, num_classes, 8), nn.Conv2d(3, num_classes, 8)
    def forward(self, x):
        return self.left(x).flatten(1) * self.right(x).flatten(1)
class Choosy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x
class Step(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(outputs, 3, 8, 8))
    def forward(self, x):
        return torch.tensordot(x, self.weight, ([1, 2, 3], [1, 2, 3]))
def one(num_classes):
    return nn.Sequential(Step(num_classes))
def choosy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4), Choosy(), nn.Linear(4, num_classes))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_cuts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_cuts", raising=False)


@pytest.mark.parametrize(
    ("name", "outputs", "reason"),
    [
        (
            "own_cuts:Branches",
            "10",
            "cannot be cut at left: 2 tensors cross there: .*cannot be cut at right: 2 tensors",
        ),
        ("own_cuts:one", "192", "cannot be cut at 0: this is"),
    ],
)
def test_a_network_without_a_cut_says_why_and_fails(own, name, outputs, reason, capsys):
    assert main(["cuts", name, "--input", "3x8x8", "--outputs", outputs]) == 4
    captured = capsys.readouterr()
    told = " ".join(captured.err.split())
    assert f"{name} cannot be divided anywhere." in told and re.search(reason, told), told
    assert not captured.out


def test_flops_that_depend_on_values_are_called_unknown(own, capsys):
    assert main(["cuts", "own_cuts:choosy", "--input", "3x8x8"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert rows["1"][5:7] == ["0.00", "unknown"] and rows["2"][5] == "unknown"
