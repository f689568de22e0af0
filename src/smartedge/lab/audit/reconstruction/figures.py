"""The figures of reconstructed images: their likeness to the originals, and the accuracy of a classifier on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from smartedge.lab.audit.reconstruction.classifier import Question
from smartedge.lab.audit.reconstruction.measures import FeatureDistance, Lpips, finite_mean, psnr, ssim
from smartedge.lab.audit.reconstruction.pixels import to_image

__all__ = ["Distance", "accuracies", "likeness"]

Distance = FeatureDistance | Lpips


def likeness(originals: Tensor, reconstructed: Tensor, distance: Distance) -> dict[str, object]:
    """The means of all measures over uint8 images (M, 3, H, W)."""
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim, "perceptual": distance}
    ours, theirs = to_image(originals), to_image(reconstructed)
    values = {name: finite_mean(measure(ours, theirs)) for name, measure in measures.items()}
    return {**values, "perceptual": {"name": distance.name, "value": values["perceptual"]}}


def accuracies(questions: Sequence[Question], read: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """The classifier's figures: for each sensitive attribute, and the mean over the desired columns."""
    hidden = [question.name for question in questions if not question.desired and question.name in read]
    desired = [question.name for question in questions if question.desired and question.name in read]
    mean = sum(read[name]["balanced_accuracy"] for name in desired) / len(desired) if desired else None
    return {
        "sensitive_balanced_accuracy": {name: read[name]["balanced_accuracy"] for name in hidden},
        "sensitive_auroc": {name: read[name]["auroc"] for name in hidden},
        "desired_balanced_accuracy": mean,
        "ci95": {
            "sensitive_balanced_accuracy": {name: read[name]["ci95"] for name in hidden},
            "desired_balanced_accuracy": read[desired[0]]["ci95"] if len(desired) == 1 else None,
        },
    }
