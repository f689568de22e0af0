"""The cut says what the axes of its tensor mean, and whoever works on the tensor believes it."""

from __future__ import annotations

import pytest
import torch
from both_layouts import Mixed
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.lab.audit.inputs import Pool
from smartedge.models.blueprint import Blueprint
from smartedge.models.bottleneck import Compress, Expand
from smartedge.models.codebook import Decode, Encode
from smartedge.models.cutting.cut import cut, list_cuts
from smartedge.models.exits import TaskExit
from smartedge.models.layout import as_channels_first, as_tokens, in_memory, known_layout, layout_of_shape, map_size
from smartedge.models.network import divide, undivided
from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.adversary import AdversarialExit
from smartedge.models.zoo.networks import build


def test_the_cut_knows_what_the_shape_does_not_tell():
    cuts = {c.name: c for c in list_cuts(Mixed(), (3, 32, 32))}
    assert {c.shape for c in cuts.values()} == {(8, 8, 8), (8,)}
    layouts = {name: c.layout for name, c in cuts.items()}
    assert layouts == {
        "stem": "channels-first",
        "first": "channels-first",
        "permute": "channels-last",
        "last": "channels-last",
        "act": "channels-last",
        "permute_1": "channels-first",
        "conv": "channels-first",
        "mean": "vector",
    }


@pytest.mark.parametrize(
    ("name", "size", "at", "layout"),
    [
        ("resnet18", 64, "layer1", "channels-first"),
        pytest.param("swin_t", 32, "features.1", "channels-last", marks=pytest.mark.slow),
        ("timm/convnext_atto", 32, "stages.1", "channels-first"),  # it normalises channels-last inside
        ("vit_tiny_patch16_224", 64, "blocks.2", "tokens"),
        ("vgg11", 32, "features.0", "channels-first"),
    ],
)
def test_layouts_of_known_networks(name, size, at, layout):
    model = build(name, outputs=3, image_size=size, seed=0)
    front, back = cut(model, at, (3, size, size))
    assert (front.layout, back.layout) == (layout, layout)
    with torch.no_grad():
        assert front.eval()(torch.rand(1, 3, size, size)).shape[1:] == front.feature_shape == back.feature_shape


def test_the_shape_alone_suggests_the_usual():
    shapes = [(64, 16, 16), (3, 5, 7), (8, 8, 8), (56, 56, 96), (65, 192), (512,), (1, 2, 3, 4)]
    usual = ["channels-first", "channels-first", "channels-first", "channels-last", "tokens", "vector", "other"]
    assert [layout_of_shape(shape) for shape in shapes] == usual
    with pytest.raises(CutError, match="three axes"):
        known_layout((1, 2, 3, 4), None)


def test_axes_are_moved_by_the_layout():
    maps = torch.rand(2, 8, 8, 8)
    assert torch.equal(as_channels_first(maps, "channels-last"), maps.movedim(-1, 1))
    assert torch.equal(as_channels_first(maps, "channels-first"), maps)
    assert map_size((4, 5, 6), "channels-last") == (6, 4, 5)
    assert map_size((4, 5, 6), "channels-first") == (4, 5, 6)
    assert as_tokens(maps[:, 0, 0], "codeword").shape == (2, 1, 8)


# Each takes a tensor (B, 8, 8, 8) and gives another; all of them look at channels and places.
READERS = {
    "task exit": lambda layout: TaskExit((8, 8, 8), 3, width=16, layout=layout),
    "bottleneck": lambda layout: Compress((8, 8, 8), (4, 2, 2), layout),
    "codebook": lambda layout: Encode((8, 8, 8), 5, layout).choose,
    "adversarial, conv": lambda layout: Adversarial("conv", layout),
    "adversarial, deep": lambda layout: Adversarial("deep", layout),
    "attacker's pool": lambda layout: Pool((8, 8, 8), 32, layout),
}


class Adversarial(nn.Module):
    def __init__(self, shape: str, layout: str) -> None:
        super().__init__()
        self.exit = AdversarialExit(shape, (8, 8, 8), 2, layout=layout)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(SimulatedRelease(x))


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_the_tensor_believe_the_layout(reader):
    made = {}
    for layout in ("channels-first", "channels-last"):
        torch.manual_seed(0)
        made[layout] = READERS[reader](layout).eval()
    maps = torch.randn(2, 8, 8, 8)
    expected = made["channels-first"](maps)
    torch.testing.assert_close(made["channels-last"](maps.movedim(1, -1)), expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(made["channels-last"](maps), expected, atol=1e-3, rtol=1e-3)


def test_what_widens_gives_the_layout_back():
    for widen in (Expand((4, 2, 2), (6, 5, 7), "channels-last"), Decode(5, (6, 5, 7), "channels-last")):
        given = torch.rand(2, 4, 2, 2) if isinstance(widen, Expand) else torch.eye(5)[:2]
        assert widen(given).shape == (2, 6, 5, 7)
        assert any(c.out_channels == 7 for c in widen.modules() if isinstance(c, nn.Conv2d))


def test_a_divided_network_carries_the_layout_of_what_crosses():
    plain = Blueprint("both_layouts:build", at="last", outputs=3, image_size=48, seed=0)
    for more, layout, shape in (
        ({}, "channels-first", (8, 12, 12)),  # the network works on maps (H, W, C) there
        ({"bottleneck": (4, 4, 4)}, "channels-first", (4, 4, 4)),
        ({"codebook": 6}, "codeword", (6,)),
    ):
        divided = divide(Blueprint(**{**vars(plain), **more}))
        assert (divided.layout, divided.feature_shape) == (layout, shape)
        images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        features = divided.front.eval()(images)
        assert features.shape[1:] == shape
        if not more:
            whole = undivided(plain).eval()(images)  # whose maps lie in memory in another order
            torch.testing.assert_close(divided.back.eval()(features), whole, atol=1e-6, rtol=1e-5)
        assert divided.task_exit.eval()(features).shape == divided.back.eval()(features).shape == (2, 3)


def test_channels_last_in_memory_is_for_maps_whose_channels_come_first():
    maps = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    placed = in_memory(maps, "channels-first", channels_last=True)
    assert torch.equal(placed, maps) and placed.is_contiguous(memory_format=torch.channels_last)
    assert in_memory(maps, "channels-first", channels_last=False) is maps
    assert in_memory(maps, "channels-last", channels_last=True) is maps, "its memory is in that order already"
    tokens = torch.zeros(2, 5, 4)
    assert in_memory(tokens, "tokens", channels_last=True) is tokens
