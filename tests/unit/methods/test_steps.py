"""The steps against plain loops: what learns, what does not, and that nothing flows back."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smartedge.methods.back_step import cloud_forward, cloud_step, image_losses
from smartedge.methods.front_step import edge_forward, edge_step, split_finish, split_start
from smartedge.methods.options import StepOptions
from smartedge.models.optim import make_optimizer, set_learning_rate


@pytest.fixture
def parts():
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    task_exit = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 2))
    back = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    return front, task_exit, back


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 2, (8,), generator=generator)


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(modules, name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0)


def test_the_edge_step_is_the_plain_one(parts, batch):
    front, task_exit, _ = parts
    images, labels = batch
    plain_front, plain_exit = copy.deepcopy(front), copy.deepcopy(task_exit)
    features = plain_front(images)
    loss = F.cross_entropy(plain_exit(features), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in [*plain_front.parameters(), *plain_exit.parameters()]:
            parameter -= 0.1 * parameter.grad

    result = edge_step(
        front, task_exit, sgd(front, task_exit), images, labels, "single", options=StepOptions(clip_norm=1e9)
    )
    assert result.loss == loss.item()
    assert torch.equal(result.features_BF, features)
    assert not result.features_BF.requires_grad
    for mine, plain in zip(
        [*front.parameters(), *task_exit.parameters()],
        [*plain_front.parameters(), *plain_exit.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-7)


def test_the_cloud_step_changes_the_back_alone_and_gives_no_gradient_unless_asked(parts, batch):
    front, _, back = parts
    images, labels = batch
    features = front(images)
    before = copy.deepcopy(front.state_dict())
    result = cloud_step(back, sgd(back), features, labels, "single")
    assert result.gradient_BF is None
    assert all(parameter.grad is None for parameter in front.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in front.state_dict().items())


def test_split_learning_is_training_the_undivided_network(parts, batch):
    front, _, back = parts
    images, labels = batch
    whole = copy.deepcopy(nn.Sequential(front, back))
    edge_step(whole, nn.Identity(), sgd(whole), images, labels, "single", options=StepOptions(clip_norm=1e9))

    front_optimizer, back_optimizer = sgd(front), sgd(back)
    features = split_start(front, images)
    result = cloud_step(
        back, back_optimizer, features, labels, "single", want_gradient=True, options=StepOptions(clip_norm=1e9)
    )
    split_finish(front_optimizer, features, result.gradient_BF, clip_norm=1e9)
    for mine, plain in zip([*front.parameters(), *back.parameters()], whole.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-7)


def test_forward_changes_nothing(parts, batch):
    front, task_exit, back = parts
    features, logits = edge_forward(front, task_exit, batch[0])
    again = cloud_forward(back, features)
    assert features.dtype == logits.dtype == again.dtype == torch.float32
    assert not (features.requires_grad or logits.requires_grad or again.requires_grad)


def test_bfloat16_gives_float32_to_the_outside(parts, batch):
    front, task_exit, back = parts
    images, labels = batch
    result = edge_step(
        front, task_exit, sgd(front, task_exit), images, labels, "single", options=StepOptions("bfloat16")
    )
    assert result.features_BF.dtype == torch.float32
    exact, _ = edge_forward(front, task_exit, images)
    assert (result.features_BF - exact).abs().max() < 0.5
    assert cloud_step(back, sgd(back), result.features_BF, labels, "single", options=StepOptions("bfloat16")).loss > 0


def test_gradients_are_clipped_together(parts, batch):
    front, task_exit, _ = parts
    before = copy.deepcopy([*front.parameters(), *task_exit.parameters()])
    edge_step(front, task_exit, sgd(front, task_exit), *batch, "single", options=StepOptions(clip_norm=0.01))
    moved = torch.cat(
        [(a - b).flatten() for a, b in zip(before, [*front.parameters(), *task_exit.parameters()], strict=True)]
    )
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_learning_rate_warms_up_and_falls_to_zero(parts):
    optimizer = sgd(parts[0])
    rates = [set_learning_rate(optimizer, peak=1.0, step=step, steps=100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.01
    assert set_learning_rate(optimizer, peak=1.0, step=0, steps=1) == 1.0


def test_weight_decay_spares_biases_and_norms():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = make_optimizer([model], name="adamw", lr=1e-3, weight_decay=0.1, momentum=0.9).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]


def test_the_loss_of_each_image_is_its_cross_entropy_and_lacking_labels_count_for_nothing():
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 1.0, 1.0]])
    expected = F.cross_entropy(logits, torch.tensor([1, 2]), reduction="none")
    found = image_losses(logits, torch.tensor([1, 2]))
    assert found.dtype == "float64" and found.tolist() == expected.tolist()
    logits, nan = torch.tensor([[2.0, -1.0]] * 4), float("nan")
    labels = torch.tensor([[1.0, 1.0], [0.0, nan], [nan, 1.0], [nan, nan]])
    yes, no = F.softplus(-logits[0]).tolist(), F.softplus(logits[0]).tolist()
    expected = [(yes[0] + yes[1]) / 2, no[0], yes[1], 0.0]
    assert image_losses(logits, labels).tolist() == pytest.approx(expected)
    assert image_losses(logits[:1], labels[:1]).tolist() == pytest.approx(expected[:1])
