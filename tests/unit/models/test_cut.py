"""A divided network is the network: outputs, losses, gradients, state; and what cannot be divided says why."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from gradient_reversal import Reverse
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.compat import load_timm
from smartedge.models.cutting.cut import cut, cut_in_order, list_cuts, merge_state_dicts
from smartedge.models.zoo.networks import build

NETWORKS = [
    # (name, pixels): torchvision's first, then timm's
    ("vgg11", 32),
    ("vgg11_bn", 32),
    ("resnet18", 32),
    ("resnet18", 64),
    ("mobilenet_v2", 32),
    ("mobilenet_v3_small", 64),
    ("efficientnet_b0", 32),
    ("shufflenet_v2_x0_5", 32),
    ("squeezenet1_1", 32),
    ("timm/resnet10t", 32),
    ("timm/mobilenetv3_small_050", 32),
    ("timm/regnetx_002", 32),
    ("mobilevit_xxs", 64),
    ("vit_tiny_patch16_224", 64),
]
# Recording one of these takes seconds, and listing cuts and each cut record it again: the quick test cuts them once.
LARGE = {"mobilevit_xxs": "stages.2", "vit_tiny_patch16_224": "blocks.5"}
SLOW_NETWORKS = [
    *NETWORKS,
    ("densenet121", 32),
    ("convnext_tiny", 32),
    ("regnet_y_400mf", 32),
    ("swin_t", 32),
    ("mnasnet0_5", 32),
    ("timm/convnext_atto", 32),
    ("timm/mobilenetv2_035", 32),
    ("timm/tf_efficientnet_b0", 32),
    ("deit_tiny_distilled_patch16_224", 64),
    ("mobilevitv2_050", 64),
    ("vgg16", 32),
    ("resnet50", 32),
    ("vit_b_32", 32),
    ("timm/swin_tiny_patch4_window7_224", 32),
    ("googlenet", 32),
    ("timm/vgg11_bn", 32),
    ("regnet_x_400mf", 32),
    ("mobilenet_v3_large", 32),
    ("swin_v2_t", 64),
    ("timm/densenet121", 64),
    ("maxvit_t", 224),
    ("inception_v3", 96),
    ("timm/edgenext_xx_small", 64),
    ("timm/efficientformer_l1", 224),
    ("timm/ghostnet_100", 64),
    ("timm/mixer_s32_224", 64),
    ("timm/coat_tiny", 64),
    ("timm/levit_128s", 64),
    ("timm/poolformer_s12", 64),
    ("timm/repvgg_a0", 64),
    ("timm/xcit_nano_12_p16_224", 64),
]


@pytest.mark.parametrize(("name", "size"), NETWORKS, ids=lambda value: str(value))
def test_a_divided_network_is_the_network(name, size):
    check_network(name, size, LARGE.get(name), in_order=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW_NETWORKS, ids=lambda value: str(value))
def test_a_further_divided_network_is_the_network(name, size):
    check_network(name, size)


def check_network(name: str, size: int, at: str | None = None, *, in_order: bool = False) -> None:
    """Divide a network at one cut, or at the first, the middle and the last one.

    Args:
        name: of the network.
        size: of its images, in pixels.
        at: the cut.
        in_order: at all three together, so that it is recorded once; else at one after the other.
    """
    model = build(name, outputs=10, image_size=size, seed=0)
    fresh = build(name, outputs=10, image_size=size, seed=1)
    shape = (3, size, size)
    cuts = [at] if at is not None else [each.name for each in list_cuts(model, shape)]
    chosen = list(dict.fromkeys((cuts[0], cuts[len(cuts) // 2], cuts[-1])))
    for places in [chosen] if in_order else [[each] for each in chosen]:
        check_cut(model, shape, places, fresh)


def check_cut(model: nn.Module, shape: tuple[int, ...], at: str | list[str], fresh: nn.Module) -> None:
    """``model`` whole and divided give the same numbers, and the parts' state makes ``fresh`` equal to it."""
    whole = copy.deepcopy(model)
    divided = nn.ModuleList(cut(model, at, shape) if isinstance(at, str) else cut_in_order(model, at, shape))
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))

    def all_parts(x: Tensor) -> Tensor:
        for part in divided:
            x = part(x)
        return x

    for network in (whole.eval(), divided.eval()):
        network.zero_grad()
    with torch.no_grad():
        assert torch.equal(all_parts(images), whole(images))

    whole.train(), divided.train()
    expected, got = loss_of(whole, images), loss_of(all_parts, images)
    assert got == expected
    parts = {name: value for part in divided for name, value in part.named_parameters()}
    assert parts.keys() == dict(whole.named_parameters()).keys()
    for parameter_name, parameter in whole.named_parameters():
        gradient = parts[parameter_name].grad
        if parameter.grad is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-5)

    merged = {name: value for part in divided for name, value in part.state_dict().items()}
    if len(divided) == 2:
        merged = merge_state_dicts(*divided)
    fresh.load_state_dict(merged, strict=True)
    for key, value in whole.state_dict().items():  # batch statistics have moved alike
        assert torch.equal(merged[key], value), key
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images), whole.eval()(images))


def loss_of(network, images: Tensor) -> float:
    torch.manual_seed(0)
    logits = network(images)
    loss = F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1])
    loss.backward()
    return loss.item()


# ---- which points are legal


class Step(nn.Module):
    """Mixes its inputs with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(sum(inputs) @ self.weight)


class Dag(nn.Module):
    """Step i takes the values that ``wiring[i]`` names: 0 is the input, i + 1 the result of step i."""

    def __init__(self, wiring: list[list[int]]) -> None:
        super().__init__()
        self.wiring = wiring
        self.steps = nn.ModuleList(Step() for _ in wiring)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, used in zip(self.steps, self.wiring, strict=True):
            values.append(step(*(values[index] for index in used)))
        return values[-1]


def oracle(wiring: list[list[int]]) -> list[str]:
    """After each step, which values does a later step (or the caller) still need? One, and not the input: a cut."""
    legal = []
    for done in range(1, len(wiring)):
        needed = {index for used in wiring[done:] for index in used if index <= done}
        if len(needed) == 1 and needed != {0}:
            legal += [f"steps.{needed.pop() - 1}"]
    return sorted(set(legal))


@st.composite
def wirings(draw: st.DrawFn) -> list[list[int]]:
    length = draw(st.integers(2, 7))
    recent = draw(st.integers(1, 3))  # how far back steps look: small numbers give many legal points
    return [
        draw(st.lists(st.integers(max(0, i - recent + 1), i), min_size=1, max_size=2, unique=True))
        for i in range(length)
    ]


@settings(max_examples=40)
@given(wirings())
def test_cuts_are_those_of_a_brute_force_search(wiring):
    torch.manual_seed(0)
    model = Dag(wiring)
    cuts = list_cuts(model, (4,))
    assert sorted(c.name for c in cuts) == oracle(wiring)
    for chosen in cuts:
        check_cut(model, (4,), chosen.name, Dag(wiring))
    for step in {f"steps.{i}" for i in range(len(wiring) - 1)} - {c.name for c in cuts}:
        with pytest.raises(CutError, match=f"Dag cannot be cut at {step}: "):
            cut(model, step, (4,))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)
        self.join = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        right = self.right(x)
        return self.join(left * right) + x


def branches() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), Block(), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)))


def test_an_illegal_point_says_what_crosses_and_names_the_nearest():
    with pytest.raises(
        CutError, match=r"Sequential cannot be cut at 1\.join: 2 tensors cross there: 0 \(4\), 1\.join \(4\)"
    ) as error:
        cut(branches(), "1.join", (4,))
    assert "Nearest cuts: 0 and 1" in str(error.value)
    with pytest.raises(CutError, match=r"3 tensors cross there: 0 \(4\), 1\.left \(4\), 1\.right \(4\)"):
        cut(branches(), "1.right", (4,))


def test_unknown_and_useless_points_say_so():
    with pytest.raises(CutError, match=r"no module or operation of that name\. Did you mean 2\.0\?"):
        cut(branches(), "2.00", (4,))
    with pytest.raises(CutError, match="already the output"):
        cut(branches(), "2.1", (4,))
    with pytest.raises(CutError, match="still the input"):
        cut(nn.Sequential(nn.Identity(), *branches()), "0", (4,))
    with pytest.raises(CutError, match="not a step of its own"):
        cut(
            build("vit_b_32", outputs=3, image_size=32, seed=0),
            "encoder.layers.encoder_layer_0.self_attention.out_proj",
            (3, 32, 32),
        )


def test_the_outermost_module_names_a_point_and_the_inner_names_work_too():
    cuts = {c.name: c for c in list_cuts(build("resnet18", outputs=10, image_size=64, seed=0), (3, 64, 64))}
    assert cuts["layer1"].aliases == ("layer1.1", "layer1.1.relu_1")
    assert cuts["layer1"].shape == (64, 16, 16)
    model = build("resnet18", outputs=10, image_size=64, seed=0).eval()
    images = torch.rand(2, 3, 64, 64)
    expected, *others = (cut(model, at, (3, 64, 64))[0](images) for at in ("layer1", "layer1.1", "layer1.1.relu_1"))
    assert all(torch.equal(other, expected) for other in others)


# ---- figures


def test_figures_of_a_network_small_enough_to_count_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8*3*9 + 8 parameters, 2*216*64 FLOPs, 8*8*8 floats
        nn.ReLU(inplace=True),  # no new memory
        nn.Flatten(),  # a view
        nn.Linear(512, 5),  # 512*5 + 5 parameters, 2*2560 FLOPs, 5 floats
    )
    cuts = {c.name: c for c in list_cuts(model, (3, 8, 8))}
    assert list(cuts) == ["0", "1", "2"]
    for name, shape in (("0", (8, 8, 8)), ("1", (8, 8, 8)), ("2", (512,))):
        found = cuts[name]
        assert (found.shape, found.dtype) == (shape, torch.float32)
        assert (found.front_parameters, found.back_parameters) == (224, 2565)
        assert (found.front_flops, found.back_flops) == (2 * 216 * 64, 2 * 2560)
        assert found.activation_bytes == 4 * 512
        assert (found.front_activation_bytes, found.back_activation_bytes) == (4 * 512, 4 * 5)


def test_figures_agree_with_the_published_ones():
    model = build("resnet18", outputs=1000, image_size=224, seed=0)
    for found in list_cuts(model, (3, 224, 224)):
        assert found.front_parameters + found.back_parameters == 11_689_512
        assert found.front_flops + found.back_flops == pytest.approx(2 * 1.814e9, rel=1e-3)


def test_attention_counts_as_two_matrix_products():
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    (found,) = list_cuts(nn.Sequential(Attention(), nn.Linear(8, 2, bias=False)), (2, 5, 8))
    assert found.front_flops == 2 * (2 * 2 * 5 * 5 * 8)  # heads * tokens * tokens * width, twice


# ---- the halves


def test_listing_and_cutting_leave_the_network_and_the_random_state_alone():
    model = build("mobilenet_v2", outputs=10, image_size=32, seed=0)
    model.features[3].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    list_cuts(model, (3, 32, 32))
    front, back = cut(model, "features.5", (3, 32, 32))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert front.get_submodule("features.0.0") is model.features[0][0]
    assert back.get_submodule("classifier.1") is model.classifier[1]


def test_the_back_does_not_write_into_what_it_is_given():
    front, back = cut(build("vgg11", outputs=10, image_size=32, seed=0), "features.0", (3, 32, 32))
    features = front(torch.rand(2, 3, 32, 32)).detach().requires_grad_()  # what split learning does
    before = features.detach().clone()
    back(features).sum().backward()
    assert torch.equal(features, before)
    assert features.grad.any()


def test_each_half_has_a_mode_of_its_own():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.second(self.drop(self.first(x))))

    front, back = cut(nn.Sequential(Twice(), nn.Linear(4, 4)), "0.drop", (4,))
    front.eval(), back.train()
    x = torch.ones(1, 4)
    assert torch.equal(front(x), front(x))
    assert not all(torch.equal(back(x), back(x)) for _ in range(5))


def test_dropout_written_as_a_function_follows_the_mode():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(self.inner(x), 0.5, training=self.training)
            return torch.relu(x) if self.training else x * 2

    model = nn.Sequential(Functional(), Functional(), nn.Linear(4, 3))
    check_cut(model, (4,), "0", copy.deepcopy(model))
    check_cut(model, (4,), "1.inner", copy.deepcopy(model))


def test_any_batch_size_goes_through():
    class Sizes(nn.Module):
        """Uses the batch size in every way that shapes are computed with, on both sides of the cut."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, width = x.shape
            x = self.first(x.view(batch * tokens, width)).reshape(batch, tokens, -1)
            x = x / (x.numel() / batch) + torch.zeros((batch, 1, 1), device=x.device)
            x = torch.tanh(x)
            x = x.view(batch // 1, -1, width).expand(batch, -1, -1)
            return self.second(x.reshape(x.size(0), tokens, width).mean(1)) * (1 / batch)

    model = Sizes()
    names = [c.name for c in list_cuts(model, (6, 4))]
    assert names == ["reshape", "div_1", "add", "tanh", "view_1", "expand", "reshape_1", "mean", "second"]
    with pytest.raises(CutError, match="does not have the batch as its first dimension"):
        cut(model, "first", (6, 4))
    for name in names:
        front, back = cut(model, name, (6, 4))
        for batch in (1, 2, 5):
            x = torch.rand(batch, 6, 4)
            torch.testing.assert_close(back(front(x)), model(x), atol=1e-6, rtol=1e-6)


def test_halves_follow_their_input_to_another_device():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + torch.arange(4, device=x.device)

    front, back = cut(nn.Sequential(Positions(), Positions()), "0", (4,))
    features = front.to("meta")(torch.zeros(2, 4, device="meta"))
    assert back.to("meta")(features).device.type == "meta"


def test_a_copy_of_a_half_is_independent():
    front, back = cut(branches(), "0", (4,))
    other = copy.deepcopy(front)
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert next(front.parameters()).any()
    assert other(torch.ones(1, 4)).shape == (1, 4)
    assert back(other(torch.ones(1, 4))).shape == (1, 3)


# ---- parameters, buffers and other state


def test_everything_a_network_owns_goes_to_one_half():
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.rand(4))
            self.register_buffer("kept", torch.rand(4))
            self.register_buffer("derived", torch.linspace(1, 2, 4), persistent=False)
            self.plain = torch.linspace(0, 1, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x) * self.scale + self.plain * 2
            return self.second(x + self.kept) * self.derived

    model = Owner()
    front, back = cut(model, "add", (4,))
    assert set(front.state_dict()) == {"first.weight", "first.bias", "scale"}
    assert set(back.state_dict()) == {"second.weight", "second.bias", "unused.weight", "unused.bias", "kept"}
    assert (front.plain is model.plain) and (back.derived is model.derived)
    check_cut(model, (4,), "add", Owner())


def test_tied_parameters_stay_tied_and_must_not_be_torn():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.third.weight = self.second.weight

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.second(self.first(x)), self.third.weight)

    model = Tied()
    assert [c.name for c in list_cuts(model, (4,))] == ["first"]
    check_cut(model, (4,), "first", Tied())
    with pytest.raises(CutError, match=r"second\.weight and 1 more would be used on both sides"):
        cut(model, "second", (4,))


def test_one_half_twice_is_not_a_network():
    front, _ = cut(branches(), "0", (4,))
    with pytest.raises(CutError, match=r"both hold 0\.bias and 1 more"):
        merge_state_dicts(front, front)


# ---- code that is hard to record


class Choosy(nn.Module):
    """Control flow that depends on values, around a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


def test_a_module_that_looks_at_values_is_kept_whole():
    model = nn.Sequential(nn.Linear(4, 4), Choosy(), nn.Linear(4, 3))
    assert [c.name for c in list_cuts(model, (4,))] == ["0", "1"]
    check_cut(model, (4,), "0", copy.deepcopy(model))
    check_cut(model, (4,), "1", copy.deepcopy(model))
    with pytest.raises(CutError, match=r"1\.inner: 1 is kept whole \(.*_local_scalar_dense"):
        cut(model, "1.inner", (4,))


def test_a_network_that_looks_at_values_itself_is_told_what_to_do():
    with pytest.raises(CutError, match=r"Choosy cannot be divided: .*_local_scalar_dense.*into a submodule"):
        list_cuts(Choosy(), (4,))


@pytest.mark.source  # a mutant's wrapper is a frame between this file and the package's
@pytest.mark.parametrize("model", [Choosy(), nn.Sequential(Choosy(), nn.Linear(4, 3))])
def test_where_a_network_looks_at_values_is_named(model):
    with pytest.raises(CutError, match=r"test_cut\.py:\d+ in forward"):
        cut(model, "0.inner", (4,))


def test_python_loops_over_the_batch_are_refused():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.stack([x[index] for index in range(x.shape[0])]))

    class Decide(Loop):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x if len(x) > 4 else -x)

    for model, says in (
        (Loop(), "on the number of images in the batch"),
        (Decide(), r"len\(\) gives the number of images in the batch; write x\.shape\[0\]"),
    ):
        with pytest.raises(CutError, match=says):
            list_cuts(model, (4,))


def test_an_input_that_the_network_does_not_take_names_the_layer():
    with pytest.raises(CutError, match=r"does not take an input of 5: 0 \(Linear\)"):
        list_cuts(branches(), (5,))


class Unusual(nn.Module):
    """A custom gradient, a stretch without gradient, in-place arithmetic on aliases, item assignment, unpacking."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), Frozen()

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        alias = x = self.first(x).clone()
        x += 1
        x[:, 0] = alias[:, 1] * 2
        x = Reverse.apply(x + alias)
        low, high = x.chunk(2, dim=1)
        x = torch.cat([high, low], dim=1)
        return self.second(self.frozen(x) * x.max(dim=1, keepdim=True).values)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x).relu_()


def test_unusual_code_gives_the_same_numbers_on_every_cut():
    model = nn.Sequential(nn.Linear(4, 4), Unusual(), nn.Linear(4, 3))
    names = [c.name for c in list_cuts(model, (4,))]
    assert {"0", "1.first", "1.Reverse", "1.cat", "1"} <= set(names)
    for name in names:
        check_cut(model, (4,), name, copy.deepcopy(model))


def test_sizes_in_the_code_fix_the_input_size():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            size = x.shape[-2:]
            return F.interpolate(self.second(self.first(x)[..., ::2]), size=size)

    front, back = cut(Pooled(), "first", (1, 8, 8))
    front(torch.rand(1, 1, 8, 8))
    with pytest.raises(CutError, match="the front takes inputs of 1x8x8, got 1x16x16"):
        front(torch.rand(1, 1, 16, 16))
    with pytest.raises(CutError, match="the back takes inputs of 2x8x8, got 2x16x16"):
        back(torch.rand(1, 2, 16, 16))


def test_the_input_shape_may_be_left_out_where_it_does_not_matter():
    model = build("resnet18", outputs=10, image_size=64, seed=0).eval()
    front, back = cut(model, at="layer1")
    for size in (64, 96):
        images = torch.rand(1, 3, size, size)
        assert torch.equal(back(front(images)), model(images))
    vit = build("vit_tiny_patch16_224", outputs=10, image_size=64, seed=0).eval()
    front, back = cut(vit, at="blocks.2")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(back(front(images)), vit(images))
    with pytest.raises(CutError, match="pass the shape of one image"):
        cut(nn.Sequential(nn.Flatten(), nn.Linear(75, 3), nn.ReLU()), at="1")


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small"])
def test_a_network_that_names_its_image_size_is_cut_for_that_size(name):
    model = load_timm().create_model(name, num_classes=10)
    at = list_cuts(model, (3, 256, 256))[0].name
    front, back = cut(model.eval(), at)
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        assert torch.equal(back.eval()(front.eval()(images)), model(images))
        with pytest.raises(CutError, match="takes inputs of 3x256x256, got 3x224x224"):
            front(images[:, :, :224, :224])


def test_cuts_are_listed_for_the_size_that_the_network_names():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 48 * 40, 3), nn.ReLU())
    for attribute, named in (("pretrained_cfg", {"input_size": (3, 48, 40)}), ("image_size", (48, 40))):
        setattr(model, attribute, named)
        assert [c.shape for c in list_cuts(model)] == [(2, 48, 40), (3840,), (3,)]
        delattr(model, attribute)
    with pytest.raises(CutError, match="pass the shape of one image"):
        list_cuts(model)


def test_the_size_with_which_a_network_was_built_comes_before_the_published_one():
    vit = load_timm().create_model("vit_tiny_patch16_224", num_classes=10, img_size=64)
    assert vit.pretrained_cfg["input_size"] == (3, 224, 224)
    assert list_cuts(vit) == list_cuts(vit, (3, 64, 64))
