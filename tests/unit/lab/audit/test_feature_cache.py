"""Features of whole splits, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smartedge.lab.audit import feature_cache
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.feature_cache import FeatureCache
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.store import Store
from smartedge.privacy.mechanisms import Gaussian
from smartedge.runs.progress import Update


class Corner(nn.Module):
    """The left half of the first row; counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Corner.calls += 1
        return x[:, :, 0, :2]


@pytest.fixture
def evidence(evidence_of: Callable[..., RunEvidence]) -> RunEvidence:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8) for count in (150, 4, 5)]
    features = [Corner()(part.float()) for part in images]
    Corner.calls = 0
    return evidence_of(features, [torch.zeros(len(part)) for part in images], front=Corner(), images=images)


def test_features_are_computed_once_and_kept(evidence: RunEvidence, tmp_path: Path) -> None:
    """150 images go through the front in two batches, and the front takes 3 of 6 seconds for each of its calls."""
    updates: list[Update] = []
    watch: Any = type("Watch", (), {"update": lambda self, update: updates.append(update)})()
    cache = FeatureCache(Store(tmp_path), Clock(None, lambda: 3.0 * Corner.calls), watch)
    split = evidence.train.split
    assert not cache.has(evidence, split, "train")
    found, seconds = cache.views(evidence, split, "train")
    pixels = split.read(torch.arange(150).numpy()).images_BCHW
    plain = evidence.bounded(pixels, mirrored=False)
    assert torch.equal(found, plain) and found.dtype == torch.float32
    assert seconds == pytest.approx(2 * 3.0 / 150)
    told = [(update.side, update.phase, update.done, update.total) for update in updates]
    assert told == [("audit", "defended features train", 128, 150), ("audit", "defended features train", 150, 150)]
    calls = Corner.calls
    again, same = cache.views(evidence, split, "train")
    assert torch.equal(again, plain) and same == seconds and Corner.calls == calls
    mirrored, _ = cache.views(evidence, split, "train", mirrored=True)
    assert torch.equal(mirrored, evidence.bounded(pixels, mirrored=True)) and not torch.equal(mirrored, plain)
    assert updates[-1].phase == "defended features train mirrored"
    assert cache.has(evidence, split, "train") and cache.has(evidence, split, "train-mirrored")
    others = (replace(evidence, mechanism=Gaussian((3, 2), 1.0, 1.0, 1e-5)), replace(evidence, name="undefended"))
    assert not any(cache.has(other, split, "train") for other in others)
    assert not cache.has(evidence, evidence.test, "train")


def test_large_features_are_held_in_half_precision_and_not_kept(
    evidence: RunEvidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, kept = evidence.train.split, 4 * 150 * 6
    cache: Any = FeatureCache(Store(tmp_path), Clock(None), type("Quiet", (), {"update": lambda *_: None})())
    for most, keeps in ((kept - 1, False), (kept, True)):
        monkeypatch.setattr(feature_cache, "_FULL_PRECISION_BYTES", most)
        found, _ = cache.views(evidence, split, "train")
        assert found.dtype == (torch.float32 if keeps else torch.float16)
        assert cache.keeps(evidence, split) == keeps == cache.has(evidence, split, "train")
