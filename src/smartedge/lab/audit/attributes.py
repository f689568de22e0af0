"""Attribute inference: which attackers are sent out, what each found, and which of them counts: the best."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from smartedge.files import write_json_atomically
from smartedge.lab.audit.attackers import ATTACKS, Diverged, Reading, read, val_labels
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.judge import judge, selection_score
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.progress import Monitor

__all__ = ["Finding", "Findings", "Unit", "fingerprint", "infer", "plan", "summarise"]

_ENSEMBLE = 5  # networks whose answers are averaged
_ONE_EACH = 3  # up to so many attributes, each gets networks of its own

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One attacker to be trained."""

    evidence: str  # see Evidence.name
    attack: str
    attributes: tuple[str, ...]
    rate: float
    seed: int

    @property
    def file_name(self) -> str:
        """Of its result, without suffix."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:10]
        return f"{self.evidence}-{self.attack}-{self.seed}-{digest}"


@dataclass(frozen=True)
class Finding:
    """What one attacker found about one attribute."""

    unit: Unit
    figures: dict[str, Any]  # see judge, and ``val_auroc``
    val_scores: Floats
    test_scores: Floats


Findings = dict[str, list[Finding]]  # attribute → one for each attacker


def plan(
    evidence: Evidence, attacks: Sequence[str], *, focus: Sequence[str], seeds: int, first_only: bool = False
) -> list[Unit]:
    """The attackers, the cheapest first, then one deep network for each attribute in focus, then the rest.

    Args:
        evidence: whose releases are attacked.
        attacks: their names, see :data:`~smartedge.lab.audit.attackers.ATTACKS`.
        focus: attributes that get networks of full depth of their own; the others share one.
        seeds: how many of each.
        first_only: one learning rate and one seed of each (for references).
    """
    every = tuple(evidence.classes)
    alone = [(name,) for name in every if name in focus]
    rest = tuple(name for name in every if name not in focus)
    units: list[Unit] = []
    for round_ in range(1 if first_only else seeds):
        for name in attacks:
            attack = ATTACKS[name]
            if round_ and attack.settled(evidence):
                continue
            rates = attack.rates[:1] if first_only else attack.rates
            groups: list[tuple[str, ...]] = [every]
            if attack.reads == "each":
                groups = [(attribute,) for attribute in every]
            elif attack.reads == "focus":  # costly: each seed has one of the rates
                rates = (attack.rates[round_ % len(attack.rates)],)
                groups = alone + ([rest] if rest else [])
            units += [Unit(evidence.name, name, group, rate, round_) for group in groups for rate in rates]
    return units


def in_focus(evidence: Evidence, sensitive: Sequence[str]) -> tuple[str, ...]:
    """The attributes for which networks of their own are trained: the sensitive ones, or all where they are few."""
    names = tuple(evidence.classes)
    return names if len(names) <= _ONE_EACH else tuple(name for name in names if name in sensitive)


def infer(
    evidences: Mapping[str, Evidence],
    units: Sequence[Unit],
    *,
    folders: Mapping[str, Path],
    back_file: Path,
    clock: Clock,
    monitor: Monitor,
    skipped: list[dict[str, Any]],
) -> dict[str, Findings]:
    """Train the attackers one after the other, each within its share of the time; reuse those that are finished.

    Those whose share was too small are tried again, the cheapest first, with whatever time the others left.

    Args:
        evidences: by name.
        units: what to train, in this order.
        folders: of each evidence; one JSON and one safetensors file for each finished attacker on it.
        back_file: the cloud's weights.
        clock: the time for all of them.
        monitor: takes progress updates.
        skipped: gets an entry for each attacker that the budget cut short or left out.

    Returns:
        evidence → attribute → what each attacker found.
    """
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256(back_file.read_bytes()).hexdigest()[:8] if back_file.exists() else ""
    prints = {name: fingerprint(evidence) for name, evidence in evidences.items()}
    found: dict[str, Findings] = {name: {} for name in evidences}

    def of(unit: Unit) -> str:
        return prints[unit.evidence] + (f" {weights}" if unit.attack == "fine-tuned" else "")

    kept = {unit: _load(folders[unit.evidence], unit, of(unit)) for unit in units}
    reasons: dict[Unit, str] = {}

    def send(unit: Unit, allowed: float) -> None:
        if _stands(kept[unit], allowed):
            return
        evidence, attack = evidences[unit.evidence], ATTACKS[unit.attack]
        try:
            if clock.remaining() == 0:
                raise OutOfTime("no time was left")
            reading = read(
                evidence,
                attack,
                unit.attributes,
                rate=unit.rate,
                seed=unit.seed,
                back_file=back_file,
                clock=clock.part(allowed),
                monitor=monitor,
            )
            kept[unit] = _save(folders[unit.evidence], unit, of(unit), evidence, reading, allowed)
        except (OutOfTime, Diverged) as reason:
            reasons[unit] = str(reason)

    for place, unit in enumerate(units):
        later = [each for each in units[place + 1 :] if not _stands(kept[each], math.inf)]
        send(unit, clock.remaining() * _share(unit, later))
    # Time that was kept for attackers which it then did not suffice for: the cheap ones that had too little take it.
    for unit in sorted((unit for unit in units if kept[unit] is None), key=lambda unit: ATTACKS[unit.attack].weight):
        send(unit, clock.remaining())

    for unit, result in kept.items():
        if result is None:
            skipped.append({**_described(unit), "reason": reasons[unit]})
            continue
        facts, findings = result
        if facts["shortened"]:
            text = f"cut short by the budget: {facts['epochs']} of {facts['epochs_planned']} epochs"
            skipped.append({**_described(unit), "reason": text})
        for name, finding in findings.items():
            found[unit.evidence].setdefault(name, []).append(finding)
    return found


def summarise(findings: Iterable[Finding], evidence: Evidence, attribute: str) -> dict[str, Any]:
    """The best attacker of all, by what it achieves on the protected images, and each kind's own best.

    Picking the best by the protected images themselves favours the attacker a little; ``by_validation`` is what an
    attacker achieves who can choose by its own images alone.

    Returns:
        ``best`` (figures, ``attack``), ``by_validation``, ``attacks`` (kind → its best figures, with ``rate``, ``seed``
        and ``tried``).
    """
    attackers = list(findings)
    if ensemble := _ensemble(attackers, evidence, attribute):
        attackers.append(ensemble)
    by_kind: dict[str, dict[str, Any]] = {}
    for finding in attackers:
        kind = finding.unit.attack
        tried = by_kind.get(kind, {}).get("tried", 0) + 1
        if tried == 1 or finding.figures["balanced_accuracy"] > by_kind[kind]["balanced_accuracy"]:
            by_kind[kind] = {**finding.figures, "rate": finding.unit.rate, "seed": finding.unit.seed}
        by_kind[kind]["tried"] = tried
    best = max(attackers, key=lambda finding: finding.figures["balanced_accuracy"])
    chosen = max(attackers, key=lambda finding: finding.figures["val_auroc"])
    return {
        "best": {"attack": best.unit.attack, **best.figures},
        "by_validation": {"attack": chosen.unit.attack, **chosen.figures},
        "attacks": by_kind,
    }


def fingerprint(evidence: Evidence) -> str:
    """Identifies what is attacked: settings, releases, and what is read from them."""
    seen = (evidence.noisy, evidence.releases, evidence.labelled)
    digest = hashlib.sha256(json.dumps([evidence.config.identity(), seen]).encode())
    tensors = [evidence.test_features_NF, evidence.test_desired]
    for own in (evidence.train, evidence.val):
        tensors += [*own.views_VNF[:1], own.desired]
    every = (evidence.train.labels, evidence.val.labels, evidence.test_labels)
    tensors += [labels[name] for labels in every for name in sorted(labels)]
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()[:16]


def _ensemble(findings: Sequence[Finding], evidence: Evidence, attribute: str) -> Finding | None:
    """The mean log-probability of the attackers that are best on the attacker's own images."""
    if len(findings) < 2:
        return None
    chosen = sorted(findings, key=lambda finding: -finding.figures["val_auroc"])[:_ENSEMBLE]
    at_val, at_test = (
        _normalised(sum(np.log(np.maximum(scores, 1e-6)) for scores in parts) / len(parts))
        for parts in ([f.val_scores for f in chosen], [f.test_scores for f in chosen])
    )
    unit = Unit(chosen[0].unit.evidence, "ensemble", (attribute,), 0.0, 0)
    return Finding(unit, _figures(at_val, at_test, evidence, attribute), at_val, at_test)


def _normalised(logs_NK: Any) -> Floats:
    shares_NK = np.exp(logs_NK - logs_NK.max(axis=1, keepdims=True))
    return np.asarray(shares_NK / shares_NK.sum(axis=1, keepdims=True))


def _figures(at_val: Floats, at_test: Floats, evidence: Evidence, attribute: str) -> dict[str, Any]:
    truth = val_labels(evidence, attribute)
    figures = judge(at_val, truth, at_test, evidence.test_labels[attribute].numpy())
    return {**figures, "val_auroc": selection_score(at_val, truth)}


def _share(unit: Unit, later: Sequence[Unit]) -> float:
    """The part of the time that is left which an attacker may take.

    In proportion to its weight; but the cheap ones have half of the time to themselves, of which they need little where
    there is plenty, and without which the costly ones, too slow for a small budget, would leave them nothing.
    """
    weight = ATTACKS[unit.attack].weight
    if ATTACKS[unit.attack].cheap and not all(ATTACKS[each.attack].cheap for each in later):
        return (
            0.5 * weight / (weight + sum(ATTACKS[each.attack].weight for each in later if ATTACKS[each.attack].cheap))
        )
    return weight / (weight + sum(ATTACKS[each.attack].weight for each in later))


def _described(unit: Unit) -> dict[str, Any]:
    return {
        "attack": unit.attack,
        "evidence": unit.evidence,
        "attributes": list(unit.attributes),
        "rate": unit.rate,
        "seed": unit.seed,
    }


# -- finished attackers on disk

_Result = tuple[dict[str, Any], dict[str, Finding]]


def _stands(result: _Result | None, allowed: float) -> bool:
    """Whether a result can be reused: whole, or cut short by a budget that was no smaller than what there is now."""
    if result is None:
        return False
    facts = result[0]
    return not facts["shortened"] or (facts["allowed_seconds"] or 0.0) >= allowed / 2


def _save(folder: Path, unit: Unit, print_: str, evidence: Evidence, reading: Reading, allowed: float) -> _Result:
    findings: dict[str, Finding] = {}
    tensors: dict[str, torch.Tensor] = {}
    for place, name in enumerate(unit.attributes):
        at_val, at_test = reading.val_scores[name], reading.test_scores[name]
        figures = _figures(at_val, at_test, evidence, name)
        findings[name] = Finding(unit, figures, at_val, at_test)
        tensors[f"val.{place}"], tensors[f"test.{place}"] = torch.from_numpy(at_val), torch.from_numpy(at_test)
    facts = {
        **asdict(unit),
        "of": print_,
        "epochs": reading.epochs,
        "epochs_planned": reading.planned,
        "shortened": reading.shortened,
        "allowed_seconds": None if math.isinf(allowed) else allowed,
        "figures": {name: finding.figures for name, finding in findings.items()},
    }
    save_weights(folder / f"{unit.file_name}.safetensors", tensors)
    write_json_atomically(folder / f"{unit.file_name}.json", facts)  # last: it says that both are there
    return facts, findings


def _load(folder: Path, unit: Unit, print_: str) -> _Result | None:
    try:
        facts = json.loads((folder / f"{unit.file_name}.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / f"{unit.file_name}.safetensors")
        if facts["of"] != print_:
            return None  # of another run, or of other settings
        findings = {
            name: Finding(
                unit, facts["figures"][name], tensors[f"val.{place}"].numpy(), tensors[f"test.{place}"].numpy()
            )
            for place, name in enumerate(unit.attributes)
        }
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return facts, findings
