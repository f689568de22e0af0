"""Task exits: small heads on the front's output, and the loss that every head is trained with."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.errors import CutError

__all__ = ["TaskExit", "probabilities", "task_loss", "tensor_layout"]

Layout = Literal["chw", "hwc", "td"]


def tensor_layout(feature_shape: tuple[int, ...]) -> Layout:
    """How the axes of a tensor at a cut are meant, judged by its shape (without the batch).

    ``td``: two axes, tokens × width (ViT). ``hwc``: three axes of which the first two are equal and the last
    is not (Swin). ``chw``: three axes otherwise. One axis (D,) counts as one token.

    Raises:
        CutError: for more than three axes.
    """
    if len(feature_shape) <= 2:
        return "td"
    if len(feature_shape) == 3:
        first, second, third = feature_shape
        return "hwc" if first == second != third else "chw"
    raise CutError(
        f"the tensor at the cut has shape {feature_shape}; exits and bottlenecks take at most three axes: "
        "choose another cut ('smartedge cuts MODEL' shows the shapes)"
    )


class TaskExit(nn.Module):
    """A head that learns the desired label on the edge.

    Channels-first and channels-last maps go through ``depth`` blocks of 3×3 convolution (stride 2 while the map is
    larger than 4×4), batch normalisation and ReLU; tokens through ``depth`` blocks of linear layer and GELU. Then
    mean pooling and one linear layer. With the defaults on a 64×16×16 map: 221 954 parameters for two classes, and
    its largest activation (128×8×8) is half the size of its input, so it adds little to the memory of the front.

    Args:
        feature_shape: shape F at the cut, without the batch.
        outputs: width K of the logits.
        width: channels of the hidden layers.
        depth: number of hidden layers; 0 is pooling and one linear layer.
    """

    def __init__(self, feature_shape: tuple[int, ...], outputs: int, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.layout = tensor_layout(feature_shape)
        blocks: list[nn.Module] = []
        if self.layout == "td":
            features = feature_shape[-1]
            for _ in range(depth):
                blocks += [nn.LayerNorm(features), nn.Linear(features, width), nn.GELU()]
                features = width
        else:
            features = feature_shape[-1] if self.layout == "hwc" else feature_shape[0]
            side = feature_shape[1]
            for _ in range(depth):
                stride = 2 if side > 4 else 1
                blocks += [
                    nn.Conv2d(features, width, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                features, side = width, -(-side // stride)
        self.hidden = nn.Sequential(*blocks)
        self.classify = nn.Linear(features, outputs)

    def forward(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → logits (B, K)."""
        if self.layout == "td":
            tokens_BTD = features_BF if features_BF.dim() == 3 else features_BF.unsqueeze(1)
            return self.classify(self.hidden(tokens_BTD).mean(dim=1))
        maps_BCHW = features_BF.permute(0, 3, 1, 2) if self.layout == "hwc" else features_BF
        return self.classify(self.hidden(maps_BCHW).mean(dim=(2, 3)))


def task_loss(logits_BK: Tensor, labels: Tensor, task_kind: str, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean loss over the batch: cross-entropy for ``single``, binary cross-entropy over (B, K) for ``multi``.

    Computed in float32 whatever the precision of the logits.
    """
    logits_BK = logits_BK.float()
    if task_kind == "single":
        return F.cross_entropy(logits_BK, labels, label_smoothing=label_smoothing)
    soft_BK = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits_BK, soft_BK)


def probabilities(logits_BK: Tensor, task_kind: str) -> Tensor:
    """Logits (B, K) → float32 probabilities (B, K): softmax over classes, or a sigmoid per column."""
    logits_BK = logits_BK.float()
    return torch.softmax(logits_BK, dim=1) if task_kind == "single" else torch.sigmoid(logits_BK)
