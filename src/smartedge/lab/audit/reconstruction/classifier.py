"""The judge of reconstructions: one undivided network that reads the desired and the sensitive labels of an image.

It is trained on the attacker's own original images, as in PriPHiT. Its accuracy on the protected originals is the
reference for its accuracy on their reconstructions. The adapted classifier is trained further, on reconstructions of
the attacker's own images. This makes it a stronger attack.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smartedge import metrics
from smartedge.images.augment import augment
from smartedge.lab.audit.judge import balanced_accuracy_interval
from smartedge.lab.audit.neural import class_weights
from smartedge.lab.audit.reconstruction.pixels import prepare, to_image
from smartedge.lab.audit.reconstruction.recipe import Fitted, Recipe, Report, fit_best
from smartedge.lab.audit.run_evidence import OwnImages, RunEvidence
from smartedge.models.blueprint import of_a_run
from smartedge.models.network import undivided

__all__ = [
    "ADAPT_LR",
    "BATCH",
    "Classifier",
    "LabelledImages",
    "Question",
    "labels_of",
    "questions_of",
    "read_labels",
    "recipe_of",
    "train_classifier",
]

_EPOCHS = 8
_LEAST_STEPS = 1500  # a small data set gets more epochs
BATCH = 32  # images in a step
_CHUNK = 256
_LR, ADAPT_LR = 1e-3, 3e-4
_WEIGHT_DECAY = 0.05

ImageSource = Callable[[Tensor, torch.Generator], Tensor]  # positions (B,) → images in [0, 1] of them


@dataclass(frozen=True)
class Question:
    """One label that the classifier reads."""

    name: str  # the column
    desired: bool
    classes: int


def questions_of(evidence: RunEvidence, sensitive: Sequence[str]) -> tuple[Question, ...]:
    """The desired column or columns, then the sensitive ones that are not desired themselves."""
    task = evidence.task
    if task.kind == "single":
        desired = [Question(task.columns[0], True, task.outputs)]
    else:
        desired = [Question(name, True, 2) for name in task.columns]
    hidden = [Question(name, False, len(evidence.classes[name])) for name in sensitive if name not in task.columns]
    return (*desired, *hidden)


def labels_of(questions: Sequence[Question], desired: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
    """int64 (N, Q); −1 where a label is unknown."""
    desired_NQ = desired.reshape(len(desired), -1).long()
    columns = [labels[question.name] for question in questions if not question.desired]
    return torch.cat([desired_NQ, *(column[:, None] for column in columns)], dim=1)


class Classifier:
    """A network on a device, with one group of logits for each question; trained in ``autocast``."""

    def __init__(
        self, network: nn.Module, questions: Sequence[Question], autocast: torch.autocast, device: torch.device
    ) -> None:
        self.network = network
        self.autocast = autocast
        self.device = device
        self.questions = tuple(questions)
        self.sizes = [question.classes for question in questions]

    @classmethod
    def of(cls, evidence: RunEvidence, questions: Sequence[Question]) -> Classifier:
        """An untrained classifier: the run's own network, with enough outputs."""
        outputs = sum(question.classes for question in questions)
        network = undivided(of_a_run(evidence.config.division(outputs), pretrained=False))
        network.to(device=evidence.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, questions, evidence.autocast(), evidence.device)

    def loss(self, images_BCHW: Tensor, labels_BQ: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Cross-entropy, class-balanced by ``weights`` (one (K,) per question), averaged over the questions."""
        with self.autocast:
            logits_BO = self.network(prepare(images_BCHW))
        groups = logits_BO.float().split(self.sizes, dim=1)
        losses = []
        for logits_BK, labels_B, weight_K in zip(groups, labels_BQ.unbind(1), weights, strict=True):
            known_B = labels_B >= 0
            share_B = weight_K[labels_B.clamp(min=0)] * known_B
            each_B = F.cross_entropy(logits_BK, labels_B.clamp(min=0), reduction="none")
            losses.append((share_B * each_B).sum() / share_B.sum().clamp(min=1e-6))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def scores(self, images_NCHW: Tensor) -> dict[str, NDArray[np.float64]]:
        """Probabilities (N, K) of each question for images in [0, 1] or uint8."""
        self.network.eval()
        parts = []
        for part in images_NCHW.split(_CHUNK):
            images_BCHW = to_image(part) if part.dtype == torch.uint8 else part
            parts.append(self.network(prepare(images_BCHW.to(self.device))).cpu())
        groups = torch.cat(parts).split(self.sizes, dim=1)
        return {
            question.name: group.double().softmax(dim=1).numpy()
            for question, group in zip(self.questions, groups, strict=True)
        }

    def adapted(
        self, images: LabelledImages, recipe: Recipe, *, seed: int, report: Report
    ) -> tuple[Classifier, Fitted]:
        """A copy that was trained further on the images of ``images``, such as reconstructions."""
        copied = Classifier(copy.deepcopy(self.network), self.questions, self.autocast, self.device)
        return copied, _train(copied, images, recipe, seed=seed, report=report)


@dataclass(frozen=True)
class LabelledImages:
    """The images that a classifier learns from, and those that choose its best epoch."""

    images: ImageSource  # from the attacker's train images
    labels_NQ: Tensor  # their labels
    val_images: Tensor  # uint8 (M, 3, H, W), from its val images
    val_labels_MQ: Tensor


def recipe_of(rows: int, *, epochs: int, seconds: float, lr: float) -> Recipe:
    """The recipe of a classifier that learns from ``rows`` images."""
    return Recipe(rows, BATCH, BATCH, epochs, seconds, lr, _WEIGHT_DECAY)


def train_classifier(
    evidence: RunEvidence, questions: Sequence[Question], *, seconds: float, seed: int, report: Report
) -> tuple[Classifier, Fitted]:
    """Train on the attacker's original train images, mirrored at random; keep the best on its val images."""
    train, val = evidence.train, evidence.val

    def originals(rows: Tensor, generator: torch.Generator) -> Tensor:
        return to_image(augment(evidence.images(train.split, rows), generator=generator, kind="flip"))

    classifier = Classifier.of(evidence, questions)
    images = LabelledImages(originals, _labels(questions, train), evidence.images(val.split), _labels(questions, val))
    epochs = max(_EPOCHS, -(-_LEAST_STEPS * BATCH // len(train)))
    recipe = replace(recipe_of(len(train), epochs=epochs, seconds=seconds, lr=_LR), order=train.order)
    return classifier, _train(classifier, images, recipe, seed=seed, report=report)


def read_labels(
    classifier: Classifier, images_NCHW: Tensor, labels_NQ: Tensor
) -> dict[str, dict[str, float | list[float] | None]]:
    """The classifier's figures on images: ``balanced_accuracy``, ``auroc`` and ``ci95`` of each question.

    The answer is the class with the highest score, as for an original image: no threshold is chosen for
    reconstructions. An image without a label is left out of that question. A question without any label is left out.
    """
    scores = classifier.scores(images_NCHW)
    read: dict[str, dict[str, float | list[float] | None]] = {}
    for question, labels_N in zip(classifier.questions, labels_NQ.unbind(1), strict=True):
        known_N = (labels_N >= 0).numpy()
        if not known_N.any():
            continue
        truth, scores_NK = labels_N.numpy()[known_N], scores[question.name][known_N]
        value, interval = balanced_accuracy_interval(truth, scores_NK.argmax(axis=1) == truth)
        read[question.name] = {
            "balanced_accuracy": value,
            "auroc": metrics.evaluate(truth, scores_NK, "single")["auroc"],
            "ci95": list(interval),
        }
    return read


def _labels(questions: Sequence[Question], auxiliary: OwnImages) -> Tensor:
    return labels_of(questions, auxiliary.desired, auxiliary.labels)


def _train(classifier: Classifier, images: LabelledImages, recipe: Recipe, *, seed: int, report: Report) -> Fitted:
    weights = [
        class_weights(labels_N, size).to(classifier.device)
        for labels_N, size in zip(images.labels_NQ.unbind(1), classifier.sizes, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)

    def score() -> float:
        read = read_labels(classifier, images.val_images, images.val_labels_MQ)
        return float(np.mean([figures["balanced_accuracy"] for figures in read.values()])) if read else 0.0

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        return fit_best(
            classifier.network,
            recipe,
            examples=lambda rows: (images.images(rows, generator), images.labels_NQ[rows]),
            loss=lambda images_BCHW, labels_BQ: classifier.loss(images_BCHW, labels_BQ, weights),
            score=score,
            generator=generator,
            report=report,
        )
