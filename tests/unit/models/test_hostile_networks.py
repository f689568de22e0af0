"""Networks that change under the recording: halves do the same, or an error says why they cannot."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut, list_cuts


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)


class Between(nn.Module):
    """A module between two linear layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 4), inner, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Grows(Layers):
    """Multiplies by the number of calls, which is the length of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        return self.first(x) * len(self.seen)


class Remembers(Layers):
    """Adds what it computed in the call before."""

    last: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.last is not None and self.last.shape == y.shape:
            y = y + self.last
        self.last = y.detach()
        return self.second(y)


class OneIsOther(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.shape[0] > 1 else self.second(x)


class OwnGenerator(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + torch.rand(4, generator=self.generator)


class Sparse(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sparse.mm(torch.eye(4).to_sparse(), self.first(x).t()).t())


class Lent(Layers):
    """Calls a layer with a weight that is not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        state = {"weight": self.weight, "bias": self.second.bias}
        return torch.tanh(torch.func.functional_call(self.second, state, (self.first(x),)))


class FrozenStatistics(Layers):
    """Batch normalisation that its own train() keeps in evaluation mode; dropout that it keeps in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def train(self, mode: bool = True) -> FrozenStatistics:
        super().train(mode)
        self.norm.eval()
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.second(self.norm(self.first(x))))


class Positions(Layers):
    """Positions in a buffer that is empty until the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.arange(4.0).cos()
        return torch.tanh(self.second(torch.tanh(self.first(x)) * self.positions) * self.positions)


@functools.cache
def positions(count: int) -> Tensor:
    return torch.arange(count).cos()


class FromAFunction(Layers):
    """Positions that a function keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x)) * positions(4)) * positions(4))


KEPT = {
    "what a function keeps": FromAFunction,
    "a list that grows": Grows,
    "what the last call left": Remembers,
    "a branch on the number of images": OneIsOther,
    "a generator of torch": OwnGenerator,
    "sparse tensors": Sparse,
    "lent parameters": Lent,
    "modes of its own": FrozenStatistics,
    "a buffer that is filled later": Positions,
}


@pytest.mark.parametrize("name", KEPT)
def test_halves_do_what_the_network_does(name):
    torch.manual_seed(0)
    network = Between(KEPT[name]())
    names = [point.name for point in list_cuts(network, (4,))]
    assert {"first", "inner"} <= set(names)
    for at in names:
        whole = copy.deepcopy(network)
        front, back = cut(copy.deepcopy(network), at, (4,))
        for mode in (True, False):
            whole.train(mode), front.train(mode), back.train(mode)
            for call in range(3):
                x = torch.rand(5, 4, generator=torch.Generator().manual_seed(call))
                torch.manual_seed(call)
                expected = whole(x)
                torch.manual_seed(call)
                assert torch.equal(back(front(x)), expected), (at, mode, call)
        states = {**front.state_dict(), **back.state_dict()}
        assert all(torch.equal(states[key], value) for key, value in whole.state_dict().items())


def test_gradients_reach_a_lent_parameter():
    network = Between(Lent())
    front, back = cut(network, "inner.first", (4,))
    back(front(torch.rand(5, 4))).sum().backward()
    assert back.get_parameter("inner.weight").grad.abs().sum() > 0
    assert network.inner.second.weight.grad is None


def test_a_batch_that_takes_another_branch_is_refused():
    front, back = cut(Between(OneIsOther()), "first", (4,))
    with pytest.raises(CutError, match=r"decides on the number of images, and does something else here \(1, compared"):
        back(front(torch.rand(1, 4)))


class Rotary(nn.Module):
    """Two constants of the module's own, from the size of the images: what each block of today's transformers uses."""

    def __init__(self, drawn: bool = False) -> None:
        super().__init__()
        self.register_buffer("angles", torch.tensor([0.5, 1.0]), persistent=False)
        self.drawn = drawn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions(x.shape[1] // 2)[:, None] * self.angles
        if self.drawn and self.training:
            angles = angles * torch.rand(1)
        return angles.cos().flatten(), angles.sin().flatten()


class Blocks(nn.Module):
    """Blocks that share what one module computes once."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary, self.blocks = rotary, nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        cosines, sines = self.rotary(x)
        for block in self.blocks:
            x = torch.tanh(block(x)) * cosines + sines
        return self.head(x)


def test_what_a_module_computes_without_images_goes_to_both_halves() -> None:
    network = Blocks(Rotary())
    images = torch.rand(5, 4)
    assert {"blocks.0", "blocks.1", "blocks.2"} <= {point.name for point in list_cuts(network, (4,))}
    front, back = cut(network, "blocks.1", (4,))
    assert type(network(images)) is Tensor, "the cached function has given a tensor of the recording"
    assert torch.equal(back(front(images)), network(images))
    assert [name for part in (front, back) for name, _ in part.named_buffers()] == ["rotary.angles"] * 2


def test_what_a_module_draws_goes_to_one_half() -> None:
    with pytest.raises(CutError, match=r"cannot be cut at blocks.1 in training mode: 3 tensors cross there"):
        cut(Blocks(Rotary(drawn=True)), "blocks.1", (4,))


class Swaps(Layers):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.first.weight.data = self.first.weight * 0.9
        return self.second(self.first(x))


class Locked(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class PlainList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = [nn.Linear(4, 4)], nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden[0](x))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Linear(4, 4), "box": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["box"](self.heads["class"](x))


class Auxiliary(Layers):
    """Answers with two tensors in training mode."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.first(x))
        return (self.second(x), x) if self.training else self.second(x)


class Length(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(len(x), -1))


GLOBAL: dict[int, Tensor] = {}


class KeptElsewhere(Layers):
    def __init__(self) -> None:
        super().__init__()
        GLOBAL.clear()

    def forward(self, x: Tensor) -> Tensor:
        if not GLOBAL:
            GLOBAL[0] = torch.arange(4.0)
        return self.second(self.first(x) + GLOBAL[0])


class Slope(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.autograd.grad((y**2).sum(), y, create_graph=True)[0]


class NeedsGradients(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.first = Slope(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


REFUSED = {
    "the length of a batch": (Length, r"len\(\) gives the number of images in the batch; write x\.shape\[0\]"),
    "a result that is kept elsewhere": (KeptElsewhere, r"\(in a global; register it as a buffer\)"),
    "data that is replaced": (Swaps, r"replaces the data of first\.weight"),
    "a lock": (Locked, "cannot be copied: cannot pickle .*lock"),
    "a plain list of modules": (
        PlainList,
        r"a parameter does not belong to the network; keep modules in nn\.ModuleList",
    ),
    "a keyword": (Keyword, r"the name heads\.class has a word of Python's"),
    "a gradient within the network": (NeedsGradients, "cannot run without gradients, which an edge needs to send"),
    "answers that differ by mode": (Auxiliary, "with one tensor in one mode and with several in the other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_are_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(CutError, match=message):
        cut(make(), "first", (4,))


def test_data_parallel_is_the_network_in_it():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    front, _ = cut(nn.DataParallel(network), "1", (4,))
    assert front.get_submodule("0") is network[0]


class Spectrum(Layers):
    """Complex numbers cross in its middle."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.fft.irfft(torch.fft.rfft(self.first(x)).exp()))


class Chooses(Layers):
    """Whole numbers cross in its middle."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).unflatten(1, (2, 2)).argmax(2).float().repeat(1, 2))


@pytest.mark.parametrize(("network", "at", "kind"), [(Spectrum, "exp", "complex64"), (Chooses, "argmax", "int64")])
def test_only_real_numbers_can_be_sent(network, at, kind):
    assert at not in [point.name for point in list_cuts(network(), (4,))]
    with pytest.raises(CutError, match=f"{at} .*crosses there, and its {kind} cannot be sent"):
        cut(network(), at, (4,))


class Mixed(nn.Module):
    """Does something to the batch before the cut."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.mix = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 2), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.stem(x)).flatten(1))


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "turned round": lambda x: x.flip(0),
    "moved by one": lambda x: x.roll(1, 0),
    "the first image's": lambda x: x[:1].expand_as(x).clone(),
    "less the batch's mean": lambda x: x - x.mean(0, keepdim=True),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_features_that_tell_of_other_images_of_the_batch_do_not_cross(mix: Callable[[Tensor], Tensor]) -> None:
    network = Mixed(mix)
    behind = list_cuts(network, (3, 16, 16))[-1].name
    with pytest.raises(CutError, match=f"cut at {behind}: what crosses there for an image depends on the other"):
        cut(network, behind, (3, 16, 16))
    front, _ = cut(network, "stem", (3, 16, 16))  # before it each image is alone
    assert front.feature_shape == (4, 14, 14)


def test_a_front_that_draws_numbers_in_evaluation_mode_is_cut() -> None:
    network = Mixed(lambda x: nn.functional.dropout(x, 0.5, training=True))
    front, _ = cut(network, list_cuts(network, (3, 16, 16))[-1].name, (3, 16, 16))
    assert front.training


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_module_may_keep_a_tensor_that_it_computed():
    """torch.nn.utils.weight_norm keeps the weight so, and copy.deepcopy refuses it."""
    network = Between(nn.utils.weight_norm(nn.Linear(4, 4)))
    front, back = cut(network, at="inner", input_shape=(4,))
    images_BF = torch.randn(5, 4)
    assert torch.equal(back(front(images_BF)), network(images_BF))
    back(front(images_BF)).sum().backward()
    assert network.inner.weight_g.grad is not None
