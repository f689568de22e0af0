"""What an edge may ask of a front."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from smartedge.artifacts.front import AttackedAttribute, AuditReach, CertifiedAttribute, FrontManifest
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import ConfigError, FrontError
from smartedge.fronts.requirements import Requirement

ALL = ("linear", "mixture", "trees", "mlp", "deep", "ensemble")
REACH = AuditReach(learned_from=500, judged_on=200, images_seen=False, left_out=0)


ATTACKED: dict[str, Any] = {"sensitive": True, "undefended": 0.9, "floor": 0.6, "finished": ALL}


def manifest(**changes: Any) -> FrontManifest:
    certified = {"confidence": 0.95, "releases": 1, "label_known": False}
    facts: dict[str, Any] = {
        "name": "faces",
        "version": 3,
        "created": datetime(2026, 1, 1, tzinfo=timezone.utc),
        "smartedge_version": "0.1",
        "opset": 17,
        "difference": 0.0,
        "files": {},
        "image_size": 64,
        "task": TaskFacts(kind="single", columns=("Smiling",), names=("no", "yes")),
        "feature_shape": (4, 2, 2),
        "settings": {},
        "policy": {"granularity": "vector", "epsilon_each": 8.0},
        "calibration": None,
        "threshold": 0.9,
        "audit_reach": REACH,
        "audit": {
            "Male": AttackedAttribute(best=0.66, training_image=0.67961, **ATTACKED),
            "Young": AttackedAttribute(best=0.55, training_image=None, **ATTACKED),
            "Smiling": AttackedAttribute(best=0.92, training_image=None, **ATTACKED),
        },
        "certificate_left_out": 0,
        "certificate": {
            "Male": CertifiedAttribute(desired=False, bound=0.69312, **certified),
            "Smiling": CertifiedAttribute(desired=True, bound=0.97, **certified),
        },
    }
    return FrontManifest(**{**facts, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "certificate<=70%",
        "certificate <= 0.7",
        "certificate.Male<=69.4%",
        "attack<=68%",
        "attack.Young<=55%",
        "epsilon<=8",
        "version>=3",
    ],
)
def test_what_is_met(text: str) -> None:
    Requirement.parse(text).check(manifest(), labels_sent=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("certificate<=69%", "it is 69.4 %"),
        ("attack<=67%", "it is 68.0 %"),
        ("epsilon<=7.9", "it is 8"),
        ("version>=4", "it is 3"),
        ("certificate.Young<=99%", "says nothing about that"),
        ("attack.Bald<=99%", "says nothing about that"),
    ],
)
def test_what_is_not_met(text: str, says: str) -> None:
    with pytest.raises(FrontError, match=says):
        Requirement.parse(text).check(manifest(), labels_sent=False)


def test_a_front_that_says_nothing_meets_nothing() -> None:
    silent = manifest(audit=None, certificate=None, policy={"granularity": "vector", "epsilon_each": None})
    for text in ("certificate<=100%", "attack<=100%", "epsilon<=1000"):
        with pytest.raises(FrontError):
            Requirement.parse(text).check(silent, labels_sent=False)
    only_desired = manifest(certificate={"Smiling": manifest().certificate["Smiling"]})  # type: ignore[index]
    with pytest.raises(FrontError, match="says nothing"):
        Requirement.parse("certificate<=100%").check(only_desired, labels_sent=False)


def test_epsilon_is_that_of_the_whole_map() -> None:
    element = manifest(policy={"granularity": "element", "epsilon_each": 1.0})
    Requirement.parse("epsilon<=16").check(element, labels_sent=False)
    with pytest.raises(FrontError, match="it is 16"):
        Requirement.parse("epsilon<=15").check(element, labels_sent=False)
    without_noise = manifest(policy={"granularity": "vector", "epsilon_each": math.inf})
    with pytest.raises(FrontError, match=r"it is 8\.001"):
        Requirement.parse("epsilon<=8").check(
            manifest(policy={"granularity": "vector", "epsilon_each": 8.00001}), labels_sent=False
        )
    with pytest.raises(FrontError, match="it is ∞"):
        Requirement.parse("epsilon<=8").check(without_noise, labels_sent=False)


def test_epsilon_at_a_large_delta_does_not_count() -> None:
    """With δ = 0.5 half of all images may be sent as they are, and ε is 0."""
    of_pure_noise = manifest(settings={"dp": {"delta": 1e-5}})
    Requirement.parse("epsilon<=8").check(of_pure_noise, labels_sent=False)
    with pytest.raises(FrontError, match=r"its ε holds at δ = 0\.001 alone"):
        Requirement.parse("epsilon<=8").check(manifest(settings={"dp": {"delta": 1e-3}}), labels_sent=False)


def test_what_is_no_number_meets_nothing() -> None:
    """NaN is not above any limit."""
    without = {"policy": {"granularity": "vector", "epsilon_each": math.nan}}
    for changes in (without, {"settings": {"dp": {"delta": math.nan}}}):
        with pytest.raises(FrontError):
            Requirement.parse("epsilon<=8").check(manifest(**changes), labels_sent=False)
    for name in ("best", "training_image"):
        with pytest.raises(ValidationError, match=name):
            AttackedAttribute(**{"best": 0.6, "training_image": 0.6, **ATTACKED, name: math.nan})
    for name in ("bound", "confidence"):
        with pytest.raises(ValidationError, match=name):
            certified(**{name: math.nan})


@pytest.mark.parametrize("text", ["certificate<70%", "certificate<=7", "epsilon<=8%", "version.Male>=1", "trust", ""])
def test_what_is_no_requirement(text: str) -> None:
    with pytest.raises(ConfigError, match="--require"):
        Requirement.parse(text)


def certified(**changes: Any) -> dict[str, CertifiedAttribute]:
    facts: dict[str, Any] = {"desired": False, "bound": 0.6, "confidence": 0.95, "releases": 1, "label_known": True}
    return {"Male": CertifiedAttribute(**{**facts, **changes})}


def test_an_edge_that_sends_labels_needs_a_certificate_for_attackers_that_know_them() -> None:
    wanted = Requirement.parse("certificate<=70%")
    wanted.check(manifest(certificate=certified()), labels_sent=True)
    wanted.check(manifest(certificate=certified(label_known=False)), labels_sent=False)
    with pytest.raises(FrontError, match=r"this edge sends it.*--known-label"):
        wanted.check(manifest(certificate=certified(label_known=False)), labels_sent=True)


def test_a_certificate_of_little_confidence_meets_nothing() -> None:
    for text in ("certificate<=70%", "certificate.Male<=70%"):
        with pytest.raises(FrontError, match="less than 95% confidence"):
            Requirement.parse(text).check(manifest(certificate=certified(confidence=0.94)), labels_sent=False)
    Requirement.parse("certificate<=70%").check(manifest(certificate=certified(confidence=0.99)), labels_sent=False)


@pytest.mark.parametrize(
    ("changed", "told"), [({"confidence": 0.94}, "less than 95% confidence"), ({"label_known": False}, "sends it")]
)
def test_one_column_that_is_certified_less_well_is_enough_for_a_refusal(changed: dict[str, Any], told: str) -> None:
    both = {**certified(), "Young": certified(**changed)["Male"]}
    with pytest.raises(FrontError, match=told):
        Requirement.parse("certificate<=70%").check(manifest(certificate=both), labels_sent=True)


def test_noise_on_training_images_alone_meets_nothing() -> None:
    """Images of a camera, validation and test images would be released without noise."""
    plain = manifest(settings={"dp": {"apply_to": "training"}}, certificate=certified())
    for text in ("certificate<=70%", "epsilon<=8"):
        Requirement.parse(text).check(manifest(settings={"dp": {"apply_to": "always"}}), labels_sent=False)
        with pytest.raises(FrontError, match="only training images would get noise"):
            Requirement.parse(text).check(plain, labels_sent=False)
    Requirement.parse("version>=3").check(plain, labels_sent=False)


def attacked(**changes: Any) -> dict[str, AttackedAttribute]:
    facts: dict[str, Any] = {
        "sensitive": True,
        "best": 0.6,
        "training_image": 0.61,
        "undefended": 0.9,
        "floor": 0.6,
        "finished": ALL,
        "training_image_finished": ("linear", "trees", "mlp"),
    }
    return {"Male": AttackedAttribute(**{**facts, **changes})}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"finished": ("linear",)}, "on Male .* training: trees, mlp, deep;"),
        ({"finished": ("linear", "trees", "mlp")}, "training: deep; .*audit RUN' with a larger --budget"),
        ({"finished": ("linear", "trees", "deep")}, "training: mlp;"),
        ({"finished": (), "best": None}, "training: linear, trees, mlp, deep"),
        ({"finished": None}, "training: linear, trees, mlp, deep"),
        ({"finished": ("trees", "mlp"), "full_depth_needed": False}, "training: linear;"),
        ({"finished": ("linear", "trees", "mlp"), "full_depth_needed": True}, "training: deep"),
    ],
)
def test_an_attack_counts_only_where_attackers_were_trained(changes: dict[str, Any], says: str) -> None:
    for text in ("attack<=99%", "attack.Male<=99%"):
        with pytest.raises(FrontError, match=says):
            Requirement.parse(text).check(manifest(audit=attacked(**changes)), labels_sent=False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"finished": ("linear", "trees", "mlp"), "full_depth_needed": False},
        {"finished": ("linear", "trees", "mlp", "posterior")},
        {"finished": ("linear", "trees", "mlp", "fine-tuned")},
    ],
)
def test_which_attackers_suffice(changes: dict[str, Any]) -> None:
    Requirement.parse("attack<=61%").check(manifest(audit=attacked(**changes)), labels_sent=False)


def test_where_labels_are_sent_attackers_with_the_label_must_have_been_trained() -> None:
    wanted = Requirement.parse("attack<=61%")
    wanted.check(manifest(audit=attacked()), labels_sent=True)
    unlabelled = attacked(training_image=None, training_image_finished=("linear",))
    wanted.check(manifest(audit=unlabelled), labels_sent=False)
    with pytest.raises(FrontError, match="training: trees with the label, mlp with the label;"):
        wanted.check(manifest(audit=unlabelled), labels_sent=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learned_from": 499}, "learned from 499 images and were judged on 200; 500 and 200 are needed"),
        ({"judged_on": 199}, "learned from 500 images and were judged on 199;"),
        ({"images_seen": True}, "may have learned from; train with data.audit_share"),
        ({"images_seen": None}, "may have learned from; train with data.audit_share"),
        ({"left_out": 1}, "its audit leaves out 1 of the columns that its run was to hide"),
    ],
)
def test_an_attack_counts_only_with_enough_images_of_its_own_and_all_columns(
    changes: dict[str, Any], says: str
) -> None:
    narrow = manifest(audit=attacked(), audit_reach=REACH.model_copy(update=changes))
    with pytest.raises(FrontError, match=says):
        Requirement.parse("attack<=99%").check(narrow, labels_sent=False)
    if "left_out" in changes:  # who names a column asks about that one alone
        Requirement.parse("attack.Male<=99%").check(narrow, labels_sent=False)


def test_a_certificate_of_some_of_the_hidden_columns_does_not_stand_for_all() -> None:
    for left_out, says in ((1, "leaves out 1 of the columns"), (None, "earlier version")):
        partial = manifest(certificate=certified(), certificate_left_out=left_out)
        with pytest.raises(FrontError, match=says):
            Requirement.parse("certificate<=70%").check(partial, labels_sent=False)
        Requirement.parse("certificate.Male<=70%").check(partial, labels_sent=False)


def test_an_audit_that_an_earlier_version_published_does_not_count() -> None:
    with pytest.raises(FrontError, match="earlier version"):
        Requirement.parse("attack<=99%").check(manifest(audit_reach=None), labels_sent=False)
