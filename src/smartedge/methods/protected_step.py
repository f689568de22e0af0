"""One protected update on the edge, as plain functions for people who keep their own loop.

PriPHiT, stage 1: the adversarial exits minimise their own loss on the sensitive labels. The front and the task exit
minimise ``CE(desired) + λ · confusion(sensitive)``.

This step goes beyond PriPHiT in three ways. Every head learns from simulated releases, with the mechanism's own bound
and noise, so that the front learns to use its few dimensions well. An undivided network that was trained on the edge
may teach the task exit. Two penalties that need no exits may be added to the loss: on the kernel dependence, and on
what the exact posterior reads (:mod:`smartedge.models.suppression.mixtures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smartedge.methods.differentiable import Differentiable, differentiable
from smartedge.methods.front_step import EdgeStep
from smartedge.methods.options import PLAIN, StepOptions
from smartedge.methods.rate import RateTerm
from smartedge.models.exits import distillation_losses, task_losses
from smartedge.models.optim import apply_gradients
from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.adversary import Adversaries
from smartedge.models.suppression.mixtures import Mixtures
from smartedge.privacy.mechanisms import Mechanism

__all__ = [
    "Distillation",
    "MixtureTerm",
    "Protection",
    "Suppression",
    "adversary_step",
    "as_constants",
    "protected_step",
]


@dataclass(frozen=True)
class MixtureTerm:
    """Suppression against the exact posterior: the memory, and how strongly the front is trained against it."""

    mixtures: Mixtures
    ids_B: Tensor  # int64: which image of the data set each one of the batch is
    weight: float


@dataclass(frozen=True)
class Suppression:
    """The adversaries of one update, and how strongly the front is trained against them."""

    adversaries: Adversaries
    optimizer: torch.optim.Optimizer | None  # over the adversaries' parameters; None where there are no exits
    sensitive: Mapping[str, Tensor]  # column → int64 (B,), on the features' device
    steps: int  # of the exits, before the step of the front
    weight: float  # λ, of the confusion term
    dependence: float = 0.0  # of the kernel-dependence penalty
    mixture: MixtureTerm | None = None  # None: no term against the exact posterior


@dataclass(frozen=True)
class Distillation:
    """The teacher's answers. The task exit learns from them and from the labels."""

    logits_BK: Tensor  # of the undivided network, for the same images
    weight: float  # share of the distillation in the task exit's loss
    temperature: float  # the logits of both networks are divided by it


@dataclass(frozen=True)
class Protection:
    """How one update is protected: noise, suppression and distillation; and the rate, if it is in the loss."""

    mechanism: Mechanism  # bounds features and says how they are released; for codewords the front ends in Encode
    noise: float = 1.0  # share of its noise in training, 0 to 1; a release always has all of it
    suppression: Suppression | None = None  # what to unlearn; None: nothing
    distillation: Distillation | None = None  # the teacher's answers; None: no distillation
    rate: RateTerm | None = None  # what the features will cost; None: the front is not trained for few bytes


def adversary_step(
    adversaries: Adversaries,
    optimizer: torch.optim.Optimizer,
    released: SimulatedRelease,
    labels: Tensor,
    sensitive: Mapping[str, Tensor],
    *,
    options: StepOptions = PLAIN,
) -> float:
    """One update of the adversarial exits on released features; the front is not touched. Returns their loss before.

    Args:
        adversaries: in training mode.
        optimizer: over their parameters.
        released: a simulated release; it is detached here.
        labels: the desired labels, int64 (B,) or float32 (B, K).
        sensitive: column → int64 (B,).
        options: how the update is computed.
    """
    released = released.detach()
    with options.autocast(labels.device):
        loss = adversaries.loss(released, labels, sensitive)
    loss.backward()
    apply_gradients(optimizer, clip_norm=options.clip_norm)
    return loss.item()


def protected_step(
    front: nn.Module,
    task_exit: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs_BCHW: Tensor,
    labels: Tensor,
    task_kind: str,
    protection: Protection,
    *,
    options: StepOptions = PLAIN,
) -> EdgeStep:
    """One forward pass of the front, several steps of the adversarial exits, one step of front and task exit.

    Every step draws new noise. The result holds the *bounded* features of the forward pass; the gate adds the noise of
    the release. For codewords it holds the most probable one of each image, one-hot.

    Args:
        front: the part before the cut, in training mode.
        task_exit: the head on its output.
        optimizer: over the parameters of both, and of nothing else.
        inputs_BCHW: float32 (B, 3, H, W), see :func:`smartedge.models.network.to_input`.
        labels: int64 (B,) or float32 (B, K).
        task_kind: ``single`` or ``multi``.
        protection: noise, suppression, distillation and rate.
        options: how the updates are computed.
    """
    noise, suppression, distillation = protection.noise, protection.suppression, protection.distillation
    autocast = options.autocast(inputs_BCHW.device)
    with autocast:
        features_BF = front(inputs_BCHW)
    features_BF = features_BF.float()
    seen_BF = features_BF if protection.rate is None else protection.rate.rounded(features_BF)
    twin = differentiable(protection.mechanism)
    figures: dict[str, float] = {}
    if suppression is not None and suppression.optimizer is not None:
        for _ in range(suppression.steps):
            figures["adversary_loss"] = adversary_step(
                suppression.adversaries,
                suppression.optimizer,
                twin.released(seen_BF.detach(), noise=noise),
                labels,
                suppression.sensitive,
                options=options,
            )
    released = twin.released(seen_BF, noise=noise)
    with autocast:
        logits_BOK = released.answers(task_exit)
    losses_BO = task_losses(logits_BOK, labels, task_kind, label_smoothing=options.label_smoothing)
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
        if suppression.mixture is not None:
            loss = loss + _against_posterior(suppression, suppression.mixture, twin, features_BF, labels, figures)
    if protection.rate is not None:
        loss = loss + protection.rate.penalty(features_BF)
    loss.backward()
    apply_gradients(optimizer, clip_norm=options.clip_norm)
    if protection.rate is not None:
        figures |= protection.rate.update(features_BF)
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
        with autocast, as_constants(adversaries):
            confusion = adversaries.confuse(released, labels, suppression.sensitive)
        total = total + suppression.weight * confusion
        figures["confusion"] = confusion.item()
        figures["lambda"] = suppression.weight
    if suppression.dependence > 0:
        dependence = adversaries.depend(released, labels, suppression.sensitive)
        total = total + suppression.dependence * dependence
        figures["dependence"] = dependence.item()
    return total


def _against_posterior(
    suppression: Suppression,
    term: MixtureTerm,
    twin: Differentiable,
    features_BF: Tensor,
    labels: Tensor,
    figures: dict[str, float],
) -> Tensor:
    """The weighted mixture term of a batch, which is then put into the memory.

    The release has all of the noise from the first step on, unlike the one that the heads learn from: it is the law
    of what will be released.
    """
    inputs_BF = twin.law_inputs(features_BF)
    batch = term.mixtures.known(inputs_BF, term.ids_B, labels, suppression.sensitive)
    released = twin.released(features_BF)
    mixture = term.mixtures.confuse(released, partial(twin.log_density, released), batch)
    term.mixtures.remember(batch)
    figures["mixture"] = mixture.item()
    return term.weight * mixture


@contextmanager
def as_constants(module: nn.Module) -> Iterator[None]:
    """Inside the block, no gradient is computed for the module's parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
