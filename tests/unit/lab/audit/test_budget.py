"""No part of an audit begins after the budget's end, or goes on past it by more than one step.

Time is made up: it passes where the audit works, a fixed time for each piece of work, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

import smartedge
from smartedge.lab.audit import identity, persons
from smartedge.lab.audit.attackers import read
from smartedge.lab.audit.attacks import Unit
from smartedge.lab.audit.certificate import plugin
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.feature_cache import FeatureCache
from smartedge.lab.audit.features import run
from smartedge.lab.audit.features.run import FeaturesSettings, audit_features
from smartedge.lab.audit.features.table import table_of
from smartedge.lab.audit.membership import membership
from smartedge.lab.audit.neural import _Attacker
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.settings import AuditSettings
from smartedge.lab.audit.store import Store
from smartedge.lab.audit.trees import Table, fit_trees
from smartedge.methods.loop import Progress
from smartedge.runs.progress import Quiet

STEP = 2.0  # seconds of the longest piece of work


class Time:
    """Made-up time, which passes during calls of some functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._patch = 0.0, monkeypatch

    def clock(self, budget: float | None) -> Clock:
        """A clock that shows it."""
        return Clock(budget, lambda: self.now)

    def passes(self, owner: Any, name: str, seconds: float) -> None:
        """Let a call of a function or method take so long."""
        work = getattr(owner, name)

        def slowly(*given: Any, **named: Any) -> Any:
            self.now += seconds
            return work(*given, **named)

        self._patch.setattr(owner, name, slowly)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Fewer steps of networks than usual; each takes its time, as do draws, resamples and rounds of trees."""
    for module in (identity, persons):
        monkeypatch.setattr(module, "_LOOKS", 2)
        monkeypatch.setattr(module, "_EVERY", 20)
    made = Time(monkeypatch)
    made.passes(Evidence, "release", 0.002)
    made.passes(_Attacker, "step", 0.01)
    made.passes(HistGradientBoostingClassifier, "fit", STEP)
    made.passes(plugin, "class_densities", STEP)
    made.passes(identity.Pairs, "_figures", 0.25)
    made.passes(persons._SetNetwork, "forward", 0.1)
    monkeypatch.setattr(plugin, "_PAIRS", 40_000)  # more than one piece of work for a certificate
    return made


def features() -> Any:
    """Four numbers of 240 images, three of each person; the hidden column is in the first number."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(80), 3)
    hidden = rng.random(80) < 0.5
    numbers = rng.normal(size=(80, 4))[who] + 0.3 * rng.normal(size=(240, 4)) + hidden[who, None]
    return table_of(
        numbers.astype(np.float32),
        labels=rng.random(240) < 0.5,
        sensitive={"hidden": hidden[who]},
        persons=who,
        seed=0,
    )


@pytest.mark.parametrize("budget", [30.0, 100.0])
def test_an_audit_ends_with_its_budget(budget: float, time: Time, tmp_path: Path) -> None:
    time.passes(_Attacker, "step", 0.1)  # hundreds of steps fill the time, not thousands
    attacks = ("linear", "trees", "mlp", "membership", "identity", "persons", "epsilon", "certificate")
    settings = AuditSettings(attacks=attacks, seeds=1, budget=budget)
    how = FeaturesSettings("gaussian:sigma=0.5,clip=3", known_label=True)
    found = audit_features(features(), settings, how, tmp_path, Quiet(), clock=time.clock(budget))
    assert time.now <= budget + STEP
    best = found.attributes["hidden"].best
    assert best is not None, "the cheap attack is always made"
    assert found.skipped, "there was no time for all of it"


def test_checking_the_features_counts_too(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Clock", time.clock)
    time.passes(run, "table_of", 40.0)
    rng = np.random.default_rng(0)
    numbers, hidden = rng.normal(size=(120, 3)), rng.integers(0, 2, 120)
    found = smartedge.audit(numbers, sensitive={"hidden": hidden}, attacks=("linear", "trees"), seeds=1, budget=30.0)
    assert "trees" in {each.attack for each in found.skipped}


def test_without_a_budget_it_would_take_much_longer(time: Time, tmp_path: Path) -> None:
    how = FeaturesSettings("gaussian:sigma=0.5,clip=3", known_label=True)
    asked = AuditSettings(attacks=("identity",), seeds=1)
    found = audit_features(features(), asked, how, tmp_path, Quiet(), clock=time.clock(None))
    assert time.now > 250.0
    assert found.identity is not None and found.identity.resamples == 100


def test_intervals_come_from_fewer_resamples_where_time_is_short(time: Time, tmp_path: Path) -> None:
    how = FeaturesSettings("gaussian:sigma=0.5,clip=3", known_label=True)
    asked = AuditSettings(attacks=("identity",), seeds=1, budget=2400.0)  # a tenth of it is for identity
    found = audit_features(features(), asked, how, tmp_path, Quiet(), clock=time.clock(2400.0))
    assert time.now <= 240.0 + STEP
    assert found.identity is not None and 30 <= found.identity.resamples < 100


def test_membership_ends_within_a_batch(
    evidence_of: Callable[..., RunEvidence], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [torch.randn(count, 3, 4, 4) for count in (64, 32, 400)]
    evidence = evidence_of(parts, [torch.arange(len(part)) % 2 for part in parts])
    time.passes(torch, "logsumexp", 1.0)  # once for each of four batches
    assert membership(evidence, clock=time.clock(None)).any.pairs > 0
    time.now = 0.0
    with pytest.raises(OutOfTime):
        membership(evidence, clock=time.clock(1.5))
    assert time.now == pytest.approx(2.0, abs=0.01)


def test_trees_do_not_begin_rounds_for_which_there_is_no_time(time: Time) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    table = Table(labels[:, None] + rng.normal(size=(200, 3)), labels)
    assert fit_trees(table, table, classes=2, rounds=120, clock=time.clock(5.0))[0] == 10
    assert time.now == STEP, "fifty rounds more would take ten seconds"
    assert fit_trees(table, table, classes=2, rounds=120, clock=time.clock(None))[0] == 120


def test_a_network_ends_inside_an_epoch_and_keeps_the_answers_of_the_one_before(
    evidence_of: Callable[..., RunEvidence], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = [torch.arange(count) % 2 for count in (1280, 32, 32)]
    evidence = evidence_of([(2.0 * part - 1).unsqueeze(1).repeat(1, 3) for part in truth], truth)
    step = _Attacker.step

    def becomes_slow(self: _Attacker, rows: torch.Tensor, progress: Progress) -> None:
        time.now += 1.0 if progress.epoch == 1 else 0.0
        step(self, rows, progress)

    monkeypatch.setattr(_Attacker, "step", becomes_slow)
    reading = read(evidence, Unit("defended", "linear", ("hidden",), 0.01, 0), clock=time.clock(3.5), monitor=Quiet())
    assert reading.epochs == 1 and reading.shortened
    assert time.now <= 3.5 + 1.01


def test_features_of_the_reference_end_within_a_batch_and_those_of_the_run_are_made_in_any_case(
    evidence_of: Callable[..., RunEvidence], time: Time, tmp_path: Path
) -> None:
    parts = [torch.randn(count, 3, 4, 4) for count in (400, 32, 32)]
    evidence = evidence_of(parts, [torch.arange(len(part)) % 2 for part in parts])
    time.passes(RunEvidence, "bounded", 1.0)  # once for each of four batches
    store, split = Store(tmp_path), evidence.train.split
    with pytest.raises(OutOfTime):
        FeatureCache(store, time.clock(1.5), Quiet(), ends=True).views(evidence, split, "train")
    assert time.now == 2.0
    assert len(FeatureCache(store, time.clock(1.5), Quiet()).views(evidence, split, "train")[0]) == 400
