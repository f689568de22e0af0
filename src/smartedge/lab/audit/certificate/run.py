"""The certificate of a finished run: its front, its noise law, and the images that it held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from smartedge.artifacts.certificate import Certificate
from smartedge.config import Config, load_run_config
from smartedge.data import Split
from smartedge.data.columns import persons_of
from smartedge.data.raw import PERSON_COLUMN
from smartedge.data.reading.repeated import copies
from smartedge.errors import ConfigError, DataError, PrivacyError
from smartedge.files import private_folder, try_folder
from smartedge.lab.audit.certificate.certify import HeldOut
from smartedge.lab.audit.certificate.settings import HELD_OUT, CertifySettings, check_settings, columns_of
from smartedge.lab.audit.certificate.whole import Statement, certificate_of
from smartedge.lab.audit.crowd import numbered
from smartedge.lab.audit.gathering import AuditedData, check_run, open_audited, trained_parts
from smartedge.lab.audit.run_evidence import BATCH, device_of, finite
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.options import autocast
from smartedge.models.network import to_input
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed

__all__ = ["certify"]


def certify(run_dir: Path, settings: CertifySettings, monitor: Monitor) -> Certificate:
    """Certify a finished run, and write ``audit/certificate.json``.

    Args:
        run_dir: the run directory; ``config.yaml`` and the front's weights in ``edge/`` are used.
        settings: what to certify.
        monitor: takes progress updates.

    Raises:
        ConfigError: the run adds no noise or sends nothing, so nothing can be certified; or a setting is impossible.
        DataError: the data set has changed, lacks a column, or nobody of a class is held out.
        RunError: the run has not finished.
    """
    config = load_run_config(run_dir)
    check_settings(run_dir, config, settings)
    names = columns_of(config, settings)
    opened = open_audited(config, names)
    parts = trained_parts(config, opened.dataset.task, run_dir / "edge")
    mechanism = mechanism_of(config, parts.feature_shape)
    try:
        release_law(mechanism, settings.releases)
    except PrivacyError as error:
        raise ConfigError(f"--releases: {error}") from error
    check_run(run_dir, opened.dataset)
    held_out = _held_out(run_dir, config, opened, settings.splits)
    persons_N, persons = _persons(config, opened, held_out, settings.persons)
    labels_N = _desired(list(held_out.values()))
    if settings.label_known and (itself := [name for name in names if name in opened.dataset.task.columns]):
        raise ConfigError(f"--known-label: {itself[0]!r} is the desired label itself; leave out one of the two")
    private_folder(run_dir / "audit")
    try_folder(run_dir / "audit")
    bounded_NF = np.concatenate(
        [_bounded(parts.front, mechanism, config, images, split, monitor) for split, images in held_out.items()]
    )
    seed = derive_seed(config.seed, "audit", "certificate")
    held: dict[str, HeldOut] = {}
    for name in names:
        desired = name in opened.dataset.task.columns
        classes_N = np.concatenate([opened.labels[HELD_OUT[split]][name].numpy() for split in held_out])
        held[name] = HeldOut(bounded_NF, classes_N, opened.classes[name], persons_N, None if desired else labels_N)
    statement = Statement(
        settings.confidence,
        settings.releases,
        settings.label_known,
        tuple(held_out),
        persons,
        config.dp.apply_to == "training",
    )
    try:
        certificate = certificate_of(mechanism, held, statement, seed=seed, monitor=monitor)
    except DataError as error:
        raise DataError(f"{error}; add the images of another split (--splits), or hold out more") from error
    certificate.write(run_dir / "audit" / "certificate.json")
    return certificate


def _held_out(run_dir: Path, config: Config, opened: AuditedData, splits: tuple[str, ...] | None) -> dict[str, Split]:
    """The images of each split that is used.

    Where weights came from a file, those may have learned from the images that this run set apart.

    Raises:
        ConfigError: the split 'audit' is asked for, and the run set none apart.
        DataError: many of the images are training images under another name.
    """
    audit = opened.dataset.audit
    if splits is None:
        splits = ("test",) if audit is None or config.begins_with_a_file else ("test", "audit")
    if "audit" in splits and audit is None:
        raise ConfigError(f"{run_dir}: --splits: the run set no images apart for the audit (data.audit_share)")
    held_out = {split: opened.own if split == "audit" else opened.dataset.splits[HELD_OUT[split]] for split in splits}
    for split, (again, looked_at) in copies(opened.dataset.splits["train"], held_out).items():
        raise DataError(
            f"{run_dir}: {again} of the {looked_at} {split} images that were looked at are training images too, "
            "pixel by pixel, so the front has learned from them; remove them from one of the two, or take images "
            "of other splits (--splits)"
        )
    return held_out


def _persons(
    config: Config, opened: AuditedData, held_out: Mapping[str, Split], named: str | None
) -> tuple[NDArray[np.int64] | None, str | None]:
    """The person in each image, over all splits, and the column that names them; (None, None) without such a column.

    Raises:
        DataError: the column that was named is not there; only some splits have the column; or the front learned from
            other images of the same persons.
    """
    column, dataset = named or PERSON_COLUMN, opened.dataset
    persons = persons_of(opened.raw, dataset, column)
    if persons is None:
        if named:
            raise DataError(f"--persons: {dataset.name} has no column {named!r}")
        return None, None
    codes_N = np.concatenate([persons[split].numpy() for split in held_out])
    seen = np.intersect1d(codes_N[codes_N >= 0], persons["train"].numpy())
    if len(seen):
        raise DataError(
            f"{len(seen)} persons of the {' and '.join(held_out)} images (column {column!r}) are also among the "
            "training images, so the front has learned from them. Divide the data set by persons, or use the images "
            "that the run set apart by persons: --splits audit"
        )
    # An image without a name counts as its own person.
    own_N = codes_N.max() + 1 + np.arange(len(codes_N))
    return np.where(codes_N < 0, own_N, codes_N), column


def _bounded(
    front: nn.Module, mechanism: Mechanism, config: Config, images: Split, split: str, monitor: Monitor
) -> NDArray[np.float32]:
    """The bounded features, before noise, of all images of a split, float32 (N, *F)."""
    device = device_of(config)
    half = autocast(device, config.train.precision)
    parts = []
    for start in range(0, len(images), BATCH):
        rows = np.arange(start, min(start + BATCH, len(images)))
        with torch.no_grad(), half:
            features_BF = front(to_input(images.read(rows).images_BCHW, device))
        parts.append(mechanism.bound(finite(features_BF).float().cpu().numpy()).astype(np.float32))
        monitor.update(Update("audit", f"features {split}", int(rows[-1]) + 1, len(images)))
    return np.concatenate(parts)


def _desired(splits: Sequence[Split]) -> NDArray[np.int64]:
    """The desired label of each image as one number, int64 (N,); a combination of labels is one number too.

    A label that is lacking is a value of its own: NaN is not equal to itself.
    """
    return np.concatenate(numbered([split.labels.nan_to_num(-1).numpy() for split in splits]))
