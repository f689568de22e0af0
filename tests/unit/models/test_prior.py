from __future__ import annotations

import math

import torch

from smartedge.models.prior import FactorisedPrior


def slow_bits(prior: FactorisedPrior, steps_NC: torch.Tensor) -> float:
    """Number by number, the mass of the interval around it as a mixture of logistic distribution functions."""
    total = 0.0
    for row in steps_NC.tolist():
        for channel, number in enumerate(row):
            shares = torch.softmax(prior.log_shares[:, channel], 0).tolist()
            mass = 0.0
            for share, mean, log_scale in zip(
                shares, prior.means[:, channel].tolist(), prior.log_scales[:, channel].tolist(), strict=True
            ):
                upper, lower = ((number + half - mean) / math.exp(log_scale) for half in (0.5, -0.5))
                mass += share * (1 / (1 + math.exp(-upper)) - 1 / (1 + math.exp(-lower)))
            total -= math.log2(max(mass, 1e-6))
    return total


def test_it_is_the_mass_of_the_interval_around_each_number() -> None:
    prior = FactorisedPrior(3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    steps_NC = 4 * torch.randn(40, 3, generator=generator)
    assert abs(prior(steps_NC).item() / slow_bits(prior, steps_NC) - 1) < 1e-4


def test_the_masses_of_all_levels_sum_to_one() -> None:
    levels = torch.arange(-60.0, 61.0)
    masses = [2 ** -FactorisedPrior(1)(level.reshape(1, 1)).item() for level in levels if abs(level) <= 10]
    assert abs(sum(masses) - 1) < 1e-3


def test_it_learns_the_entropy_of_what_it_sees() -> None:
    """Two channels of different spread: after training the cost is that of their own frequencies, to 3 %."""
    generator = torch.Generator().manual_seed(0)
    levels_NC = (torch.randn(4000, 2, generator=generator) * torch.tensor([0.6, 3.0])).round()
    prior = FactorisedPrior(2)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        prior(levels_NC).backward()
        optimizer.step()
    entropy = 0.0
    for channel in levels_NC.T:
        counts = channel.unique(return_counts=True)[1].double()
        entropy -= (counts * (counts / counts.sum()).log2()).sum().item()
    assert entropy < prior(levels_NC).item() < 1.03 * entropy


def test_the_gradient_is_finite_however_far_a_number_is() -> None:
    steps_NC = torch.tensor([[1e6], [-1e6], [0.0]], requires_grad=True)
    prior = FactorisedPrior(1)
    prior(steps_NC).backward()
    assert steps_NC.grad is not None and bool(steps_NC.grad.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in prior.parameters())
