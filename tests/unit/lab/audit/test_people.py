from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smartedge.lab.audit.call import Call
from smartedge.lab.audit.certificate.sets import SetLaw, set_law
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Crossing, Persons, of_a_training_image
from smartedge.lab.audit.features.evidence import evidence_of as given_evidence
from smartedge.lab.audit.features.table import table_of
from smartedge.lab.audit.people import _certificate, _strongest, find_identity, find_persons, fold_of
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.settings import AuditSettings
from smartedge.privacy.mechanisms import Gaussian, Mechanism
from smartedge.runs.progress import Quiet


class Front(nn.Module):
    """The first pixel of each channel, between −1 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0].clamp(-1, 1)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("identity", "persons"):
        monkeypatch.setattr(f"smartedge.lab.audit.{module}._LOOKS", 2)
        monkeypatch.setattr(f"smartedge.lab.audit.{module}._EVERY", 30)


def made(evidence_of: Callable[..., RunEvidence], mechanism: Mechanism | None, count: int = 240) -> RunEvidence:
    """Six images of each person; the person decides the features, and whether the hidden attribute is there."""
    generator = torch.Generator().manual_seed(0)
    persons = [torch.arange(count) // 6 + 1000 * split for split in range(3)]
    features, labels = [], []
    for who in persons:
        places = torch.rand((count // 6, 3), generator=generator) * 2 - 1
        hidden = (places[:, 0] > 0).long()
        features.append((places[who % 1000] + 0.2 * torch.randn((count, 3), generator=generator)).clamp(-1, 1))
        labels.append(hidden[who % 1000])
    images = [
        ((part * 63.75) + 127.5).round().to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2) for part in features
    ]
    evidence = evidence_of(features, labels, mechanism=mechanism, front=Front(), images=images)
    return replace(evidence, persons=Persons("identity", *persons))


def call(folder: Path, attacks: tuple[str, ...] | None = None, seconds: float | None = None) -> Call:
    return Call(AuditSettings(attacks=attacks), folder, Clock(seconds), Quiet())


def test_identity_and_persons_of_a_run_beside_the_undefended_one(
    evidence_of: Callable[..., RunEvidence], tmp_path: Path
) -> None:
    noisy = made(evidence_of, Gaussian((3,), 3**0.5, 1.5, 1e-5))
    plain = made(evidence_of, None)
    asked = call(tmp_path)
    identity = find_identity(asked, noisy, plain)
    assert identity is not None
    assert identity.undefended is not None
    assert identity.undefended.auroc > identity.linkers[identity.best].auroc + 0.1
    assert {"mixture", "mixture+label"} <= set(identity.linkers)
    found = find_persons(asked, noisy, plain)
    assert found is not None
    assert list(found) == ["hidden"]
    assert list(found["hidden"]) == ["1", "2-3", "4-9"]
    several = found["hidden"]["4-9"]
    assert several.undefended is not None
    assert several.undefended.balanced_accuracy > 0.8
    assert several.certificate is not None
    assert several.certificate.label_known  # labels travel in clear
    assert several.certificate.bound > several.certificate.plug_in
    assert found["hidden"]["1"].certificate is None
    assert asked.skipped == []


def test_the_attackers_get_fresh_noise_and_the_protected_images_their_one_release(
    evidence_of: Callable[..., RunEvidence],
) -> None:
    evidence = made(evidence_of, Gaussian((3,), 3**0.5, 0.5, 1e-5))
    fold = fold_of(evidence)
    assert fold.protected.releases_RND.tolist() == [evidence.test_features_NF.tolist()]
    noise = fold.own.releases_RND - evidence.train.views_VNF[0].numpy()
    assert noise.shape == (6, 240, 3)
    assert noise.std() == pytest.approx(0.5, abs=0.03)
    assert abs((noise[0] * noise[1]).mean()) < 0.03
    assert fold.own.bounded_NF is not None
    assert fold.protected.bounded_NF is None


def test_the_certificate_of_persons_is_about_all_releases_that_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attackers read at most 16 releases of an image together; the bound was about so many, too."""
    asked: list[int] = []

    def recorded(mechanism: Mechanism, images: int, releases: int, *, labelled: bool) -> SetLaw:
        asked.append(releases)
        return set_law(mechanism, images, releases, labelled=labelled)

    monkeypatch.setattr("smartedge.lab.audit.people.set_law", recorded)
    rng = np.random.default_rng(0)
    persons = np.arange(240) // 2
    hidden = persons % 2
    table = table_of(rng.standard_normal((240, 2)), sensitive={"hidden": hidden}, persons=persons)
    evidence = given_evidence(table, Gaussian((2,), 1.0, 20.0, 1e-5), sent=Crossing(40, label_in_clear=False), seed=0)
    stronger = of_a_training_image(evidence)
    assert stronger is not None and stronger.releases == 16
    bound = _certificate(stronger, "hidden", 2, Clock(None))
    assert asked == [40]
    assert bound is not None and bound.bound > 0.5


def test_persons_and_linkers_have_the_true_label_where_a_randomised_one_travels() -> None:
    """No attacker that has what was sent reads more than one that has the true label."""
    persons = np.arange(240) // 2
    table = table_of(
        np.random.default_rng(0).standard_normal((240, 2)),
        sensitive={"hidden": persons % 2},
        labels=persons % 3,
        persons=persons,
    )
    for epsilon, labelled in ((1.0, True), (None, False)):
        sent = Crossing(1, label_in_clear=False, label_epsilon=epsilon)
        evidence = given_evidence(table, Gaussian((2,), 1.0, 20.0, 1e-5), sent=sent, seed=0)
        found = _strongest(evidence)
        assert found.labelled == labelled and torch.equal(found.test_desired, evidence.test_desired)


def test_what_cannot_be_done_is_said(evidence_of: Callable[..., RunEvidence], tmp_path: Path) -> None:
    evidence = made(evidence_of, None, count=12)
    few = call(tmp_path)
    assert find_identity(few, evidence, None) is None
    assert "2 persons with two or more images" in few.skipped[0].reason
    unknown = call(tmp_path, ("identity", "persons"))
    assert find_persons(unknown, replace(evidence, persons=None), None) is None
    assert "not known" in unknown.skipped[0].reason
    late = call(tmp_path, ("identity",), seconds=1e-9)
    assert find_identity(late, made(evidence_of, None), None) is None
    assert "no time" in late.skipped[0].reason
    other = call(tmp_path, ("linear",))
    assert find_identity(other, evidence, None) is find_persons(other, evidence, None) is None
    assert other.skipped == []
