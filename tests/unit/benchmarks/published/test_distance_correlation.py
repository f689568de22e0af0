"""Distance correlation: exact where it is known, and against plain loops elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from published.distance_correlation import NoPeek, distance_correlation
from published.learner import Seen


def slow(first: np.ndarray, second: np.ndarray) -> float:
    """Székely et al. 2007, definitions 4 and 5, written out."""
    n = len(first)

    def centred(rows: np.ndarray) -> np.ndarray:
        apart = np.array([[math.dist(a, b) for b in rows] for a in rows])
        out = np.empty((n, n))
        for k in range(n):
            for m in range(n):
                out[k, m] = apart[k, m] - apart[k].mean() - apart[:, m].mean() + apart.mean()
        return out

    a, b = centred(first), centred(second)
    covariance, variances = (a * b).sum() / n**2, (a * a).sum() / n**2 * ((b * b).sum() / n**2)
    return math.sqrt(max(0.0, covariance) / math.sqrt(variances))


def test_a_variable_and_itself_moved_turned_and_scaled_have_the_distance_correlation_one():
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    assert distance_correlation(rows, 3 * rows @ turn + 7).item() == pytest.approx(1.0, abs=1e-3)


def test_two_factors_of_a_full_design_have_none():
    first = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]
    second = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    assert distance_correlation(first, second).item() == pytest.approx(0.0, abs=1e-3)


def test_a_variable_that_does_not_vary_has_none_and_gives_a_gradient_that_is_a_number():
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    constant = torch.ones(8, 2, requires_grad=True)
    found = distance_correlation(rows, constant)
    found.backward()
    assert found.item() == 0.0
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_it_is_that_of_plain_loops():
    generator = torch.Generator().manual_seed(2)
    first = torch.randn(12, 3, generator=generator)
    second = first[:, :1].square() + 0.5 * torch.randn(12, 1, generator=generator)
    expected = slow(first.double().numpy(), second.double().numpy())
    assert 0.2 < expected < 0.9
    assert distance_correlation(first, second).item() == pytest.approx(expected, rel=1e-4)


def test_the_penalty_is_that_of_images_and_features_times_its_weight():
    generator = torch.Generator().manual_seed(3)
    images, features = torch.randn(10, 3, 4, 4, generator=generator), torch.randn(10, 2, 1, 1, generator=generator)
    seen = Seen(images, torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.int64))
    once = distance_correlation(images, features).item()
    assert NoPeek(2.5).penalty(features, seen).item() == pytest.approx(2.5 * once)
