"""The stages that the audit of a run and the audit of given features have in common."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smartedge.artifacts.attacks import AttributeBlock, Identity, Membership, PersonBand
from smartedge.artifacts.audit import Audit, AuditCertificates, Audited, AuditSettingsUsed, Effort, NoiseTest, Skipped
from smartedge.artifacts.certificate import Certificate
from smartedge.artifacts.reconstruction import Reconstruction
from smartedge.errors import DataError
from smartedge.lab.audit import epsilon, floors
from smartedge.lab.audit.attacks import ATTACKS, available
from smartedge.lab.audit.attributes import Findings, in_focus, infer, plan, summarise
from smartedge.lab.audit.certificate.evidence import certify_evidence
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence, labels_as_sent, of_a_training_image
from smartedge.lab.audit.in_words import verdict
from smartedge.lab.audit.membership import membership
from smartedge.lab.audit.settings import AuditSettings
from smartedge.lab.audit.stages import ATTACK_NAMES, stage_of, with_earlier
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.machine import versions
from smartedge.runs.progress import Monitor

__all__ = [
    "REFERENCE",
    "Call",
    "Stages",
    "attribute_blocks",
    "certificates",
    "cheap_attacks",
    "find_membership",
    "noise_test",
    "result_of",
]

REFERENCE = ("linear", "mlp", "deep")  # attacks on the undefended front
# Shares of the time budget. Time that a stage does not use goes to the later stages.
_FIRST_SHARE = 0.25  # of the cheap attackers, before all else
_CHEAP_SHARE = 0.5  # of the cheap attackers, once they can save costly ones
_NEAR = 0.02  # a certificate so little above the best attack leaves nothing to find
_CERTIFICATE_SHARE = 0.2  # of each of two certificates, at most; most need half of it
_MEMBERSHIP_SHARE = 0.2
_EPSILON_SHARE = 0.05
_EPSILON_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """What the stages of one audit share."""

    settings: AuditSettings
    folder: Path  # of audit.json and the finished attacks
    clock: Clock
    monitor: Monitor
    skipped: list[Skipped] = field(default_factory=list)  # takes an entry for each attack left out or cut short
    differs: list[str] = field(default_factory=list)  # takes what else differs in a named undefended run

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of attacks."""
        return self.settings.attacks or ATTACK_NAMES

    def skip(
        self, attack: str, reason: object, *, evidence: str | None = None, attributes: tuple[str, ...] | None = None
    ) -> None:
        """Note an attack that was left out or cut short, and why."""
        self.skipped.append(Skipped(attack=attack, reason=str(reason), evidence=evidence, attributes=attributes))

    def forget(self, *parts: str) -> None:
        """Remove results of earlier calls, by the names of their folders."""
        for part in parts:
            shutil.rmtree(self.folder / part, ignore_errors=True)

    @property
    def reference_folder(self) -> Path:
        """The folder of attacks on the undefended front. It is in a named undefended run, so that audits share it."""
        named = self.settings.undefended
        return (self.folder if named is None else named / "audit") / "attacks"


@dataclass(frozen=True)
class Stages:
    """The results of the stages, beside those on attributes; None where a stage was not made."""

    dp: NoiseTest
    membership: Membership | None
    reconstruction: Reconstruction | None
    certificate: AuditCertificates | None
    identity: Identity | None
    persons: dict[str, dict[str, PersonBand]] | None


def cheap_attacks(call: Call, evidence: Evidence) -> None:
    """Train the cheap attackers, one of each kind and rate; :func:`attribute_blocks` reuses their results."""
    if math.isinf(call.clock.remaining()):
        return  # there is time for all, in any order
    infer(
        {evidence.name: evidence},
        plan(evidence, _cheap(evidence, call.wanted), focus=(), seeds=1),
        folders={evidence.name: call.folder / "attacks"},
        clock=call.clock.part(call.clock.remaining() * _FIRST_SHARE),
        monitor=call.monitor,
        skipped=[],
    )


def certificates(call: Call, evidence: Evidence) -> AuditCertificates | None:
    """What no attacker can exceed on the attributes in focus; None where not asked for, or nothing can be certified."""
    if "certificate" not in call.wanted:
        return None
    stronger = None if _too_short(call.clock, evidence) else of_a_training_image(evidence)
    found: dict[str, Certificate | None] = {}
    for each in (evidence, stronger):
        if each is None:
            continue
        try:
            if reason := _too_short(call.clock, each):
                raise OutOfTime(reason)
            clock = call.clock.part(call.clock.remaining() * _CERTIFICATE_SHARE)
            found[each.name] = certify_evidence(each, in_focus(each, each.sensitive), clock=clock, monitor=call.monitor)
        except (DataError, OutOfTime) as error:
            call.skip("certificate", error, evidence=each.name)
    if not any(found.values()):
        return None
    training_image = None if stronger is None else found.get(stronger.name)
    return AuditCertificates(one_release=found.get(evidence.name), training_image=training_image)


def find_membership(call: Call, evidence: Evidence) -> Membership | None:
    """The attack on membership; None where it is not asked for, or no time is left."""
    if "membership" not in call.wanted:
        return None
    try:
        if reason := _too_short(call.clock, evidence):
            raise OutOfTime(reason)
        return membership(evidence, clock=call.clock.part(call.clock.remaining() * _MEMBERSHIP_SHARE))
    except OutOfTime as error:
        call.skip("membership", error)
        return None


def _too_short(clock: Clock, evidence: Evidence) -> str | None:
    """Why there is no time for what needs the protected images' features without noise; None where there is."""
    needed = evidence.bounded_test_seconds
    if clock.remaining() > needed:
        return None
    if clock.remaining() == 0:
        return "no time was left"
    return f"the protected images would take the front {needed:.0f} s"


def attribute_blocks(
    call: Call,
    evidence: Evidence,
    undefended: Evidence | None,
    clock: Clock,
    certificate: AuditCertificates | None,
) -> dict[str, AttributeBlock]:
    """Train all attackers on all attributes, and put their figures beside the references.

    Attackers of full depth are trained only on attributes whose certificate leaves them something to find.

    Args:
        call: the audit's call.
        evidence: of the audited releases.
        undefended: of the front without protection; None where there is none.
        clock: the time for all of them.
        certificate: what no attacker can exceed.
    """
    wanted, seeds = call.wanted, call.settings.seeds
    evidences = {evidence.name: evidence}
    folders = {evidence.name: call.folder / "attacks"}
    bounds = {evidence.name: certificate.one_release if certificate else None}
    stronger = None if _too_short(clock, evidence) else of_a_training_image(evidence)
    if stronger:
        stronger = labels_as_sent(stronger)
        evidences[stronger.name], folders[stronger.name] = stronger, folders[evidence.name]
        bounds[stronger.name] = certificate.training_image if certificate else None
    attacked = tuple(evidences.values())  # without the reference, which joins below
    found: dict[str, Findings] = {name: {} for name in evidences}
    focus = in_focus(evidence, evidence.sensitive)
    settled: dict[str, frozenset[str]] = dict.fromkeys(evidences, frozenset())
    if any(bounds.values()):
        # The cheap attackers first: they may show that the costly ones have nothing left to find.
        units = [unit for each in attacked for unit in plan(each, _cheap(each, wanted), focus=focus, seeds=1)]
        part = clock.part(clock.remaining() * _CHEAP_SHARE)
        cheap = infer(evidences, units, folders=folders, clock=part, monitor=call.monitor, skipped=[])
        settled = {name: _settled(bounds[name], cheap[name], each) for name, each in evidences.items()}
    units = []
    for round_ in range(seeds):
        for each in attacked:
            names = [name for name in available(each) if name in wanted]
            if each is stronger and round_:  # its costly attackers have one seed
                names = _cheap(each, wanted)
            made = plan(each, names, focus=focus, seeds=seeds, settled=settled[each.name])
            units += [unit for unit in made if unit.seed == round_]
        if round_ == 0 and undefended is not None and _differs(undefended, evidence):
            evidences[undefended.name], folders[undefended.name] = undefended, call.reference_folder
            reference = [name for name in REFERENCE if name in wanted]
            units += plan(undefended, reference, focus=focus, seeds=1, first_only=True)
    found = infer(evidences, units, folders=folders, clock=clock, monitor=call.monitor, skipped=call.skipped)
    asked = bool({name for name in available(evidence) if name in wanted} - set(_cheap(evidence, wanted)))
    blocks: dict[str, AttributeBlock] = {}
    for name in evidence.classes:
        needed = None
        if asked and bounds[evidence.name] is not None and name in focus:
            needed = name not in settled[evidence.name]
        blocks[name] = _block(evidence, stronger, undefended, found, name).model_copy(
            update={"full_depth_needed": needed}
        )
    return blocks


def _cheap(evidence: Evidence, wanted: Sequence[str]) -> list[str]:
    return [name for name in available(evidence) if name in wanted and ATTACKS[name].cheap]


def _differs(undefended: Evidence, evidence: Evidence) -> bool:
    """Whether the two are different releases; an undefended run is its own reference."""
    return undefended.test_features_NF is not evidence.test_features_NF


def _settled(certificate: Certificate | None, found: Findings, evidence: Evidence) -> frozenset[str]:
    """The attributes on which no attacker can exceed the best one so far by more than ``_NEAR``.

    The certificate counts each person once, where persons are known. So the attackers are compared in this way, too.
    """
    bounds = certificate.attributes if certificate else {}
    return frozenset(
        name
        for name, bound in bounds.items()
        if found.get(name) and bound.bound - summarise(found[name], evidence, name).for_persons() <= _NEAR
    )


def _block(
    evidence: Evidence, stronger: Evidence | None, undefended: Evidence | None, found: dict[str, Findings], name: str
) -> AttributeBlock:
    """The figures of one attribute."""
    mine = found[evidence.name].get(name, [])
    found_here = summarise(mine, evidence, name) if mine else None
    plain = found_here.best if found_here and undefended is not None else None
    if undefended is not None and _differs(undefended, evidence):
        theirs = found[undefended.name].get(name, [])
        plain = summarise(theirs, undefended, name).best if theirs else None
    more = found[stronger.name].get(name, []) if stronger else []
    with_more = summarise(more, stronger, name) if stronger and more else None
    classes = evidence.classes[name]
    return AttributeBlock(
        best=found_here.best if found_here else None,
        by_validation=found_here.by_validation if found_here else None,
        attacks=found_here.attacks if found_here else {},
        training_image_attacks=with_more.attacks if with_more else {},
        training_image=with_more.best if with_more else None,
        undefended=plain,
        floor=floors.label_floor(evidence, name),
        prediction_floor=floors.prediction_floor(evidence, name),
        chance=1 / len(classes),
        dp_bound=_bound(evidence, lambda mechanism: mechanism.tight_attribute_bound) if len(classes) == 2 else None,
        classes=tuple(classes),
        desired=name in evidence.task.columns,
        sensitive=name in evidence.sensitive,
    )


def noise_test(call: Call, evidence: Evidence) -> NoiseTest:
    """The guarantee of one release, and the test of the mechanism where it is asked for."""
    mechanism, crossing = evidence.mechanism, evidence.crossing
    protected = not math.isinf(mechanism.epsilon)
    block: dict[str, object] = {
        "mechanism": mechanism.name,
        "granularity": mechanism.event.granularity,
        "epsilon_claimed": mechanism.epsilon if protected else None,
        "vector_epsilon": mechanism.vector_epsilon if protected else None,
        "delta": mechanism.delta,
        "releases_max": crossing.releases,
        "label_epsilon": crossing.label_epsilon,
        "apply_to": crossing.apply_to,
        "attribute_bound": _bound(evidence, lambda mechanism: mechanism.attribute_bound),
        "noise_bound": _bound(evidence, lambda mechanism: mechanism.tight_attribute_bound),
    }
    if "epsilon" in call.wanted and call.clock.remaining() == 0:
        call.skip("epsilon", "no time was left")
    elif "epsilon" in call.wanted:
        seconds = min(_EPSILON_SECONDS, call.clock.remaining() * _EPSILON_SHARE)
        # Without noise a few releases suffice, since all are equal.
        block |= epsilon.measure(mechanism, clock=call.clock.part(seconds), trials=100_000 if protected else 2_000)
        if not protected:
            block["holds"] = None
    return NoiseTest.model_validate(block)


def _bound(evidence: Evidence, bound: Callable[[Mechanism], float]) -> float | None:
    """The bound that no attacker can exceed on the audited releases; None where there is no guarantee."""
    mechanism = evidence.mechanism
    return bound(mechanism) if evidence.noisy and not math.isinf(mechanism.epsilon) else None


def result_of(
    call: Call,
    audited: Audited,
    found: dict[str, AttributeBlock],
    stages: Stages,
) -> Audit:
    """Put the results of the stages together with those of an earlier call, and write ``audit.json``."""
    settings = call.settings
    effort = Effort(
        budget_seconds=settings.budget,
        seeds=settings.seeds,
        undefended=str(settings.undefended) if settings.undefended else None,
        undefended_differs=tuple(call.differs),
    )
    result = Audit(
        smartedge_version=versions().get("smartedge"),
        audited=audited,
        settings=AuditSettingsUsed(
            **effort.model_dump(),
            attributes=tuple(found),
            attacks=call.wanted,
            stages={stage: effort for stage in dict.fromkeys(map(stage_of, call.wanted))},
        ),
        attributes=found,
        reconstruction=stages.reconstruction,
        membership=stages.membership,
        identity=stages.identity,
        persons=stages.persons,
        certificate=stages.certificate,
        dp=stages.dp,
        skipped=tuple(call.skipped),
        verdict="",
    )
    if not settings.fresh:
        result = with_earlier(result, call.folder / "audit.json")
    result = result.model_copy(update={"verdict": verdict(result)})
    result.write(call.folder / "audit.json")
    return result
