"""One update in the cloud, as plain functions for people who keep their own loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smartedge.methods.options import PLAIN, StepOptions, autocast
from smartedge.models.entrances import Entering
from smartedge.models.exits import noisy_task_loss, task_loss
from smartedge.models.optim import apply_gradients

__all__ = ["CloudStep", "cloud_forward", "cloud_step", "forward_loss", "image_losses", "label_channel"]


@dataclass(frozen=True)
class CloudStep:
    """The results of one update in the cloud.

    Attributes:
        logits_BK: the back's answers, float32 (B, K), detached.
        loss: mean over the batch, before the update; a tensor (), detached, so that no GPU is waited for.
        gradient_BF: of the loss by the features, float32 (B, *F); None where it was not asked for.
    """

    logits_BK: Tensor
    loss: Tensor
    gradient_BF: Tensor | None


def cloud_step(
    back: nn.Module,
    optimizer: torch.optim.Optimizer,
    features_BF: Tensor | Entering,
    labels: Tensor,
    task_kind: str,
    *,
    label_epsilon: float | None = None,
    want_gradient: bool = False,
    options: StepOptions = PLAIN,
) -> CloudStep:
    """Loss of ``back(features)``, backward pass through the back, and one update of it.

    Args:
        back: the part after the cut, in training mode.
        optimizer: over its parameters.
        features_BF: float32 (B, *F), as decoded, on the back's device; or what a back of several edges takes.
        labels: int64 (B,), classes from 0; or float32 (B, K) in {0, 1}, where NaN is a label that is lacking.
        task_kind: ``single``: one of K classes; ``multi``: K yes/no columns.
        label_epsilon: the labels were randomised with this budget (``dp.label_epsilon``); the loss is then corrected
            for it, see :func:`label_channel`. None: they are clear.
        want_gradient: also return the gradient at the cut (split learning).
        options: how the update is computed.
    """
    if isinstance(features_BF, Tensor):
        features_BF = features_BF.detach().requires_grad_(want_gradient)
    logits_BK, loss = forward_loss(back, features_BF, labels, task_kind, label_epsilon, options)
    loss.backward()
    apply_gradients(optimizer, clip_norm=options.clip_norm)
    gradient_BF = features_BF.grad if isinstance(features_BF, Tensor) else None
    return CloudStep(logits_BK.detach().float(), loss.detach(), gradient_BF)


def forward_loss(
    back: nn.Module,
    features_BF: Tensor | Entering,
    labels: Tensor,
    task_kind: str,
    label_epsilon: float | None,
    options: StepOptions,
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and the mean loss over the batch, with gradients. For the arguments see :func:`cloud_step`."""
    with options.autocast(labels.device):
        logits_BK: Tensor = back(features_BF)
    if label_epsilon is None:
        return logits_BK, task_loss(logits_BK, labels, task_kind, label_smoothing=options.label_smoothing)
    channel_JJ = label_channel(label_epsilon, logits_BK.shape[1], task_kind).to(logits_BK.device)
    loss = noisy_task_loss(logits_BK, labels, task_kind, channel_JJ, label_smoothing=options.label_smoothing)
    return logits_BK, loss


@torch.no_grad()
def cloud_forward(back: nn.Module, features_BF: Tensor | Entering, *, precision: str = "float32") -> Tensor:
    """Logits (B, K), float32, without learning.

    Args:
        back: the part after the cut, in evaluation mode.
        features_BF: as for :func:`cloud_step`.
        precision: ``bfloat16`` runs the forward pass under autocast.
    """
    device = features_BF.device if isinstance(features_BF, Tensor) else features_BF.places.device
    with autocast(device, precision):
        logits_BK: Tensor = back(features_BF)
    return logits_BK.float()


def image_losses(logits_BK: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """The cross-entropy of each image, float64 (B,); of a multi-label task, the mean over the labels that it has."""
    if labels.dim() == 2:
        known_BK = labels.isfinite()
        loss_BK = functional.binary_cross_entropy_with_logits(logits_BK, labels.nan_to_num(), reduction="none")
        if known_BK.all():
            return loss_BK.mean(dim=1).double().numpy()
        return ((loss_BK * known_BK).sum(dim=1) / known_BK.sum(dim=1).clamp_min(1)).double().numpy()
    return functional.cross_entropy(logits_BK, labels, reduction="none").double().numpy()


def label_channel(epsilon: float, outputs: int, task_kind: str) -> Tensor:
    """Probability of each label that arrives, given the true label, under randomised response; float32.

    Args:
        epsilon: of an image's whole label, ``dp.label_epsilon``.
        outputs: K of the task.
        task_kind: ``single``: (K, K). The true class has probability e^ε / (e^ε + K − 1); the others are equally
            likely. ``multi``: (2, 2), the same for one column, with ε / K.
    """
    values, each = (outputs, epsilon) if task_kind == "single" else (2, epsilon / outputs)
    other = 1 / (math.exp(min(each, 700.0)) + values - 1)
    channel_JJ = torch.full((values, values), other, dtype=torch.float64)
    channel_JJ.fill_diagonal_(1 - (values - 1) * other)
    return channel_JJ.float()
