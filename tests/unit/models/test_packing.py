"""A module with several results is a place to cut: they cross as one tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut, cut_in_order, list_cuts, merge_state_dicts
from smartedge.models.exits import TaskExit


class Streams(nn.Module):
    """Tokens of a width 6 and of a width 4, which learn from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.thin = nn.Linear(6, 6), nn.Linear(4, 4)
        self.over = nn.Linear(6, 4)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        wide, thin = streams
        return [self.wide(wide).relu(), self.thin(thin) + self.over(wide.mean(1, keepdim=True))]


class Crossing(nn.Module):
    """As CrossViT: lists of tokens go from block to block."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(3, 4, 8, 8)
        self.blocks = nn.ModuleList([Streams(), Streams(), Streams()])
        self.head = nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        streams = [self.one(images).flatten(2).mT, self.two(images).flatten(2).mT]
        for block in self.blocks:
            streams = block(streams)
        wide, thin = streams
        return self.head(torch.cat([wide.mean(1), thin.add_(1).mean(1)], 1))  # it writes into what may have crossed


class Inner(nn.Module):
    """As TNT: the pixels of each patch are rows of their own, 4 for an image; and the patches."""

    def __init__(self, *, image_first: bool) -> None:
        super().__init__()
        self.image_first = image_first
        self.patches = nn.Linear(12, 8)

    def forward(self, patches_BTD: Tensor) -> tuple[Tensor, Tensor]:
        rows = patches_BTD if self.image_first else patches_BTD.transpose(0, 1)
        return rows.reshape(-1, 4, 3), self.patches(patches_BTD)


class Nested(nn.Module):
    def __init__(self, *, image_first: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.inner = Inner(image_first=image_first)
        self.pixels, self.head = nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        pixels, patches = self.inner(self.embed(images).flatten(2).mT)
        rows = self.pixels(pixels).mean(1)
        own = rows.reshape(-1, 4, 8).mean(1) if self.inner.image_first else rows.reshape(4, -1, 8).mean(0)
        return self.head(patches.mean(1) + own)


class Maps(nn.Module):
    """As HRNet: maps of two sizes."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, stride=2, padding=1)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"fine": self.fine(images), "coarse": self.coarse(images)}

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.norm, self.head = Maps.Stage(), nn.BatchNorm2d(4), nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage(images)
        return self.head(torch.cat([self.norm(maps["fine"]).mean((2, 3)), maps["coarse"].mean((2, 3))], 1))


def loss_and_gradients(network: nn.Module, run, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = run(images).square().sum()
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("network", "at", "shape"),
    [
        (Crossing, "blocks.0", (16 * 3 + 4 * 2, 2)),  # 16 tokens of width 6 and 4 of 4: width 2 fits both
        (Crossing, "blocks.2", (16 * 3 + 4 * 2, 2)),  # what crosses is written into
        (lambda: Nested(image_first=True), "inner", (4 * 12 + 4 * 8,)),  # no width fits rows of 3 and 8
        (lambda: Skipping(skip=False), "pair", (2 * 4 * 14 * 14,)),  # without gradients is the second alone
        (Maps, "stage", (4 * 16 * 16 + 6 * 8 * 8,)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_several_results_cross_as_one_tensor(network, at, shape, training):
    torch.manual_seed(0)
    whole = network().train(training)
    divided = copy.deepcopy(whole)
    front, back = cut(divided, at, (3, 16, 16))
    images = torch.randn(3, 3, 16, 16)
    features = front(images)
    assert features.shape == (3, *shape) == (3, *front.feature_shape)
    expected, wanted = loss_and_gradients(whole, whole, images)
    loss, _ = loss_and_gradients(divided, lambda x: back(front(x)), images)
    assert torch.equal(loss, expected)
    found = {**dict(front.named_parameters()), **dict(back.named_parameters())}
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name].grad, gradient)
    assert merge_state_dicts(front, back).keys() == whole.state_dict().keys()


def test_rows_of_several_images_are_not_mixed():
    network = Nested(image_first=False)
    with pytest.raises(CutError, match=r"inner: what crosses there .* rows of several images lie mixed"):
        cut(network, "inner", (3, 16, 16))
    cut(Nested(image_first=True), "inner", (3, 16, 16))


def nearly_blind(*, image_first: bool) -> nn.Module:
    """Its features are nearly the same for all images."""
    network = Nested(image_first=image_first)
    with torch.no_grad():
        network.embed.weight.mul_(1e-5), network.embed.bias.fill_(1)
    return network


def test_mixed_rows_are_seen_where_features_hardly_depend_on_the_image():
    with pytest.raises(CutError, match=r"inner: what crosses there .* rows of several images lie mixed"):
        cut(nearly_blind(image_first=False), "inner", (3, 16, 16))
    cut(nearly_blind(image_first=True), "inner", (3, 16, 16))


def test_several_cuts_in_order():
    torch.manual_seed(0)
    network, images = Crossing().eval(), torch.randn(2, 3, 16, 16)
    expected = network(images)
    for part in cut_in_order(network, ["blocks.0", "blocks.1"], (3, 16, 16)):
        images = part(images)
    assert torch.equal(images, expected)


def test_what_is_given_to_the_back_is_not_written_into():
    front, back = cut(Crossing(), "blocks.2", (3, 16, 16))
    features = front(torch.randn(2, 3, 16, 16)).detach()
    before = features.clone()
    back(features)
    assert torch.equal(features, before)


def test_an_exit_takes_them():
    point = next(each for each in list_cuts(Crossing(), (3, 16, 16)) if each.name == "blocks.0")
    assert point.layout == "tokens"
    assert TaskExit(point.shape, 3, layout=point.layout)(torch.randn(2, *point.shape)).shape == (2, 3)


class Pair(nn.Module):
    """The second of two results is a constant for what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first = self.layer(images)
        with torch.no_grad():
            return first, first.relu()


class Skipping(nn.Module):
    """Without ``skip`` the two results alone cross behind ``pair``, else the images cross too."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.skip, self.pair, self.head = skip, Pair(), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.pair(images)
        logits = self.head((first * second).mean((2, 3)))
        return logits + images.mean((1, 2, 3)).unsqueeze(1) if self.skip else logits


def test_all_that_crosses_are_results_of_the_module():
    assert "pair" in [each.name for each in list_cuts(Skipping(skip=False), (3, 8, 8))]
    assert "pair" not in [each.name for each in list_cuts(Skipping(skip=True), (3, 8, 8))]


class Branches(nn.Module):
    """Two tensors cross, which are no module's results."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.both, self.head = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        first = self.begin(images)
        second = first.relu()
        return self.head((first * second).mean((2, 3)))


def test_results_of_no_module_are_no_place_to_cut():
    assert [each.name for each in list_cuts(Branches(), (3, 8, 8))] == ["begin", "mul", "mean"]
