"""Which attackers are sent out, that finished ones are reused, and that nothing is left out silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import smartedge.lab.audit.attributes as attributes
from smartedge.artifacts.attacks import AttackFigures
from smartedge.artifacts.audit import Skipped
from smartedge.lab.audit.attacks import ATTACKS, Reading, Unit
from smartedge.lab.audit.attributes import in_focus, infer, plan, summarise
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.runs.progress import Quiet

UNIT = Unit("defended", "linear", ("hidden",), 1e-2, 0)


@pytest.fixture
def evidence(evidence_of: Callable[..., Evidence]) -> Evidence:
    truth = [torch.arange(count) % 2 for count in (40, 20, 30)]
    return evidence_of([part[:, None].float() for part in truth], truth)


@pytest.fixture
def attackers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Attackers that answer 0.5 at once; the list gets what each was asked."""
    asked: list[dict[str, Any]] = []

    def read(evidence: Evidence, unit: Unit, **how: Any) -> Reading:
        names = unit.attributes
        asked.append({"attack": unit.attack, "names": names, **how})
        if how["clock"].remaining() < 1:
            raise OutOfTime("too little")
        val, test = (torch.full((n, 2), 0.5).double().numpy() for n in (20, 30))
        short = how["clock"].remaining() < 10
        return Reading({n: val for n in names}, {n: test for n in names}, 3 if short else 30, 30)

    monkeypatch.setattr(attributes, "read", read)
    return asked


def sent_out(evidence: Evidence, folder: Path, budget: float | None, units: list[Unit]) -> tuple[Any, list[Any]]:
    skipped: list[dict[str, Any]] = []
    now = [0.0]
    found = infer(
        {"defended": evidence},
        units,
        folders={"defended": folder},
        clock=Clock(budget, lambda: now[0]),
        monitor=Quiet(),
        skipped=skipped,
    )
    return found, skipped


def test_a_finished_attack_is_reused_unless_what_it_attacked_changed(
    evidence: Evidence, attackers: list[Any], tmp_path: Path
) -> None:
    first, _ = sent_out(evidence, tmp_path, None, [UNIT])
    second, _ = sent_out(evidence, tmp_path, None, [UNIT])
    assert len(attackers) == 1
    assert first["defended"]["hidden"][0].figures == second["defended"]["hidden"][0].figures
    changed = replace(evidence, test_features_NF=evidence.test_features_NF + 1)
    assert changed.fingerprint != evidence.fingerprint
    sent_out(changed, tmp_path, None, [UNIT])
    assert len(attackers) == 2


def test_a_damaged_result_is_made_again(evidence: Evidence, attackers: list[Any], tmp_path: Path) -> None:
    sent_out(evidence, tmp_path, None, [UNIT])
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"broken")
    sent_out(evidence, tmp_path, None, [UNIT])
    assert len(attackers) == 2


def test_what_the_budget_cuts_short_is_listed_and_done_again_with_more_time(
    evidence: Evidence, attackers: list[Any], tmp_path: Path
) -> None:
    _, skipped = sent_out(evidence, tmp_path, 5.0, [UNIT])
    assert [entry.reason for entry in skipped] == ["cut short by the budget: 3 of 30 epochs"]
    _, skipped = sent_out(evidence, tmp_path, 5.0, [UNIT])
    assert len(attackers) == 1 and len(skipped) == 1, "the same budget changes nothing, and it still says so"
    _, skipped = sent_out(evidence, tmp_path, None, [UNIT])
    assert len(attackers) == 2 and not skipped


def test_what_the_budget_leaves_out_is_listed(evidence: Evidence, attackers: list[Any], tmp_path: Path) -> None:
    found, skipped = sent_out(evidence, tmp_path, 0.5, [replace(UNIT, rate=1e-3)])
    assert found["defended"] == {}
    left_out = {"evidence": "defended", "attributes": ("hidden",), "rate": 1e-3, "seed": 0}
    assert skipped == [Skipped(attack="linear", reason="too little", **left_out)]
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("budget", [0.0, 0.5])
def test_one_cheap_attacker_is_made_however_short_the_time_is(
    evidence: Evidence, attackers: list[Any], tmp_path: Path, budget: float
) -> None:
    others = [
        replace(UNIT, rate=1e-3),
        replace(UNIT, seed=1),
        replace(UNIT, attack="mlp", rate=ATTACKS["mlp"].rates[0]),
    ]
    found, skipped = sent_out(evidence, tmp_path, budget, [*others, UNIT])
    assert [finding.unit for finding in found["defended"]["hidden"]] == [UNIT]
    assert len(skipped) == 4, "the three others, and that this one was cut short"


def test_cheap_attackers_share_half_of_the_time_by_weight(
    evidence: Evidence, attackers: list[Any], tmp_path: Path
) -> None:
    units = [Unit("defended", attack, ("hidden",), 1e-3, 0) for attack in ("linear", "deep", "mlp", "fine-tuned")]
    sent_out(evidence, tmp_path, 1200.0, units)
    linear, deep, mlp, tuned = (ATTACKS[unit.attack].weight for unit in units)
    allowed = [each["clock"].remaining() for each in attackers]  # the clock of this test stands still
    shares = [0.5 * linear / (linear + mlp), deep / (deep + mlp + tuned), 0.5, 1.0]
    assert allowed == pytest.approx([1200 * share for share in shares])


def test_time_that_is_left_goes_to_those_whose_share_was_too_small(
    evidence: Evidence, attackers: list[Any], tmp_path: Path
) -> None:
    units = [replace(UNIT, rate=1e-3), Unit("defended", "deep", ("hidden",), 1e-3, 0)]
    found, _ = sent_out(evidence, tmp_path, 1.5, units)  # a share of less than a second for the linear one
    assert [each["attack"] for each in attackers] == ["linear", "deep", "linear"]
    assert attackers[0]["clock"].remaining() < 1 and attackers[2]["clock"].remaining() == 1.5
    assert {finding.unit for finding in found["defended"]["hidden"]} == set(units)


def test_plan(evidence_of: Callable[..., Evidence]) -> None:
    truth = [torch.arange(4) % 2] * 3
    evidence = evidence_of([torch.zeros(4, 1)] * 3, truth)
    many = replace(evidence, classes={name: ("no", "yes") for name in "abcde"})
    assert in_focus(evidence, ()) == ("hidden",)
    assert in_focus(many, ("c",)) == ("c",)
    units = plan(many, ("linear", "deep", "trees"), focus=("c",), seeds=2)
    linear, deep, trees = ([unit for unit in units if unit.attack == name] for name in ("linear", "deep", "trees"))
    assert [unit.attributes for unit in trees] == [(name,) for name in "abcde"], "without noise another seed is in vain"
    assert {unit.attributes for unit in linear} == {("a", "b", "c", "d", "e")}
    assert {(unit.rate, unit.seed) for unit in linear} == {
        (rate, seed) for rate in ATTACKS["linear"].rates for seed in (0, 1)
    }
    assert [unit.attributes for unit in deep if unit.seed == 0] == [("c",), ("a", "b", "d", "e")]
    assert {unit.rate for unit in deep} == set(ATTACKS["deep"].rates), "each seed has one of the rates"
    assert len({unit.file_name for unit in units}) == len(units)
    assert len(plan(many, ("linear",), focus=(), seeds=2, first_only=True)) == 1


def judged(balanced: float, val_auroc: float) -> AttackFigures:
    return AttackFigures(
        balanced_accuracy=balanced,
        auroc=balanced,
        ci95=(0, 1),
        val_balanced_accuracy=balanced,
        val_auroc=val_auroc,
        base_rate=0.5,
        images=30,
    )


def test_the_best_of_all_counts_and_the_fair_choice_stands_beside_it(evidence: Evidence) -> None:
    def finding(kind: str, seed: int, test: float, val: float, whole: bool = True) -> attributes.Finding:
        figures = judged(test, val)
        scores = [torch.full((n, 2), 0.5).double().numpy() for n in (20, 30)]
        return attributes.Finding(Unit("defended", kind, ("hidden",), 1.0, seed), "hidden", figures, *scores, whole)

    made = [finding("linear", 0, 0.6, 0.9), finding("deep", 0, 0.7, 0.8, False), finding("deep", 1, 0.5, 0.7)]
    found = summarise([*made, finding("mlp", 0, 0.5, 0.6, False)], evidence, "hidden")
    assert (found.best.attack, found.best.balanced_accuracy) == ("deep", 0.7)
    assert (found.by_validation.attack, found.by_validation.balanced_accuracy) == ("linear", 0.6)
    assert found.attacks["deep"].seed == 0 and found.attacks["deep"].tried == 2
    assert set(found.attacks) == {"linear", "deep", "mlp", "ensemble"}
    finished = {kind: figures.finished for kind, figures in found.attacks.items()}
    assert finished == {"linear": 1, "deep": 1, "mlp": 0, "ensemble": 1}, "the budget cut one deep and the mlp short"


def test_an_ensemble_joins_attackers_that_err_differently(evidence: Evidence) -> None:
    """Each is wrong about a third of the images of its own; two of three are always right."""
    truth = evidence.test_labels["hidden"].numpy()
    made = []
    for part in range(3):
        said = []
        for labels in (evidence.val.labels["hidden"].numpy(), truth):
            right = torch.arange(len(labels)).numpy() // 2 % 3 != part
            yes = torch.tensor(labels == 1).numpy() == right
            said.append(torch.stack([torch.tensor(0.7 - 0.4 * yes), torch.tensor(0.3 + 0.4 * yes)], dim=1).numpy())
        figures = judged(0.67, 0.67)
        made.append(attributes.Finding(Unit("defended", "mlp", ("hidden",), 1.0, part), "hidden", figures, *said))
    assert summarise(made, evidence, "hidden").attacks["ensemble"].balanced_accuracy == 1.0
