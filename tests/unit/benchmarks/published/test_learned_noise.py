"""Learned noise: its loss, its start, and what learning does to it."""

from __future__ import annotations

import math

import pytest
import torch
from published.learned_noise import LearnedNoise, shredder_loss
from torch import nn


def test_the_loss_is_the_tasks_less_a_reward_for_the_size_of_the_noise():
    noise = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    loss = shredder_loss(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64), noise, rate=0.5)
    assert loss.item() == pytest.approx(math.log(2) - 0.5 * 1.5)


def test_the_noise_starts_from_a_laplace_distribution():
    """|n| has mean b and standard deviation b; 5 standard errors: false alarm below 1e-6."""
    noise = LearnedNoise((100, 10, 10), 4, scale=0.3, seed=0).noise_NF
    sizes = noise.abs()
    assert sizes.mean().item() == pytest.approx(0.3, abs=5 * 0.3 / math.sqrt(noise.numel()))
    assert sizes.square().mean().item() == pytest.approx(2 * 0.3**2, rel=0.05)
    assert noise.mean().item() == pytest.approx(0.0, abs=5 * 0.3 * math.sqrt(2 / noise.numel()))


def test_an_image_gets_one_of_the_tensors():
    defence = LearnedNoise((2, 1, 1), 3, scale=1.0, seed=0)
    sent = defence.release(torch.zeros(200, 2, 1, 1))
    drawn = (sent[:, None] == defence.noise_NF[None]).flatten(2).all(dim=2)
    assert (drawn.sum(dim=1) == 1).all()
    assert drawn.any(dim=0).all()


def test_noise_grows_where_the_task_does_not_look_and_the_task_stays_as_it_is():
    task = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        task[1].weight.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))  # the second number does not matter
    before = task[1].weight.clone()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (512,), generator=generator)
    features = torch.stack([1 - 2.0 * labels, torch.zeros(512)], dim=1)[:, :, None, None]
    defence = LearnedNoise((2, 1, 1), 4, scale=0.5, seed=1)
    start = defence.noise_NF.detach().clone()
    defence.fit(lambda: [(features, labels)] * 40, task, rate=0.4, epochs=2, lr=0.02)
    grown = (defence.noise_NF.detach().abs() - start.abs()).flatten(1)
    assert (grown[:, 1] > 1.0).all()
    assert torch.equal(task[1].weight, before)
    assert (task(features).argmax(dim=1) == labels).all()
