"""Evidence made by hand: features and labels of which it is known what an attacker can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.lab.audit.run_evidence import OwnImages, RunEvidence
from smartedge.methods.differentiable import differentiable
from smartedge.models.layout import layout_of_shape
from smartedge.privacy.mechanisms import Mechanism, Unprotected
from smartedge.types import ImageBatch, Task


class Images:
    """A split that is in memory: ``read`` gives images, nothing else is asked of it."""

    def __init__(self, images_NCHW: Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.ids = np.arange(len(images_NCHW))

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def read(self, positions: np.ndarray) -> ImageBatch:
        return ImageBatch(self.ids[positions], self.images_NCHW[positions], torch.zeros(len(positions)))


@pytest.fixture
def evidence_of() -> Callable[..., RunEvidence]:
    """``evidence_of([train, val, test], labels, desired)``: features (N, *F) and labels per split."""

    def make(
        features: list[Tensor],
        labels: list[Tensor],
        desired: list[Tensor] | None = None,
        *,
        task: Task | None = None,
        classes: int = 2,
        mechanism: Mechanism | None = None,
        front: nn.Module | None = None,
        images: list[Tensor] | None = None,
        **changes: Any,
    ) -> RunEvidence:
        shape = tuple(features[0].shape[1:])
        desired = desired or [torch.arange(len(part)) % 2 for part in features]
        splits: list[Any] = [
            Images(part) for part in (images or [torch.zeros(len(f), 3, 4, 4, dtype=torch.uint8) for f in features])
        ]
        mechanism = mechanism or Unprotected(shape)
        noisy = mechanism.name != "none"
        codec = get_codec("float32")
        generator = torch.Generator().manual_seed(1)
        released = differentiable(mechanism).simulate(features[2], generator) if noisy else features[2]
        return RunEvidence(
            name="defended",
            config=load_config({"schedule": "freeze-and-log", "train": {"batch_size": 16}, **changes}),
            task=task or Task("single", ("smile",), ("no", "yes")),
            feature_shape=shape,
            layout=layout_of_shape(shape),
            front=front or nn.Identity(),
            mechanism=mechanism,
            noisy=noisy,
            codec=codec,
            classes={"hidden": tuple(map(str, range(classes)))},
            train=OwnImages((features[0], features[0]), {"hidden": labels[0]}, desired[0], split=splits[0]),
            val=OwnImages((features[1],), {"hidden": labels[1]}, desired[1], split=splits[1]),
            test=splits[2],
            test_ids=torch.arange(len(features[2])),
            test_features_NF=released,
            test_labels={"hidden": labels[2]},
            test_desired=desired[2],
            exit_scores={},
        )

    return make
