"""Files of an audit. ``docs/audit-schema.md`` explains them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.attacks import AttributeBlock, Identity, Membership, PersonBand
from smartedge.artifacts.base import Artifact, Fields, Part
from smartedge.artifacts.certificate import Certificate
from smartedge.artifacts.reconstruction import Reconstruction

__all__ = [
    "Audit",
    "AuditCertificates",
    "AuditSettingsUsed",
    "Audited",
    "AuditedFeatures",
    "AuditedRun",
    "Effort",
    "NoiseTest",
    "Skipped",
]


_PERSON = "identity"  # the column that says whose image it is


class Audited(Part):
    """What was attacked."""

    subject: str | None = Field(
        default=None,
        description="digest of the releases that were attacked, of their noise law and of what else is sent; null: of "
        "an audit by an earlier version. Results of an earlier call are kept only where it is the same",
    )
    feature_shape: tuple[int, ...]
    seed: int
    desired: tuple[str, ...] = Field(description="columns")
    sensitive: tuple[str, ...] = Field(description="columns")
    undefended: bool = Field(
        description="nothing protects this run; false for features that were given, since nothing is known of them"
    )
    noise_on_audited_releases: bool = Field(
        description="false where `dp.apply_to` is `training`: test images crossed without noise"
    )
    attackers_images_seen: bool | None = Field(
        default=None,
        description="the front was trained on the attackers' own images (no `data.audit_share`): an attacker with "
        "other images may read more; null where that is not known",
    )
    images: dict[str, int] = Field(description="split → number of images")
    ordered: tuple[str, ...] = Field(
        default=(),
        description="columns of which the order of the protected images tells something: from image to image the label "
        "changes more or less often than chance explains. Attackers do not look at the order",
    )


class AuditedRun(Audited):
    """The run that was attacked."""

    edge: str | None = Field(None, description="of a fleet, whose releases were attacked; null: the edge has no name")
    method: str
    schedule: str
    model: str
    cut: str | None
    codec: str | None


class AuditedFeatures(Audited):
    """The features that were attacked, where they did not come from a run (`smartedge audit --features`)."""

    source: str | None = Field(description="name of the file; null for arrays in memory")
    digest: str = Field(description="of features and labels")
    splits: Literal["given", "made by persons", "made by images"] = Field(
        description="where the splits come from: from the file, or made with `seed`"
    )
    persons: int | None = Field(
        description="number of persons; null: not known, so images of one person may be in two splits"
    )
    copies: int | None = Field(
        default=None,
        description="protected images whose features are exactly those of an image of another split: the same image "
        "under another name, or features of few values; null for codewords",
    )
    rounded: bool = Field(
        default=False,
        description="the features have more digits than float32 holds: attackers did not see what further digits tell",
    )


class Effort(Part):
    """The options of one call of the audit."""

    budget_seconds: float | None = Field(description="null: no limit")
    seeds: int = Field(description="attackers of each kind")
    undefended: str | None = Field(description="an unprotected run for comparison")
    undefended_differs: tuple[str, ...] = Field(
        default=(),
        description="settings of training in which that run differs, beside its protection, with both values: a part "
        "of what lies between the figures may come from them",
    )


class AuditSettingsUsed(Effort):
    """The options of the audit."""

    attributes: tuple[str, ...] = Field(description="of all figures in this file")
    attacks: tuple[str, ...] = Field(description="of all figures in this file")
    stages: dict[str, Effort] = Field(
        description="`attributes`, `membership`, `identity`, `persons`, `dp` (epsilon), `reconstruction` → "
        "`budget_seconds`, `seeds`, `undefended`, `undefended_differs` of the call that made its figures"
    )


class NoiseTest(Part):
    """The guarantee of one release, and a test of the mechanism itself."""

    mechanism: str = Field(description="as in the settings")
    granularity: str = Field(description="as in the settings")
    epsilon_claimed: float | None = Field(
        description="of one release of one image; null where nothing is claimed (ε = ∞)"
    )
    vector_epsilon: float | None = Field(
        description="of one release of the whole feature map: larger where `granularity` is `element`"
    )
    delta: float
    releases_max: int = Field(description="how often a training image is released in the run, at most")
    label_epsilon: float | None = Field(description="of the desired label that travels; null: in clear")
    apply_to: str = Field(description="as in the settings")
    attribute_bound: float | None = Field(
        description="(e^ε + δ)/(1 + e^ε): the highest balanced accuracy on any yes/no attribute from the features of "
        "one release; null where the audited releases have no noise"
    )
    noise_bound: float | None = Field(
        description="the same from the law of the noise itself, never higher: Φ(C/σ) for Gaussian noise, "
        "1 − ½e^(−ε/2) for Laplace, from the channel for codewords"
    )
    epsilon_lower_bound: float | None = Field(
        default=None,
        description="lower bound on ε of one release, for any mechanism; null where not tested",
    )
    epsilon_lower_bound_gaussian: float | None = Field(
        default=None, description="the same, if the noise is Gaussian: much sharper"
    )
    confidence: float | None = Field(
        default=None, description="0.999, for both bounds together; null where not tested, as the next three"
    )
    trials: int | None = Field(default=None, description="releases of each of the two inputs")
    pair: str | None = Field(default=None, description="the inputs that gave the bound")
    control_without_noise: float | None = Field(
        default=None,
        description="result of the same test without noise. The test cannot check a claim above it",
    )
    holds: bool | None = Field(
        default=None, description="no lower bound exceeds the claim; null where nothing is claimed or tested"
    )


class AuditCertificates(Part):
    """What no attacker can exceed, whatever it computes. `docs/certificate-schema.md` has the keys."""

    one_release: Certificate | None = Field(
        description="an attacker that has one release; null where the audited releases have no noise"
    )
    training_image: Certificate | None = Field(
        description="an attacker that has everything sent about a training image; null where that is one release only"
    )


class Skipped(Part):
    """Something that was left out or cut short."""

    attack: str
    reason: str
    evidence: str | None = Field(default=None, description="for attackers: which releases they used")
    attributes: tuple[str, ...] | None = Field(default=None, description="for attackers")
    rate: float | None = Field(default=None, description="for attackers: learning rate")
    seed: int | None = Field(default=None, description="for attackers")


class Audit(Artifact):
    """The results of an audit: ``audit/audit.json``."""

    missing: ClassVar[str] = "'smartedge audit RUN' writes it"
    remedy: ClassVar[str] = "run 'smartedge audit' again"
    page: ClassVar[str] = "docs/audit-schema.md"

    schema_version: Literal[3] = 3
    smartedge_version: str | None = Field(default=None, description="of the program that made the audit")
    audited: AuditedRun | AuditedFeatures = Field(description="see below")
    settings: AuditSettingsUsed = Field(description="`budget_seconds`, `seeds` and `undefended` are of the last call")
    attributes: dict[str, AttributeBlock] = Field(description="attribute → results of the attacks on it: see below")
    reconstruction: Reconstruction | None = Field(description="see below; null where not asked for")
    membership: Membership | None = Field(description="see below; null where not asked for")
    identity: Identity | None = Field(
        default=None, description="see below; null where not asked for, or where the persons are not known"
    )
    persons: dict[str, dict[str, PersonBand]] | None = Field(
        default=None, description="attribute → number of images → figures: see below; null as for `identity`"
    )
    certificate: AuditCertificates | None = Field(
        default=None, description="see below; null where not asked for, or without noise"
    )
    dp: NoiseTest = Field(description="see below")
    skipped: tuple[Skipped, ...] = Field(description="attacks that the budget left out or cut short")
    verdict: str = Field(description="one sentence about the sensitive attribute that is farthest above its floor")

    @property
    def unread(self) -> tuple[str, ...]:
        """The sensitive columns on which no attack was made. Who is shown does not count: linkers attack it."""
        attacked = {name for name, block in self.attributes.items() if block.best is not None}
        return tuple(name for name in self.audited.sensitive if name not in {*attacked, _PERSON})

    @classmethod
    def upgraded(cls, fields: Fields) -> Fields:
        """Version 2 had the key ``run`` in place of ``audited``."""
        if fields.get("schema_version") == 2 and "run" in fields:
            fields = {**fields, "schema_version": 3, "audited": fields["run"]}
            del fields["run"]
        return fields
