"""One back for edges whose cuts differ."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smartedge.errors import CutError
from smartedge.models.blueprint import Blueprint
from smartedge.models.cutting.cut import cut_in_order
from smartedge.models.entrances import Entering, Entrances
from smartedge.models.network import divide
from smartedge.models.zoo.networks import build

CUTS = ("layer1", "layer3")
KINDS = [{}, {"bottleneck": (4, 2, 2)}, {"codebook": 5}]


def entering(offsets_BK: torch.Tensor | None = None, **features: torch.Tensor) -> Entering:
    """The images of layer1 come first in the batch, whatever the order of the arguments."""
    count = sum(map(len, features.values()))
    return Entering(features, torch.arange(count), offsets_BK)


def blueprint(**changes) -> Blueprint:
    return Blueprint(name="resnet18", at="layer1", outputs=3, image_size=32, seed=4, small_input=False, **changes)


@pytest.mark.parametrize("training", [True, False])
def test_parts_run_after_each_other_are_the_network(training: bool) -> None:
    model = build("resnet18", outputs=3, image_size=32, small_input=False, seed=0).train(training)
    front, middle, back = cut_in_order(model, ["layer1", "layer3"], (3, 32, 32))
    images_BCHW = torch.randn(4, 3, 32, 32)
    expected = model(images_BCHW)
    assert torch.equal(back(middle(front(images_BCHW))), expected)
    assert middle.feature_shape == (256, 2, 2)
    names = [set(part.state_dict()) for part in (front, middle, back)]
    assert set.union(*names) == set(model.state_dict()) and sum(map(len, names)) == len(model.state_dict())
    assert {id(p) for part in (front, middle, back) for p in part.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("cuts", [("layer3", "layer1"), ("layer2", "layer2"), ("layer1", "layer1.1")])
def test_cuts_that_are_not_in_order_are_refused(cuts: tuple[str, ...]) -> None:
    with pytest.raises(CutError, match="does not lie behind"):
        Entrances.at_cuts(blueprint(), cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_every_entrance_is_the_back_of_its_cut(kind) -> None:
    both = Entrances.at_cuts(blueprint(**kind), CUTS).eval()
    for cut in CUTS:
        alone = divide(dataclasses.replace(blueprint(**kind), at=cut))
        assert both.shapes[cut] == alone.feature_shape
        features_BF = torch.rand(2, *alone.feature_shape)
        assert torch.equal(both(entering(**{cut: features_BF})), alone.back.eval()(features_BF))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_both_cuts_pass_the_common_layers_together(kind) -> None:
    """Batch normalisation behind the later cut sees all images: in training both groups depend on each other."""
    both = Entrances.at_cuts(blueprint(**kind), CUTS)
    early, late = (torch.rand(3, *both.shapes[cut]) for cut in CUTS)
    together = both(entering(layer3=late, layer1=early))
    assert together.shape == (6, 3)
    assert not torch.allclose(together[:3], both(entering(layer1=early)), atol=1e-4)
    both.eval()
    together = both(entering(layer3=late, layer1=early))
    assert torch.allclose(together[:3], both(entering(layer1=early)), atol=1e-5)
    assert torch.allclose(together[3:], both(entering(layer3=late)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_each_cut_load_into_its_own_back(kind) -> None:
    both = Entrances.at_cuts(blueprint(**kind), CUTS)
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    both.eval()
    for cut in CUTS:
        back = divide(dataclasses.replace(blueprint(**kind), at=cut)).back.eval()
        back.load_state_dict(both.state_from(cut), strict=True)
        features_BF = torch.rand(2, *both.shapes[cut])
        assert torch.equal(both(entering(**{cut: features_BF})), back(features_BF))


def test_layers_before_a_later_cut_do_not_learn_from_it() -> None:
    both = Entrances.at_cuts(blueprint(), CUTS)
    both(entering(layer3=torch.rand(4, *both.shapes["layer3"]))).sum().backward()
    assert all(parameter.grad is None for parameter in both.layers[0].parameters())
    assert all(parameter.grad is not None for parameter in both.layers[1].parameters())


def test_answers_are_in_the_order_of_the_batch_and_offsets_count_in_training_alone() -> None:
    both = Entrances.at_cuts(blueprint(), CUTS).eval()
    early, late = (torch.rand(2, *both.shapes[cut]) for cut in CUTS)
    in_order = both(entering(layer1=early, layer3=late))
    mixed = both(Entering({"layer1": early, "layer3": late}, torch.tensor([1, 3, 0, 2])))
    assert torch.equal(mixed, in_order[[2, 0, 3, 1]])
    offsets_BK = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(both(entering(offsets_BK, layer1=early, layer3=late)), in_order)
    for module in (both.entrances, both.layers):  # the same answers, so that only the offsets differ
        module.eval()
    both.training = True
    assert torch.equal(both(entering(offsets_BK, layer1=early, layer3=late)), in_order + offsets_BK)


def test_an_image_that_passes_alone_is_normalised_by_the_running_statistics() -> None:
    both = Entrances.at_cuts(blueprint(), CUTS)
    early, late = torch.rand(1, *both.shapes["layer1"]), torch.rand(3, *both.shapes["layer3"])
    before = {name: tensor.clone() for name, tensor in both.layers[0].state_dict().items()}
    both(entering(layer1=early, layer3=late)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in both.layers[0].state_dict().items())
    assert all(module.training for module in both.modules())
    assert all(parameter.grad is not None for parameter in both.layers[0].parameters())
