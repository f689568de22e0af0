"""Files of an audit.

`smartedge audit RUN` writes, under `RUN/audit/`:

| file | what |
| --- | --- |
| `audit.json` | all figures below |
| `attacks/NAME.json`, `.safetensors` | one finished attacker: figures; scores (`val.i`, `test.i`: i-th attribute) |
| `features/` | the front's features of all splits, without noise, where they are smaller than 256 MiB |
| `undefended/front.safetensors`, `exit.safetensors` | the same front without protection, trained once |
| `reconstruction/` | finished reconstruction attacks and `samples.safetensors` |

Where `--undefended RUN2` names an unprotected run, no such front is trained. The attacks on that run are kept under
`RUN2/audit/attacks/`, and all audits that name it share them.

The next call reuses finished attacks, as long as settings, releases and labels are the same. It keeps the stages
(attribute inference, membership, identity, persons, epsilon, reconstruction) that it does not ask for. `--fresh` does
everything again.
For each stage, `audit.json` holds the attacks of the last call that asked for the stage.
These files come from protected images and sensitive labels: keep them where those may be kept.

## The attacks

The protected images are the test split. Their releases are read from the feature log, as they crossed the link. The
attacker has the front's weights, the codec, the noise law, and the labelled images of train and val. It can make any
number of releases of these images. It trains on new noise in every epoch, chooses epochs and thresholds on val, and is
measured on test. **best** is the attacker with the highest balanced accuracy on test, of all kinds, learning rates and
seeds: this choice favours the attacker a little. `by_validation` is the fair choice.

These attackers have the features of one release and nothing else; this is what a DP bound limits. More crosses the link
about a *training* image: its desired label (with `dp.label_epsilon`, the randomised one) and, unless the schedule is
`freeze-and-log`, several releases. **training_image** is the best attacker that has all of this: the mean of the
releases (a sufficient statistic for Gaussian noise and for codewords), and the label as further columns. Test images
stand for training images here; their further releases are simulated. `deep` takes part where there are several
releases, without the label.

| attack | what it is |
| --- | --- |
| `linear`, `linear-pooled` | logistic regression on the flattened features; on each channel's mean |
| `posterior` | codewords: the exact posterior of the attribute given what was released (Bayes) |
| `mixture` | noise on at most 512 numbers: the posterior under the release laws of the attacker's own images |
| `trees` | gradient-boosted trees on at most 512 pooled columns |
| `mlp` | two hidden layers on at most 4096 columns |
| `deep` | a network of the back's architecture, with the expander |
| `fine-tuned` | the same, beginning with the cloud's final weights |
| `ensemble` | mean log-probability of the best attackers on val, five at most |

Each sensitive column has its own networks `deep` and `fine-tuned`; the other columns share one. Where at most three
columns are audited, each has its own. The undefended reference is attacked by one `linear`, one `mlp` and one `deep`.

## `audit.json`

Shares are between 0 and 1. "null" marks keys that may be null.

[table of Audit]

### `audited`

A run has all of these keys:

[table of AuditedRun]

Features that did not come from a run have, in place of the last five:

[table of AuditedFeatures]

### `attributes.NAME`

[table of AttributeBlock]

Figures of an attack. Figures under `attacks.KIND` also have `rate`, `seed` and `tried`. All others have `attack`: an
attack named above, or for floors `table`, `logistic`, `trees` or `chance`.

[table of AttackFigures]

### `certificate`

[table of AuditCertificates]

### `membership`

The attacker gets a release and a candidate image. Is the release of that image?

[table of Membership]

### `identity`

Are two releases of one person? A linker gives each pair of releases a score. It learns from the persons in train, is
chosen by those in val, and is judged on those in test: nobody is in two of them, and no protected image chooses. The
attacker has everything sent about a training image. Each person counts once: a pair of one person is two images of a
person who has several, a pair of strangers is an image of each of two persons. Where the desired labels travel,
each linker is also tried with the labels (`NAME+label`), the true ones also where `dp.label_epsilon` randomises them.

| linker | what it is |
| --- | --- |
| `cosine`, `euclid` | similarity of the standardised numbers; of many numbers, of 256 principal components |
| `plda` | the likelihood ratio where persons and deviations are Gaussian (two-covariance model) |
| `mixture` | the likelihood ratio under the exact noise, as if persons were those of train; needs a known law |
| `siamese` | a small network that learned to put images of one person close together |

What two images of one person have in common is not only identity: a gender, an age, and often the desired label stay.
So there are two floors. The label floor has the true desired labels of the two images; no defence that keeps the label
can be below it. The attribute floor also has the true attributes that were audited.

[table of Identity]

[table of LinkFigures]

### `persons.NAME.IMAGES`

What several images of one person tell together of an attribute. `IMAGES` is the number of images: `1`, `2-3`, `4-9`, or
`10-`. A person with enough images gives one set of so many; its class is that of most of these images. Attackers have
the releases of the set, and its true desired labels where labels travel. As for `identity`, nobody is in two splits,
val chooses, and persons are the units. Fewer than five persons of a class: the row is left out.

| attack | what it is |
| --- | --- |
| `mixture-images` | the product of the exact likelihoods of the images, as if they were independent |
| `mixture-persons` | the exact posterior, of a person of train, from whose images each one is drawn |
| `network-images` | a network that learned from single images; its log-posteriors are added up |
| `network-sets` | a network that learned from whole sets: the mean of the images' embeddings, and their number |

[table of PersonBand]

[table of PersonFigures]

### `dp`

[table of NoiseTest]

### `reconstruction`

The attacker's reconstructions of the protected images, compared with the originals. An attack for which no
time was left is null, and is listed under `skipped`.

[table of Reconstruction]

The results of one attack; `undefended` has the same keys:

[table of ReconstructionAttack]

LPIPS's weights are published as pickles, and smartedge reads no pickles. If you trust them, convert them once to a
file of numbers in the cache folder. Images of 32 pixels and more are then compared by LPIPS:

<!-- not run: downloads weights -->
```python
import os, safetensors.torch, torchmetrics.image.lpip as lpip

net = lpip.LearnedPerceptualImagePatchSimilarity(net_type="alex").net  # downloads AlexNet
safetensors.torch.save_model(net, os.path.expanduser("~/.cache/smartedge/lpips-alex.safetensors"))
```

`RUN/audit/reconstruction/samples.safetensors` has the data of the picture. It has R rows: the first two
test images for each pair of desired label (0, 1) and sensitive label (0, 1).

| tensor | meaning |
| --- | --- |
| `ids` | int64 (R,), the test images' ids |
| `desired`, `sensitive` | int64 (R,), class numbers (first column of a multi-label task); −1: unknown |
| `originals` | uint8 (R, 3, H, W), RGB |
| `defended`, `undefended` | uint8 (R, 3, H, W): by the attack with the lowest perceptual distance; may be absent |

Its metadata are strings of JSON: `network` (the run's `model.name`), `attacks` (`{"defended": ATTACK, "undefended":
ATTACK}`), `desired` and `sensitive` (`{"column", "names"}`; `sensitive` null without one). For an unprotected run
`defended` and `undefended` are equal. `undefended` is absent where there was no undefended front.
"""

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
