"""Attribute inference: plans the attackers, trains them, and picks the best one, which counts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from smartedge.artifacts.attacks import AttackFigures, KindFigures, NamedFigures
from smartedge.artifacts.audit import Skipped
from smartedge.errors import ConfigError
from smartedge.lab.audit.attackers import read
from smartedge.lab.audit.attacks import ATTACKS, Diverged, Unit
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.inputs import val_labels
from smartedge.lab.audit.judge import judge, selection_score
from smartedge.lab.audit.store import Store, key_of
from smartedge.metrics import softmax
from smartedge.runs.progress import Monitor
from smartedge.types import Floats

__all__ = ["BestAttackers", "Finding", "Findings", "check_classes", "in_focus", "infer", "plan", "summarise"]

_ENSEMBLE = 5  # networks whose answers are averaged
_LEAST_SECONDS = 5.0  # for an attacker that is trained even when no time is left
_ONE_EACH = 3  # up to so many attributes, each gets its own networks


@dataclass(frozen=True)
class Finding:
    """The result of one attacker on one attribute."""

    unit: Unit
    attribute: str
    figures: AttackFigures
    val_scores: Floats
    test_scores: Floats
    whole: bool = True  # it had all of its training


Findings = dict[str, list[Finding]]  # attribute → one for each attacker


@dataclass(frozen=True)
class BestAttackers:
    """The best attackers on one attribute."""

    best: NamedFigures  # chosen by its accuracy on the protected images
    by_validation: NamedFigures  # chosen by its accuracy on the attacker's own images
    attacks: dict[str, KindFigures]  # kind → its best

    def for_persons(self) -> float:
        """Balanced accuracy of the best attacker where each person counts once; of images if persons are not known."""
        counted = [figures.balanced_accuracy_by_person for figures in self.attacks.values()]
        known = [figure for figure in counted if figure is not None]
        return max(known) if known else self.best.balanced_accuracy


def check_classes(evidence: Evidence) -> None:
    """Refuse attributes that nobody could learn or judge.

    Raises:
        ConfigError: a split has one class only, or a class of the protected images is not among the attacker's own.
    """
    for name, names in evidence.classes.items():
        every = {"train": evidence.train.labels, "val": evidence.val.labels, "test": evidence.test_labels}
        present = {split: set(labels[name].tolist()) - {-1} for split, labels in every.items()}
        for split, classes in present.items():
            if len(classes) < 2:
                raise ConfigError(
                    f"--attributes: all images of the split {split!r} have the same {name!r}, so there is nothing "
                    "to read; leave it out, or use more images"
                )
        if unseen := sorted(present["test"] - present["train"]):
            shown = ", ".join(names[cls] for cls in unseen[:3]) + (", …" if len(unseen) > 3 else "")
            raise ConfigError(
                f"--attributes: {len(unseen)} of the {len(present['test'])} classes of {name!r} in the split 'test' "
                f"({shown}) do not occur among the attacker's own images, so no attacker can learn them; leave it out"
            )


def plan(
    evidence: Evidence,
    attacks: Sequence[str],
    *,
    focus: Sequence[str],
    seeds: int,
    first_only: bool = False,
    settled: Collection[str] = (),
) -> list[Unit]:
    """Plan the attackers: the cheapest first, then one deep network for each attribute in focus, then the rest.

    Args:
        evidence: the releases that are attacked.
        attacks: their names, see :data:`~smartedge.lab.audit.attacks.ATTACKS`.
        focus: attributes that get their own deep networks; the others share one.
        seeds: number of attackers of each kind.
        first_only: only the first learning rate and seed of each kind (for references).
        settled: attributes that need no deep networks.
    """
    every = tuple(evidence.classes)
    alone = [(name,) for name in every if name in focus and name not in settled]
    rest = tuple(name for name in every if name not in focus and name not in settled)
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
    """The attributes that get their own networks: all if there are few, otherwise the sensitive ones."""
    names = tuple(evidence.classes)
    return names if len(names) <= _ONE_EACH else tuple(name for name in names if name in sensitive)


def infer(
    evidences: Mapping[str, Evidence],
    units: Sequence[Unit],
    *,
    folders: Mapping[str, Path],
    clock: Clock,
    monitor: Monitor,
    skipped: list[Skipped],
) -> dict[str, Findings]:
    """Train the attackers one after another, each within its share of the time. Reuse those that are finished.

    If an attacker's share was too small, it is tried again at the end with the time that is left, the cheapest first.

    Args:
        evidences: evidence by name.
        units: what to train, in this order.
        folders: a folder for each evidence, which keeps the results of finished attackers.
        clock: the time for all of them.
        monitor: takes progress updates.
        skipped: takes an entry for each attacker that was cut short or left out.

    Returns:
        evidence → attribute → the result of each attacker.
    """
    attempts = [_Attempt(unit, evidences[unit.evidence], Store(folders[unit.evidence])) for unit in units]
    for place, attempt in enumerate(attempts):
        later = [each.unit for each in attempts[place + 1 :] if not each.stands(math.inf)]
        attempt.make(clock.remaining() * _share(attempt.unit, later), clock, monitor)
    # Some attackers could not use the time kept for them. The cheap ones that had too little time use it now.
    for attempt in sorted((each for each in attempts if each.result is None), key=lambda each: each.unit.kind.weight):
        attempt.make(clock.remaining(), clock, monitor)
    found: dict[str, Findings] = {name: {} for name in evidences}
    for attempt in attempts:
        if reason := attempt.shortcoming:
            unit = attempt.unit
            skipped.append(
                Skipped(
                    attack=unit.attack,
                    reason=reason,
                    evidence=unit.evidence,
                    attributes=unit.attributes,
                    rate=unit.rate,
                    seed=unit.seed,
                )
            )
        for finding in attempt.findings():
            found[attempt.unit.evidence].setdefault(finding.attribute, []).append(finding)
    return found


def summarise(findings: Iterable[Finding], evidence: Evidence, attribute: str) -> BestAttackers:
    """Pick the best attacker of all, and the best of each kind, by their accuracy on the protected images.

    This choice favours the attacker a little. A real attacker can choose only by its own images: ``by_validation`` is
    chosen in that way.
    """
    attackers = list(findings)
    if ensemble := _ensemble(attackers, evidence, attribute):
        attackers.append(ensemble)
    by_kind: dict[str, list[Finding]] = {}
    for finding in attackers:
        by_kind.setdefault(finding.unit.attack, []).append(finding)
    best, chosen = max(attackers, key=_achieved), max(attackers, key=_on_own_images)
    return BestAttackers(
        best=NamedFigures(attack=best.unit.attack, **best.figures.model_dump()),
        by_validation=NamedFigures(attack=chosen.unit.attack, **chosen.figures.model_dump()),
        attacks={kind: _of_kind(same) for kind, same in by_kind.items()},
    )


def _of_kind(findings: Sequence[Finding]) -> KindFigures:
    best = max(findings, key=_achieved)
    unit = best.unit
    finished = sum(finding.whole for finding in findings)
    return KindFigures(
        rate=unit.rate, seed=unit.seed, tried=len(findings), finished=finished, **best.figures.model_dump()
    )


def _achieved(finding: Finding) -> float:
    return finding.figures.balanced_accuracy


def _on_own_images(finding: Finding) -> float:
    return finding.figures.val_auroc or 0.0


def _ensemble(findings: Sequence[Finding], evidence: Evidence, attribute: str) -> Finding | None:
    """The mean log-probability of the attackers that are best on their own images; None for fewer than two."""
    if len(findings) < 2:
        return None
    chosen = sorted(findings, key=_on_own_images, reverse=True)[:_ENSEMBLE]
    at_val, at_test = (
        softmax(np.asarray(sum(np.log(np.maximum(scores, 1e-6)) for scores in parts) / len(parts)))
        for parts in ([f.val_scores for f in chosen], [f.test_scores for f in chosen])
    )
    unit = Unit(chosen[0].unit.evidence, "ensemble", (attribute,), 0.0, 0)
    return Finding(unit, attribute, _figures(at_val, at_test, evidence, attribute), at_val, at_test)


def _figures(at_val: Floats, at_test: Floats, evidence: Evidence, attribute: str) -> AttackFigures:
    truth = val_labels(evidence, attribute)
    persons = None if evidence.persons is None else evidence.persons.test.numpy()
    figures = judge(at_val, truth, at_test, evidence.test_labels[attribute].numpy(), test_persons=persons)
    return figures.model_copy(update={"val_auroc": selection_score(at_val, truth)})


def _share(unit: Unit, later: Sequence[Unit]) -> float:
    """The share of the remaining time that an attacker may take.

    The share is proportional to its weight. But half of the time is only for the cheap attackers: with a small budget
    the costly ones would otherwise leave them nothing, and with a large budget the cheap ones need little of it.
    """
    weight = unit.kind.weight
    if unit.kind.cheap and not all(each.kind.cheap for each in later):
        return 0.5 * weight / (weight + sum(each.kind.weight for each in later if each.kind.cheap))
    return weight / (weight + sum(each.kind.weight for each in later))


# -- one attacker, trained now or taken from an earlier call


class _Attempt:
    """One attacker, with its result from an earlier call or from this one."""

    def __init__(self, unit: Unit, evidence: Evidence, store: Store) -> None:
        self.unit, self.evidence, self._store = unit, evidence, store
        back_file = evidence.back_file if unit.attack == "fine-tuned" else None
        self._key = key_of(evidence, hashlib.sha256(back_file.read_bytes()).hexdigest() if back_file else None)
        self.result = store.load(unit.file_name, self._key)  # facts and scores; None while there are none
        self._reason: str | None = None  # why there is no result

    def stands(self, allowed: float) -> bool:
        """Whether the result can be reused: it is whole, or it had at least half of the time ``allowed`` now."""
        if self.result is None:
            return False
        facts = self.result[0]
        return not facts["shortened"] or (facts["allowed_seconds"] or 0.0) >= allowed / 2

    def make(self, allowed: float, clock: Clock, monitor: Monitor) -> None:
        """Train the attacker within ``allowed`` seconds and keep its answers, unless its result can be reused."""
        if self.stands(allowed):
            return
        part = clock.part(allowed)
        if self.unit.indispensable and allowed < _LEAST_SECONDS:
            allowed, part = _LEAST_SECONDS, clock.extended(_LEAST_SECONDS)
        try:
            if part.remaining() == 0:
                raise OutOfTime("no time was left")
            reading = read(self.evidence, self.unit, clock=part, monitor=monitor)
        except (OutOfTime, Diverged) as reason:
            self._reason = str(reason)
            return
        facts = {
            "epochs": reading.epochs,
            "epochs_planned": reading.planned,
            "shortened": reading.shortened,
            "allowed_seconds": None if math.isinf(allowed) else allowed,
        }
        tensors: dict[str, torch.Tensor] = {}
        for place, name in enumerate(self.unit.attributes):
            tensors[f"val.{place}"] = torch.from_numpy(reading.val_scores[name])
            tensors[f"test.{place}"] = torch.from_numpy(reading.test_scores[name])
        self._store.save(self.unit.file_name, self._key, facts, tensors)
        self.result = facts, tensors

    @property
    def shortcoming(self) -> str | None:
        """Why the attacker is weaker than it could be, or why it was not trained; None where nothing is missing."""
        if self.result is None:
            return self._reason
        facts = self.result[0]
        if facts["shortened"]:
            return f"cut short by the budget: {facts['epochs']} of {facts['epochs_planned']} epochs"
        return None

    def findings(self) -> Iterator[Finding]:
        """One finding for each attribute; none where there is no result."""
        if self.result is None:
            return
        facts, tensors = self.result
        for place, name in enumerate(self.unit.attributes):
            at_val, at_test = tensors[f"val.{place}"].numpy(), tensors[f"test.{place}"].numpy()
            figures = _figures(at_val, at_test, self.evidence, name)
            yield Finding(self.unit, name, figures, at_val, at_test, not facts["shortened"])
