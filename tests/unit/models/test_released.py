"""What a head on the edge makes of a release: figures that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from smartedge.models.recording.counting import OperatorWatch
from smartedge.models.released import SimulatedRelease

SHARES_BO = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
OUTCOMES = SimulatedRelease(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), SHARES_BO)  # two images, two outcomes


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """Of each outcome the same answer for both images: (2, O, K)."""
    return torch.tensor(probabilities).log().expand(2, -1, -1)


def test_the_mean_answer_weighs_probabilities_and_not_logits() -> None:
    read_BOK = logits_of([[0.8, 0.2], [0.4, 0.6]])
    mean_BK = OUTCOMES.mean_logits(read_BOK, "single").softmax(dim=1)
    assert torch.allclose(mean_BK, torch.tensor([[0.5, 0.5], [0.8, 0.2]]))


def test_labels_that_are_no_alternatives_have_a_mean_each() -> None:
    logits_BOK = torch.tensor([[[0.2], [0.6]], [[0.2], [0.6]]]).logit()
    mean_BK = OUTCOMES.mean_logits(logits_BOK, "multi").sigmoid()
    assert torch.allclose(mean_BK, torch.tensor([[0.5], [0.2]]))


def test_a_front_learns_through_the_answers_of_a_head() -> None:
    features_NF = torch.ones(2, 3, requires_grad=True)
    SimulatedRelease(features_NF).answers(nn.Linear(3, 2)).square().sum().backward()
    assert features_NF.grad is not None and features_NF.grad.all()


def test_a_sure_answer_stays_finite() -> None:
    sure_BOK = torch.tensor([[[200.0, -200.0]] * 2] * 2)
    for kind in ("single", "multi"):
        assert torch.isfinite(OUTCOMES.mean_logits(sure_BOK, kind)).all()


def test_a_drawn_release_has_one_answer_for_each_image() -> None:
    drawn = SimulatedRelease(torch.tensor([[3.0], [5.0]], dtype=torch.bfloat16))
    logits_BOK = drawn.answers(nn.Identity())
    assert logits_BOK.shape == (2, 1, 1)
    answered_BK = drawn.mean_logits(logits_BOK, "single")
    assert answered_BK.dtype == torch.float32 and answered_BK.tolist() == [[3.0], [5.0]]
    assert drawn.expect(torch.tensor([[1.0], [2.0]])).tolist() == [1.0, 2.0]


def test_answers_are_given_for_every_image_and_outcome() -> None:
    answers_BOK = OUTCOMES.answers(nn.Linear(2, 3))
    assert answers_BOK.shape == (2, 2, 3) and torch.equal(answers_BOK[0], answers_BOK[1])
    assert torch.allclose(OUTCOMES.expect(torch.tensor([[4.0, 8.0], [4.0, 8.0]])), torch.tensor([7.0, 4.0]))


def test_two_images_are_as_alike_as_it_is_likely_that_they_show_the_same() -> None:
    assert torch.allclose(OUTCOMES.similarities(), torch.tensor([[1.0, 0.25], [0.25, 1.0]]))


def test_drawn_releases_are_alike_by_a_kernel_with_the_median_distance() -> None:
    drawn = SimulatedRelease(torch.tensor([[0.0], [1.0], [3.0]]))  # squared distances 1, 4, 9: the median is 4
    near, middle, far = (math.exp(-square / 8) for square in (1, 4, 9))
    expected = torch.tensor([[1, near, far], [near, 1, middle], [far, middle, 1]])
    assert torch.allclose(drawn.similarities(), expected)


@pytest.mark.parametrize("draws", [False, True])
def test_operations_are_counted_and_random_numbers_noticed(draws: bool) -> None:
    with OperatorWatch() as watch:
        if draws:
            torch.rand(1)
        for _ in range(2):
            torch.ones(2, 3) @ torch.ones(3, 4)
    assert (watch.flops, watch.random) == (2 * (2 * 2 * 3 * 4), draws)


def test_detached_it_has_no_graph() -> None:
    shares = SHARES_BO.clone().requires_grad_()
    kept = SimulatedRelease(torch.ones(2, 1, requires_grad=True), shares).detach()
    assert not kept.features_NF.requires_grad and kept.shares_BO is not None and not kept.shares_BO.requires_grad
