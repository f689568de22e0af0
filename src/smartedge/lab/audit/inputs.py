"""The inputs of an attacker: released features, pooled to columns or unchanged, drawn anew for training."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smartedge.lab.audit.evidence import Evidence
from smartedge.models.layout import Layout, as_channels_first, is_map, known_layout, map_size
from smartedge.runs.seeds import derive_seed
from smartedge.types import Task

__all__ = ["Draws", "Inputs", "Pool", "val_labels", "val_releases"]

_VAL_DRAWS = 4  # releases of each validation image where there is noise, so that one lucky draw does not decide
_COLUMNS = {"linear-pooled": 1, "trees": 512, "mlp": 4096}  # after pooling, at most; each channel keeps one or more


class Pool(nn.Module):
    """Averages neighbours of maps and tokens, to get at most ``columns`` numbers: (B, *F) → (B, *f)."""

    def __init__(self, feature_shape: tuple[int, ...], columns: int, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = known_layout(feature_shape, layout)
        self.whole = math.prod(feature_shape) <= columns or self.layout in ("vector", "codeword")
        if self.whole:
            return
        if is_map(self.layout):
            channels, height, width = map_size(feature_shape, self.layout)
            side = math.isqrt(max(1, columns // channels))
            self.size = (min(height, side), min(width, side))
        else:
            tokens, width = feature_shape
            self.size = (min(tokens, max(1, columns // width)), 1)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Average."""
        if self.whole:
            return features_BF
        if is_map(self.layout):
            return F.adaptive_avg_pool2d(as_channels_first(features_BF, self.layout), self.size)
        return F.adaptive_avg_pool1d(features_BF.transpose(1, 2), self.size[0])


class Inputs:
    """Features (N, *F) as one kind of attacker takes them: pooled columns (N, D), or unchanged for a deep network."""

    def __init__(self, evidence: Evidence, attack: str) -> None:
        whole = math.prod(evidence.feature_shape)
        self.pool = (
            None
            if attack in ("deep", "fine-tuned")
            else Pool(evidence.feature_shape, _COLUMNS.get(attack, whole), evidence.layout)
        )
        self.layout: Layout = evidence.layout if self.pool is None else "vector"  # of what this attacker takes
        self.task = evidence.task if evidence.labelled else None

    def __call__(self, features_NF: Tensor, desired_N: Tensor) -> Tensor:
        """Add the desired labels (N,) or (N, K) as further columns, if the attacker sees them."""
        if self.pool is None:
            return features_NF
        columns_ND = torch.cat([self.pool(part).flatten(1) for part in features_NF.split(1024)])
        return columns_ND if self.task is None else torch.cat([columns_ND, _label_columns(desired_N, self.task)], dim=1)


class Draws:
    """Releases of the training images, in batches. With noise each is drawn anew; without, each view is made once."""

    def __init__(self, evidence: Evidence, inputs: Inputs, generator: torch.Generator) -> None:
        self.evidence, self.inputs, self.generator = evidence, inputs, generator
        self.views_VN: tuple[Tensor, ...] = ()
        if not evidence.noisy:
            train = evidence.train
            self.views_VN = tuple(
                inputs(evidence.draw(train, generator, view=view), train.desired).to(train.views_VNF[view].dtype)
                for view in range(len(train.views_VNF))
            )

    def __call__(self, rows: Tensor) -> Tensor:
        """One release of each image at ``rows`` (B,), as the attacker takes it."""
        if not self.views_VN:
            train = self.evidence.train
            return self.inputs(self.evidence.draw(train, self.generator, rows), train.desired[rows])
        chosen_B = torch.randint(len(self.views_VN), (len(rows),), generator=self.generator)
        picked_VB = torch.stack([view_N[rows] for view_N in self.views_VN])
        return picked_VB[chosen_B, torch.arange(len(rows))].float()


def val_releases(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Releases (M, *F) of the attacker's validation images, and their desired labels.

    Each image is released ``_VAL_DRAWS`` times where there is noise.
    """
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, "audit", "val"))
    draws = _VAL_DRAWS if evidence.noisy else 1
    released = [evidence.draw(evidence.val, generator, view=0) for _ in range(draws)]
    return torch.cat(released), torch.cat([evidence.val.desired] * draws)


def val_labels(evidence: Evidence, attribute: str) -> NDArray[np.int64]:
    """The true labels for the validation scores of a reading, int64 (M,)."""
    draws = _VAL_DRAWS if evidence.noisy else 1
    return np.tile(evidence.val.labels[attribute].numpy(), draws)


def _label_columns(desired_N: Tensor, task: Task) -> Tensor:
    """The desired labels as float32 columns (N, K)."""
    return F.one_hot(desired_N, task.outputs).float() if task.kind == "single" else desired_N.float()
