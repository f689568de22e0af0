"""What attackers read from releases: attributes, membership, and who is shown. Parts of ``audit.json``."""

from __future__ import annotations

from pydantic import Field

from smartedge.artifacts.base import Part
from smartedge.artifacts.certificate import AttributeBound

__all__ = [
    "AttackFigures",
    "AttributeBlock",
    "Identity",
    "Interval",
    "KindFigures",
    "LinkFigures",
    "Membership",
    "MembershipFigures",
    "NamedFigures",
    "PersonBand",
    "PersonFigures",
]

Interval = tuple[float, float]


class AttackFigures(Part):
    """Figures of one attack on one attribute."""

    balanced_accuracy: float = Field(
        description="mean recall over the classes; for yes/no attributes at a threshold chosen on val"
    )
    auroc: float | None = Field(description="null where test has one class only")
    ci95: Interval = Field(
        description="[low, high] of the balanced accuracy, by a bootstrap over test persons, or over images where "
        "persons are not known (it covers the choice of test images, not the randomness of an attacker's training)"
    )
    balanced_accuracy_by_person: float | None = Field(
        default=None,
        description="the same where each person counts once, as in the certificate; null where persons are not known",
    )
    val_balanced_accuracy: float
    val_auroc: float | None = Field(default=None, description="attackers are chosen by it; null for floors")
    base_rate: float = Field(description="share of the most frequent class")
    images: int


class NamedFigures(AttackFigures):
    """Figures, with the name of the attack."""

    attack: str = Field(description="one of the attacks above; for floors `table`, `logistic`, `trees` or `chance`")


class KindFigures(AttackFigures):
    """The best of one kind of attack."""

    rate: float = Field(description="learning rate; 0 for `ensemble`")
    seed: int = Field(description="0 for `ensemble`")
    tried: int = Field(description="how many attackers of this kind there were")
    finished: int | None = Field(
        default=None,
        description="how many of them had all of their training; the budget cut the others short. null: of an audit by "
        "an earlier version",
    )


class AttributeBlock(Part):
    """The results of the attacks on one attribute."""

    best: NamedFigures | None = Field(description="the best attacker of all; null where none was made")
    by_validation: NamedFigures | None = Field(description="the attacker that is best on val")
    training_image: NamedFigures | None = Field(
        description="the best attacker that has all data sent about a training image (at most 16 releases); null "
        "where this is one release only, or no attacker was made"
    )
    undefended: NamedFigures | None = Field(description="the best attacker on the front without protection")
    floor: NamedFigures = Field(
        description="label floor: the best attack that has only the true desired label; never below guessing"
    )
    prediction_floor: NamedFigures | None = Field(
        description="the best attack that has only the task exit's answer; null where there is no exit"
    )
    chance: float = Field(description="1 ÷ number of classes")
    dp_bound: float | None = Field(
        description="`dp.noise_bound`, for a yes/no attribute. It limits `best`; it does not limit an attacker that "
        "also knows the desired label"
    )
    full_depth_needed: bool | None = Field(
        default=None,
        description="false: the certificate of one release is at most 2 points above the best attacker without full "
        "depth, where each person counts once. So `deep` and `fine-tuned` were not trained: with the confidence of the "
        "certificate they read at most these 2 points more. null: there is no certificate, or these attacks were not "
        "asked for",
    )
    attacks: dict[str, KindFigures] = Field(
        description="kind of attack → figures of the best of that kind, with `rate`, `seed`, and `tried`: how many "
        "there were"
    )
    training_image_attacks: dict[str, KindFigures] = Field(
        default={}, description="the same, of the attackers behind `training_image`"
    )
    classes: tuple[str, ...]
    desired: bool = Field(description="of the run")
    sensitive: bool = Field(description="of the run")


class MembershipFigures(Part):
    """Figures for one way to choose the false candidate."""

    auroc: float
    balanced_accuracy: float = Field(description="threshold from one half of the images, measured on the other")
    ci95: Interval = Field(description="[low, high] of the balanced accuracy")
    statistic: str = Field(
        description="the better of `likelihood` and `calibrated` (by the likelihood for the attacker's own images)"
    )
    pairs: int


class Membership(Part):
    """The attacker gets a release and a candidate image. Is the release of that image?"""

    any: MembershipFigures = Field(description="the false candidate is another test image")
    same_label: MembershipFigures | None = Field(
        description="the false candidate has the same desired label; null where there is none"
    )


class LinkFigures(Part):
    """How well pairs of releases of one person are told from pairs of strangers. Intervals: bootstrap over persons."""

    auroc: float = Field(description="0.5 is a guess")
    auroc_ci95: Interval
    equal_error_rate: float = Field(description="where as many pairs of one person as of strangers are misjudged")
    equal_error_rate_ci95: Interval


class Identity(Part):
    """Are two releases of one person?"""

    persons: int = Field(description="protected persons")
    persons_with_pairs: int = Field(description="of these, with two or more images")
    labelled: bool = Field(description="whether linkers could also use the true desired label of each image")
    best: str = Field(description="the linker that is best on val")
    best_of_release: str = Field(description="the same, of the linkers that have the releases alone")
    linkers: dict[str, LinkFigures] = Field(description="linker → figures")
    resamples: int = Field(
        default=100, description="of persons, behind each interval; fewer where the budget was short"
    )
    label_floor: LinkFigures = Field(description="of a linker that sees only the true desired labels")
    attribute_floor: LinkFigures = Field(
        description="of a linker that sees only the true desired label and the true attributes that were audited"
    )
    undefended: LinkFigures | None = Field(
        default=None, description="of the best linker on the front without protection; null where there is none"
    )


class PersonFigures(Part):
    """Figures of one attack on persons. The interval is a bootstrap over persons."""

    balanced_accuracy: float = Field(description="at a threshold chosen on val")
    ci95: Interval
    auroc: float | None


class PersonBand(Part):
    """What so many images of one person tell together of an attribute."""

    persons: tuple[int, ...] = Field(description="protected persons of each class")
    best: str = Field(description="the attack that is best on val")
    attacks: dict[str, PersonFigures] = Field(description="attack → figures")
    label_floor: PersonFigures = Field(
        description="the same attacks on the true desired labels of the same images; the one that is best on val"
    )
    undefended: PersonFigures | None = Field(
        default=None, description="the best attack on the front without protection; null where there is none"
    )
    certificate: AttributeBound | None = Field(
        default=None,
        description="what no attacker exceeds that has the smallest number of images of this band, of one person, at "
        "95 % confidence; null where there is no noise of known law, nobody of a class, or another band",
    )
