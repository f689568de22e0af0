"""The audit of given features: the same attackers, judged in the same way, as in the audit of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from numpy.typing import ArrayLike

from smartedge.artifacts.audit import Audit, AuditedFeatures
from smartedge.errors import ConfigError
from smartedge.files import private_folder, try_folder
from smartedge.lab.audit.attributes import check_classes
from smartedge.lab.audit.call import (
    Call,
    Stages,
    attribute_blocks,
    certificates,
    cheap_attacks,
    find_membership,
    noise_test,
    result_of,
)
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Crossing
from smartedge.lab.audit.features.evidence import FeaturesEvidence, evidence_of
from smartedge.lab.audit.features.files import read_table
from smartedge.lab.audit.features.noise import mechanism_from, releases_of
from smartedge.lab.audit.features.table import FeatureTable, table_of
from smartedge.lab.audit.people import find_identity, find_persons
from smartedge.lab.audit.settings import OF_RUNS_ONLY, AuditSettings, check_settings
from smartedge.lab.audit.stages import ATTACK_NAMES
from smartedge.runs.progress import Monitor, Quiet

__all__ = ["FeaturesSettings", "audit", "audit_features"]


@dataclass(frozen=True)
class FeaturesSettings:
    """What is known beside the features."""

    noise: str | None  # the noise law, see :func:`smartedge.lab.audit.features.noise.mechanism_from`
    known_label: bool  # whether the attacker also has the desired label of each image
    seed: int = 0  # of splits, noise and attackers
    source: str | None = None  # name of the file


def audit(  # noqa: PLR0913 - one argument for each array and each option of the command line
    features: str | Path | ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sensitive: Mapping[str, ArrayLike] | None = None,
    persons: ArrayLike | None = None,
    splits: ArrayLike | None = None,
    noise: str | None = None,
    known_label: bool = False,
    attributes: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
    budget: float | None = None,
    seeds: int = 2,
    seed: int = 0,
    out: str | Path | None = None,
) -> Audit:
    """Attack features of any origin, as ``smartedge audit --features`` does.

    Args:
        features: a file as in :func:`smartedge.lab.audit.features.files.read_table`, or numbers (N, *F). With ``noise``
            the clean features, before clip and noise; without, the features as an attacker gets them.
        labels: the desired label of each image, (N,): booleans, whole numbers or texts; only with an array.
        sensitive: column → (N,); only with an array.
        persons: who is in each image, (N,). Splits are then made by persons. Where persons are not known, images of
            one person may be in two splits: attackers may recognise persons, and the certificate's confidence is lower
            than stated.
        splits: ``train``, ``val`` or ``test`` for each image, (N,); None: 50, 20 and 30 %, at random by ``seed``.
            Attackers learn from train, are chosen by val and judged on test. The network that computed the features
            should have seen none of the images, and must not have seen those of test.
        noise: such as ``"gaussian:sigma=0.4,clip=2"``; then attackers meet fresh noise, and there is a certificate.
        known_label: whether the attacker also has the desired label of each image.
        attributes: the sensitive columns of a file that are read; None: all.
        attacks: names of attacks; None: all.
        budget: seconds for everything; None: no limit.
        seeds: attackers of each kind.
        seed: seed of splits, noise and attackers.
        out: a folder for ``audit.json`` and finished attacks, which the next call reuses; None: nothing is kept.

    Returns:
        The content of ``audit.json``: see ``docs/audit-schema.md``. Figures are balanced accuracies, 0 to 1.

    Raises:
        DataError: an array cannot be used; the message says why.
        ConfigError: an option is impossible, or a package that the attacks need is not installed.
    """
    source, clock = None, Clock(budget)
    if isinstance(features, str | Path):
        if any(array is not None for array in (labels, sensitive, persons, splits)):
            raise ConfigError("labels, sensitive, persons, splits: with a file they are arrays of the file")
        source = Path(features).name
        table = read_table(Path(features), attributes=attributes, seed=seed)
    elif attributes is not None:
        raise ConfigError("attributes: goes with a file; with an array, give the columns to read as 'sensitive'")
    else:
        table = table_of(features, sensitive=sensitive or {}, labels=labels, persons=persons, splits=splits, seed=seed)
    settings = AuditSettings(attacks=None if attacks is None else tuple(attacks), budget=budget, seeds=seeds)
    how = FeaturesSettings(noise, known_label, seed, source)
    if out is not None:
        return audit_features(table, settings, how, Path(out), Quiet(), clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        return audit_features(table, settings, how, Path(folder), Quiet(), clock=clock)


def audit_features(
    table: FeatureTable,
    settings: AuditSettings,
    how: FeaturesSettings,
    folder: Path,
    monitor: Monitor,
    *,
    clock: Clock | None,
) -> Audit:
    """Attack features, write ``FOLDER/audit.json`` and return its content.

    Args:
        table: the features.
        settings: what to attack, and with how much effort; ``attributes`` and ``undefended`` are not used.
        how: what is known beside the features.
        folder: keeps finished attacks.
        monitor: takes progress updates.
        clock: of a caller that has used a part of the budget already; None: a new one over the budget.

    Raises:
        ConfigError: an option is impossible, or a package that the attacks need is not installed.
    """
    check_settings(settings, of_a_run=False)
    if how.known_label and table.desired is None:
        raise ConfigError("--known-label: there is no array 'labels'")
    if settings.attacks is None:
        settings = replace(settings, attacks=tuple(name for name in ATTACK_NAMES if name not in OF_RUNS_ONLY))
    mechanism = mechanism_from(how.noise, tuple(table.features_NF.shape[1:]))
    sent = Crossing(releases_of(how.noise), label_in_clear=how.known_label)
    call = Call(settings, folder, clock or Clock(settings.budget), monitor)
    private_folder(folder)
    try_folder(folder)
    if settings.fresh:
        call.forget("attacks")
    evidence = evidence_of(table, mechanism, sent=sent, seed=how.seed)
    try:
        check_classes(evidence)
    except ConfigError as error:
        raise ConfigError(f"{how.source}: {error}" if how.source else str(error)) from error
    cheap_attacks(call, evidence)
    membership = find_membership(call, evidence) if evidence.noisy else None
    dp = noise_test(call, evidence)
    certificate = certificates(call, evidence)
    identity, persons = find_identity(call, evidence, None), find_persons(call, evidence, None)
    found = attribute_blocks(call, evidence, None, call.clock, certificate)
    stages = Stages(dp, membership, reconstruction=None, certificate=certificate, identity=identity, persons=persons)
    return result_of(call, _facts(table, evidence, how.source), found, stages)


def _facts(table: FeatureTable, evidence: FeaturesEvidence, source: str | None) -> AuditedFeatures:
    return AuditedFeatures.model_validate(
        {
            "subject": evidence.subject,
            "feature_shape": evidence.feature_shape,
            "seed": evidence.seed,
            "desired": evidence.task.columns,
            "sensitive": evidence.sensitive,
            "undefended": False,
            "noise_on_audited_releases": evidence.noisy,
            "attackers_images_seen": None,
            "ordered": evidence.ordered,
            "images": {"train": len(evidence.train), "val": len(evidence.val), "test": len(evidence.test_ids)},
            "source": source,
            "digest": evidence.digest,
            "splits": table.made or "given",
            "copies": None if evidence.layout == "codeword" else table.copies(),
            "rounded": table.rounded,
            "persons": None if table.persons_N is None else len(set(table.persons_N.tolist())),
        }
    )
