"""Networks whose answers are no logits, or that cannot learn, are refused before a run begins."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smartedge.errors import CutError
from smartedge.models.blueprint import Blueprint
from smartedge.models.fixed import kept_as_it_is
from smartedge.models.gradients import what_stays_untrained
from smartedge.models.network import divide
from smartedge.models.zoo.networks import build

Change = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A stage and a linear layer, and what comes after."""

    def __init__(self, outputs: int = 3, end: Change | None = None, channels: int = 3) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(8, outputs)
        self.end = end

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x) if self.end is None else self.end(self.logits(x))


class OwnSoftmax(nn.Module):
    """Without torch's operation, and within a module of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() / x.exp().sum(1, keepdim=True)


class ManyHeads(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sigmoid(part) for part in self.logits(x).split(1, 1)], 1)


class NoGradient(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.logits(x)


class FixedStage(Net):
    """The usual way to keep a part as it is; the image does matter."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.stage(x)
        return self.head(features.mean((2, 3)))


class Blind(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.new_zeros(len(x), 8))


class Checkpointed(Net):
    """What learns is hidden from the graph of the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.logits, x, use_reentrant=True)


class Centred(Net):
    """Changes the images that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean()
        return self.logits(x)


class TwoArguments(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.logits(x * mask)


class ImportsLate(Net):
    def forward(self, x: Tensor) -> Tensor:
        importlib.import_module("in_a_folder_that_python_does_not_search")
        return self.logits(x)


class AlwaysEvaluated(Net):
    def train(self, mode: bool = True) -> AlwaysEvaluated:
        return super().train(False)


def frozen(*names: str) -> Net:
    network = Net()
    for name in names:
        network.get_submodule(name).requires_grad_(False)
    return network


class Exported(Net):
    """As ``torch.export.export(...).module()``."""

    def eval(self) -> Exported:
        raise NotImplementedError("Calling eval() is not supported yet.")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], nn.Module]:
    """``made(network)`` lets the zoo build it, as a network of the user's own."""

    def make(network: nn.Module) -> nn.Module:
        module = types.ModuleType("networks_of_a_test")
        module.make = lambda num_classes: network  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "networks_of_a_test", module)
        return build("networks_of_a_test:make", outputs=3, image_size=16, seed=0)

    return make


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: Net(end=nn.Softmax(1)), "ends in softmax, which gives probabilities"),
        (lambda: Net(end=lambda x: F.softmax(x / 2, 1)[:, :].clone()), "ends in softmax"),
        (lambda: Net(end=OwnSoftmax()), "ends in softmax"),
        (lambda: Net(end=torch.sigmoid), "ends in sigmoid"),
        (lambda: Net(end=lambda x: torch.sigmoid(x[:, None]).squeeze(1)), "ends in sigmoid"),
        (ManyHeads, "ends in sigmoid"),
        (lambda: Net(end=F.logsigmoid), "ends in log-sigmoid"),
        (lambda: Net(end=F.hardsigmoid), "ends in hard sigmoid"),
        (lambda: Net(end=torch.tanh), "ends in tanh, which bounds the answers"),
        (lambda: Net(end=F.relu6), "ends in hardtanh"),
        (lambda: Net(end=F.relu), "ends in ReLU, which leaves no answer below zero"),
        (lambda: Net(end=lambda x: F.one_hot(x.argmax(1), 3)), "answers with numbers of torch.int64"),
        (lambda: Net(end=lambda x: torch.complex(x, x)), "answers with numbers of torch.complex64"),
        (lambda: Net(4), r"\(1, 4\) instead of \(1, 3\); let its last layer give num_classes numbers"),
        (lambda: Net(end=lambda x: x[:, :1]), "one number does not tell 3 classes apart"),
        (lambda: Net(end=lambda x: x[:, 0]), "one number does not tell 3 classes apart"),
        (lambda: Net(end=torch.squeeze), r"with \(3,\) instead of .* as x\.flatten\(1\) does"),
        (lambda: Net(end=lambda x: x[:, :, None, None]), r"with \(1, 3, 1, 1\) instead of .* as x\.flatten\(1\) does"),
        (lambda: Net(end=lambda x: x[:, :, None, None].expand(-1, -1, 4, 4)), r"a map for each class, .*x\.mean"),
        (lambda: Net(end=lambda x: {"logits": x}), r"with a dict .* the logits alone: its \['logits'\]"),
        (lambda: Net(end=lambda x: types.SimpleNamespace(logits=x)), r"with a SimpleNamespace .*: its \.logits"),
        (lambda: Net(end=lambda x: (x, x)), r"with a tuple .* the logits alone: its \[0\]"),
        (lambda: Net(end=lambda x: None), "with a NoneType .* the logits alone$"),
        (NoGradient, "nothing of it can be trained; its forward runs under torch.no_grad"),
        (lambda: Net(end=torch.detach), "nothing of it can be trained; .* or detaches the answer"),
        (
            lambda: frozen("stage", "head"),
            "nothing of it can be trained; all of its 6 parameters have requires_grad=Fal",
        ),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "nothing of it can be trained; it has no param"),
        (lambda: Net().half(), "its stage.0.weight is torch.float16; let it be built as float32"),
        (lambda: Net().to("meta"), "its stage.0.weight is on the device meta; let it be built on the CPU"),
        (lambda: Net(channels=1), "let its first layer take 3 channels, or change those of the images"),
        (TwoArguments, "let its forward take one argument, the images"),
        (ImportsLate, "'in_a_folder_that_python_does_not_search'; install it"),
        (Exported, "it is of torch.export, which fixes one mode; give the network that was exported"),
        (Blind, "the image has no influence on its answer"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    made: Callable[[nn.Module], nn.Module], network: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(CutError, match=said):
        made(network())


@pytest.mark.parametrize(
    "network",
    [
        Net,
        lambda: Net(end=nn.LogSoftmax(1)),  # the loss takes the logarithm of the softmax: twice is once
        lambda: Net(end=lambda x: 10 * torch.tanh(x)),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),  # as SqueezeNet
        FixedStage,
        Checkpointed,
        Centred,
        AlwaysEvaluated,
        lambda: frozen("stage"),
        lambda: frozen("head"),
    ],
)
def test_what_can_be_learned_is_built(made: Callable[[nn.Module], nn.Module], network: Callable[[], nn.Module]) -> None:
    model = made(network())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules()) or isinstance(model, AlwaysEvaluated)


def test_a_head_of_zeros_is_no_blind_network(made: Callable[[nn.Module], nn.Module]) -> None:
    network = Net()
    nn.init.zeros_(network.head.weight)
    assert made(network) is network


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        (
            lambda x: (x, x),
            "single",
            r"answers with a tuple .* in training mode, too: its \[0\]",
        ),
        (lambda x: x.reshape(1, -1), "single", r"answers 2 images with \(1, 6\) in training mode"),
        (lambda x: F.log_softmax(x, 1), "multi", "ends in log-softmax, which lets one of the columns be likely"),
    ],
)
def test_what_only_training_shows_is_refused(end: Change, kind: str, said: str) -> None:
    with pytest.raises(CutError, match=said):
        what_stays_untrained(Net(end=end), (3, 16, 16), must_learn=True, task_kind=kind)


def test_log_softmax_is_taken_for_classes() -> None:
    ends = Net(end=lambda x: F.log_softmax(x, 1))
    assert what_stays_untrained(ends, (3, 16, 16), must_learn=True, task_kind="single") is None
    assert what_stays_untrained(Net(), (3, 16, 16), must_learn=True, task_kind="multi") is None


def test_a_back_that_cannot_learn_is_refused(made: Callable[[nn.Module], nn.Module]) -> None:
    made(frozen("head"))
    with pytest.raises(CutError, match="nothing behind the cut stage of networks_of_a_test:make can be trained"):
        divide(Blueprint("networks_of_a_test:make", "stage", 3, 16, 0))
    divide(Blueprint("networks_of_a_test:make", "stage", 3, 16, 0, bottleneck=(2, 4, 4)))  # its expander learns
    made(Net(end=lambda x: 10 * x))
    with pytest.raises(CutError, match="nothing behind the cut head"):
        divide(Blueprint("networks_of_a_test:make", "head", 3, 16, 0))


def test_what_a_network_keeps_as_it_is_is_said(made: Callable[[nn.Module], nn.Module]) -> None:
    assert kept_as_it_is([Net()]) is None
    said = kept_as_it_is([frozen("stage")])
    assert said == (
        "the network's own code keeps something as it is: 4 of 6 parameters do not learn (requires_grad=False)"
    )
    made(AlwaysEvaluated())
    front = divide(Blueprint("networks_of_a_test:make", "stage", 3, 16, 0)).front
    front.eval()
    said = kept_as_it_is([front])
    assert not any(module.training for module in front.modules())  # as they were
    assert said is not None and said.endswith("2 modules stay in evaluation mode (BatchNorm2d and Dropout)")
