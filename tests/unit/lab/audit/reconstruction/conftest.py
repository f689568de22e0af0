"""RunEvidence about small drawn faces whose front is a formula, made without a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.data.dataset import Split
from smartedge.data.drawn.faces import draw
from smartedge.data.drawn.parts import ATTRIBUTES
from smartedge.lab.audit.run_evidence import OwnImages, RunEvidence
from smartedge.methods.differentiable import differentiable
from smartedge.models.layout import layout_of_shape
from smartedge.models.network import to_input
from smartedge.privacy.mechanisms import Mechanism, Unprotected
from smartedge.types import Task

SIZE = 16
COUNTS = {"train": 96, "val": 32, "test": 40}


class MemoryStore:
    """Decoded images in memory."""

    streamed = False

    def __init__(self, pixels_NCHW: Tensor) -> None:
        self.pixels_NCHW = pixels_NCHW

    def read(self, indices: np.ndarray) -> Tensor:
        return self.pixels_NCHW[torch.from_numpy(indices)]


class Shuffled(nn.Module):
    """An orthogonal front: pixels in another order, so that nothing is lost. (B, 3, S, S) → (B, 48, S/4, S/4)."""

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(inputs_BCHW, 4)


class Blind(nn.Module):
    """A front that tells nothing."""

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        return torch.zeros(len(inputs_BCHW), 6, 2, 2)


def _split(name: str) -> tuple[Split, Tensor]:
    images, attributes = draw(np.arange(COUNTS[name]), split=name, image_size=SIZE)
    labels = torch.from_numpy(attributes.astype(np.int64))
    pixels_NCHW = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    desired = labels[:, ATTRIBUTES.index("smile")]
    hidden = labels[:, ATTRIBUTES.index("masculine")]
    ids = np.arange(COUNTS[name])
    return Split(MemoryStore(pixels_NCHW), ids, desired, {"masculine": hidden}), hidden  # type: ignore[arg-type]


@pytest.fixture
def evidence_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunEvidence]:
    """``evidence_of(front, mechanism)``: releases of 40 faces of 16×16 pixels, and 128 of the attacker's."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "e2e"))
    config = load_config(
        {
            "data": {"image_size": SIZE, "sensitive": "masculine"},
            "model": {"name": "tiny:build", "cut": "stage1", "bottleneck": None},
            "train": {"batch_size": 16},
            "hardware": {"cloud_device": "cpu"},  # where these fronts are
        }
    )
    splits = {name: _split(name) for name in COUNTS}

    def make(front: nn.Module, mechanism: Mechanism | None = None, *, name: str = "defended") -> RunEvidence:
        front = front.eval().requires_grad_(False)

        def features(pixels_NCHW: Tensor) -> Tensor:
            features_NF = front(to_input(pixels_NCHW, torch.device("cpu")))
            return features_NF if mechanism is None else differentiable(mechanism).bound(features_NF)

        def auxiliary(split: str, *, mirrored: bool) -> OwnImages:
            part, hidden = splits[split]
            pixels_NCHW = part.read(np.arange(len(part))).images_BCHW
            views = [features(pixels_NCHW)] + ([features(pixels_NCHW.flip(-1))] if mirrored else [])
            return OwnImages(tuple(views), {"masculine": hidden}, part.labels, split=part)

        test, hidden = splits["test"]
        bounded_NF = features(test.read(np.arange(len(test))).images_BCHW)
        shape = tuple(bounded_NF.shape[1:])
        used: Any = mechanism or Unprotected(shape)
        return RunEvidence(
            name=name,
            config=config,
            task=Task("single", ("smile",), ("no", "yes")),
            feature_shape=shape,
            layout=layout_of_shape(shape),
            front=front,
            mechanism=used,
            noisy=mechanism is not None,
            codec=get_codec("float32"),
            classes={"masculine": ("no", "yes")},
            train=auxiliary("train", mirrored=True),
            val=auxiliary("val", mirrored=False),
            test=test,
            test_ids=torch.from_numpy(test.ids),
            test_features_NF=differentiable(used).simulate(bounded_NF, torch.Generator().manual_seed(1)),
            test_labels={"masculine": hidden},
            test_desired=test.labels,
            exit_scores={},
        )

    return make


@pytest.fixture
def shuffled(evidence_of: Callable[..., RunEvidence]) -> RunEvidence:
    """Releases that hold every pixel."""
    return evidence_of(Shuffled())


@pytest.fixture
def blind(evidence_of: Callable[..., RunEvidence]) -> RunEvidence:
    """Releases that are the same for every image."""
    return evidence_of(Blind())
