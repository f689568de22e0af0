from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.membership import _judge, _likelihood, _others, membership
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, RandomisedResponse


class Front(nn.Module):
    """The first number of each channel: what the images of this test differ in."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0] / 2


def made(evidence_of: Callable[..., RunEvidence], mechanism: Mechanism | None, count: int = 200) -> RunEvidence:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (count, 3, 2, 2), generator=generator, dtype=torch.uint8) for _ in range(3)]
    features = [(part[:, :, 0, 0].float() - 127.5) / 63.75 / 2 for part in images]
    truth = [torch.arange(count) % 2] * 3
    return evidence_of(features, truth, truth, mechanism=mechanism, front=Front(), images=images)


def test_without_noise_a_release_is_that_of_its_image(evidence_of: Callable[..., RunEvidence]) -> None:
    found = membership(made(evidence_of, None), clock=Clock(None))
    assert found.any.auroc == found.any.balanced_accuracy == 1.0
    assert found.same_label.auroc == 1.0 and found.same_label.pairs == 400


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_noise_hides_whose_release_it_is(evidence_of: Callable[..., RunEvidence], kind: str) -> None:
    def under(scale: float) -> float:
        mechanism = Gaussian((3,), 2.0, scale, 1e-5) if kind == "gaussian" else Laplace((3,), 3.0, scale)
        return float(membership(made(evidence_of, mechanism), clock=Clock(None)).any.auroc)

    little, much = under(0.05), under(50.0)
    assert little > 0.97
    # AUROC of 200 against 200 without any signal: deviation below 0.03, and the better of two statistics; 0.15 is five.
    assert much < 0.65


def test_codewords(evidence_of: Callable[..., RunEvidence]) -> None:
    """Two images share a codeword of K half of the time at K = 2; the attack cannot tell them apart then."""

    class Choose(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot((x[:, 0, 0, 0] > 0).long(), 2).float()

    count = 400
    images = [torch.zeros(count, 3, 2, 2, dtype=torch.uint8) for _ in range(3)]
    for part in images:
        part[::2] = 255
    codes = [nn.functional.one_hot((part[:, 0, 0, 0] > 0).long(), 2).float() for part in images]
    truth = [torch.arange(count) % 2] * 3
    evidence = evidence_of(codes, truth, truth, mechanism=RandomisedResponse(2, 8.0), front=Choose(), images=images)
    found = membership(evidence, clock=Clock(None))
    # Another image has the other code half of the time: AUROC = ¾. Of those with the same label, never: ½.
    assert found.any.auroc == pytest.approx(0.75, abs=0.08)
    assert found.same_label.auroc == pytest.approx(0.5, abs=0.02)


def test_the_threshold_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    """Even positions are told apart perfectly, and the odd ones by the same threshold the wrong way round."""
    real, false = np.tile([1.0, 0.0], 10), np.tile([0.0, 1.0], 10)
    found = _judge(real, false)
    assert (found.balanced_accuracy, found.auroc, found.pairs) == (0.0, 0.5, 40)
    assert _judge(np.ones(20), np.zeros(20)).balanced_accuracy == 1.0


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_likelihood_is_that_of_the_noise_law(evidence_of: Callable[..., RunEvidence], kind: str) -> None:
    """By the densities of the law's numbers, up to a constant."""
    mechanism = Gaussian((3,), 2.0, 0.5, 1e-5) if kind == "gaussian" else Laplace((3,), 3.0, 0.5)
    law = torch.distributions.Normal(0.0, 0.5) if kind == "gaussian" else torch.distributions.Laplace(0.0, 0.5)
    released, candidates = torch.rand(4, 3), torch.rand(5, 3)
    assert mechanism.sigma == pytest.approx(float(law.stddev))
    found = _likelihood(made(evidence_of, mechanism))(released, candidates)
    expected = law.log_prob(released[:, None] - candidates).sum(dim=2)
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=0, atol=1e-4)


def test_every_image_gets_another_one_of_its_group() -> None:
    groups = torch.tensor([0, 0, 1, 1, 1, 2])
    found = _others(6, groups, torch.Generator().manual_seed(0))
    assert found is not None
    rows, others = found
    assert sorted(rows.tolist()) == sorted(others.tolist()) == [0, 1, 2, 3, 4]  # 5 is alone
    assert (groups[rows] == groups[others]).all() and (rows != others).all()
    assert _others(2, torch.tensor([0, 1]), torch.Generator()) is None
