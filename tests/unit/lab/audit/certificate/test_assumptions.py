"""A certificate says what its bounds assume: each fact changes its own sentence, and no other one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smartedge.lab.audit.certificate.whole import Statement, assumptions

PLAIN = Statement(0.95, 1, False, ("test",), None, False)


def changed(**facts: Any) -> tuple[set[str], set[str]]:
    """The sentences that only the plain statement has, and those that only the changed one has."""
    plain, other = (set(assumptions(each).split(". ")) for each in (PLAIN, replace(PLAIN, **facts)))
    return plain - other, other - plain


def test_every_assumption_is_said() -> None:
    said = assumptions(PLAIN)
    for part in (
        "An attacker has one release of an image. With 95 % confidence for each attribute",
        "a person drawn at random from the population of the test images, and for the finished front",
        "only if these images were not used to train or to choose the front",
        "not about images that the front learned from",
        "several images of one person together, the place of an image in its data set, the times or the number of",
        "an attacker that has the secret key of the noise",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("facts", "lost", "told"),
    [
        ({"confidence": 0.9}, "With 95 % confidence", "With 90 % confidence"),
        ({"releases": 4}, "An attacker has one release of an image", "An attacker has all 4 releases of an image"),
        ({"splits": ("val", "test")}, "of the test images", "of the val and test images"),
    ],
)
def test_a_fact_changes_its_sentence(facts: dict[str, Any], lost: str, told: str) -> None:
    before, after = changed(**facts)
    assert (len(before), len(after)) == (1, 1)
    assert lost in before.pop() and told in after.pop()


def test_the_label_is_known_or_the_attacker_sees_only_the_features() -> None:
    before, after = changed(label_known=True)
    assert after == {"It is assumed that the attacker knows the true desired label of the image"}
    assert before == {
        "It is assumed that the attacker sees only the features",
        "Where the desired label is sent with them, use --known-label",
    }


def test_persons_count_once_or_each_image_does() -> None:
    before, after = changed(persons="who")
    assert after == {"Images with the same 'who' count as one person, and each person counts once"}
    assert before == {
        "The data set names no persons, so each image counts as its own person",
        "If there are several images of one person, the confidence is lower than stated",
    }


def test_nothing_is_certified_about_splits_without_noise() -> None:
    said = assumptions(replace(PLAIN, training_only=True)).removeprefix(assumptions(PLAIN))
    assert said == (
        " In this run only training images carry noise. Images of other splits were sent without noise, so nothing is "
        "certified about them."
    )
