"""Sends whole splits through a run's front, once: the features are kept on disk for the next call."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smartedge.data import Split
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.run_evidence import BATCH, RunEvidence
from smartedge.lab.audit.store import Store
from smartedge.runs.progress import Monitor, Update

__all__ = ["FeatureCache"]

_FULL_PRECISION_BYTES = 256 * 2**20  # features larger than this are held in half precision, and not kept on disk


@dataclass(frozen=True)
class FeatureCache:
    """Bounded features of whole splits. Files that were made by another front, or of other images, are not used."""

    store: Store
    clock: Clock
    monitor: Monitor
    ends: bool = False  # whether work ends where the time is over; otherwise the features are needed in any case

    def keeps(self, evidence: RunEvidence, split: Split) -> bool:
        """Whether the features of this split are small enough to be kept, in full precision."""
        return 4 * len(split) * int(np.prod(evidence.feature_shape)) <= _FULL_PRECISION_BYTES

    def views(
        self, evidence: RunEvidence, split: Split, split_name: str, *, mirrored: bool = False
    ) -> tuple[Tensor, float]:
        """Features (N, *F) of a split, and the seconds that the front needed for an image when they were computed.

        In half precision where they need much memory.

        Raises:
            OutOfTime: the time is over, and this cache ends its work then.
        """
        keeps = self.keeps(evidence, split)
        name, key = self._piece(evidence, split, f"{split_name}-mirrored" if mirrored else split_name)
        if kept := self.store.load(name, key):
            return kept[1]["features"], float(kept[0]["seconds_each"])
        begun = self.clock.elapsed()
        features_NF = torch.empty(
            (len(split), *evidence.feature_shape), dtype=torch.float32 if keeps else torch.float16
        )
        phase = f"{evidence.name} features {split_name}{' mirrored' if mirrored else ''}"
        for start in range(0, len(split), BATCH):
            if self.ends:
                self.clock.check()
            rows = torch.arange(start, min(start + BATCH, len(split)))
            bounded_BF = evidence.bounded(evidence.images(split, rows), mirrored=mirrored)
            features_NF[rows] = bounded_BF.to(features_NF.dtype)
            self.monitor.update(Update("audit", phase, int(rows[-1]) + 1, len(split)))
        seconds_each = (self.clock.elapsed() - begun) / len(split)
        if keeps:
            self.store.save(name, key, {"seconds_each": seconds_each}, {"features": features_NF})
        return features_NF, seconds_each

    def has(self, evidence: RunEvidence, split: Split, view: str) -> bool:
        """Whether features are on disk."""
        return self.store.load(*self._piece(evidence, split, view)) is not None

    @staticmethod
    def _piece(evidence: RunEvidence, split: Split, view: str) -> tuple[str, str]:
        """Name and key of a file."""
        ids = hashlib.sha256(split.ids.tobytes()).hexdigest()
        what = json.dumps([evidence.origin, repr(evidence.mechanism), view, ids])
        return f"features-{evidence.name}-{view}", hashlib.sha256(what.encode()).hexdigest()[:32]
