"""What is told of a cut and a bottleneck before the network is recorded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from smartedge.errors import ConfigError, CutError
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import Blueprint
from smartedge.models.cutting.glance import check_cuts, check_freezing, check_shape
from smartedge.models.network import divide, network_of
from smartedge.models.recording.trace import trace

BLUEPRINT = Blueprint("timm/resnet10t", at="layer1", outputs=2, image_size=32, seed=0)

MISTAKES = """
import sys
from smartedge.errors import SmartEdgeError
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide
for at, bottleneck in (("layer9", None), ("fc", None), ("layer1", (8, 64, 64))):
    try:
        divide(Blueprint("resnet18", at=at, outputs=2, image_size=64, seed=0, bottleneck=bottleneck))
        sys.exit("not refused")
    except SmartEdgeError as error:
        print(error)
if early := sorted(name for name in sys.modules if name.startswith("torch._dynamo")):
    sys.exit(f"imported already: {early}")
user = sys.modules["torchvision.ops.roi_align"]
if hasattr(user, "is_compile_supported"):
    print(user.is_compile_supported("cpu"))
    from torch._dynamo.utils import is_compile_supported
    print(is_compile_supported("cpu"))
"""


def test_mistakes_are_told_without_dynamo_which_takes_a_second_to_import():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MISTAKES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cut, end, bottleneck, *answers = done.stdout.splitlines()
    assert end.startswith("resnet18 cannot be cut at fc: this is already the output, nothing is computed after it;")
    assert cut.startswith("resnet18 cannot be cut at layer9: it has no module or operation of that name; did you mean")
    assert cut.endswith("'smartedge cuts resnet18 --input 3x64x64' lists all")
    assert "8x64x64 is larger than the 16x16 map at the cut" in bottleneck
    assert len(set(answers)) <= 1  # of torchvision's function, and of the one that dynamo has


def test_every_name_of_a_recording_may_be_a_cut():
    model = network_of(BLUEPRINT)
    recorded = {name for names in trace(model, (3, 32, 32), training=True).names.values() for name in names}
    assert len(recorded) > 50
    check_cuts(BLUEPRINT, model, recorded)


@pytest.mark.parametrize("at", ["layer9", "layer1.2", "layer5.0.conv1", "layer1.plus", "Layer1", ""])
def test_a_name_that_cannot_be_is_refused(at):
    with pytest.raises(CutError, match=rf"resnet10t cannot be cut at {at}"):
        divide(dataclasses.replace(BLUEPRINT, at=at))


def test_a_network_of_ones_own_may_have_operations_of_any_name():
    check_cuts(dataclasses.replace(BLUEPRINT, name="my.networks:small"), nn.Identity(), ["anything"])


@pytest.mark.parametrize(
    ("bottleneck", "says"), [((8, 9, 8), "larger than the 8x8 map"), ((8, 8), "give it as CxHxW"), ((8, 8, 8), None)]
)
def test_a_bottleneck_is_held_against_what_the_cut_gives(bottleneck, says):
    blueprint = dataclasses.replace(BLUEPRINT, bottleneck=bottleneck)
    model = network_of(blueprint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    if says is None:
        check_shape(blueprint, model)
    else:
        with pytest.raises(ConfigError, match=says):
            check_shape(blueprint, model)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_map_whose_axes_are_not_known_is_left_to_the_recording():
    wide = dataclasses.replace(BLUEPRINT, image_size=ImageSize(24, 64))
    model = nn.Sequential(nn.Identity(), nn.Flatten())  # 3x24x64, which could be a map of 3x24 with 64 channels
    for refused, bottleneck in ((False, (8, 3, 64)), (False, (8, 3, 20)), (True, (8, 25, 20))):
        with pytest.raises(ConfigError, match="larger than the 24x64 map") if refused else nullcontext():
            check_shape(dataclasses.replace(wide, at="0", bottleneck=bottleneck), model)


@pytest.mark.parametrize("name", ["layr1", ""])
def test_what_is_not_there_cannot_be_frozen(name: str) -> None:
    plan = Blueprint("resnet18", "layer1", 2, 64, 0, freeze=("front", "layer2.0", name))
    with pytest.raises(ConfigError, match=r"train\.freeze: resnet18 has no module"):
        check_freezing(plan, network_of(plan))
    check_freezing(dataclasses.replace(plan, freeze=("front", "layer2.0")), network_of(plan))
