"""Channel pruning: what is kept, and whose gradient reaches whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from published.channel_pruning import ChannelPruning, keep_of
from published.learner import Seen
from published.max_entropy import Adversary

SCORES = torch.tensor([[0.1, 0.5, 0.3, 0.2], [4.0, 1.0, 2.0, 3.0]])


def test_the_channels_with_the_highest_scores_are_kept():
    assert keep_of(SCORES, 2, soft=False).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_the_soft_mask_is_a_sigmoid_around_the_middle_of_the_last_kept_and_the_first_pruned_score():
    expected = torch.sigmoid((SCORES[0] - 0.25) * 30)
    assert torch.allclose(keep_of(SCORES, 2, soft=True)[0], expected, rtol=1e-5)


def defence(alpha: float) -> tuple[ChannelPruning, torch.Tensor, Seen]:
    torch.manual_seed(0)
    made = ChannelPruning(alpha, 2, (4, 2, 2), Adversary("linear", (4, 2, 2), "channels-first", lr=0.0))
    made.train()
    features = torch.randn(16, 4, 2, 2, requires_grad=True)
    labels = torch.arange(16) % 2
    return made, features, Seen(torch.zeros(16, 3, 4, 4), labels, labels)


def test_images_that_are_sent_lose_whole_channels():
    made, features, _ = defence(0.5)
    sent = made.eval().release(features)
    zero = (sent == 0).all(dim=(2, 3))
    assert (zero.sum(dim=1) == 2).all()
    assert torch.equal(sent[~zero], features[~zero])
    assert made.sent_bytes == 1


def test_the_front_learns_the_task_alone():
    made, features, seen = defence(0.5)
    made.penalty(features, seen).backward()
    assert features.grad is None


def test_the_front_feels_all_of_the_task_and_the_filter_one_minus_alpha_of_it():
    alpha = 0.25
    gradients = []
    for share in (0.0, alpha):
        made, features, _ = defence(share)
        made.release(features).square().sum().backward()
        gradients.append((features.grad, made.filter.classify.weight.grad))
    (front, filter_alone), (same_front, weighed) = gradients
    assert torch.allclose(front, same_front)
    assert torch.allclose(weighed, (1 - alpha) * filter_alone, rtol=1e-4, atol=1e-7)


def test_the_filter_works_against_the_adversary():
    alpha = 0.75
    made, features, seen = defence(alpha)
    penalty = made.penalty(features, seen)
    mask = keep_of(made.filter(features.detach()), 2, soft=True)
    answers = made.adversary.network((features * mask[:, :, None, None]).detach())
    assert penalty.item() == pytest.approx(-alpha * F.cross_entropy(answers, seen.sensitive_B).item(), rel=1e-4)
    penalty.backward()
    assert made.filter.classify.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.adversary.network.parameters())
