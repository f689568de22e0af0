"""``smartedge cuts`` as users call it."""

from __future__ import annotations

import json

import pytest

from smartedge.cli.app import main
from smartedge.models.cut import list_cuts
from smartedge.models.zoo import build


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


@pytest.mark.parametrize("shape", ["64", "1x64x64", "3x64x32"])
def test_an_impossible_input_is_a_setting_error(shape, capsys):
    assert main(["cuts", "resnet18", "--input", shape]) == 2
    assert "3x64x64" in capsys.readouterr().err


def test_an_unknown_network_is_a_cut_error(capsys):
    assert main(["cuts", "resnet19"]) == 4
    assert "did you mean resnet18" in capsys.readouterr().err
