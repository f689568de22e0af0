"""The whole audit of a run: all attacks within one time budget, and ``audit.json`` (docs/audit-schema.md)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smartedge.artifacts.audit import (
    AttributeBlock,
    Audit,
    AuditedRun,
    AuditSettingsUsed,
    Effort,
    Membership,
    NoiseTest,
    Reconstruction,
    Skipped,
)
from smartedge.config import load_run_config
from smartedge.data.columns import yes_no_columns
from smartedge.errors import ConfigError
from smartedge.lab.audit import epsilon, floors
from smartedge.lab.audit.attacks import ATTACKS, available
from smartedge.lab.audit.attributes import in_focus, infer, plan, summarise
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Evidence, of_a_training_image
from smartedge.lab.audit.gathering import gather
from smartedge.lab.audit.membership import membership
from smartedge.lab.audit.stages import ATTACK_NAMES, stage_of, with_earlier
from smartedge.lab.audit.undefended import gather_undefended, is_undefended
from smartedge.lab.audit.verdict import verdict
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.machine import versions
from smartedge.runs.progress import Monitor

__all__ = ["ATTACK_NAMES", "AuditSettings", "audit"]

_REFERENCE = ("linear", "mlp", "deep")  # attacks on the undefended front
# Shares of the time budget. Time that a stage does not use goes to the later stages.
_OPENING_SHARE = 0.3  # for sending images through the front
_CHEAP_SHARE = 0.5
_FRONT_SHARE = 0.25
_ATTRIBUTE_SHARE = 0.6
_EPSILON_SHARE = 0.05
_EPSILON_SECONDS = 60.0


@dataclass(frozen=True)
class AuditSettings:
    """What to attack, and with how much effort.

    Attributes:
        attributes: columns to read. None: the run's sensitive columns; ``("all",)``: these and every yes/no column.
        attacks: names from :data:`ATTACK_NAMES`; None for all.
        budget: seconds for everything; None for no limit.
        seeds: number of attackers of each kind, each with its own seed.
        undefended: a finished undefended run to compare with; None: an undefended front is trained once.
        fresh: repeat everything, and reuse no earlier result.
    """

    attributes: tuple[str, ...] | None = None
    attacks: tuple[str, ...] | None = None
    budget: float | None = None
    seeds: int = 2
    undefended: Path | None = None
    fresh: bool = False


@dataclass(frozen=True)
class _Call:
    """The values that the stages of one :func:`audit` share."""

    run_dir: Path
    settings: AuditSettings
    wanted: tuple[str, ...]  # names of attacks
    clock: Clock
    monitor: Monitor
    skipped: list[Skipped]  # takes an entry for each attack that was left out or cut short

    @property
    def folder(self) -> Path:
        """The folder of the audit and its finished attacks."""
        return self.run_dir / "audit"

    @property
    def reference_folder(self) -> Path:
        """The folder of attacks on the undefended front. It is in a named undefended run, so that audits share it."""
        return (self.settings.undefended or self.run_dir) / "audit" / "attacks"


def audit(run_dir: Path, settings: AuditSettings, monitor: Monitor) -> Audit:
    """Attack a finished run, write ``RUN/audit/audit.json`` and return its content.

    Every finished attack is kept under ``RUN/audit/`` and reused by the next call. So an audit that was stopped, or cut
    short by its time budget, can continue. ``skipped`` lists the attacks that were left out or cut short. If a call
    does not ask for a stage (attribute inference, membership, epsilon, reconstruction), its earlier result is kept.

    Raises:
        ConfigError: an attribute or attack does not exist, or a package that the attacks need is not installed.
        RunError: the run has not finished, or one side's folder is missing.
        DataError: the data set has changed.
    """
    clock = Clock(settings.budget)
    _check(settings)
    config = load_run_config(run_dir)
    attributes = _attributes(run_dir, settings)
    call = _Call(run_dir, settings, settings.attacks or ATTACK_NAMES, clock, monitor, [])
    folder, wanted, skipped = call.folder, call.wanted, call.skipped
    if settings.fresh:
        _forget(call)
    folder.mkdir(exist_ok=True)
    evidence = gather(run_dir, attributes, clock=clock.part(clock.remaining() * _OPENING_SHARE), monitor=monitor)
    _check_classes(evidence)
    _note_fewer_images(call, evidence)
    # The cheap attacks come first, so that a small time budget suffices for them. References and costly ones follow.
    _cheap_attacks(call, evidence)
    found_membership = _membership(call, evidence)
    dp = _dp(call, evidence)
    compared = any(name in (*_REFERENCE, "reconstruction") for name in wanted)
    undefended = _undefended(call, evidence) if compared else None

    images = "reconstruction" in wanted
    inference = clock.part(clock.remaining() * (_ATTRIBUTE_SHARE if images else 1.0))
    found = _attribute_blocks(call, evidence, undefended, inference)
    reconstruction = None
    if images:
        from smartedge.lab.audit.reconstruction import reconstruct

        reconstruction = reconstruct(
            evidence,
            undefended or evidence,
            sensitive=[name for name in attributes if name not in evidence.task.columns],
            budget=clock,
            folder=folder / "reconstruction",
            monitor=monitor,
            seed=evidence.config.seed,
        )
        skipped += [Skipped.model_validate(entry) for entry in reconstruction.pop("skipped", [])]

    undefended_run = str(settings.undefended) if settings.undefended else None
    effort = Effort(budget_seconds=settings.budget, seeds=settings.seeds, undefended=undefended_run)
    result = Audit(
        smartedge_version=versions().get("smartedge"),
        run=_run_facts(evidence),
        settings=AuditSettingsUsed(
            **effort.model_dump(),
            attributes=attributes,
            attacks=wanted,
            stages={stage: effort for stage in dict.fromkeys(map(stage_of, wanted))},
        ),
        attributes=found,
        reconstruction=Reconstruction.model_validate(reconstruction) if reconstruction else None,
        membership=found_membership,
        dp=dp,
        skipped=tuple(skipped),
        verdict="",
    )
    if not settings.fresh:
        result = with_earlier(result, folder / "audit.json")
    result = result.model_copy(update={"verdict": verdict(result, config.data.sensitive)})
    result.write(folder / "audit.json")
    return result


# -- stages


def _forget(call: _Call) -> None:
    """Remove the results of earlier calls."""
    for part in ("attacks", "undefended", "reconstruction"):
        shutil.rmtree(call.folder / part, ignore_errors=True)
    if call.settings.undefended is not None:
        for file in call.reference_folder.glob("undefended-*"):
            file.unlink()


def _undefended(call: _Call, evidence: Evidence) -> Evidence | None:
    try:
        return gather_undefended(
            evidence,
            call.folder / "undefended",
            named=call.settings.undefended,
            monitor=call.monitor,
            clock=call.clock.part(call.clock.remaining() * _FRONT_SHARE),
        )
    except OutOfTime as reason:
        call.skipped.append(Skipped(attack="undefended", reason=str(reason)))
        return None


def _note_fewer_images(call: _Call, evidence: Evidence) -> None:
    """List under ``skipped`` that attackers learned from fewer images than there are."""
    own = evidence.train
    if own.left_out or len(own.views_VNF) == 1:
        text = f"the budget sufficed for {len(own)} of the attacker's {len(own) + own.left_out} images"
        call.skipped.append(Skipped(attack="features", reason=f"{text}, without their mirrored view"))


def _cheap_attacks(call: _Call, evidence: Evidence) -> None:
    """Train the cheap attackers, one of each kind and rate; :func:`_attribute_blocks` reuses their results."""
    if math.isinf(call.clock.remaining()):
        return  # there is time for all, in any order
    names = [name for name in available(evidence) if name in call.wanted and ATTACKS[name].cheap]
    infer(
        {evidence.name: evidence},
        plan(evidence, names, focus=(), seeds=1),
        folders={evidence.name: call.folder / "attacks"},
        clock=call.clock.part(call.clock.remaining() * _CHEAP_SHARE),
        monitor=call.monitor,
        skipped=[],
    )


def _membership(call: _Call, evidence: Evidence) -> Membership | None:
    if "membership" not in call.wanted:
        return None
    if call.clock.remaining() == 0:
        call.skipped.append(Skipped(attack="membership", reason="no time was left"))
        return None
    return membership(evidence, seed=evidence.config.seed, monitor=call.monitor)


def _attribute_blocks(
    call: _Call, evidence: Evidence, undefended: Evidence | None, clock: Clock
) -> dict[str, AttributeBlock]:
    wanted, seeds = call.wanted, call.settings.seeds
    names = [name for name in available(evidence) if name in wanted]
    focus = in_focus(evidence, evidence.config.data.sensitive)
    units = plan(evidence, names, focus=focus, seeds=1)
    evidences = {evidence.name: evidence}
    folders = {evidence.name: call.folder / "attacks"}
    every: list[str] = []
    stronger = of_a_training_image(evidence) if clock.remaining() > 0 else None
    if stronger:
        evidences[stronger.name], folders[stronger.name] = stronger, folders[evidence.name]
        every = [name for name in available(stronger) if name in wanted]
        units += plan(stronger, every, focus=focus, seeds=1)
    own = undefended is not None and undefended.test_features_NF is not evidence.test_features_NF
    if own:
        assert undefended is not None
        evidences[undefended.name], folders[undefended.name] = undefended, call.reference_folder
        reference = [name for name in _REFERENCE if name in wanted]
        units += plan(undefended, reference, focus=focus, seeds=1, first_only=True)
    again = [*plan(evidence, names, focus=focus, seeds=seeds)]
    if stronger:
        again += plan(stronger, [name for name in every if ATTACKS[name].cheap], focus=focus, seeds=seeds)
    units += [unit for unit in again if unit.seed > 0]
    found = infer(
        evidences,
        units,
        folders=folders,
        clock=clock,
        monitor=call.monitor,
        skipped=call.skipped,
    )
    blocks: dict[str, AttributeBlock] = {}
    bound = _bound(evidence, lambda mechanism: mechanism.tight_attribute_bound)
    for name, classes in evidence.classes.items():
        mine = found[evidence.name].get(name, [])
        found_here = summarise(mine, evidence, name) if mine else None
        if undefended is not None and own:
            theirs = found[undefended.name].get(name, [])
            plain = summarise(theirs, undefended, name).best if theirs else None
        else:
            plain = found_here.best if found_here and undefended is not None else None
        more = found[stronger.name].get(name, []) if stronger else []
        blocks[name] = AttributeBlock(
            best=found_here.best if found_here else None,
            by_validation=found_here.by_validation if found_here else None,
            attacks=found_here.attacks if found_here else {},
            training_image=summarise(more, stronger, name).best if stronger and more else None,
            undefended=plain,
            floor=floors.label_floor(evidence, name),
            prediction_floor=floors.prediction_floor(evidence, name),
            chance=1 / len(classes),
            dp_bound=bound if len(classes) == 2 else None,
            classes=tuple(classes),
            desired=name in evidence.task.columns,
            sensitive=name in evidence.config.data.sensitive,
        )
    return blocks


def _dp(call: _Call, evidence: Evidence) -> NoiseTest:
    mechanism, config = evidence.mechanism, evidence.config
    protected = not math.isinf(mechanism.epsilon)
    block: dict[str, object] = {
        "mechanism": config.dp.mechanism,
        "granularity": mechanism.event.granularity,
        "epsilon_claimed": mechanism.epsilon if protected else None,
        "vector_epsilon": mechanism.vector_epsilon if protected else None,
        "delta": mechanism.delta,
        "releases_max": config.releases,
        "label_epsilon": config.dp.label_epsilon,
        "apply_to": config.dp.apply_to,
        "attribute_bound": _bound(evidence, lambda mechanism: mechanism.attribute_bound),
        "noise_bound": _bound(evidence, lambda mechanism: mechanism.tight_attribute_bound),
    }
    if "epsilon" in call.wanted and call.clock.remaining() == 0:
        call.skipped.append(Skipped(attack="epsilon", reason="no time was left"))
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


def _run_facts(evidence: Evidence) -> AuditedRun:
    config = evidence.config
    return AuditedRun(
        method=config.method,
        schedule=config.schedule,
        model=config.model.name,
        cut=config.model.cut,
        feature_shape=tuple(evidence.feature_shape),
        codec=config.codec_name,
        seed=config.seed,
        desired=tuple(evidence.task.columns),
        sensitive=tuple(config.data.sensitive),
        undefended=is_undefended(config),
        noise_on_audited_releases=evidence.noisy,
        attackers_images_seen=evidence.train.seen,
        images={"train": len(evidence.train), "val": len(evidence.val), "test": len(evidence.test)},
    )


# -- checks


def _check(settings: AuditSettings) -> None:
    problems = []
    if settings.seeds < 1:
        problems.append("--seeds: at least 1 is needed")
    if settings.budget is not None and settings.budget <= 0:
        problems.append("--budget: must be a positive time, such as 90s, 5m or 2h")
    if unknown := [name for name in settings.attacks or () if name not in ATTACK_NAMES]:
        problems.append(f"--attacks: {', '.join(unknown)} is not known; choose from {', '.join(ATTACK_NAMES)}")
    if problems:
        raise ConfigError("\n".join(problems))


def _attributes(run_dir: Path, settings: AuditSettings) -> tuple[str, ...]:
    data = load_run_config(run_dir).data
    if settings.attributes == ("all",):
        every = yes_no_columns(data.path, image_size=data.image_size, limit=data.limit, cache_dir=data.cache_dir)
        return tuple(dict.fromkeys([*data.sensitive, *every]))
    names = settings.attributes or data.sensitive
    if not names:
        raise ConfigError(
            f"{run_dir}: the run names no sensitive column (data.sensitive), so say what attackers should try to read: "
            "--attributes NAME,NAME, or --attributes all"
        )
    return tuple(dict.fromkeys(names))


def _check_classes(evidence: Evidence) -> None:
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
