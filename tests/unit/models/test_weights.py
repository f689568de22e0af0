"""Pretrained weights: read from files, put into networks, refused with a reason; what was chosen is said."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from smartedge.errors import CutError
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide, to_input, undivided
from smartedge.models.zoo.files import read_weights
from smartedge.models.zoo.networks import build
from smartedge.models.zoo.published import of_model
from smartedge.models.zoo.weights import IMAGENET, fill, is_pretrained, loaded_in

save = torch.save  # noqa: TID251


def network(name="timm/resnet10t", outputs=10, **changes) -> nn.Module:
    return build(name, outputs=outputs, image_size=64, seed=0, **changes)


@pytest.fixture
def trained(tmp_path):
    """``trained(name, outputs)``: a file with the weights of such a network, and those weights."""

    def make(name="timm/resnet10t", outputs=1000, ending="safetensors", wrap=lambda state: state):
        own = build(name, outputs=outputs, image_size=64, seed=9).state_dict().items()
        state = {key: value + 0.125 if value.is_floating_point() else value for key, value in own}
        file = tmp_path / f"weights.{ending}"
        (save_file if ending == "safetensors" else save)(wrap(state), file)
        return file, state

    return make


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_head_of_another_size_is_replaced_and_said(trained, ending):
    file, state = trained(ending=ending)
    model = network(weights=str(file))
    own = model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    assert not own["fc.weight"].any() and not own["fc.bias"].any(), "it begins at zero"
    assert model.loaded.replaced == ("fc.weight", "fc.bias")
    assert model.loaded.tensors == len(own) - 2
    assert model.loaded.text().startswith(f"weights: {len(own) - 2} tensors from {file}, trained at 176x176; begin un")
    assert "images are 64x64 here; data.image_size: 176" in model.loaded.text()
    marked = {name for name, parameter in model.named_parameters() if is_pretrained(parameter)}
    assert marked == {name for name, _ in model.named_parameters()} - {"fc.weight", "fc.bias"}


def test_of_a_replaced_head_only_the_last_layer_begins_at_zero():
    """Two layers of zeros would never learn."""

    def made(hidden, outputs):
        layers = {"body": nn.Linear(2, 2), "head": nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, outputs))}
        return nn.Sequential(OrderedDict(layers))

    model = made(4, 10)
    fill(model, made(3, 5).state_dict(), "a file", head=("head",))
    assert model.head[0].weight.all() and not model.head[1].weight.any() and not model.head[1].bias.any()


def test_a_head_of_the_same_size_is_kept(trained):
    file, state = trained(outputs=10)
    model = network(weights=str(file))
    assert torch.equal(model.state_dict()["fc.weight"], state["fc.weight"])
    assert model.loaded.replaced == ()


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"epoch": 3, "state_dict": state}, "taken from its 'state_dict'"),
        (lambda state: {f"module.{key}": value for key, value in state.items()}, "without the prefix 'module.'"),
        (
            lambda state: {
                "model": {f"module.net.{key}": value for key, value in state.items()} | {"extra": torch.ones(1)}
            },
            "without the prefix 'module.net.' (1 tensors without it are left out)",
        ),
    ],
    ids=["a checkpoint", "DataParallel", "Lightning in DataParallel"],
)
def test_files_as_training_scripts_write_them(trained, wrap, note):
    file, state = trained(ending="pth", wrap=wrap)
    model = network(weights=str(file))
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert note in model.loaded.text()


def test_weights_of_another_network_are_refused_by_tensor(trained):
    file, _ = trained()
    with pytest.raises(
        CutError, match=r"another network than ResNet: layer1.0.conv1.weight is 64x64x3x3 there and 64x"
    ):
        build("timm/resnet14t", outputs=10, image_size=64, seed=0, weights=str(file))
    with pytest.raises(
        CutError, match=r"another network than .*: \d+ tensors are not in it: .*\d+ of its tensors are not"
    ):
        build("mobilenet_v2", outputs=10, image_size=64, seed=0, weights=str(file))


def test_a_file_of_half_a_network_is_refused(trained):
    file, _ = trained(wrap=lambda state: {key: value for key, value in state.items() if not key.startswith("layer4")})
    with pytest.raises(CutError, match=r"tensors are not in it: layer4\.0"):
        network(weights=str(file))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"epoch": 3}, "holds no named tensors: it holds 'epoch'"),
        (nn.Linear(2, 2), "holds no named tensors: it holds a torch.nn.modules.linear.Linear.*safetensors"),
        ([torch.ones(3)], r"it holds a list\. Save model\.state_dict\(\), the tensors"),
    ],
    ids=["none", "a whole network", "a list"],
)
def test_a_file_without_weights_says_what_it_holds(tmp_path, saved, message):
    save(saved, tmp_path / "x.pt")
    with pytest.raises(CutError, match=message):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_a_file_that_is_damaged_or_not_there_says_so(tmp_path, name):
    with pytest.raises(CutError, match=f"{name} cannot be read"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"<html>no such file</html>")
    with pytest.raises(CutError, match=f"{name} cannot be read"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CutError, match=f"{name} is a git-LFS pointer, .*git lfs pull"):
        read_weights(tmp_path / name)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_a_scripted_network_is_named(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CutError, match=r"x\.pt cannot be read: it is TorchScript, .*save its state_dict"):
        read_weights(tmp_path / "x.pt")


def test_weights_beside_those_that_are_taken_are_said(tmp_path):
    save({"model": {"a": torch.ones(1)}, "model_ema": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "x.pth")
    state, notes = read_weights(tmp_path / "x.pth")
    assert state["a"] == 1 and notes == ["taken from its 'model'; not used is what is in its 'model_ema'"]


@pytest.mark.parametrize("place", ["encoder", "params", "student"])
def test_weights_in_a_place_of_any_name(place, tmp_path):
    saved = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, place: {"a": torch.ones(1)}}
    save({**saved, "teacher": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    state, notes = read_weights(tmp_path / "x.pth")
    assert state["a"] == 1 and notes == [f"taken from its {place!r}; not used is what is in its 'teacher'"]


def test_an_ending_may_be_in_capitals(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "X.SAFETENSORS")
    assert read_weights(tmp_path / "X.SAFETENSORS")[0]["a"] == 1


@pytest.mark.parametrize("prefixes", [("encoder_q.", "encoder_k."), ("b.", "a."), ("a.", "b."), ("ema.", "model.")])
def test_of_two_sets_of_weights_the_first_in_the_file_is_taken(prefixes):
    first, second = prefixes
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    state = {f"{first}{key}": torch.full_like(value, 1.0) for key, value in model.state_dict().items()}
    state |= {f"{second}{key}": torch.full_like(value, 2.0) for key, value in model.state_dict().items()}
    _, _, notes = fill(model, state, "x.pth", head=("1",))
    assert (model[0].weight == 1).all()
    others = f"4 tensors without it are left out, of which those of {second!r} would fit as well"
    assert notes == [f"without the prefix {first!r} ({others})"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * float("nan"), r"values in conv1\.0\.weight that are not finite"),
        (lambda weight: weight.to(torch.int8), r"holds conv1\.0\.weight as int8, so it is quantised"),
    ],
)
def test_values_that_are_no_weights_are_refused(trained, change, message):
    file, _ = trained(wrap=lambda state: {**state, "conv1.0.weight": change(state["conv1.0.weight"])})
    with pytest.raises(CutError, match=message):
        network(weights=str(file))


def test_a_vit_takes_weights_of_another_image_size(tmp_path):
    """timm's own filter stretches the positions."""
    larger = build("vit_tiny_patch16_224", outputs=1000, image_size=96, seed=3)
    save_file(larger.state_dict(), tmp_path / "vit.safetensors")
    weights = str(tmp_path / "vit.safetensors")
    model = build("vit_tiny_patch16_224", outputs=10, image_size=64, seed=0, weights=weights)
    assert torch.equal(model.blocks[3].attn.qkv.weight, larger.blocks[3].attn.qkv.weight)
    assert model.pos_embed.shape == (1, 17, 192)
    assert torch.equal(model.pos_embed[:, 0], larger.pos_embed[:, 0])
    assert is_pretrained(model.pos_embed)


def test_a_pretrained_network_keeps_the_stem_that_was_trained(tmp_path):
    save_file(build("resnet18", outputs=1000, image_size=224, seed=3).state_dict(), tmp_path / "r.safetensors")
    weights = str(tmp_path / "r.safetensors")
    assert build("resnet18", outputs=10, image_size=32, seed=0, weights=weights).conv1.kernel_size == (7, 7)


# ---- pixels


def test_a_pretrained_network_sees_colours_as_in_its_training(trained):
    """The front and the undivided network get the pixels of all networks, and scale them as timm says."""
    file, _ = trained(outputs=10)
    blueprint = Blueprint("timm/resnet10t", at="layer1", outputs=10, image_size=64, seed=0, weights=str(file))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    bare = network(weights=str(file)).eval()
    expected = bare((images / 255 - mean) / std)
    whole, divided = undivided(blueprint).eval(), divide(blueprint)
    inputs = to_input(images, torch.device("cpu"))
    torch.testing.assert_close(whole(inputs), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(divided.back.eval()(divided.front.eval()(inputs)), expected, atol=1e-4, rtol=1e-4)
    assert loaded_in([divided.back]) is None
    assert loaded_in([divided.front]).pixels == loaded_in([whole]).pixels == IMAGENET
    own = {f"1.{key}" for key in bare.state_dict() if key.startswith(("conv1", "bn1", "layer1"))}
    assert divided.front.state_dict().keys() == own | {"0.scale", "0.shift"}


@pytest.mark.parametrize(
    ("name", "mean", "size"),
    [("timm/tf_efficientnet_lite0", (0.5, 0.5, 0.5), 224), ("timm/resnet10t", IMAGENET.mean, 176)],
)
def test_timm_says_how_colours_were_scaled(name, mean, size):
    published = of_model(network(name))
    assert (published.pixels.mean, published.image_size) == (mean, size)


def test_an_untrained_network_gets_pixels_as_before():
    blueprint = Blueprint("timm/resnet10t", at="layer1", outputs=10, image_size=64, seed=0)
    assert loaded_in([undivided(blueprint), divide(blueprint).front]) is None


# ---- where weights come from


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub can be reached, and its cache is empty."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub, repository: str, **files) -> None:
    """Put files into the hub's cache, as an earlier download does."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, str):
            (snapshot / f"{name}.json").write_text(content)
        else:
            save_file(content, snapshot / f"{name}.safetensors")


def test_a_tag_of_timm_names_weights(offline):
    state = build("timm/resnet10t", outputs=1000, image_size=64, seed=9).state_dict()
    cached(offline, "timm/resnet10t.c3_in1k", model=state)
    tagged = network("resnet10t.c3_in1k")
    assert torch.equal(tagged.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert tagged.loaded.source == "resnet10t.c3_in1k of timm"
    assert not hasattr(network("resnet10t.c3_in1k", weights="none"), "loaded")
    assert torch.equal(network("resnet10t", weights="timm").layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


def test_without_internet_weights_of_timm_say_how_to_get_them(offline):
    for name, weights in (("resnet18.a1_in1k", None), ("resnet18", "timm")):
        with pytest.raises(
            CutError, match=r"of resnet18.* cannot be fetched from timm/resnet18.a1_in1k .*where there is in"
        ):
            network(name, weights=weights)


def test_a_tag_that_timm_does_not_have_is_refused():
    with pytest.raises(CutError, match="Invalid pretrained tag"):
        network("resnet18.no_such_tag")


def test_networks_on_the_hub(offline):
    state = build("timm/resnet10t", outputs=7, image_size=64, seed=9).state_dict()
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64], "classifier": "fc"}
    config = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": {**cfg, "num_classes": 7}}
    cached(offline, "me/mine", config=json.dumps(config), model=state)
    for name in ("hf_hub:me/mine", "hf-hub:me/mine"):
        model = network(name)
        assert torch.equal(model.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
        assert model.loaded.pixels.mean == (0.1, 0.2, 0.3)
        assert model.fc.out_features == 10
    with pytest.raises(CutError, match="hf_hub:me/other cannot be fetched from the Hugging Face hub"):
        network("hf_hub:me/other")


def test_weights_of_timm_do_not_fit_a_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_weights.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, width=4):\n"
        "    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), *pool, nn.Linear(width, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_weights", raising=False)
    with pytest.raises(CutError, match="no weights for a network of your own"):
        network("own_weights:make", weights="timm")
    save_file(network("own_weights:make", outputs=3, arguments={"width": 6}).state_dict(), tmp_path / "own.safetensors")
    model = network("own_weights:make", arguments={"width": 6}, weights="own.safetensors")
    assert model.loaded.replaced == ("3.weight", "3.bias")
    assert model.loaded.pixels == IMAGENET and "nothing says how colours were scaled" in model.loaded.text()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_get_the_first_convolution_by_the_rule_of_timm(channels, trained):
    from timm.models._manipulate import adapt_input_conv

    file, state = trained()
    name, size = "conv1.0.weight", ImageSize(64, 64, channels)
    model = build("timm/resnet10t", outputs=10, image_size=size, seed=0, weights=str(file))
    expected = adapt_input_conv(channels, state[name])
    torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=1e-6)
    assert is_pretrained(dict(model.named_parameters())[name])
    assert f"the weights of {name} for red, green and blue were taken as" in model.loaded.text()
    assert len(model.loaded.pixels.mean) == channels
    blueprint = Blueprint("timm/resnet10t", "layer1", 10, size, 0, weights=str(file))
    whole = undivided(blueprint).eval()
    assert whole(to_input(torch.zeros(1, *size.shape, dtype=torch.uint8), torch.device("cpu"))).shape == (1, 10)


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_scale_of_ones_own_is_applied_to_each_channel(pretrained, trained):
    weights = str(trained()[0]) if pretrained else "none"
    blueprint = Blueprint("timm/resnet10t", "layer1", 10, 64, 0, weights=weights, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2))
    first = undivided(blueprint)[0]
    images = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (blueprint.mean, blueprint.std))
    scaled = first(to_input(images, torch.device("cpu")))
    torch.testing.assert_close(scaled, (images / 255 - mean) / std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [((0.1, 0.2, 0.3), None), (None, (0.5, 1, 2))])
def test_of_a_scale_of_ones_own_one_half_may_be_left_out(mean, std):
    first = undivided(Blueprint("timm/resnet10t", "layer1", 10, 64, 0, mean=mean, std=std))[0]
    images = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean or (0.5,) * 3, std or (0.25,) * 3))
    scaled = first(to_input(images, torch.device("cpu")))
    torch.testing.assert_close(scaled, (images / 255 - shift) / scale, rtol=1e-4, atol=1e-5)
