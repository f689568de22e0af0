"""The attackers of one audit: who is trained, and what stands beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from smartedge.artifacts.attacks import KindFigures, NamedFigures
from smartedge.artifacts.certificate import AttributeBound, Certificate
from smartedge.lab.audit import call as calls
from smartedge.lab.audit.attacks import Unit
from smartedge.lab.audit.attributes import BestAttackers
from smartedge.lab.audit.call import Call, attribute_blocks
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.settings import AuditSettings
from smartedge.runs.progress import Quiet


def test_every_seed_reads_the_releases_and_the_first_alone_the_undefended_front(
    evidence_of: Callable[..., RunEvidence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = [torch.arange(count) % 2 for count in (64, 32, 32)]
    features = [(2.0 * part - 1).unsqueeze(1) + 0.1 * torch.randn(len(part), 3) for part in truth]
    evidence = evidence_of(features, truth, desired=[(part + 1) % 2 for part in truth])
    undefended = replace(evidence_of([part.clone() for part in features], truth), name="undefended")
    settings = AuditSettings(attacks=("linear",), seeds=2)
    tried: list[Unit] = []
    infer = calls.infer
    monkeypatch.setattr(
        calls, "infer", lambda evidences, units, **how: tried.extend(units) or infer(evidences, units, **how)
    )
    call = Call(settings, tmp_path, Clock(None), Quiet())
    block = attribute_blocks(call, evidence, undefended, call.clock, None)["hidden"]
    assert block.undefended is not None and block.undefended.balanced_accuracy > 0.9
    counted = Counter((unit.evidence, unit.seed) for unit in tried)
    assert counted["undefended", 0] == 1 and counted["undefended", 1] == 0
    assert counted["defended", 0] == counted["defended", 1] == 2, "two learning rates each"


@pytest.mark.parametrize(("by_person", "settled"), [(0.60, False), (0.655, True), (None, True)])
def test_the_best_attack_is_counted_as_the_certificate_counts(
    by_person: float | None, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of 67 % counts persons. The attack reads 66 % of the images, which may be 60 % where persons count."""
    measured = {"balanced_accuracy": 0.66, "balanced_accuracy_by_person": by_person}
    best = NamedFigures.model_construct(**measured)
    found = BestAttackers(best, best, {"linear": KindFigures.model_construct(**measured)})
    monkeypatch.setattr(calls, "summarise", create_autospec(calls.summarise, return_value=found))
    certificate = Certificate.model_construct(attributes={"hidden": AttributeBound.model_construct(bound=0.67)})
    assert (calls._settled(certificate, {"hidden": [found]}, found) == {"hidden"}) == settled
