"""Parameters that get no gradient, although images use them, are named before a run begins."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut
from smartedge.models.gradients import what_stays_untrained

SHAPE = (3, 8, 8)
Change = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Two stages, something between them, and a head."""

    def __init__(self, between: Change | nn.Module = nn.Identity()) -> None:  # noqa: B008 - it holds nothing
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.between = between
        self.two = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.between(self.one(x))).mean((2, 3)))


class Outside(nn.Module):
    """Leaves torch, so what comes after it has no history."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.conv(x).detach().numpy()))


class Again(nn.Module):
    """A checkpoint of two layers, in the form that needs an input with a gradient."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.reentrant = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), reentrant

    def layers(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layers, x, use_reentrant=self.reentrant)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2


class Unlearned(Doubled):
    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> None:
        return None


@torch.no_grad()
def without_gradients(x: Tensor) -> Tensor:
    return x + 1


@pytest.mark.parametrize("between", [torch.detach, lambda x: x.data, without_gradients, Unlearned.apply, Outside()])
def test_what_gets_no_gradient_is_named(between: Change) -> None:
    said = what_stays_untrained(Net(between), SHAPE, must_learn=True)
    count, total = (6, 10) if isinstance(between, Outside) else (4, 8)
    assert said is not None
    assert f"{count} of {total} parameters get no gradient (one.0.weight, one.0.bias, one.1.weight, one.1.bias" in said


@pytest.mark.parametrize("between", [torch.round, torch.sign, lambda x: (x > 0).float() * x.detach() + 0 * x])
def test_gradients_that_are_always_zero_are_named(between: Change) -> None:
    said = what_stays_untrained(Net(between), SHAPE, must_learn=True)
    assert said is not None
    assert "the gradient of 4 of 8 parameters is always zero (one.0.weight, one.0.bias" in said


def zero_head() -> Net:
    network = Net()
    nn.init.zeros_(network.head.weight)
    return network


def with_a_spare_layer() -> Net:
    network = Net()
    network.spare = nn.Linear(3, 3)
    return network


def partly_frozen() -> Net:
    network = Net(torch.detach)
    network.one.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    "network", [Net, zero_head, with_a_spare_layer, partly_frozen, lambda: Net(Again(reentrant=True)), nn.ReLU]
)
def test_nothing_is_said_of_what_learns_or_is_not_used(network: Callable[[], nn.Module]) -> None:
    assert what_stays_untrained(network(), SHAPE, must_learn=True) is None


def test_names_are_those_of_the_users_network_in_a_half_too() -> None:
    front, _ = cut(Net(torch.detach), "two", SHAPE)
    said = what_stays_untrained(nn.Sequential(nn.Identity(), front), SHAPE, must_learn=False)
    assert said is not None
    assert "(one.0.weight, one.0.bias" in said


def test_a_look_leaves_everything_as_it_was() -> None:
    torch.manual_seed(3)
    network = Net(lambda x: nn.functional.dropout(x.detach()) * random.random() * np.random.random()).eval()
    nn.init.zeros_(network.head.weight)
    network.one[1].train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert what_stays_untrained(network, SHAPE, must_learn=True) is not None
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[1:]


def test_a_backward_pass_that_fails_is_an_error_of_the_network() -> None:
    with pytest.raises(CutError, match="backward pass of the network fails: NotImplementedError"):
        what_stays_untrained(Net(Doubled.apply), SHAPE, must_learn=True)
    with pytest.raises(CutError, match=r"backward pass of the network fails: .*inplace operation"):
        what_stays_untrained(Net(lambda x: x.exp().mul_(2).sigmoid().add_(1)), SHAPE, must_learn=True)


def test_a_network_of_which_nothing_learns_is_refused_where_it_must_learn() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Again(reentrant=True))
    network[0].requires_grad_(False)
    with pytest.raises(CutError, match="nothing of the network can be trained: 4 of 6 parameters get no gradient"):
        what_stays_untrained(network, SHAPE, must_learn=True)
    said = what_stays_untrained(network, SHAPE, must_learn=False)
    assert said is not None
    assert "in a checkpoint with use_reentrant=True" in said


def test_a_back_that_cannot_answer_with_a_gradient_is_refused() -> None:
    _, back = cut(Net(torch.detach), "one.0", SHAPE)
    with pytest.raises(CutError, match="no gradient comes through the network behind the cut"):
        what_stays_untrained(back, back.feature_shape, must_learn=True, answers=True)
    assert what_stays_untrained(back, back.feature_shape, must_learn=True) is not None
    _, back = cut(Net(), "one.0", SHAPE)
    assert what_stays_untrained(back, back.feature_shape, must_learn=True, answers=True) is None


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_cut_that_takes_the_gradient_from_layers_behind_it_is_refused() -> None:
    with pytest.raises(CutError, match=r"cannot be cut at one: between.first.weight, .* would learn nothing behind it"):
        cut(Net(Again(reentrant=True)), "one", SHAPE)
    cut(Net(Again(reentrant=True)), "between", SHAPE)
    cut(Net(Again(reentrant=False)), "one", SHAPE)
    cut(Net(Outside()), "one", SHAPE)  # what the network itself does not train is no fault of the cut
