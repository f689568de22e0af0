"""What a divided network freezes, what its adapters learn, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import types

import pytest
import torch
from torch import nn

from smartedge.errors import ConfigError
from smartedge.images.size import ImageSize
from smartedge.models.adapters import AdaptedConv2d, AdaptedLinear, add_adapters
from smartedge.models.blueprint import Blueprint, weights_named
from smartedge.models.bottleneck import check_bottleneck, usual_bottleneck
from smartedge.models.network import divide, divide_in_order, network_of

# Without the zeros in its last normalisations, which let no gradient through at first.
PLAIN = {"zero_init_last": False}
BLUEPRINT = Blueprint("timm/resnet10t", at="layer1", outputs=4, image_size=32, seed=0, arguments=PLAIN)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def learned(**changes) -> set[str]:
    """The entries of both halves' states that two updates changed."""
    divided = divide(dataclasses.replace(BLUEPRINT, **changes))
    network = nn.ModuleDict({"front": divided.front, "back": divided.back}).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # an adapter's first half moves when its second half is no longer zero
        optimizer.zero_grad()
        network["back"](network["front"](IMAGES)).square().sum().backward()
        optimizer.step()
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def test_what_is_frozen_does_not_change():
    assert any(name.startswith("front.conv1") for name in learned())
    assert any("running_mean" in name for name in learned() if name.startswith("front."))
    assert {name.partition(".")[0] for name in learned(freeze=("front",))} == {"back"}
    stem = learned(freeze=("conv1", "layer3"))
    assert not [name for name in stem if name.startswith(("front.conv1", "back.layer3"))]
    assert {"front.layer1.0.conv1.weight", "front.bn1.running_mean", "back.layer2.0.conv1.weight"} <= stem


def test_what_comes_after_a_frozen_front_learns():
    changed = learned(freeze=("front",), bottleneck=(4, 2, 2))
    assert {name.partition(".")[0] for name in changed} == {"front", "back"}
    assert all(name.startswith(("front.1.", "back.")) for name in changed)


def test_a_frozen_front_drops_nothing_and_keeps_its_statistics():
    front = divide(
        dataclasses.replace(BLUEPRINT, name="timm/mobilenetv2_035", arguments={}, at="blocks.2", freeze=("front",))
    ).front
    kept = copy.deepcopy(front).train()
    assert not kept.training and not any(module.training for module in kept.modules())
    assert torch.equal(kept(IMAGES), front.eval()(IMAGES))


def test_an_adapter_begins_as_the_frozen_network_and_learns_in_its_place():
    plain = divide(dataclasses.replace(BLUEPRINT, freeze=("front",))).front
    adapted = divide(dataclasses.replace(BLUEPRINT, freeze=("front",), adapter=3)).front
    assert torch.equal(plain(IMAGES), adapted(IMAGES))
    assert plain.state_dict().keys() < adapted.state_dict().keys(), "layers keep the names of their parameters"
    changed = {name for name in learned(freeze=("front",), adapter=3) if name.startswith("front.")}
    assert changed == {f"front.{name}" for name in adapted.state_dict() if ".down." in name or ".up." in name}
    assert adapted.get_submodule("layer1.0.conv1.down").weight.shape == (3, 64, 3, 3)


@pytest.mark.parametrize(
    ("layer", "kind", "shape"),
    [
        (nn.Linear(6, 5), AdaptedLinear, (2, 6)),
        (nn.Conv2d(6, 5, 3, stride=2, padding=1, dilation=2), AdaptedConv2d, (2, 6, 9, 9)),
        (nn.Conv2d(6, 5, (1, 3), padding="same", bias=False), AdaptedConv2d, (2, 6, 9, 9)),
    ],
)
def test_an_adapter_adds_a_correction_of_low_rank(layer, kind, shape):
    part = nn.Sequential(layer).requires_grad_(False)
    x = torch.rand(shape)
    expected = layer(x)
    assert add_adapters(part, 2) == 1 and type(part[0]) is kind
    assert torch.equal(part(x), expected)
    nn.init.normal_(part[0].up.weight)
    difference = part(x) - expected
    torch.testing.assert_close(difference, part[0].up(part[0].down(x)), atol=1e-5, rtol=1e-5)
    if kind is AdaptedLinear:
        weight = part[0].up.weight @ part[0].down.weight
        assert torch.linalg.matrix_rank(weight) == 2
        torch.testing.assert_close(difference, x @ weight.T, atol=1e-5, rtol=1e-5)


def test_layers_that_cannot_have_an_adapter_are_left_as_they_are():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    part = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), Own(3, 3), nn.Linear(2, 2)).requires_grad_(False)
    part[2].weight.requires_grad_(True)
    assert add_adapters(part, 2) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("layer9",)}, r"train\.freeze: timm/resnet10t has no module layer9; did you mean layer"),
        ({"freeze": ("layer2", "layer3", "layer4", "fc")}, "nothing is left for the back to learn"),
        ({"freeze": ("layer2",), "adapter": 2}, r"model\.adapter: no frozen layer before the cut"),
    ],
)
def test_what_cannot_be_frozen_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        divide(dataclasses.replace(BLUEPRINT, **changes))


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("resnet18", None, "none"),
        ("resnet18.a1_in1k", None, "timm"),
        ("timm/resnet18.a1_in1k", None, "timm"),
        ("resnet18.a1_in1k", "none", "none"),
        ("hf_hub:me/mine", None, "timm"),
        ("hf_hub:me/mine", "my.safetensors", "my.safetensors"),
        ("my.code:network", None, "none"),
        ("resnet18", "timm", "timm"),
    ],
)
def test_a_tag_names_weights_and_a_module_of_ones_own_does_not(name, weights, expected):
    assert weights_named(name, weights) == expected


@pytest.mark.parametrize(
    ("feature_shape", "layout", "image_size", "expected"),
    [
        ((64, 16, 16), "channels-first", 64, (16, 8, 8)),
        ((64, 32, 32), "channels-first", 32, (4, 8, 8)),
        ((16, 16, 96), "channels-last", 64, (16, 8, 8)),
        ((64, 56, 56), "channels-first", 224, (16, 16, 16)),
        ((512, 2, 2), "channels-first", 64, (256, 2, 2)),  # a map that is smaller keeps its size
        ((8, 4, 4), "channels-first", 64, (8, 4, 4)),
        ((64, 45, 80), "channels-first", ImageSize(720, 1280), (28, 9, 16)),  # the image's shape is kept
        ((64, 24, 6), "channels-first", ImageSize(96, 24), (16, 12, 3)),
        ((197, 192), "tokens", 224, (197, 20)),
        ((512,), "vector", 64, None),
    ],
)
def test_the_default_bottleneck_has_a_quarter_as_many_numbers_as_the_image_has_pixels(
    feature_shape, layout, image_size, expected
):
    found = usual_bottleneck(feature_shape, layout, image_size)
    assert found == expected
    if found is not None:
        check_bottleneck(feature_shape, found, layout)
        size = ImageSize.of(image_size)
        assert math.prod(found) <= size.height * size.width // 4


def test_the_default_bottleneck_is_built_where_the_cut_has_a_map_and_left_out_where_it_has_a_vector():
    divided = divide(dataclasses.replace(BLUEPRINT, bottleneck="auto"))
    assert divided.feature_shape == (4, 8, 8)
    assert divided.front(IMAGES).abs().max() <= 1
    assert divide(dataclasses.replace(BLUEPRINT, bottleneck="auto", at="global_pool")).feature_shape == (512,)


class Stages(nn.Module):
    """A stage that computes in another dtype, by itself or under autocast, and a head."""

    def __init__(self, num_classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stage = nn.Conv2d(8, 8, 3, 2, 1).to(dtype)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, num_classes)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stage(self.stem(x).to(self.dtype)))
        return self.head(x.float().mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bottleneck", [None, (4, 2, 2)])
def test_float32_crosses_whatever_a_network_computes_in(monkeypatch, dtype, bottleneck):
    module = types.SimpleNamespace(make=lambda num_classes: Stages(num_classes, dtype))
    monkeypatch.setitem(sys.modules, "stages", module)
    blueprint = dataclasses.replace(BLUEPRINT, name="stages:make", arguments={}, at="stage", bottleneck=bottleneck)
    divided = divide(blueprint)
    features = divided.front(IMAGES)
    assert features.dtype == divided.task_exit(features).dtype == torch.float32
    answers = divided.back(features)
    (answers.square().sum() + divided.task_exit(features).square().sum()).backward()
    if bottleneck is None and dtype == torch.bfloat16:  # of which each number is one of float32 as well
        assert torch.equal(answers, network_of(blueprint)(IMAGES))
    parts, ends = divide_in_order(blueprint, ["stage"])
    assert ends[0].narrow(parts[0](IMAGES)).dtype == torch.float32
