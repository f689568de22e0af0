"""The certificate of several attributes: their bounds, and the assumptions in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from smartedge.artifacts.certificate import AttributeBound, Certificate
from smartedge.errors import DataError
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.clock import Clock
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.progress import Monitor, Update

__all__ = ["Statement", "assumptions", "certificate_of"]


@dataclass(frozen=True)
class Statement:
    """What a certificate is about."""

    confidence: float  # of each bound
    releases: int  # number of releases of one image that the attacker has
    label_known: bool  # whether the attacker also has the desired label
    splits: tuple[str, ...]  # whose images are used
    persons: str | None  # column that names the person; None where each image counts as a person
    training_only: bool  # whether only releases of training images carry noise


def certificate_of(
    mechanism: Mechanism,
    held: Mapping[str, HeldOut],
    statement: Statement,
    *,
    seed: int,
    monitor: Monitor,
    draws: int | None = None,
    clock: Clock | None = None,
) -> Certificate:
    """Bound what attackers read of each attribute.

    Args:
        mechanism: the noise.
        held: attribute → the images that the front did not learn from.
        statement: what the attacker has.
        seed: seed of the draws.
        monitor: takes progress updates.
        draws: number of draws; None: a number that takes some seconds for each attribute.
        clock: looked at while draws are made; None: no limit.

    Raises:
        DataError: nobody of an attribute's class is held out.
        PrivacyError: the mechanism adds no noise.
        OutOfTime: the time is over.
    """
    law = release_law(mechanism, statement.releases)
    found: dict[str, AttributeBound] = {}
    clock = clock or Clock(None)

    def progress(name: str, done: int, total: int) -> None:
        monitor.update(Update("audit", f"draws {name}", done, total))
        if done < total:
            clock.check()

    for name, images in held.items():
        clock.check()
        try:
            found[name] = certify_attribute(
                law,
                images,
                label_known=statement.label_known,
                confidence=statement.confidence,
                seed=seed,
                draws=draws,
                progress=partial(progress, name),
            )
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return Certificate(
        smartedge_version=version("smartedge"),
        confidence=statement.confidence,
        releases=statement.releases,
        mechanism=mechanism.name,
        numbers=math.prod(mechanism.feature_shape),
        splits=statement.splits,
        persons=statement.persons,
        seed=seed,
        attributes=found,
        assumptions=assumptions(statement),
    )


def assumptions(statement: Statement) -> str:
    """The assumptions of the bounds, in sentences without mathematics."""
    count = "one release" if statement.releases == 1 else f"all {statement.releases} releases"
    label = (
        "It is assumed that the attacker knows the true desired label of the image."
        if statement.label_known
        else "It is assumed that the attacker sees only the features. Where the desired label is sent with them, use "
        "--known-label."
    )
    unit = (
        f"Images with the same {statement.persons!r} count as one person, and each person counts once."
        if statement.persons
        else "The data set names no persons, so each image counts as its own person. If there are several images of "
        "one person, the confidence is lower than stated."
    )
    training = (
        " In this run only training images carry noise. Images of other splits were sent without noise, so nothing is "
        "certified about them."
        if statement.training_only
        else ""
    )
    return (
        f"An attacker has {count} of an image. With {100 * statement.confidence:g} % confidence for each attribute, "
        "its balanced accuracy on the attribute is not above the bound, whatever it computes and however much it knows "
        "about the front, the noise and other people. This holds for a person drawn at random from the population of "
        f"the {' and '.join(statement.splits)} images, and for the finished front. It holds only if these images were "
        "not used to train or to choose the front. It is not about images that the front learned from: their releases "
        "may tell more. The attribute is the one that the data set's column states. "
        f"{unit} {label} The bound does not cover other attributes, several images of one person together, the place "
        "of an image in its data set, the times or the number of messages, or an attacker that has the secret "
        "key of the noise."
        f"{training}"
    )
