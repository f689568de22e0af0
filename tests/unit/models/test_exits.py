"""Exits, losses, bottlenecks: shapes, bounds, and what the documentation claims."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smartedge.errors import ConfigError
from smartedge.models.bottleneck import Compress, Expand
from smartedge.models.exits import (
    TaskExit,
    distillation_losses,
    noisy_task_loss,
    probabilities,
    task_loss,
    task_losses,
)

SHAPES = [(64, 16, 16), (8, 4, 4), (3, 5, 7), (56, 56, 96), (65, 192), (512,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [0, 2])
def test_an_exit_fits_every_tensor_that_can_cross(shape, depth):
    head = TaskExit(shape, 3, width=16, depth=depth)
    logits = head(torch.randn(2, *shape))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_default_exit_is_as_large_as_documented():
    head = TaskExit((64, 16, 16), 2)
    size = sum(parameter.numel() for parameter in head.parameters())
    assert f"{size:,}".replace(",", " ") in (TaskExit.__doc__ or "")


def test_losses_equal_the_plain_ones():
    logits = torch.randn(6, 4)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(task_loss(logits, labels, "single"), F.cross_entropy(logits, labels))
    answers = torch.randint(0, 2, (6, 4)).float()
    probability = torch.sigmoid(logits)
    plain = -(answers * probability.log() + (1 - answers) * (1 - probability).log()).mean()
    torch.testing.assert_close(task_loss(logits, answers, "multi"), plain)


def test_probabilities():
    logits = torch.randn(6, 4)
    torch.testing.assert_close(probabilities(logits, "single").sum(dim=1), torch.ones(6))
    assert torch.equal(probabilities(logits, "multi"), torch.sigmoid(logits))


@pytest.mark.parametrize(
    ("shape", "bottleneck"),
    [
        ((64, 16, 16), (8, 4, 4)),
        ((64, 15, 15), (4, 4, 4)),
        ((24, 56, 56), (8, 7, 7)),
        ((56, 56, 96), (8, 7, 7)),
        ((16, 4, 4), (2, 4, 4)),
        ((65, 192), (16, 32)),
    ],
)
def test_a_bottleneck_is_narrow_bounded_and_expands_again(shape, bottleneck):
    compress, expand = Compress(shape, bottleneck), Expand(bottleneck, shape)
    narrow = compress(100 * torch.randn(2, *shape))
    assert narrow.shape == (2, *bottleneck)
    assert narrow.abs().max() <= 1
    wide = expand(narrow)
    assert wide.shape == (2, *shape)
    wide.square().mean().backward()
    assert all(parameter.grad is not None for parameter in [*compress.parameters(), *expand.parameters()])


@pytest.mark.parametrize(
    ("shape", "bottleneck", "problem"),
    [
        ((64, 16, 16), (8, 32, 32), "larger than the 16x16 map"),
        ((64, 16, 16), (8, 4), "CxHxW"),
        ((65, 192), (8, 4, 4), "TxD"),
        ((512,), (4, 4), "does not fit"),
    ],
)
def test_a_bottleneck_that_does_not_fit_is_explained(shape, bottleneck, problem):
    with pytest.raises(ConfigError, match=problem):
        Compress(shape, bottleneck)


def test_an_exit_on_a_single_point_has_no_weights_for_its_surroundings():
    head = TaskExit((4, 1, 1), 2, width=16)
    assert [module.kernel_size for module in head.modules() if isinstance(module, torch.nn.Conv2d)] == [(1, 1), (1, 1)]
    assert head(torch.randn(3, 4, 1, 1)).shape == (3, 2)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_losses_by_image_and_outcome_average_to_the_plain_one(kind):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 4, generator=generator)
    labels = torch.randint(0, 4, (6,), generator=generator)
    labels = labels if kind == "single" else torch.randint(0, 2, (6, 4), generator=generator).float()
    found = task_losses(logits, labels, kind, label_smoothing=0.2)
    assert found.shape == (6, 3)
    for outcome in range(3):
        plain = task_loss(logits[:, outcome], labels, kind, label_smoothing=0.2)
        torch.testing.assert_close(found[:, outcome].mean(), plain)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_distillation_is_the_divergence_from_the_teacher(kind):
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(5, 2, 3, generator=generator), torch.randn(5, 3, generator=generator)
    found = distillation_losses(logits, teacher, kind, temperature=3.0)
    for image in range(5):
        for outcome in range(2):
            told, said = teacher[image] / 3, logits[image, outcome] / 3
            if kind == "single":
                t, d = torch.softmax(told, 0), torch.softmax(said, 0)
                expected = (t * (t / d).log()).sum()
            else:
                t, d = torch.sigmoid(told), torch.sigmoid(said)
                expected = (t * (t / d).log() + (1 - t) * ((1 - t) / (1 - d)).log()).mean()
            torch.testing.assert_close(found[image, outcome], 9 * expected)
    same = distillation_losses(teacher[:, None], teacher, kind, temperature=3.0)
    torch.testing.assert_close(same, torch.zeros(5, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_loss_on_randomised_labels_is_least_at_the_true_answer(kind):
    """In expectation over the channel, the corrected loss is minimised by the true labels' shares, not the noisy."""
    if kind == "single":
        channel = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.15, 0.15, 0.7]])
        truth = torch.tensor([0.5, 0.2, 0.3])
        arrives = truth @ channel
    else:
        channel, truth = torch.tensor([[0.8, 0.2], [0.2, 0.8]]), torch.tensor([0.9, 0.3, 0.5])
        arrives = truth * 0.8 + (1 - truth) * 0.2
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        if kind == "single":
            each = [noisy_task_loss(logits[None], torch.tensor([label]), kind, channel) for label in range(3)]
            value = sum(share * one for share, one in zip(arrives, each, strict=True))
        else:
            value = noisy_task_loss(logits[None], arrives[None], kind, channel)
        optimizer.zero_grad()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(probabilities(logits[None].detach(), kind)[0], truth, atol=2e-3, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_channel_that_changes_nothing_leaves_the_loss(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
    columns = torch.randint(0, 2, (6, 4), generator=generator).float()
    for labels, kind, size in ((classes, "single", 4), (columns, "multi", 2)):
        clear = torch.full((size, size), 1e-30).fill_diagonal_(1.0)
        plain = task_loss(logits, labels, kind, label_smoothing=smoothing)
        torch.testing.assert_close(noisy_task_loss(logits, labels, kind, clear, label_smoothing=smoothing), plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_that_are_lacking_have_no_loss(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, requires_grad=True)
    labels = torch.randint(0, 2, (6, 4), generator=generator).float()
    lacking = torch.rand(6, 4, generator=generator) < 0.5
    known = [[logits[i, k, None], labels[i, k, None]] for i in range(6) for k in range(4) if not lacking[i, k]]
    expected = torch.stack([task_loss(x[None], y[None], "multi", label_smoothing=smoothing) for x, y in known]).mean()
    found = task_loss(logits, labels.masked_fill(lacking, torch.nan), "multi", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, logits)
    assert slope.isfinite().all()
    assert (slope[lacking] == 0).all() and (slope[~lacking] != 0).all()
    nothing = task_loss(logits, torch.full((6, 4), torch.nan), "multi")
    assert nothing.item() == 0 and (torch.autograd.grad(nothing, logits)[0] == 0).all()
