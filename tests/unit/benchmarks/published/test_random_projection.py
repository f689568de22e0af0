"""Random projection: it keeps lengths and inner products in expectation."""

from __future__ import annotations

import pytest
import torch
from published.random_projection import RandomProjection


def test_lengths_and_inner_products_are_kept():
    """A length squared is kept up to √(2/K) = 0.01 (one standard deviation): five of them, false alarm below 1e-6."""
    projection = RandomProjection((3, 2, 2), 20_000, seed=0)
    first, second = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    first, second = first / first.norm(), second / second.norm()
    sent = projection.release(torch.stack([first, second]).reshape(2, 3, 2, 2))
    assert sent.shape == (2, 20_000)
    assert sent[0].square().sum().item() == pytest.approx(1.0, abs=0.05)
    assert (sent[0] @ sent[1]).item() == pytest.approx((first @ second).item(), abs=0.05)


def test_it_is_one_matrix_for_all_images_and_another_for_another_seed():
    features = torch.randn(5, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    projection = RandomProjection((4, 1, 1), 2, seed=3)
    assert torch.allclose(projection.release(2 * features), 2 * projection.release(features))
    assert torch.equal(RandomProjection((4, 1, 1), 2, seed=3).matrix_DK, projection.matrix_DK)
    assert not torch.equal(RandomProjection((4, 1, 1), 2, seed=4).matrix_DK, projection.matrix_DK)
