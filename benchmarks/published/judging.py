"""Judges a row: the back on the desired label, the public audit's attackers on the sensitive one, the certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import smartedge
from published.reader import Reader
from published.training import DEVICE, SEED, SENSITIVE, Sending
from smartedge.data import Split
from smartedge.data.columns import read_columns
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.judge import judge
from smartedge.launch.datasets import raw_data_of
from smartedge.privacy.laws import release_law
from smartedge.runs.seeds import derive_seed

__all__ = ["BACK_EPOCHS", "attack", "read_desired"]

BACK_EPOCHS = 8
ATTACKS = ("linear", "linear-pooled")
ATTACKS_ON_FEW = (*ATTACKS, "mixture", "trees", "mlp")  # on thousands of numbers the last two take minutes
BACK_ATTACK = "the back's network"
_FEW = 512  # numbers; of larger maps with noise no certificate is computed


def read_desired(sending: Sending) -> dict[str, float]:
    """Balanced accuracy of a back that learned the desired label from releases of the training images."""
    begun = time.monotonic()
    reader, val_NF, test_NF = _read(sending, "train", desired=True)
    splits = sending.dataset.splits
    return {
        "test": reader.score(test_NF, splits["test"].labels),
        "val": reader.score(val_NF, splits["val"].labels),
        "seconds": round(time.monotonic() - begun, 1),
    }


def attack(sending: Sending, folder: Path) -> dict[str, Any]:
    """What attackers read of the sensitive label, and the certificate.

    The attackers of the public audit, and one more: the network of the back with the back's budget. They learn from the
    images that were set apart, are chosen by the validation images and judged on the test images.
    """
    begun = time.monotonic()
    images, few = _images(sending), math.prod(sending.feature_shape) <= _FEW
    known = few and sending.mechanism.name != "none"
    made = {name: sending.features(split) for name, split in images.items()}
    # With a noise law the audit takes clean features and draws the noise itself.
    sent = {
        name: torch.cat([sending.clean(part_BF) for part_BF in made_NF.split(128)])
        if known
        else sending.release_all(made_NF, name)
        for name, made_NF in made.items()
    }
    features_NF = {name: sent_NF.float().numpy() for name, sent_NF in sent.items()}
    if few:
        features_NF = {name: each_NF.reshape(len(each_NF), -1) for name, each_NF in features_NF.items()}
    labels = {name: split.labels.numpy() for name, split in images.items()}
    sensitive = {name: split.sensitive_labels[SENSITIVE].numpy() for name, split in images.items()}
    persons = _persons(sending)
    found = smartedge.audit(
        _joined(features_NF),
        labels=_joined(labels),
        sensitive={SENSITIVE: _joined(sensitive)},
        persons=_joined(persons),
        splits=np.concatenate([np.full(len(split), name) for name, split in images.items()]),
        noise=_noise(sending) if known else None,
        attacks=ATTACKS_ON_FEW if few else ATTACKS,
        seeds=1,
        seed=SEED,
        out=folder,
    ).model_dump(mode="json")
    attribute = found["attributes"][SENSITIVE]
    attribute["attacks"][BACK_ATTACK] = _back_attack(sending)
    attribute["best"] = _best(attribute["attacks"], "balanced_accuracy")
    attribute["by_validation"] = _best(attribute["attacks"], "val_balanced_accuracy")
    certificate: dict[str, Any] = {"reason": "no noise law: nothing can be certified"}
    more: dict[str, Any] = {}
    if known:
        arrays: tuple[Mapping[str, NDArray[Any]], ...] = (features_NF, sensitive, persons, labels)
        certificate = _certificate(sending, *(each["test"] for each in arrays))
        more = _certificate(sending, *(_joined(each, "train", "test") for each in arrays))
    elif sending.mechanism.name != "none":
        certificate = {"bound": sending.mechanism.tight_attribute_bound, "method": "the law of the noise alone"}
    return {
        "attribute": attribute,
        "certificate": certificate,
        "certificate_with_images_set_apart": more,
        "skipped": found["skipped"],
        "attack_seconds": round(time.monotonic() - begun, 1),
    }


def _read(sending: Sending, own: str, *, desired: bool) -> tuple[Reader, Tensor, Tensor]:
    """A reader that learned from releases of the images ``own``, and one release of the val and of the test images."""
    images = {**_images(sending), "train": sending.dataset.splits["train"], "audit": _images(sending)["train"]}

    def labels(split: Split) -> Tensor:
        return split.labels if desired else split.sensitive_labels[SENSITIVE]

    own_NF = sending.features(images[own])
    val_NF, test_NF = (sending.release_all(sending.features(images[name]), name) for name in ("val", "test"))
    reader = Reader(sending.feature_shape, sending.layout, DEVICE, seed=derive_seed(SEED, "back"))
    generator = torch.Generator().manual_seed(derive_seed(SEED, "release", "back"))
    # An attacker makes as many releases of its own images as it likes.
    anew = sending.row.anew or (sending.mechanism.name != "none" and not desired)
    once_NF = None if anew else sending.release_all(own_NF, own)

    def draw(rows: Tensor) -> Tensor:
        return sending.release(own_NF[rows], generator) if once_NF is None else once_NF[rows]

    reader.learn(draw, labels(images[own]), (val_NF, labels(images["val"])), BACK_EPOCHS)
    return reader, val_NF, test_NF


def _back_attack(sending: Sending) -> dict[str, Any]:
    reader, val_NF, test_NF = _read(sending, "audit", desired=False)
    val, test = (sending.dataset.splits[name].sensitive_labels[SENSITIVE].numpy() for name in ("val", "test"))
    return judge(reader.scores(val_NF), val, reader.scores(test_NF), test).model_dump(mode="json")


def _best(attacks: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    name = max(attacks, key=lambda each: attacks[each][key])
    return {"attack": name, **attacks[name]}


def _certificate(
    sending: Sending,
    features_ND: NDArray[np.float32],
    sensitive: NDArray[np.int64],
    persons: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> dict[str, Any]:
    """From images that the front did not see."""
    law = release_law(sending.mechanism)
    held = HeldOut(features_ND.reshape(-1, *sending.feature_shape), sensitive, ("no", "yes"), persons, labels)
    seed = derive_seed(SEED, "audit", "certificate")
    return certify_attribute(law, held, seed=seed).model_dump(mode="json")


def _noise(sending: Sending) -> str:
    """The noise law as the audit takes it."""
    mechanism = sending.mechanism
    each = ",granularity=element" if mechanism.event.granularity == "element" else ""
    return f"{mechanism.name}:sigma={mechanism.sigma!r},clip={mechanism.clip!r}{each}"


def _joined(each: Mapping[str, NDArray[Any]], *names: str) -> NDArray[Any]:
    """The arrays of some splits, one after the other; of all where none is named."""
    return np.concatenate([each[name] for name in names or each])


def _images(sending: Sending) -> dict[str, Split]:
    """The images of attackers: those that no front learned from, by the names that the audit gives the splits."""
    audit, splits = sending.dataset.audit, sending.dataset.splits
    assert audit is not None
    return {"train": audit, "val": splits["val"], "test": splits["test"]}


def _persons(sending: Sending) -> dict[str, NDArray[np.int64]]:
    splits, audit = sending.dataset.splits, _images(sending)["train"]
    own = replace(sending.dataset, splits={**splits, "train": audit})
    columns, _ = read_columns(raw_data_of(sending.config), own, ["identity"])
    return {name: column["identity"].numpy() for name, column in columns.items()}
