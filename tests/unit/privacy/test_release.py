"""The gate: nothing but privacy.release makes what may be packed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import smartedge
from smartedge.codec import get_codec, pack
from smartedge.privacy.release import release
from smartedge.types import FeatureBatch, ReleasedBatch, ReleaseEvent

IDS, FEATURES, LABELS = np.arange(2), torch.randn(2, 3, 4, 4), torch.tensor([0, 1])


def test_a_release_without_noise_is_recorded_as_infinite_epsilon():
    released = release(IDS, FEATURES.clone().requires_grad_(), LABELS)
    assert released.event.epsilon == math.inf
    assert released.event.labels_travel
    assert not released.features_BF.requires_grad


def test_nobody_else_can_make_one():
    event = ReleaseEvent("none", math.inf, 0.0, True)
    with pytest.raises(TypeError, match=r"smartedge\.privacy\.release"):
        ReleasedBatch(IDS, FEATURES, LABELS, event)
    with pytest.raises(TypeError, match=r"smartedge\.privacy\.release"):
        ReleasedBatch(IDS, FEATURES, LABELS, event, key=object())


def test_raw_features_cannot_be_packed():
    for raw in (FEATURES, FeatureBatch(IDS, FEATURES, LABELS)):
        with pytest.raises(TypeError):
            pack(raw, get_codec("uint8"))


def test_the_key_is_named_in_two_modules_only():
    source = Path(smartedge.__file__).parent
    users = {str(p.relative_to(source)) for p in source.rglob("*.py") if "_RELEASE_KEY" in p.read_text()}
    assert users == {"types.py", "privacy/release.py"}
