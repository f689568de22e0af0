"""Suppression against the best possible attacker: the exact posterior under mixtures of the noise law.

An attacker that knows the law of the features and the law of the noise computes the posterior of the sensitive label
``s``. No attacker reads more. The law of the features is not known, but earlier features are a sample of it. So the
density of a release z in class s is taken for the mean over such a sample: ``p_s(z) = mean_j q(z | x_j)``, where
``q(z | x)`` is the exact density of a release z of an image with clean features x. The certificate does the same with
held-out images (``docs/certificate.md``, step 2); its plug-in value is a function of the same posterior.

**The term.** The front minimises ``KL(even odds ‖ D)``, where ``D_s(z) = p_s(z) / Σ p_s'(z)``, averaged over the images
of a batch and their noise. It is 0 where all classes have the same density, so that no attacker reads anything.

**What is compared.** Only images of the same desired label ``y`` (of a multi-label task: of the same combination of
labels), as in ``conditional`` of :mod:`smartedge.models.suppression.confusion`, whose weights the images have. So the
term does not work against the desired label. An image counts for nothing where fewer than two sensitive classes are
known with its y.

**Leave-one-out.** An image's own features give its release the highest density, whatever the other images are. They
would tell its class although no attacker has them. So features of the same image, also those of an earlier epoch, do
not count in its posterior.

**The memory** holds the clean features of the latest images as they were when the front learned from them, without
gradient. The gradient passes through the release of each image, and through its features as a part of the mixtures.

Letters: as in :mod:`smartedge.models.suppression.confusion` and :mod:`smartedge.models.released`; ``M`` features in
memory; ``N`` features in the mixtures (those of the batch and of the memory); ``R`` rows of a release; ``G`` desired
classes or combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.adversary import TrainingLabels
from smartedge.models.suppression.confusion import balance
from smartedge.types import Task

__all__ = ["MEMORY", "KnownImages", "Mixtures"]

MEMORY = 1024  # features; with batches of 64, those of the last 16 steps

_NOTHING = -1e30  # a logarithm of 0 whose gradient is a number

LogDensity = Callable[[Tensor], Tensor]  # clean features (N, *F) → log-density of each row of a release, (R, N)


@dataclass(frozen=True)
class KnownImages:
    """Clean features and the labels of their images."""

    features_NF: Tensor  # float32, in the form that the noise law takes
    ids_N: Tensor  # int64: which image
    groups_N: Tensor  # int64: number of the desired class or combination; −1: not filled yet
    sensitive_NC: Tensor  # int64: class in each sensitive column


class Mixtures(nn.Module):
    """A memory of earlier features, and the term that it gives. It has no parameters; its state is in buffers.

    Args:
        feature_shape: F.
        labels: of the training images; they decide the weights.
        size: M.
    """

    features: Tensor
    ids: Tensor
    groups: Tensor
    sensitive: Tensor
    count: Tensor

    def __init__(self, feature_shape: tuple[int, ...], labels: TrainingLabels, *, size: int = MEMORY) -> None:
        super().__init__()
        self.task = labels.task
        self.columns = tuple(labels.columns)  # their order; names stay out of the state
        self.classes = tuple(labels.columns[column].outputs for column in self.columns)
        self.register_buffer("features", torch.zeros(size, *feature_shape))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("groups", torch.full((size,), -1))
        self.register_buffer("sensitive", torch.zeros(size, len(self.columns), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # images put in so far
        groups = 2**labels.task.outputs if labels.task.kind == "multi" else labels.task.outputs
        groups_N = group_of(labels.desired, labels.task)
        self.weights_GS = []
        for column, classes in zip(self.columns, self.classes, strict=True):
            counts_GS = torch.zeros(groups, classes)
            counts_GS.index_put_((groups_N, labels.sensitive[column]), torch.ones(len(groups_N)), accumulate=True)
            self.weights_GS.append(balance(counts_GS, "conditional").weights_YS)

    def known(
        self, features_BF: Tensor, ids_B: Tensor, desired: Tensor, sensitive: Mapping[str, Tensor]
    ) -> KnownImages:
        """The images of a batch in the form that the other methods take.

        Args:
            features_BF: clean features, see ``Differentiable.law_inputs``.
            ids_B: int64, which image of the data set each is.
            desired: int64 (B,) or float32 (B, K).
            sensitive: column → int64 (B,).
        """
        sensitive_BC = torch.stack([sensitive[column] for column in self.columns], dim=1)
        return KnownImages(features_BF, ids_B, group_of(desired, self.task), sensitive_BC)

    def confuse(self, released: SimulatedRelease, log_density: LogDensity, batch: KnownImages) -> Tensor:
        """What the front minimises, a scalar ≥ 0: the mean over images, the sum over columns.

        Args:
            released: a release of the batch, with all of the noise; differentiable.
            log_density: of the rows of this release, given clean features.
            batch: the images of the batch; their features are differentiable.
        """
        filled = self.groups >= 0
        every = KnownImages(
            torch.cat([batch.features_NF, self.features[filled]]),
            torch.cat([batch.ids_N, self.ids[filled]]),
            torch.cat([batch.groups_N, self.groups[filled]]),
            torch.cat([batch.sensitive_NC, self.sensitive[filled]]),
        )
        log_RN = log_density(every.features_NF)
        others_BN = batch.groups_N[:, None] == every.groups_N
        others_BN = others_BN & (batch.ids_N[:, None] != every.ids_N)
        total = released.features_NF.new_zeros(())
        for column, classes in enumerate(self.classes):
            of_class_SN = torch.arange(classes, device=log_RN.device)[:, None] == every.sensitive_NC[:, column]
            counted_BSN = others_BN[:, None, :] & of_class_SN
            log_BOS, present_BS = _class_densities(log_RN, counted_BSN, drawn=released.shares_BO is None)
            weights_GS = self.weights_GS[column].to(log_RN.device)
            weights_B = weights_GS[batch.groups_N, batch.sensitive_NC[:, column]]
            losses_BO = _from_even_odds(log_BOS, present_BS)
            total = total + (weights_B * released.expect(losses_BO)).mean()
        return total

    @torch.no_grad()
    def remember(self, batch: KnownImages) -> None:
        """Put the batch in the place of the oldest features. Of a batch larger than the memory, its last images."""
        size = len(self.ids)
        rows_B = (self.count + torch.arange(len(batch.ids_N), device=self.ids.device))[-size:] % size
        self.features[rows_B] = batch.features_NF.detach()[-size:]
        self.ids[rows_B] = batch.ids_N[-size:]
        self.groups[rows_B] = batch.groups_N[-size:]
        self.sensitive[rows_B] = batch.sensitive_NC[-size:]
        self.count.add_(len(batch.ids_N))


def group_of(desired: Tensor, task: Task) -> Tensor:
    """The number of each image's desired class; of a multi-label task, of its combination of labels. int64 (B,)."""
    if task.kind == "single":
        return desired
    return (desired.round().long() << torch.arange(task.outputs, device=desired.device)).sum(dim=1)


def _class_densities(log_RN: Tensor, counted_BSN: Tensor, *, drawn: bool) -> tuple[Tensor, Tensor]:
    """The log-density of each image's outcomes in each class, (B, O, S), and whether the class is known, (B, S).

    Args:
        log_RN: log-density of each row of the release for each of N clean features.
        counted_BSN: which features count for an image and class.
        drawn: whether row ``b`` is image ``b``; otherwise all images have the same rows, the outcomes.
    """
    count_BS = counted_BSN.sum(dim=2)
    if drawn:
        log_BSN = log_RN[:, None, :].masked_fill(~counted_BSN, _NOTHING)
        log_BSO = (log_BSN.logsumexp(dim=2) - count_BS.clamp(min=1).log())[:, :, None]
    else:
        shares_BSN = counted_BSN.to(log_RN.dtype) / count_BS.clamp(min=1)[:, :, None]
        log_BSO = (shares_BSN @ log_RN.exp().T).clamp(min=torch.finfo(torch.float32).tiny).log()
    return log_BSO.transpose(1, 2), count_BS > 0


def _from_even_odds(log_BOS: Tensor, present_BS: Tensor) -> Tensor:
    """KL(even odds ‖ posterior) over the classes that are known, (B, O); 0 where fewer than two are."""
    count_B1 = present_BS.sum(dim=1, keepdim=True).clamp(min=1)
    log_posterior_BOS = log_BOS.masked_fill(~present_BS[:, None, :], _NOTHING).log_softmax(dim=2)
    return -count_B1.log() - (log_posterior_BOS * present_BS[:, None, :]).sum(dim=2) / count_B1
