"""Labels that the edge randomised: the cloud's channel is the edge's law, and its loss is corrected for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from smartedge.methods.back_step import cloud_step, label_channel
from smartedge.models.optim import make_optimizer
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import randomise_labels
from smartedge.types import Task

SINGLE = Task("single", ("shade",), ("a", "b", "c", "d"))
MULTI = Task("multi", ("smile", "hat"), ("smile", "hat"))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_channel_is_what_the_edge_does(epsilon):
    """20 000 labels of each kind: a share is off by 0.02 (≥ 5.6 standard errors) with probability < 3e-8 each."""
    noise = Noise(bytes(32))
    for truth in range(4):
        words = noise.words(b"s%d" % truth, 20000).reshape(-1, 1)
        found = torch.from_numpy(randomise_labels(np.full(20000, truth), SINGLE, epsilon, words))
        shares = torch.bincount(found, minlength=4) / 20000
        torch.testing.assert_close(shares, label_channel(epsilon, 4, "single")[truth], atol=0.02, rtol=0)
    for truth in range(2):
        words = noise.words(b"m%d" % truth, 40000).reshape(-1, 2)
        found = randomise_labels(np.full((20000, 2), truth, np.float32), MULTI, epsilon, words)
        yes = label_channel(epsilon, 2, "multi")[truth, 1].item()
        assert found.mean(axis=0).tolist() == pytest.approx([yes, yes], abs=0.02)


def test_a_back_learns_the_true_labels_shares_from_randomised_ones():
    """Features that tell nothing, classes 80 : 20, ε = 1: corrected answers are 80 : 20, plain ones what arrives.

    8000 labels: the estimate of 0.8 has a standard error of 0.0118 (0.0053 of what arrives, divided by 2p − 1 = 0.46).
    """
    truth = (torch.arange(8000) % 5 == 0).long()
    words = Noise(bytes(32)).words(b"labels", 8000).reshape(-1, 1)
    task = Task("single", ("x",), ("no", "yes"))
    arrived = torch.from_numpy(randomise_labels(truth.numpy(), task, 1.0, words))
    features = torch.ones(8000, 1)
    answers = {}
    for epsilon in (None, 1.0):
        back = nn.Linear(1, 2)
        optimizer = make_optimizer([back], name="sgd", lr=1.0, weight_decay=0.0, momentum=0.5)
        for _ in range(60):
            cloud_step(back, optimizer, features, arrived, "single", label_epsilon=epsilon)
        answers[epsilon] = torch.softmax(back(features[:1]), dim=1)[0, 0].item()
    assert answers[None] == pytest.approx((arrived == 0).float().mean().item(), abs=0.01)
    assert answers[None] < 0.7
    assert answers[1.0] == pytest.approx(0.8, abs=0.07)


def test_an_enormous_budget_is_the_plain_loss():
    features, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    losses = []
    for epsilon in (None, 60.0):
        torch.manual_seed(0)
        back = nn.Linear(3, 4)
        optimizer = make_optimizer([back], name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0)
        losses.append(cloud_step(back, optimizer, features, labels, "single", label_epsilon=epsilon).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert np.isfinite(label_channel(5000.0, 4, "single").numpy()).all()
