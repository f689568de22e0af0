"""What a recording cannot hold is noticed: chance and counters of Python. Contexts and constants go to both halves."""

from __future__ import annotations

import copy
import dataclasses
import pickle  # noqa: TID251
import random
import time

import numpy as np
import pytest
import torch
from gradient_reversal import Reverse
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut, list_cuts, merge_state_dicts


class Layers(nn.Module):
    """Three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


class Dropped(Layers):
    """Layers are left out at random in training."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not (self.training and random.random() < 0.02):
                x = torch.tanh(layer(x))
        return x


class Scaled(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x) * float(np.random.default_rng().random() + np.random.rand())


class OwnGenerator(Layers):
    def __init__(self, generator: random.Random | np.random.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x) * self.generator.random()


class Counts(Layers):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers[0](x) * self.calls


class Clock(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x) + time.perf_counter()


class Averages(Layers):
    """Keeps a mean of what it saw, in a new tensor each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Alternates(Layers):
    """Takes another way at every second call."""

    turn = False

    def forward(self, x: Tensor) -> Tensor:
        self.turn = not self.turn
        return self.layers[self.turn](x)


CHANGING = {
    "Python's random numbers": (Dropped, "random numbers of Python or NumPy"),
    "NumPy's": (Scaled, "random numbers of Python or NumPy"),
    "its own generator of Python": (lambda: OwnGenerator(random.Random(0)), "random numbers of Python or NumPy"),
    "its own of NumPy": (lambda: OwnGenerator(np.random.default_rng(0)), "random numbers of Python or NumPy"),
    "a counter": (Counts, "at a second call"),
    "the time": (Clock, "at a second call"),
    "a buffer that is replaced": (Averages, "at a second call"),
    "another way": (Alternates, "at a second call"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_from_call_to_call_is_kept_whole_or_refused(name):
    make, reason = CHANGING[name]
    with pytest.raises(CutError, match=rf"{type(make()).__name__} cannot be divided: .*{reason}"):
        list_cuts(make(), (4,))
    model = nn.Sequential(nn.Linear(4, 4), make(), nn.Linear(4, 3))
    assert [c.name for c in list_cuts(model, (4,))] == ["0", "1"]
    with pytest.raises(CutError, match=rf"1\.layers\.0: 1 is kept whole \(.*{reason}"):
        cut(model, "1.layers.0", (4,))


def test_layers_dropped_by_python_go_on_being_dropped_at_random():
    model = nn.Sequential(nn.Linear(4, 4), Dropped(), nn.Linear(4, 3)).train()
    front, back = cut(model, "1", (4,))
    x = torch.rand(2, 4)
    random.seed(1)
    got = [back(front(x)) for _ in range(60)]
    random.seed(1)
    assert all(torch.equal(y, model(x)) for y in got)
    assert len({tuple(y.flatten().tolist()) for y in got}) > 1


def test_a_counter_goes_on_counting():
    model = nn.Sequential(nn.Linear(4, 4), Counts(), nn.Linear(4, 3))
    front, back = cut(model, "0", (4,))
    x = torch.rand(2, 4)
    assert torch.equal(back(front(x)), model[2](model[1].layers[0](model[0](x)) * 1))
    assert torch.equal(back(front(x)), model[2](model[1].layers[0](model[0](x)) * 2))
    assert model[1].calls == 2


def test_recording_leaves_python_and_numpy_where_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist()
    list_cuts(nn.Sequential(Dropped(), Scaled(), nn.Linear(4, 2)), (4,))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


class Cached(Layers):
    """Computes positions at the first call and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: Tensor | None = None
        self.known: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.arange(4.0)
        if x.shape[1] not in self.known:
            self.known[x.shape[1]] = torch.ones(4)
        return torch.tanh(self.layers[1](self.layers[0](x) + self.positions) * self.known[x.shape[1]])


def test_what_is_computed_once_and_kept_does_no_harm():
    model = Cached()
    assert {"layers.0", "layers.1"} <= {c.name for c in list_cuts(model, (4,))}
    assert model.positions is None and not model.known


# ---- contexts


class Contexts(Layers):
    """Parts without gradients, and with autocast on and off."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mean = self.layers[0](x).tanh()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.layers[1](x + mean)
        with torch.autocast("cpu", enabled=False):
            x = self.layers[2](x.float())
        return self.layers[1](x).float()


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_no_grad_and_autocast_within_a_forward(outside):
    model = nn.Sequential(nn.Linear(4, 4), Contexts(), nn.Linear(4, 3))
    names = [c.name for c in list_cuts(model, (4,))]
    assert {"0", "1"} <= set(names)
    x = torch.rand(3, 4)
    for name in names:
        whole = copy.deepcopy(model)
        front, back = cut(model, name, (4,))
        with outside():
            expected, got = whole(x), back(front(x))
            assert torch.is_grad_enabled() == (outside is not torch.no_grad)
        assert (
            torch.equal(got, expected) and got.dtype == expected.dtype and got.requires_grad == expected.requires_grad
        )
        if got.requires_grad:
            model.zero_grad()
            expected.float().sum().backward(), got.float().sum().backward()
            for key, parameter in whole.named_parameters():
                gradient = merge_gradients(front, back)[key]
                assert (gradient is None) == (parameter.grad is None), key
                assert gradient is None or torch.equal(gradient, parameter.grad), key


def merge_gradients(front: nn.Module, back: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for part in (front, back) for name, p in part.named_parameters()}


def test_an_autocast_of_the_networks_own_sees_weights_after_an_update():
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x).float()

    model = nn.Sequential(nn.Linear(4, 4), Cast(), nn.Linear(4, 3))
    front, back = cut(model, "1", (4,))
    x = torch.rand(2, 4)
    back(front(x))  # converts the weight
    with torch.no_grad():
        model[1].inner.weight.mul_(-2)
    got = back(front(x))
    torch.clear_autocast_cache()
    assert torch.equal(got, model(x))


def test_contexts_end_where_a_half_fails():
    class Fails(nn.Module):
        fails = False

        def forward(self, x: Tensor) -> Tensor:
            if self.fails:
                raise RuntimeError("on purpose")
            return x

    class Stretch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fails = nn.Linear(4, 4), Fails()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                return self.fails(self.inner(x))

    model = nn.Sequential(nn.Linear(4, 4), Stretch(), nn.Linear(4, 3))
    _, back = cut(model, "0", (4,))
    model[1].fails.fails = True
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        back(torch.rand(2, 4))
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    assert caught.value.__traceback__ is not None  # the half's frame is still there: nothing was ended by its removal


# ---- constants on both sides


class Rotary(nn.Module):
    """Positions from a buffer, used by every layer, as in rotary embeddings; a scale that both sides must not share."""

    def __init__(self, *, shared_scale: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("periods", torch.rand(4))
        self.fixed = nn.Parameter(torch.rand(4), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(4), requires_grad=shared_scale)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None] * self.periods
        turned = positions.cos().expand(x.shape[0], -1, -1)
        for layer in self.layers:
            x = torch.tanh(layer(x)) * turned + self.fixed * self.scale
        return x


def test_constants_are_given_to_both_sides():
    model, x = Rotary(), torch.rand(3, 5, 4)
    names = [c.name for c in list_cuts(model, (5, 4))]
    assert {"layers.0", "layers.1", "layers.2", "add", "add_1"} <= set(names)
    for name in names:
        front, back = cut(model, name, (5, 4))
        assert torch.equal(back(front(x)), model(x))
        assert torch.equal(back(front(x[:1])), model(x[:1]))
        state = merge_state_dicts(front, back)
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    back.to("meta")
    assert not front.periods.is_meta


def test_a_parameter_that_learns_is_not_given_to_both_sides():
    with pytest.raises(CutError, match="scale would be used"):
        cut(Rotary(shared_scale=True), "layers.1", (5, 4))


def test_a_buffer_that_changes_is_not_given_to_both_sides():
    class Counting(Rotary):
        def forward(self, x: Tensor) -> Tensor:
            self.periods.add_(1)
            return super().forward(x)

    with pytest.raises(CutError, match=r"periods would be used on both sides|tensors cross there"):
        cut(Counting(), "layers.1", (5, 4))


def test_a_buffer_of_a_layer_that_runs_on_both_sides_is_not_given_to_both():
    class Twice(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, affine=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.norm(self.layers[0](self.norm(x))))

    with pytest.raises(CutError, match=r"norm\.running_mean and 2 more would be used on both sides"):
        cut(Twice(), "layers.0", (4,))


# ---- other processes, and what is refused


@pytest.mark.parametrize("form", [pickle.dumps, copy.deepcopy], ids=["pickled", "copied"])
def test_halves_can_be_sent_to_another_process(form):
    class Reversing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Reverse.apply(x)

    globals()["Reversing"] = Reversing
    Reversing.__qualname__ = "Reversing"
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(Reversing(), nn.BatchNorm1d(4)), nn.Dropout(0.5), nn.Linear(4, 2)
    )
    front, back = cut(model, "1.0", (4,))
    other_front, other_back = (pickle.loads(form(p)) if form is pickle.dumps else form(p) for p in (front, back))
    x = torch.rand(3, 4)
    for mode in (True, False):
        for part in (front, back, other_front, other_back):
            part.train(mode)
        torch.manual_seed(0)
        expected = back(front(x))
        torch.manual_seed(0)
        assert torch.equal(other_back(other_front(x)), expected)
    assert next(other_front.parameters()) is not next(front.parameters())


@dataclasses.dataclass
class Answer:
    logits: Tensor


class Answers(Layers):
    def forward(self, x: Tensor) -> Answer:
        return Answer(self.layers[0](x))


class Inner(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Answers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](torch.relu(self.inner(x).logits))


REFUSED = {
    "scripted part": (
        lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4))),
        "its part 1 is TorchScript",
    ),
    "scripted whole": (lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4))), "it is TorchScript"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU()),
        "its part 0 is lazy and has no parameters yet; run the net",
    ),
    "dataclass": (Answers, "Answers answers with a Answer.*wrap it in a module whose forward returns the logits"),
}


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, lazy modules are called new
@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_cannot_be_recorded_say_what_to_do(name):
    make, message = REFUSED[name]
    with pytest.raises(CutError, match=message):
        list_cuts(make(), (4,))
    with pytest.raises(CutError, match=message):
        cut(make(), "0", (4,))


def test_a_dataclass_between_modules_is_no_obstacle():
    assert "inner.layers.0" in [c.name for c in list_cuts(Inner(), (4,))]


@pytest.mark.filterwarnings("ignore")  # torch's own, on importing its compiler
def test_a_compiled_network_is_divided_as_the_network_that_it_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    front, back = cut(torch.compile(model), "1", (4,))
    assert front.get_submodule("0") is model[0] and back.get_submodule("2") is model[2]


class Choosy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else x


def test_the_flops_of_what_depends_on_values_are_not_known():
    model = nn.Sequential(nn.Linear(4, 4), Choosy(), nn.Linear(4, 3))
    first, second = list_cuts(model, (4,))
    assert (first.front_flops, first.back_flops) == (2 * 4 * 4, None)
    assert (second.front_flops, second.back_flops) == (None, 2 * 4 * 3)


def twice(x: Tensor) -> Tensor:
    return torch.relu(x) * 2


class CallsScript(Layers):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.function(self.layers[0](x)))

    def __deepcopy__(self, memo: dict[int, object]) -> CallsScript:
        copied = type(self)(self.function)  # a scripted function cannot be copied
        copied.load_state_dict(self.state_dict())
        return copied


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_a_scripted_function_is_refused_by_name():
    function = torch.jit.script(twice)
    with pytest.raises(CutError, match=r"Functions under torch\.jit\.script cannot be followed"):
        list_cuts(CallsScript(function), (4,))
