"""The whole audit of a run: all attacks within one time budget, and ``audit.json`` (docs/audit-schema.md)."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.audit import Audit, AuditedRun
from smartedge.artifacts.reconstruction import Reconstruction
from smartedge.config import load_run_config
from smartedge.data.columns import yes_no_columns
from smartedge.data.raw import PERSON_COLUMN
from smartedge.errors import ConfigError
from smartedge.files import private_folder, try_folder
from smartedge.lab.audit.attributes import check_classes
from smartedge.lab.audit.call import (
    REFERENCE,
    Call,
    Stages,
    attribute_blocks,
    certificates,
    cheap_attacks,
    find_membership,
    noise_test,
    result_of,
)
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.gathering import gather
from smartedge.lab.audit.people import find_identity, find_persons
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.settings import AuditSettings, check_settings
from smartedge.lab.audit.stages import ATTACK_NAMES
from smartedge.lab.audit.undefended import gather_undefended, is_undefended, training_differences
from smartedge.launch.datasets import raw_data_of
from smartedge.runs.progress import Monitor

__all__ = ["ATTACK_NAMES", "AuditSettings", "audit"]

# Shares of the time budget. Time that a stage does not use goes to the later stages.
_OPENING_SHARE = 0.3  # for sending images through the front
_FRONT_SHARE = 0.65  # at most, for the undefended front: without it there is nothing to compare with
_ATTRIBUTE_SHARE = 0.6


def audit(run_dir: Path, settings: AuditSettings, monitor: Monitor, *, clock: Clock | None = None) -> Audit:
    """Attack a finished run, write ``RUN/audit/audit.json`` and return its content.

    Every finished attack is kept under ``RUN/audit/`` and reused by the next call. So an audit that was stopped, or cut
    short by its time budget, can continue. ``skipped`` lists the attacks that were left out or cut short. If a call
    does not ask for a stage (attribute inference, membership, identity, persons, epsilon, reconstruction), its earlier
    result is kept.

    Args:
        run_dir: of the run.
        settings: what to attack, and with how much effort.
        monitor: takes progress updates.
        clock: of a caller that has used a part of the budget already; None: a new one over the budget.

    Raises:
        ConfigError: an attribute or attack does not exist, or a package that the attacks need is not installed.
        RunError: the run has not finished, or one side's folder is missing.
        DataError: the data set has changed.
    """
    clock = clock or Clock(settings.budget)
    check_settings(settings, of_a_run=True)
    attributes = _attributes(run_dir, settings)
    call = Call(settings, run_dir / "audit", clock, monitor)
    if settings.fresh:
        _forget(call)
    private_folder(call.folder)
    try_folder(call.folder)
    evidence = gather(run_dir, attributes, clock=clock.part(clock.remaining() * _OPENING_SHARE), monitor=monitor)
    check_classes(evidence)
    _note_fewer_images(call, evidence)
    # The cheap attacks come first, so that a small time budget suffices for them. References and costly ones follow.
    cheap_attacks(call, evidence)
    membership = find_membership(call, evidence)
    dp = noise_test(call, evidence)
    certificate = certificates(call, evidence)
    images = "reconstruction" in call.wanted
    undefended = _undefended(call, evidence) if images or any(name in REFERENCE for name in call.wanted) else None
    identity, persons = find_identity(call, evidence, undefended), find_persons(call, evidence, undefended)
    inference = clock.part(clock.remaining() * (_ATTRIBUTE_SHARE if images else 1.0))
    found = attribute_blocks(call, evidence, undefended, inference, certificate)
    reconstruction = _reconstruction(call, evidence, undefended) if images else None
    stages = Stages(dp, membership, reconstruction, certificate, identity, persons)
    return result_of(call, _run_facts(evidence), found, stages)


# -- stages


def _forget(call: Call) -> None:
    """Remove the results of earlier calls."""
    call.forget("attacks", "features", "undefended", "reconstruction")
    if call.settings.undefended is not None:
        for file in call.reference_folder.glob("undefended-*"):
            file.unlink()


def _undefended(call: Call, evidence: RunEvidence) -> RunEvidence | None:
    try:
        found = gather_undefended(
            evidence,
            call.folder / "undefended",
            named=call.settings.undefended,
            monitor=call.monitor,
            clock=call.clock.part(call.clock.remaining() * _FRONT_SHARE),
            note=lambda text: call.skip("undefended", text),
        )
        if call.settings.undefended is not None:
            call.differs.extend(training_differences(evidence.config, found.config))
        return found
    except OutOfTime as reason:
        call.skip("undefended", reason)
        return None


def _reconstruction(call: Call, evidence: RunEvidence, undefended: RunEvidence | None) -> Reconstruction | None:
    from smartedge.lab.audit.reconstruction import reconstruct

    return reconstruct(
        evidence,
        undefended or evidence,
        sensitive=[name for name in evidence.classes if name not in evidence.task.columns],
        budget=call.clock,
        folder=call.folder / "reconstruction",
        monitor=call.monitor,
        seed=evidence.seed,
        skipped=call.skipped,
    )


def _note_fewer_images(call: Call, evidence: RunEvidence) -> None:
    """List under ``skipped`` that attackers learned from fewer images than there are."""
    own = evidence.train
    if own.left_out or len(own.views_VNF) == 1:
        text = f"the budget sufficed for {len(own)} of the attacker's {len(own) + own.left_out} images"
        call.skip("features", f"{text}, without their mirrored view")


def _run_facts(evidence: RunEvidence) -> AuditedRun:
    config = evidence.config
    return AuditedRun(
        subject=evidence.subject,
        edge=evidence.edge,
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
        ordered=evidence.ordered,
        images={"train": len(evidence.train), "val": len(evidence.val), "test": len(evidence.test)},
    )


# -- checks


def _attributes(run_dir: Path, settings: AuditSettings) -> tuple[str, ...]:
    config = load_run_config(run_dir)
    data = config.data
    if settings.attributes == ("all",):
        every = yes_no_columns(raw_data_of(config))
        return tuple(dict.fromkeys([*(name for name in data.sensitive if name != PERSON_COLUMN), *every]))
    # Who it is has an attack of its own: no attacker could learn the name of somebody that it has never met.
    names = tuple(name for name in settings.attributes or data.sensitive if name != PERSON_COLUMN)
    if not names:
        raise ConfigError(
            f"{run_dir}: the run names no sensitive column (data.sensitive), so say what attackers should try to read: "
            "--attributes NAME,NAME, or --attributes all"
        )
    return tuple(dict.fromkeys(names))
