"""The maximum-entropy adversary."""

from __future__ import annotations

import math

import pytest
import torch
from published.learner import Seen
from published.max_entropy import Adversary, MaxEntropy, divergence_from_uniform


def test_the_divergence_is_nothing_for_an_even_answer_and_log_two_for_a_sure_one():
    assert divergence_from_uniform(torch.zeros(3, 2)).item() == pytest.approx(0.0, abs=1e-7)
    assert divergence_from_uniform(torch.tensor([[60.0, 0.0]])).item() == pytest.approx(math.log(2))


def test_the_answer_stands_first_in_the_divergence():
    """KL((3/4, 1/4) ‖ (1/2, 1/2)) = log 2 − H(3/4) = 0.1308; the other order gives 0.1438."""
    logits = torch.tensor([[math.log(3), 0.0]])
    assert divergence_from_uniform(logits).item() == pytest.approx(0.13081, abs=1e-5)


def test_the_adversary_learns_and_the_front_gets_its_gradient_without_moving_it():
    torch.manual_seed(0)
    adversary = Adversary("linear", (2, 1, 1), "channels-first", lr=0.1)
    defence = MaxEntropy(1.0, adversary)
    sensitive = torch.arange(64) % 2
    features = torch.stack([sensitive * 2.0 - 1.0, torch.zeros(64)], dim=1)[:, :, None, None].requires_grad_()
    seen = Seen(torch.zeros(64, 3, 2, 2), sensitive, sensitive)
    for _ in range(100):
        penalty = defence.penalty(features, seen)
    assert (adversary.answer(features).argmax(dim=1) == sensitive).all()
    before = [parameter.clone() for parameter in adversary.parameters()]
    penalty.backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert all(torch.equal(old, new) for old, new in zip(before, adversary.parameters(), strict=True))
    # The front's gradient leads to a less sure answer.
    with torch.no_grad():
        moved = features - 5.0 * features.grad * len(features)
        assert divergence_from_uniform(adversary.answer(moved)) < penalty
