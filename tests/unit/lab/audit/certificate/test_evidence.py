"""The certificate of an attacker's evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from smartedge.errors import DataError
from smartedge.lab.audit.certificate.evidence import certify_evidence
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Persons
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.privacy.mechanisms import Gaussian
from smartedge.runs.progress import Quiet


class Front(torch.nn.Module):
    """Images of one grey level each; the level tells the attribute."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2, 0, 0] / 4


@pytest.fixture
def evidence(evidence_of: Callable[..., RunEvidence]) -> RunEvidence:
    truth = [torch.arange(200) % 2] * 3
    images = [(100 + 50 * part.to(torch.uint8))[:, None, None, None].expand(-1, 3, 4, 4) for part in truth]
    features = [Front()((part.float() - 127.5) / 63.75) for part in images]
    mechanism = Gaussian((2,), 1.0, 0.4, 1e-5)
    return evidence_of(features, truth, truth, mechanism=mechanism, front=Front(), images=images)


def certified(evidence: RunEvidence, clock: Clock | None = None):
    return certify_evidence(evidence, ["hidden"], clock=clock or Clock(None), monitor=Quiet())


def test_the_attackers_own_images_count_where_the_front_did_not_learn_from_them(evidence: RunEvidence) -> None:
    seen = certified(evidence)
    assert seen.splits == ("test",) and seen.attributes["hidden"].units == (100, 100)
    apart = certified(replace(evidence, train=replace(evidence.train, seen=False)))
    assert apart.splits == ("test", "audit") and apart.attributes["hidden"].units == (200, 200)
    assert apart.attributes["hidden"].bound < seen.attributes["hidden"].bound
    halved = replace(evidence.train, seen=False, views_VNF=tuple(v.half() for v in evidence.train.views_VNF))
    assert certified(replace(evidence, train=halved)).splits == ("test",), "rounded features are not those released"


def test_without_noise_or_with_the_label_itself_nothing_is_certified(evidence: RunEvidence) -> None:
    assert certified(replace(evidence, noisy=False)) is None
    known = replace(evidence, labelled=True, task=replace(evidence.task, columns=("hidden",)))
    assert certified(known) is None


def test_persons_that_the_front_learned_from_are_refused(evidence: RunEvidence) -> None:
    persons = Persons("identity", *[torch.arange(200) // 4] * 3)
    assert sum(certified(replace(evidence, persons=persons)).attributes["hidden"].units) == 50
    with pytest.raises(DataError, match="3 persons of the protected images are also"):
        certified(replace(evidence, persons=replace(persons, also_in_training=3)))
    with pytest.raises(DataError, match="7 of the held-out images are training images too"):
        certified(replace(evidence, copies_in_training=7))


def test_a_short_clock_means_fewer_draws_and_a_bound_that_is_hardly_higher(evidence: RunEvidence) -> None:
    """The clock moves by a second at each look."""
    now = iter(range(1000))
    quick = certified(evidence, Clock(10.0, lambda: float(next(now)))).attributes["hidden"]
    full = certified(evidence).attributes["hidden"]
    assert quick.draws == 2_000 and full.draws > 50_000
    assert full.bound < quick.bound < full.bound + 0.03
    later = iter(range(1000))
    assert certified(evidence, Clock(200.0, lambda: float(next(later)))).attributes["hidden"].draws > 20_000
    never = iter(range(1000))
    with pytest.raises(OutOfTime):
        certified(evidence, Clock(1.0, lambda: float(next(never))))
