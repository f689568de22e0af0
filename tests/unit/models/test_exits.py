"""Exits, losses, bottlenecks: shapes, bounds, and what the documentation claims."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smartedge.errors import ConfigError, CutError
from smartedge.models.bottleneck import Compress, Expand
from smartedge.models.exits import TaskExit, probabilities, task_loss, tensor_layout

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


def test_layouts():
    assert [tensor_layout(shape) for shape in SHAPES] == ["chw", "chw", "chw", "hwc", "td", "td"]
    with pytest.raises(CutError, match="three axes"):
        tensor_layout((1, 2, 3, 4))


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
