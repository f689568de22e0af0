"""Networks by name: built from a seed, adapted to small images, refused with a reason."""

from __future__ import annotations

import random
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from smartedge.errors import CutError
from smartedge.images.size import ImageSize
from smartedge.models import compat
from smartedge.models.zoo.networks import build, usual_size


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "timm/vgg11", "mobilevit_xxs"])
def test_the_seed_alone_decides_the_parameters(name):
    torch.manual_seed(1)
    first = build(name, outputs=10, image_size=32, seed=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the global random state was left alone
    second = build(name, outputs=10, image_size=32, seed=3)
    other = build(name, outputs=10, image_size=32, seed=4)

    assert first.training
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    different = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert not all(different)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_small_images_get_the_small_stem(name):
    small = build(name, outputs=10, image_size=32, seed=0)
    assert small.conv1.kernel_size == (3, 3)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    for stock in (
        build(name, outputs=10, image_size=64, seed=0),
        build(name, outputs=10, image_size=32, small_input=False, seed=0),
    ):
        assert stock.conv1.kernel_size == (7, 7)
        assert isinstance(stock.maxpool, nn.MaxPool2d)


def test_small_vggs_are_initialised_as_the_stock_ones():
    small = build("vgg11_bn", outputs=10, image_size=64, seed=0)
    assert sum(p.numel() for p in small.parameters()) == 9_231_114  # features + Linear(512, 10)
    for module in small.features:
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * 9
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.running_var.eq(1).all()
            assert not module.running_mean.any()


def test_networks_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))\n"
        "def wrong(num_classes):\n"
        "    return make(num_classes + 1)\n"
        "def nothing(num_classes):\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    assert build("own_network:make", outputs=4, image_size=16, seed=0)[1].out_features == 4
    with pytest.raises(CutError, match=r"\(1, 5\) instead of \(1, 4\)"):
        build("own_network:wrong", outputs=4, image_size=16, seed=0)
    with pytest.raises(CutError, match="gave a NoneType"):
        build("own_network:nothing", outputs=4, image_size=16, seed=0)
    with pytest.raises(CutError, match="own_network:missing"):
        build("own_network:missing", outputs=4, image_size=16, seed=0)
    with pytest.raises(CutError, match="no_such_package"):
        build("no_such_package.module:make", outputs=4, image_size=16, seed=0)
    with pytest.raises(CutError, match="does not take 8x8 images"):
        build("own_network:make", outputs=4, image_size=8, seed=0)


def test_the_seed_decides_whatever_the_users_own_code_draws(tmp_path, monkeypatch):
    (tmp_path / "random_network.py").write_text(
        "import random, numpy as np, torch\n"
        "from torch import nn\n"
        "torch.rand(1), random.random(), np.random.rand()\n"  # once in a process
        "def make(num_classes):\n"
        "    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))\n"
        "    network.register_buffer('drawn', torch.tensor([random.random(), np.random.rand()]))\n"
        "    return network\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "random_network", raising=False)
    random.seed(1), np.random.seed(1)
    first, second, other = (build("random_network:make", outputs=4, image_size=16, seed=seed) for seed in (3, 3, 4))
    after = random.random(), np.random.rand()
    random.seed(1), np.random.seed(1)
    assert after == (random.random(), np.random.rand())  # the global random states were left alone
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet19", "resnet18"), ("timm/vit_tiny_patch16", "vit_tiny_patch16_224"), ("torchvision/mobilevit_xxs", "")],
)
def test_an_unknown_name_suggests_near_ones(name, near):
    with pytest.raises(CutError, match=f"no network is called {name}.*{near}"):
        build(name, outputs=10, image_size=64, seed=0)


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 40), ("densenet121", 16)])
def test_an_impossible_image_size_is_refused(name, size):
    with pytest.raises(CutError, match=rf"{name} .*{size}x{size} images"):
        build(name, outputs=10, image_size=size, seed=0)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_without_the_libraries_the_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CutError, match=rf"{package} is not installed; run: .*pip install .*\[zoo\]"):
        build("mobilevit_xxs", outputs=10, image_size=64, seed=0)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of luck"),
        ImportError("out of luck"),
        OSError("out of luck"),
        AttributeError("out of luck"),
        ModuleNotFoundError("out of luck", name="torch.something"),
        RuntimeError("operator torchvision::nms is out of luck"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_library_that_does_not_fit_torch_says_so(monkeypatch, error, package):
    def load(name: str) -> None:
        if name == package:
            raise error

    monkeypatch.setattr(compat.importlib, "import_module", load)
    message = (
        rf"{package} .* does not fit torch {re.escape(torch.__version__)} here: importing it fails \(.*out of luck"
    )
    with pytest.raises(CutError, match=message):
        compat.load_timm()


def test_a_factory_that_fails_names_the_line(tmp_path, monkeypatch):
    (tmp_path / "buggy_network.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, width=3):\n"
        "    return nn.Linear(width, {}['missing'])\n"
        "class Logits:\n"
        "    pass\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return Logits()\n"
        "class Wrong(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.no_such_thing\n"
        "def odd(num_classes): return Odd()\n"
        "def wrong(num_classes): return Wrong()\n"
    )
    (tmp_path / "broken_module.py").write_text("import json\njson.loads('no')\n")
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit(2)\n")
    (tmp_path / "half_written.py").write_text("\ndef make(:\n")
    (tmp_path / "needs_more.py").write_text("import no_such_package.parts\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "beside.py").write_text("")
    (tmp_path / "own" / "needs_beside.py").write_text("import beside\n")
    monkeypatch.chdir(tmp_path)
    for name in ("buggy_network", "broken_module", "a_script", "half_written", "needs_more", "own", "own.needs_beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def refused(name: str, **arguments: object) -> str:
        with pytest.raises(CutError) as caught:
            build(name, outputs=4, image_size=16, seed=0, arguments=arguments)
        return str(caught.value)

    assert re.search(
        r"make\(num_classes=4, width=5\) fails: KeyError: .*buggy_network\.py:3 in make: 'missing'",
        refused("buggy_network:make", width=5),
    )
    assert "TypeError: make() got an unexpected keyword argument 'depth'" in refused("buggy_network:make", depth=1)
    assert "importing a_script fails: SystemExit" in refused("a_script:make")
    assert re.search(r"half_written fails: SyntaxError: .*half_written\.py:2: invalid", refused("half_written:make"))
    assert re.search(r"needs_more\.py:1 in .*'no_such_package'; install it$", refused("needs_more:make"))
    assert refused("own.needs_beside:make").endswith(f"'beside'; let Python find it: PYTHONPATH={tmp_path / 'own'}")
    assert "'absent'; give package.module:factory, and name the folder that holds it" in refused("absent.nets:make")
    assert "importing broken_module fails: JSONDecodeError" in refused("broken_module:make")
    assert "with a Logits instead of a tensor (1, 4); let package.module:factory return" in refused("buggy_network:odd")
    assert re.search(
        r"AttributeError: .*buggy_network.py:11 in forward: 'Tensor' object has no attribute",
        refused("buggy_network:wrong"),
    )
    assert "resnet18 cannot be built for 16x16 images with {'no_such': 1}" in refused("resnet18", no_such=1)
    assert "cannot be built for 16x16 images with {'no_such': 1}" in refused("timm/resnet18", no_such=1)


def test_arguments_reach_the_library():
    plain, bare = (
        build("timm/resnet10t", outputs=4, image_size=32, seed=0, arguments=a) for a in ({}, {"zero_init_last": False})
    )
    assert not plain.layer1[0].bn2.weight.any() and bare.layer1[0].bn2.weight.any()
    assert build("resnet18", outputs=4, image_size=32, seed=0, arguments={"width_per_group": 64}).fc.out_features == 4


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 224), ("inception_v3", 299), ("mobilevit_xxs", 256), ("timm/resnet18", 224), ("my.code:net", None)],
)
def test_the_usual_size_is_the_one_that_the_library_publishes(name, size):
    assert usual_size(name) == size


def test_an_unknown_network_has_no_usual_size():
    with pytest.raises(CutError, match="did you mean resnet18"):
        usual_size("resnet19")


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small", "timm/resnet10t"])
@pytest.mark.parametrize("channels", [1, 7])
def test_a_network_takes_other_channels(name, channels):
    size = ImageSize(32, 48, channels)
    model = build(name, outputs=3, image_size=size, seed=0)
    same = build(name, outputs=3, image_size=size, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert model(torch.zeros(2, channels, 32, 48)).shape == (2, 3)


def test_torchvisions_vit_takes_squares_only():
    with pytest.raises(CutError, match=r"vit_b_16 cannot be built for 64x32 images: .*squares only"):
        build("vit_b_16", outputs=3, image_size=ImageSize(64, 32), seed=0)
