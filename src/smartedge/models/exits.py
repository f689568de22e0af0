"""Task exits: small heads on the front's output, and the loss that every head is trained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.layout import Layout, as_channels_first, as_tokens, is_map, known_layout, map_size

__all__ = [
    "TaskExit",
    "distillation_losses",
    "noisy_task_loss",
    "probabilities",
    "task_loss",
    "task_losses",
]


class TaskExit(nn.Module):
    """A head that learns the desired label on the edge.

    Channels-first and channels-last maps go through ``depth`` blocks of 3×3 convolution (stride 2 while the map is
    larger than 4×4; 1×1 where the map is a single point), batch normalisation and ReLU; tokens through ``depth``
    blocks of linear layer and GELU. Then mean pooling and one linear layer. With the defaults on a 64×16×16 map:
    221 954 parameters for two classes, and its largest activation (128×8×8) is half the size of its input, so it adds
    little to the memory of the front.

    Args:
        feature_shape: shape F at the cut, without the batch.
        outputs: width K of the logits.
        width: channels of the hidden layers.
        depth: number of hidden layers; 0 is pooling and one linear layer.
        layout: of the tensor, as the cut states it; None: as its shape suggests.

    Raises:
        CutError: the tensor has more than three axes.
    """

    def __init__(
        self,
        feature_shape: tuple[int, ...],
        outputs: int,
        *,
        width: int = 128,
        depth: int = 2,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.layout = known_layout(feature_shape, layout)
        blocks: list[nn.Module] = []
        if not is_map(self.layout):
            features = feature_shape[-1]
            for _ in range(depth):
                blocks += [nn.LayerNorm(features), nn.Linear(features, width), nn.GELU()]
                features = width
        else:
            features, side, _ = map_size(feature_shape, self.layout)
            kernel = 1 if side == 1 else 3  # a single point has no surroundings
            for _ in range(depth):
                stride = 2 if side > 4 else 1
                blocks += [
                    nn.Conv2d(features, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                features, side = width, -(-side // stride)
        self.hidden = nn.Sequential(*blocks)
        self.classify = nn.Linear(features, outputs)

    def forward(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → logits (B, K)."""
        if is_map(self.layout):
            pooled_BD = self.hidden(as_channels_first(features_BF, self.layout)).mean(dim=(2, 3))
        else:
            pooled_BD = self.hidden(as_tokens(features_BF, self.layout)).mean(dim=1)
        logits_BK: Tensor = self.classify(pooled_BD)
        return logits_BK


def task_loss(logits_BK: Tensor, labels: Tensor, task_kind: str, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean loss over the batch: cross-entropy for ``single``, binary cross-entropy over (B, K) for ``multi``.

    Labels that are lacking (NaN) are left out of the mean; where all are, the loss is 0. Computed in float32 whatever
    the precision of the logits.
    """
    logits_BK = logits_BK.float()
    if task_kind == "single":
        return F.cross_entropy(logits_BK, labels, label_smoothing=label_smoothing)
    if labels.isnan().any():
        return task_losses(logits_BK[:, None, :], labels, task_kind, label_smoothing=label_smoothing).mean()
    soft_BK = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits_BK, soft_BK)


def task_losses(logits_BOK: Tensor, labels: Tensor, task_kind: str, *, label_smoothing: float = 0.0) -> Tensor:
    """The loss of every image and outcome, float32 (B, O), not averaged; see :func:`task_loss`.

    Where labels are lacking, an image counts as much as it has labels: the mean over the batch is that over all labels.

    Args:
        logits_BOK: a head's answers to O outcomes of each image (:mod:`smartedge.models.released`).
        labels: int64 (B,) or float32 (B, K): the same for all outcomes of an image.
        task_kind: ``single`` or ``multi``.
        label_smoothing: share of the target spread evenly.
    """
    logits_BOK = logits_BOK.float()
    if task_kind == "single":
        labels_BO = labels[:, None].expand(logits_BOK.shape[:2])
        return F.cross_entropy(
            logits_BOK.permute(0, 2, 1), labels_BO, label_smoothing=label_smoothing, reduction="none"
        )
    known_BK = labels.isfinite()
    soft_BK = labels.nan_to_num() * (1.0 - label_smoothing) + 0.5 * label_smoothing
    losses_BOK = F.binary_cross_entropy_with_logits(
        logits_BOK, soft_BK[:, None, :].expand_as(logits_BOK), reduction="none"
    )
    if known_BK.all():
        return losses_BOK.mean(dim=2)
    share = len(labels) / known_BK.sum().clamp_min(1)
    return (losses_BOK * known_BK[:, None, :]).sum(dim=2) * share


def noisy_task_loss(
    logits_BK: Tensor, labels: Tensor, task_kind: str, channel_JJ: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """:func:`task_loss` where the labels went through a channel that is known: forward correction.

    The head answers for the true label; its answer is sent through the same channel, ``q = p @ T``, and compared with
    the label that arrived (Patrini et al. 2017, theorem 2: the minimiser is that of the true labels).

    Args:
        logits_BK: answers for the true label.
        labels: as they arrived, int64 (B,) or float32 (B, K).
        task_kind: ``single`` or ``multi``.
        channel_JJ: T, float32; ``T[i, j]`` is the probability that label i arrives as j. ``single``: J = K classes;
            ``multi``: J = 2, (no, yes), for each column.
        label_smoothing: share of the target spread evenly.
    """
    logits_BK = logits_BK.float()
    log_channel_JJ = channel_JJ.log()
    if task_kind == "single":
        true_BK = F.log_softmax(logits_BK, dim=1)
        arrives_BK = torch.logsumexp(true_BK[:, :, None] + log_channel_JJ[None], dim=1)
        return -(1 - label_smoothing) * arrives_BK.gather(1, labels[:, None]).mean() - (
            label_smoothing * arrives_BK.mean()
        )
    soft_BK = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    true_BK2 = torch.stack([F.logsigmoid(-logits_BK), F.logsigmoid(logits_BK)], dim=2)
    arrives_BK2 = torch.logsumexp(true_BK2[..., None] + log_channel_JJ, dim=2)
    return -((1 - soft_BK) * arrives_BK2[..., 0] + soft_BK * arrives_BK2[..., 1]).mean()


def distillation_losses(logits_BOK: Tensor, teacher_BK: Tensor, task_kind: str, *, temperature: float) -> Tensor:
    """``T² · KL(teacher ‖ head)`` of every image and outcome, float32 (B, O) (Hinton et al. 2015, section 2.1).

    Both sides' logits are divided by the temperature T; T² keeps the size of the gradients. A multi-label task has one
    such term per column, the mean of which is taken, as for its loss.
    """
    logits_BOK, teacher_B1K = logits_BOK.float() / temperature, teacher_BK.float()[:, None, :] / temperature
    if task_kind == "single":
        target, found = F.log_softmax(teacher_B1K, dim=2), F.log_softmax(logits_BOK, dim=2)
        divergence_BO = (target.exp() * (target - found)).sum(dim=2)
    else:
        target_B1K = torch.sigmoid(teacher_B1K)
        yes = target_B1K * (F.logsigmoid(teacher_B1K) - F.logsigmoid(logits_BOK))
        no = (1 - target_B1K) * (F.logsigmoid(-teacher_B1K) - F.logsigmoid(-logits_BOK))
        divergence_BO = (yes + no).mean(dim=2)
    return temperature**2 * divergence_BO


def probabilities(logits_BK: Tensor, task_kind: str) -> Tensor:
    """Logits (B, K) → float32 probabilities (B, K): softmax over classes, or a sigmoid per column."""
    logits_BK = logits_BK.float()
    return torch.softmax(logits_BK, dim=1) if task_kind == "single" else torch.sigmoid(logits_BK)
