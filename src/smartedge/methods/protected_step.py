"""One protected update on the edge, as plain functions for people who keep their own loop.

PriPHiT, stage 1: the adversarial exits minimise their own loss on the sensitive labels. The front and the task exit
minimise ``CE(desired) + λ · confusion(sensitive)``.

Ours beyond that: every head learns from simulated releases, with the mechanism's own bound and noise, so that the front
learns to use its few dimensions well. An undivided network that was trained on the edge may teach the task exit. A
penalty on the kernel dependence may stand beside the exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.methods.differentiable import differentiable
from smartedge.methods.front_step import EdgeStep
from smartedge.models.adversary import Adversaries
from smartedge.models.exits import distillation_losses, task_losses
from smartedge.models.optim import apply_gradients
from smartedge.models.released import SimulatedRelease
from smartedge.privacy.mechanisms import Mechanism

__all__ = ["Distillation", "Suppression", "adversary_step", "protected_step"]


@dataclass(frozen=True)
class Suppression:
    """The adversaries of one update, and how strongly the front is trained against them."""

    adversaries: Adversaries
    optimizer: torch.optim.Optimizer | None  # over the adversaries' parameters; None where there are no exits
    sensitive: Mapping[str, Tensor]  # column → int64 (B,), on the features' device
    steps: int  # of the exits, before the step of the front
    weight: float  # λ, of the confusion term
    dependence: float = 0.0  # of the kernel-dependence penalty


@dataclass(frozen=True)
class Distillation:
    """The answers from which the task exit learns beside the labels."""

    logits_BK: Tensor  # of the undivided network, for the same images
    weight: float  # share of the distillation in the task exit's loss
    temperature: float  # by which the logits of both are divided


def adversary_step(
    adversaries: Adversaries,
    optimizer: torch.optim.Optimizer,
    released: SimulatedRelease,
    labels: Tensor,
    sensitive: Mapping[str, Tensor],
    *,
    precision: str = "float32",
    clip_norm: float = 5.0,
) -> float:
    """One update of the adversarial exits on released features; the front is not touched. Returns their loss before.

    Args:
        adversaries: in training mode.
        optimizer: over their parameters.
        released: what would be released; detached here.
        labels: the desired labels, int64 (B,) or float32 (B, K).
        sensitive: column → int64 (B,).
        precision: ``bfloat16`` runs the forward pass under autocast.
        clip_norm: gradients are scaled down to this norm.
    """
    released = released.detach()
    with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = adversaries.loss(released, labels, sensitive)
    loss.backward()
    apply_gradients(optimizer, clip_norm=clip_norm)
    return loss.item()


def protected_step(
    front: nn.Module,
    task_exit: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs_BCHW: Tensor,
    labels: Tensor,
    task_kind: str,
    *,
    mechanism: Mechanism,
    noise: float = 1.0,
    suppression: Suppression | None = None,
    distillation: Distillation | None = None,
    precision: str = "float32",
    label_smoothing: float = 0.0,
    clip_norm: float = 5.0,
) -> EdgeStep:
    """One forward pass of the front, several steps of the adversarial exits, one step of front and task exit.

    Every step draws noise of its own. Returned are the *bounded* features of that forward pass, which the release gate
    randomises; of codewords, the most probable ones, one-hot.

    Args:
        front: the part before the cut, in training mode.
        task_exit: the head on its output.
        optimizer: over the parameters of both, and of nothing else.
        inputs_BCHW: float32 (B, 3, H, W), see :func:`smartedge.models.network.to_input`.
        labels: int64 (B,) or float32 (B, K).
        task_kind: ``single`` or ``multi``.
        mechanism: bounds the features and says how they would be released. Where it releases codewords, the front
            ends in their probabilities (:class:`smartedge.models.codebook.Encode`).
        noise: share of its noise that the heads see, 0 to 1; what is released has all of it.
        suppression: what to unlearn; None where nothing is.
        distillation: the undivided network's answers; None without distillation.
        precision: ``bfloat16`` runs the forward passes under autocast.
        label_smoothing: share of the target spread evenly.
        clip_norm: gradients are scaled down to this norm.
    """
    autocast = torch.autocast(inputs_BCHW.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    with autocast:
        features_BF = front(inputs_BCHW)
    features_BF = features_BF.float()
    twin = differentiable(mechanism)
    figures: dict[str, float] = {}
    if suppression is not None and suppression.optimizer is not None:
        for _ in range(suppression.steps):
            figures["adversary_loss"] = adversary_step(
                suppression.adversaries,
                suppression.optimizer,
                twin.released(features_BF.detach(), noise=noise),
                labels,
                suppression.sensitive,
                precision=precision,
                clip_norm=clip_norm,
            )
    released = twin.released(features_BF, noise=noise)
    with autocast:
        logits_BOK = released.answers(task_exit)
    losses_BO = task_losses(logits_BOK, labels, task_kind, label_smoothing=label_smoothing)
    task_loss = released.expect(losses_BO).mean()
    loss = task_loss
    if distillation is not None:
        taught_BO = distillation_losses(
            logits_BOK, distillation.logits_BK, task_kind, temperature=distillation.temperature
        )
        loss = (1 - distillation.weight) * task_loss + distillation.weight * released.expect(taught_BO).mean()
        figures["distillation_loss"] = released.expect(taught_BO.detach()).mean().item()
    if suppression is not None:
        loss = loss + _unlearning(suppression, released, labels, autocast, figures)
    loss.backward()
    apply_gradients(optimizer, clip_norm=clip_norm)
    bounded_BF = twin.bound(features_BF.detach())
    logits_BK = released.detach().mean_logits(logits_BOK.detach(), task_kind)
    return EdgeStep(bounded_BF, logits_BK, task_loss.item(), figures)


def _unlearning(
    suppression: Suppression,
    released: SimulatedRelease,
    labels: Tensor,
    autocast: torch.autocast,
    figures: dict[str, float],
) -> Tensor:
    adversaries = suppression.adversaries
    total = released.features_NF.new_zeros(())
    if suppression.optimizer is not None:
        with autocast, _as_constants(adversaries):
            confusion = adversaries.confuse(released, labels, suppression.sensitive)
        total = total + suppression.weight * confusion
        figures["confusion"] = confusion.item()
        figures["lambda"] = suppression.weight
    if suppression.dependence > 0:
        dependence = adversaries.depend(released, labels, suppression.sensitive)
        total = total + suppression.dependence * dependence
        figures["dependence"] = dependence.item()
    return total


@contextmanager
def _as_constants(module: nn.Module) -> Iterator[None]:
    """Inside, the module's parameters take part in no gradient."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
