"""The images that attackers make from releases. A part of ``audit.json``."""

from __future__ import annotations

from pydantic import Field

from smartedge.artifacts.attacks import Interval
from smartedge.artifacts.base import Part

__all__ = [
    "ImageIntervals",
    "Likeness",
    "Perceptual",
    "ReadFromImages",
    "Reconstruction",
    "ReconstructionAttack",
    "ReconstructionFigures",
    "ReconstructionTraining",
    "WhiteBoxWeights",
]


class Perceptual(Part):
    """A mean distance over images, with its name."""

    name: str
    value: float | None = Field(description="0 for equal images")


class Likeness(Part):
    """How similar images are to the originals."""

    psnr: float | None = Field(description="dB, mean over images, 100 at most")
    ssim: float | None = Field(description="mean over images, 1 at most")
    perceptual: Perceptual = Field(
        description="`{name, value}`: mean distance over images, with its name; 0 for equal images. LPIPS where its "
        "weights are on disk (below), else a distance in the features of the classifier below"
    )


class ImageIntervals(Part):
    """95 % intervals, by a bootstrap over images."""

    sensitive_balanced_accuracy: dict[str, Interval] = Field(description="attribute → [low, high]")
    desired_balanced_accuracy: Interval | None = Field(description="[low, high], null for a multi-label task")


class ReadFromImages(Part):
    """The labels that a classifier reads from images. It was trained on the attacker's own original images."""

    images: int = Field(description="protected images attacked: all of them, or for `white_box` a subset")
    sensitive_balanced_accuracy: dict[str, float] = Field(
        description="attribute → balanced accuracy of a classifier that was trained on the attacker's *original* "
        "images, without a tuned threshold (as in PriPHiT)"
    )
    sensitive_auroc: dict[str, float | None] = Field(description="attribute → AUROC of the same classifier")
    desired_balanced_accuracy: float | None = Field(
        description="of the same classifier; mean over the columns of a multi-label task"
    )
    ci95: ImageIntervals


class WhiteBoxWeights(Part):
    """The chosen weights of the optimisation."""

    tv: float = Field(description="of total variation")
    prior: float = Field(description="of the distance to the decoder's image")


class ReconstructionTraining(Part):
    """How much of the planned training an attack had."""

    share: float = Field(
        description="share of the planned training that was done (below 1: the time was over; below 0.5 the attack is "
        "also listed under `skipped`, but its figures still count)"
    )
    seconds: float | None = Field(description="given; null: no limit")
    adapted_share: float | None = Field(
        default=None, description="`decoder`, `gan`: the same of the classifier that adapts"
    )
    nearer_than_decoder: bool | None = Field(
        default=None, description="`gan`: false: no epoch was nearer, and these are the decoder's figures"
    )
    weights: WhiteBoxWeights | None = Field(default=None, description="`white_box`")


class ReconstructionFigures(Likeness, ReadFromImages):
    """The results of one attack."""

    sensitive_balanced_accuracy_adapted: dict[str, float] = Field(
        description="the same, after the classifier was trained further on reconstructions of the attacker's own "
        "images, with a threshold chosen on val: the stronger attack. For `white_box` only the threshold is chosen, on "
        "as many inverted val images"
    )
    training: ReconstructionTraining


class ReconstructionAttack(ReconstructionFigures):
    """The results of one attack on the audited run, and on the same network without protection."""

    undefended: ReconstructionFigures | None = Field(
        description="the same keys for the same network without protection; null where there is no such network, or "
        "there was no time"
    )


class Reconstruction(Part):
    """The attacks that reconstruct the protected images."""

    decoder: ReconstructionAttack | None = Field(
        default=None, description="trained on fresh releases of the attacker's own images"
    )
    gan: ReconstructionAttack | None = Field(
        default=None,
        description="the decoder, trained further against a critic of patches. The epoch with the best images of val "
        "is kept, or the decoder itself",
    )
    white_box: ReconstructionAttack | None = Field(
        default=None,
        description="optimisation through the front's known weights, for a fixed subset of the test images",
    )
    originals: ReadFromImages = Field(
        description="`images`, `sensitive_balanced_accuracy`, `sensitive_auroc`, `desired_balanced_accuracy`, `ci95` "
        "of the classifier on the protected originals. They must be high, else the classifier is no measure"
    )
    mean_image: Likeness = Field(
        description="`psnr`, `ssim`, `perceptual` of the attacker's mean image: the result without any release"
    )

    @property
    def attacks(self) -> dict[str, ReconstructionAttack]:
        """The attacks that were made, by name."""
        named = (("decoder", self.decoder), ("gan", self.gan), ("white_box", self.white_box))
        return {name: attack for name, attack in named if attack is not None}
