"""The back of every row: one network, trained for one budget on what was released."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from smartedge.methods.loop import Best, Progress, fit, warmup_cosine
from smartedge.metrics import evaluate
from smartedge.models.exits import TaskExit
from smartedge.models.layout import Layout
from smartedge.models.optim import apply_gradients, make_optimizer

__all__ = ["Reader"]

_BATCH = 128


class Reader:
    """Three blocks of the task exit's kind (convolution, batch normalisation, ReLU) and a linear layer.

    Args:
        feature_shape: F of what is released.
        layout: of a feature.
        device: on which it computes. What it takes and gives is on the CPU.
        seed: of weights and order.
    """

    def __init__(self, feature_shape: tuple[int, ...], layout: Layout, device: torch.device, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = TaskExit(feature_shape, 2, width=128, depth=3, layout=layout)
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.maps = len(feature_shape) == 3
        self.seed = seed

    def learn(
        self, draw: Callable[[Tensor], Tensor], labels_N: Tensor, val: tuple[Tensor, Tensor], epochs: int
    ) -> None:
        """Train, and keep the epoch that was best on the validation images.

        Args:
            draw: positions (B,) → released features (B, *F).
            labels_N: int64, of all training images.
            val: released features and labels of the validation images.
            epochs: the budget.
        """
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = make_optimizer([self.network], name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.0)
        best = Best(self.network, -1.0)
        count = torch.bincount(labels_N, minlength=2).float()
        weights_K = (count.sum() / (2 * count)).to(self.device)

        def batches(epoch: int) -> Generator[Tensor, None, None]:
            yield from torch.randperm(len(labels_N), generator=generator).split(_BATCH)[: len(labels_N) // _BATCH]

        def step(rows: Tensor, progress: Progress) -> None:
            self.network.train()
            loss = F.cross_entropy(self._logits(draw(rows)), labels_N[rows].to(self.device), weight=weights_K)
            loss.backward()
            apply_gradients(optimizer, clip_norm=5.0)

        def after_epoch(progress: Progress) -> None:
            best.offer(self.score(*val))

        progress = Progress(epochs, len(labels_N) // _BATCH)
        fit(step, batches, progress, rates=warmup_cosine(optimizer, 1e-3), after_epoch=after_epoch)
        best.restore()

    def score(self, features_NF: Tensor, labels_N: Tensor) -> float:
        """Balanced accuracy of its answers."""
        found = evaluate(labels_N.numpy(), self.scores(features_NF), "single")["balanced_accuracy"]
        assert found is not None
        return found

    @torch.no_grad()
    def scores(self, features_NF: Tensor) -> NDArray[np.float64]:
        """Probabilities (N, 2)."""
        self.network.eval()
        parts = [self._logits(part_BF).softmax(dim=1) for part_BF in features_NF.split(256)]
        return torch.cat(parts).double().cpu().numpy()

    def _logits(self, features_BF: Tensor) -> Tensor:
        features_BF = features_BF.to(self.device).float()
        if self.maps:
            features_BF = features_BF.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits_BK: Tensor = self.network(features_BF)
        return logits_BK.float()
