"""What an audit leaves in the run directory.

`smartedge audit RUN` writes, under `RUN/audit/`:

| file | what |
| --- | --- |
| `audit.json` | everything below, put in place in one step |
| `attacks/NAME.json`, `.safetensors` | one finished attacker: figures; scores (`val.i`, `test.i`: i-th attribute) |
| `undefended/front.safetensors`, `exit.safetensors` | the same front without protection, trained here once |
| `reconstruction/` | finished reconstruction attacks and `samples.safetensors` |

Where `--undefended RUN2` names an unprotected run, no such front is trained; the attacks on that run are kept under
`RUN2/audit/attacks/`, and shared by all audits beside it.

The next call reuses what is finished, as long as settings, releases and labels are the same, and keeps the stages
(attribute inference, membership, epsilon, reconstruction) that it does not ask for; `--fresh` begins anew.
Within a stage, `audit.json` holds the attacks of the last call that asked for it.
What is here was made from protected images and sensitive labels: keep it where those may be kept.

## What is attacked, with what

The protected images are the test split; their releases are read from the feature log, as they crossed the link. The
attacker has the front's weights, the codec, the noise law, and train and val as labelled images of its own, of which it
makes as many releases as it likes; it trains on fresh noise in every epoch, picks epochs and thresholds on val, and is
judged on test. **best** is the attacker with the highest balanced accuracy on test, of all kinds, learning rates and
seeds: a choice that favours the attacker a little. `by_validation` is the fair choice.

These see the features of one release and nothing else, which is what a DP bound limits. About a *training* image more
crosses the link: its desired label, where that is not randomised, and of other schedules than `freeze-and-log` several
releases. **training_image** is the best attacker who has all that: the mean of the releases (which tells all that they
tell, of Gaussian noise and of codewords), and the label as further columns. The test images stand for such images, with
further releases that are simulated. `deep` takes part where there are several releases, without the label.

| attack | what it is |
| --- | --- |
| `linear`, `linear-pooled` | logistic regression on the flattened features; on each channel's mean |
| `posterior` | codewords: the exact posterior of the attribute given what was released (Bayes) |
| `mixture` | noise on at most 512 numbers: the posterior under the release laws of the attacker's own images |
| `trees` | gradient-boosted trees on at most 512 pooled columns |
| `mlp` | two hidden layers on at most 4096 columns |
| `deep` | a network of the back's architecture, expander included: full depth |
| `fine-tuned` | the same, from the weights with which the cloud finished |
| `ensemble` | mean log-probability of the up to five that are best on val |

Sensitive columns (or all, where at most three are audited) get networks `deep` and `fine-tuned` of their own; the other
columns share one. The undefended reference is attacked by `linear`, `mlp` and `deep`, one of each.

## `audit.json`

Shares are between 0 and 1. "null" marks keys that may be null.

[table of Audit]

### `attributes.NAME`

[table of AttributeBlock]

Figures of an attack; those of `attacks.KIND` have `rate`, `seed` and `tried`, all others `attack`: one of the attacks
above; of floors `table`, `logistic`, `trees` or `chance`:

[table of AttackFigures]

### `membership`

Given a release and a candidate image, is it of that image?

[table of Membership]

### `dp`

[table of NoiseTest]

### `reconstruction`

What the attacker's images of the protected images look like. An attack for which no time was left is null, and listed
under `skipped`.

[table of Reconstruction]

What one attack achieved; `undefended` has the same keys:

[table of ReconstructionAttack]

LPIPS's weights are published as pickles, of which this library reads none. Where you trust them, put them into the
cache folder once, as a file that holds numbers alone; images of 32 pixels and more are then compared by LPIPS:

```python
import os, safetensors.torch, torchmetrics.image.lpip as lpip

net = lpip.LearnedPerceptualImagePatchSimilarity(net_type="alex").net  # downloads AlexNet
safetensors.torch.save_model(net, os.path.expanduser("~/.cache/smartedge/lpips-alex.safetensors"))
```

`RUN/audit/reconstruction/samples.safetensors` has the data of the picture. R rows: for each desired label (0, 1), and
within it each sensitive label (0, 1), the first two test images that have both.

| tensor | meaning |
| --- | --- |
| `ids` | int64 (R,), the test images' ids |
| `desired`, `sensitive` | int64 (R,), class numbers; of a multi-label task the first column; −1: unknown |
| `originals` | uint8 (R, 3, S, S), RGB |
| `defended`, `undefended` | uint8 (R, 3, S, S): by the attack of the lowest perceptual distance; absent where no time |

Its metadata are strings of JSON: `network` (the run's `model.name`), `attacks` (`{"defended": ATTACK, "undefended":
ATTACK}`), `desired` and `sensitive` (`{"column", "names"}`; `sensitive` null without one). For an unprotected run
`defended` and `undefended` are equal; `undefended` is absent where there was nothing to compare with.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part

__all__ = [
    "AttackFigures",
    "AttributeBlock",
    "Audit",
    "AuditSettingsUsed",
    "AuditedRun",
    "Effort",
    "ImageIntervals",
    "Interval",
    "KindFigures",
    "Likeness",
    "Membership",
    "MembershipFigures",
    "NamedFigures",
    "NoiseTest",
    "Perceptual",
    "ReadFromImages",
    "Reconstruction",
    "ReconstructionAttack",
    "ReconstructionFigures",
    "ReconstructionTraining",
    "Skipped",
    "WhiteBoxWeights",
]

Interval = tuple[float, float]


class AuditedRun(Part):
    """The run that was attacked."""

    method: str
    schedule: str
    model: str
    cut: str | None
    feature_shape: tuple[int, ...]
    codec: str | None
    seed: int
    desired: tuple[str, ...] = Field(description="columns")
    sensitive: tuple[str, ...] = Field(description="columns")
    undefended: bool = Field(description="nothing protects this run")
    noise_on_audited_releases: bool = Field(
        description="false where `dp.apply_to` is `training`: test images crossed without noise"
    )
    attackers_images_seen: bool | None = Field(
        default=None,
        description="the front was trained on the images that attackers learned from (no `data.audit_share`): an "
        "attacker that learned from others may read more; null in audits of earlier versions",
    )
    images: dict[str, int] = Field(description="split → number of images")


class Effort(Part):
    """What a call of the audit was given."""

    budget_seconds: float | None = Field(description="null: no limit")
    seeds: int = Field(description="attackers of each kind")
    undefended: str | None = Field(description="a run named for comparison")


class AuditSettingsUsed(Effort):
    """What was asked for."""

    attributes: tuple[str, ...] = Field(description="of all that stands here")
    attacks: tuple[str, ...] = Field(description="of all that stands here")
    stages: dict[str, Effort] = Field(
        description="`attributes`, `membership`, `dp` (epsilon), `reconstruction` → `budget_seconds`, `seeds`, "
        "`undefended` of the call that found what stands there"
    )


class AttackFigures(Part):
    """Figures of one attack on one attribute."""

    balanced_accuracy: float = Field(
        description="mean recall over the classes; of yes/no attributes at a threshold chosen on val"
    )
    auroc: float | None = Field(description="null where test has one class only")
    ci95: Interval = Field(
        description="[low, high] of the balanced accuracy, by a bootstrap over test images (it covers the choice of "
        "test images, not the chance of an attacker's training; images of one person count as independent, so with "
        "several of each it is somewhat too narrow)"
    )
    val_balanced_accuracy: float
    val_auroc: float | None = Field(default=None, description="by which attackers are chosen; null for floors")
    base_rate: float = Field(description="share of the most frequent class")
    images: int


class NamedFigures(AttackFigures):
    """Figures, and whose they are."""

    attack: str = Field(description="one of the attacks above; of floors `table`, `logistic`, `trees` or `chance`")


class KindFigures(AttackFigures):
    """The best of one kind of attack."""

    rate: float = Field(description="learning rate; 0 for `ensemble`")
    seed: int = Field(description="0 for `ensemble`")
    tried: int = Field(description="how many attackers of this kind there were")


class AttributeBlock(Part):
    """What attackers read of one attribute."""

    best: NamedFigures | None = Field(description="the best attacker of all; null where none was made")
    by_validation: NamedFigures | None = Field(description="the attacker that is best on val")
    training_image: NamedFigures | None = Field(
        description="the best attacker who holds all that is sent of a training image (at most 16 releases); null "
        "where that is no more than one release, or none was made"
    )
    undefended: NamedFigures | None = Field(description="the best attacker on the front without protection")
    floor: NamedFigures = Field(
        description="label floor: the best attack that sees only the true desired label, and never less than a guess"
    )
    prediction_floor: NamedFigures | None = Field(
        description="the best attack that sees only the task exit's answer; null where there is no exit"
    )
    chance: float = Field(description="1 ÷ number of classes")
    dp_bound: float | None = Field(
        description="`dp.noise_bound`, for a yes/no attribute: it limits `best`, and not who knows the desired label "
        "as well"
    )
    attacks: dict[str, KindFigures] = Field(
        description="kind of attack → figures of the best of that kind, with `rate`, `seed`, and `tried`: how many "
        "there were"
    )
    classes: tuple[str, ...]
    desired: bool = Field(description="of the run")
    sensitive: bool = Field(description="of the run")


class MembershipFigures(Part):
    """Of one way to choose the false candidate."""

    auroc: float
    balanced_accuracy: float = Field(description="threshold from one half of the images, judged on the other")
    ci95: Interval = Field(description="[low, high] of the balanced accuracy")
    statistic: str = Field(
        description="`likelihood`, or `calibrated` by the likelihood for the attacker's own images; the better one"
    )
    pairs: int


class Membership(Part):
    """Given a release and a candidate image, is it of that image?"""

    any: MembershipFigures = Field(description="the false candidate is another test image")
    same_label: MembershipFigures | None = Field(
        description="the false candidate has the same desired label; null where there is none"
    )


class NoiseTest(Part):
    """What one release promises, and what a test of the mechanism itself finds."""

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
        description="(e^ε + δ)/(1 + e^ε): by the features of one release, no attacker reads any yes/no attribute with "
        "a higher balanced accuracy; null where the audited releases carry no noise"
    )
    noise_bound: float | None = Field(
        description="the same from the law of the noise itself, never higher: Φ(C/σ) for Gaussian noise, "
        "1 − ½e^(−ε/2) for Laplace, from the channel for codewords"
    )
    epsilon_lower_bound: float | None = Field(
        default=None,
        description="at least so much is ε of one release, whatever the mechanism is; null where not tested",
    )
    epsilon_lower_bound_gaussian: float | None = Field(
        default=None, description="the same, given that the noise is Gaussian: much sharper"
    )
    confidence: float | None = Field(
        default=None, description="0.999: of both bounds together; null where not tested, like the next three"
    )
    trials: int | None = Field(default=None, description="releases of each of the two inputs")
    pair: str | None = Field(default=None, description="the inputs that gave the bound")
    control_without_noise: float | None = Field(
        default=None,
        description="what the same test finds where the noise is switched off. A claim above it is out of this test's "
        "reach",
    )
    holds: bool | None = Field(
        default=None, description="no lower bound exceeds the claim; null where nothing is claimed or tested"
    )


class Perceptual(Part):
    """A mean distance over images, and which."""

    name: str
    value: float | None = Field(description="0 for equal images")


class Likeness(Part):
    """How near images are to the originals."""

    psnr: float | None = Field(description="dB, mean over images, 100 at most")
    ssim: float | None = Field(description="mean over images, 1 at most")
    perceptual: Perceptual = Field(
        description="`{name, value}`: mean distance over images, and which; 0 for equal images. LPIPS where its "
        "weights are on disk (below), else a distance in the features of the classifier below, named as such"
    )


class ImageIntervals(Part):
    """95 % intervals, by a bootstrap over images."""

    sensitive_balanced_accuracy: dict[str, Interval] = Field(description="attribute → [low, high]")
    desired_balanced_accuracy: Interval | None = Field(description="[low, high], null for a multi-label task")


class ReadFromImages(Part):
    """What a classifier, trained on the attacker's own original images, reads off images."""

    images: int = Field(description="protected images attacked: all of them, or for `white_box` a subset")
    sensitive_balanced_accuracy: dict[str, float] = Field(
        description="attribute → balanced accuracy on the images of a classifier trained on the attacker's *original* "
        "images, no threshold tuned (as in PriPHiT)"
    )
    sensitive_auroc: dict[str, float | None] = Field(description="attribute → AUROC of the same classifier")
    desired_balanced_accuracy: float | None = Field(
        description="of the same classifier; mean over the columns of a multi-label task"
    )
    ci95: ImageIntervals


class WhiteBoxWeights(Part):
    """Chosen weights of the optimisation."""

    tv: float = Field(description="of total variation")
    prior: float = Field(description="of the distance to the decoder's image")


class ReconstructionTraining(Part):
    """How much of its training an attack had."""

    share: float = Field(
        description="of the planned training that time allowed (below 1: cut short; below 0.5 it is also listed under "
        "`skipped`, and counts all the same)"
    )
    seconds: float | None = Field(description="given; null: no limit")
    adapted_share: float | None = Field(
        default=None, description="`decoder`, `gan`: the same of the classifier that adapts"
    )
    nearer_than_decoder: bool | None = Field(
        default=None, description="`gan`: false where no epoch was, and what stands here is the decoder"
    )
    weights: WhiteBoxWeights | None = Field(default=None, description="`white_box`")


class ReconstructionFigures(Likeness, ReadFromImages):
    """What one attack achieved."""

    sensitive_balanced_accuracy_adapted: dict[str, float] = Field(
        description="the same after the classifier went on with reconstructions of the attacker's own images, "
        "threshold chosen on those of val: the stronger attack. For `white_box` the threshold alone is chosen, on as "
        "many inverted val images"
    )
    training: ReconstructionTraining


class ReconstructionAttack(ReconstructionFigures):
    """What one attack achieved on the audited run, and beside it on the same network without protection."""

    undefended: ReconstructionFigures | None = Field(
        description="the same keys for the same attack on the same network without protection; null where there is "
        "none, or there was no time"
    )


class Reconstruction(Part):
    """The attacks that paint each protected image anew."""

    decoder: ReconstructionAttack | None = Field(
        default=None, description="trained on fresh releases of the attacker's own images"
    )
    gan: ReconstructionAttack | None = Field(
        default=None,
        description="the decoder goes on against a critic of patches; the epoch counts whose images of val are nearest "
        "to the originals, or the decoder itself",
    )
    white_box: ReconstructionAttack | None = Field(
        default=None,
        description="optimisation through the front's known weights, of a fixed subset of the test images",
    )
    originals: ReadFromImages = Field(
        description="`images`, `sensitive_balanced_accuracy`, `sensitive_auroc`, `desired_balanced_accuracy`, `ci95` "
        "of the classifier on the protected originals: it must be high, or it cannot judge"
    )
    mean_image: Likeness = Field(
        description="`psnr`, `ssim`, `perceptual` of the attacker's mean image: what knowing nothing gives"
    )

    @property
    def attacks(self) -> dict[str, ReconstructionAttack]:
        """The attacks that were made, by name."""
        named = (("decoder", self.decoder), ("gan", self.gan), ("white_box", self.white_box))
        return {name: attack for name, attack in named if attack is not None}


class Skipped(Part):
    """Something that was left out or cut short."""

    attack: str
    reason: str
    evidence: str | None = Field(default=None, description="of attackers: on which releases")
    attributes: tuple[str, ...] | None = Field(default=None, description="of attackers")
    rate: float | None = Field(default=None, description="of attackers: learning rate")
    seed: int | None = Field(default=None, description="of attackers")


class Audit(Artifact):
    """What attackers found: ``audit/audit.json``."""

    missing: ClassVar[str] = "'smartedge audit RUN' writes it"
    remedy: ClassVar[str] = "run 'smartedge audit' again"
    page: ClassVar[str] = "docs/audit-schema.md"

    schema_version: Literal[2] = 2
    smartedge_version: str | None = Field(default=None, description="of the program that made the audit")
    run: AuditedRun
    settings: AuditSettingsUsed = Field(description="`budget_seconds`, `seeds` and `undefended` are of the last call")
    attributes: dict[str, AttributeBlock] = Field(description="attribute → what attackers read of it: see below")
    reconstruction: Reconstruction | None = Field(description="see below; null where not asked for")
    membership: Membership | None = Field(description="see below; null where not asked for")
    dp: NoiseTest = Field(description="see below")
    skipped: tuple[Skipped, ...] = Field(description="what the budget left out or cut short")
    verdict: str = Field(description="one sentence about the sensitive attribute that fares worst against its floor")
