"""Judges the images that an attack made: how like the originals they are, and what a classifier reads from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smartedge.lab.audit.judge import judge
from smartedge.lab.audit.reconstruction.classifier import Classifier, read_labels
from smartedge.lab.audit.reconstruction.figures import Distance, accuracies, likeness
from smartedge.lab.audit.reconstruction.pixels import to_image
from smartedge.lab.audit.run_evidence import RunEvidence

__all__ = ["Judge", "tuned"]

_MEAN_OF = 512  # own images of the attacker, at most


@dataclass(frozen=True)
class Judge:
    """The measures of reconstructions, and the originals with which they are compared."""

    classifier: Classifier
    distance: Distance
    originals_NCHW: Tensor  # uint8
    labels_NQ: Tensor  # int64; −1 where a label is unknown

    def figures(self, positions: Tensor, images_MCHW: Tensor) -> dict[str, object]:
        """The figures of the images, uint8 (M, 3, H, W), that were made of the originals at these positions."""
        read = read_labels(self.classifier, images_MCHW, self.labels_NQ[positions])
        return {
            "images": len(positions),
            **likeness(self.originals_NCHW[positions], images_MCHW, self.distance),
            **accuracies(self.classifier.questions, read),
        }

    def references(self, evidence: RunEvidence) -> dict[str, object]:
        """What the classifier reads from the originals, and how like them is the mean of the attacker's own images."""
        read = read_labels(self.classifier, self.originals_NCHW, self.labels_NQ)
        own = evidence.images(evidence.train.split, torch.arange(min(_MEAN_OF, len(evidence.train))))
        mean_CHW = to_image(own).mean(dim=0).mul(255).round().to(torch.uint8)
        return {
            "originals": {"images": len(self.labels_NQ), **accuracies(self.classifier.questions, read)},
            "mean_image": likeness(self.originals_NCHW, mean_CHW.expand_as(self.originals_NCHW), self.distance),
        }


def tuned(
    classifier: Classifier, val_images: Tensor, val_labels_NQ: Tensor, images: Tensor, labels_NQ: Tensor
) -> dict[str, float]:
    """Balanced accuracy of each sensitive question, at the threshold that is best on the attacker's val images."""
    on_val, on_test = classifier.scores(val_images), classifier.scores(images)
    return {
        question.name: judge(
            on_val[question.name],
            val_labels_NQ[:, place].numpy(),
            on_test[question.name],
            labels_NQ[:, place].numpy(),
        ).balanced_accuracy
        for place, question in enumerate(classifier.questions)
        if not question.desired and _both_known(val_labels_NQ[:, place], labels_NQ[:, place])
    }


def _both_known(*labels: Tensor) -> bool:
    """Whether each of these holds known labels, and the first both of more than one class."""
    return all((part >= 0).any() for part in labels) and len(labels[0][labels[0] >= 0].unique()) > 1
