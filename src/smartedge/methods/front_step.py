"""One update on the edge, as plain functions for people who keep their own loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.methods.differentiable import differentiable
from smartedge.methods.options import PLAIN, StepOptions, autocast
from smartedge.methods.rate import RateTerm
from smartedge.models.exits import task_loss
from smartedge.models.optim import apply_gradients
from smartedge.privacy.mechanisms import Mechanism

__all__ = ["EdgeStep", "edge_forward", "edge_step", "exit_logits", "split_finish", "split_start"]


@dataclass(frozen=True)
class EdgeStep:
    """The results of one update on the edge.

    Attributes:
        features_BF: what crosses the cut, float32 (B, *F), detached: what the gate may release.
        logits_BK: the exit's answers, float32 (B, K), detached.
        loss: on the desired label, mean over the batch, before the update.
        figures: further losses, by name.
    """

    features_BF: Tensor
    logits_BK: Tensor
    loss: float
    figures: Mapping[str, float]


def edge_step(
    front: nn.Module,
    task_exit: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs_BCHW: Tensor,
    labels: Tensor,
    task_kind: str,
    *,
    options: StepOptions = PLAIN,
    rate: RateTerm | None = None,
) -> EdgeStep:
    """``z = front(x)``, loss at the exit, backward pass through exit and front, and one update of both.

    This is hierarchical training (Sepehri et al., arXiv 2303.02384, section III).

    Args:
        front: the part before the cut, in training mode.
        task_exit: the head on its output.
        optimizer: over the parameters of both.
        inputs_BCHW: images, float32 (B, 3, H, W), on the networks' device. smartedge's own runs scale them by
            :func:`smartedge.models.network.to_input`.
        labels: int64 (B,), classes from 0; or float32 (B, K) in {0, 1}, where NaN is a label that is lacking.
        task_kind: ``single``: one of K classes; ``multi``: K yes/no columns.
        options: how the update is computed.
        rate: what the features will cost, where the front is trained for few bytes.
    """
    with options.autocast(inputs_BCHW.device):
        features_BF = front(inputs_BCHW)
        seen_BF = features_BF if rate is None else rate.rounded(features_BF)
        logits_BK = task_exit(seen_BF)
    loss = task_loss(logits_BK, labels, task_kind, label_smoothing=options.label_smoothing)
    (loss if rate is None else loss + rate.penalty(features_BF)).backward()
    apply_gradients(optimizer, clip_norm=options.clip_norm)
    figures = {} if rate is None else rate.update(features_BF)
    return EdgeStep(features_BF.detach().float(), logits_BK.detach().float(), loss.item(), figures)


@torch.no_grad()
def edge_forward(
    front: nn.Module,
    task_exit: nn.Module,
    inputs_BCHW: Tensor,
    *,
    mechanism: Mechanism | None = None,
    task_kind: str = "single",
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """Features (B, *F) and exit logits (B, K), both float32, without learning.

    Args:
        front: the part before the cut, in evaluation mode.
        task_exit: the head on its output, in evaluation mode.
        inputs_BCHW: images, float32 (B, 3, H, W), as for :func:`edge_step`.
        mechanism: bounds the features as for a release. No noise is added, since the features stay on the edge. For
            a codeword the exit gives the mean of its answers over all outcomes: it has learned from outcomes only.
            None: the features stay as they are.
        task_kind: ``single`` or ``multi``; says how answers are averaged.
        precision: ``bfloat16`` runs the forward pass under autocast.
    """
    with autocast(inputs_BCHW.device, precision):
        features_BF = front(inputs_BCHW)
        if mechanism is not None:
            features_BF = differentiable(mechanism).bound(features_BF.float())
        logits_BK = exit_logits(task_exit, mechanism, features_BF, task_kind)
    return features_BF.float(), logits_BK


def exit_logits(task_exit: nn.Module, mechanism: Mechanism | None, bounded_BF: Tensor, task_kind: str) -> Tensor:
    """The exit's logits (B, K), float32, for bounded features (B, *F) without noise; see :func:`edge_forward`."""
    twin = None if mechanism is None else differentiable(mechanism)
    if twin is not None and twin.channel is not None:
        released = twin.released(bounded_BF)
        return released.mean_logits(released.answers(task_exit), task_kind).float()
    logits_BK: Tensor = task_exit(bounded_BF)
    return logits_BK.float()


def split_start(front: nn.Module, inputs_BCHW: Tensor, *, precision: str = "float32") -> Tensor:
    """Split learning, first half: features (B, *F), float32 and still attached to the graph."""
    with autocast(inputs_BCHW.device, precision):
        features_BF: Tensor = front(inputs_BCHW)
    return features_BF.float()


def split_finish(
    optimizer: torch.optim.Optimizer, features_BF: Tensor, gradient_BF: Tensor, *, clip_norm: float = 5.0
) -> None:
    """Split learning, second half: backward pass through the front from the gradient (B, *F), and an update."""
    features_BF.backward(gradient_BF)
    apply_gradients(optimizer, clip_norm=clip_norm)
