"""From what was sent to what the back computes on: tensors on its device, in its memory format, images augmented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from smartedge.cloud.batches import features_of
from smartedge.cloud.label_shares import LabelShares
from smartedge.cloud.workers.shared_step import ShardedBatch
from smartedge.config import Config
from smartedge.images.augment import augment
from smartedge.models.entrances import Entering, Entrances
from smartedge.models.network import to_device, to_input
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch, Features

__all__ = ["ByShard", "Inputs", "Ready"]

ByShard = Mapping[int, Tensor | Entering]  # number of a shard -> what the back takes; one alone has number 0


@dataclass(frozen=True)
class Ready:
    """A batch, and what the back computes on.

    Attributes:
        batch: the images, of one step or in shards.
        inputs: on the device. None: not made yet.
    """

    batch: FeatureBatch | ShardedBatch
    inputs: ByShard | None = None


class Inputs:
    """Makes the inputs of the back: features, or images; of several edges, with the place where each enters.

    Args:
        config: the run's settings.
        back: an :class:`~smartedge.models.entrances.Entrances` where there are several edges.
        device: where it computes.
        shares: of the labels of several edges, which correct the back's answers in training.
    """

    def __init__(self, config: Config, back: nn.Module, device: torch.device, shares: LabelShares) -> None:
        self._config = config
        self._back = back
        self._device = device
        self._shares = shares
        self._channels_last = config.train.channels_last is True
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def ready(self, number: int, batch: FeatureBatch | ShardedBatch) -> Ready:
        """A batch with the inputs for update ``number``. May be called in several threads, ahead of the update.

        On a GPU the inputs are copied while it computes, and are there when this returns.
        """
        if self._copying is None:
            return Ready(batch, self._of_all(number, batch))
        with torch.cuda.stream(self._copying):
            inputs = self._of_all(number, batch)
            self._copying.synchronize()
        steps = torch.cuda.default_stream(self._copying.device)
        for tensor in chain.from_iterable(map(_tensors_of, inputs.values())):
            tensor.record_stream(steps)  # its memory is free for the next copy only when the steps have used it
        return Ready(batch, inputs)

    def _of_all(self, number: int, batch: FeatureBatch | ShardedBatch) -> dict[int, Tensor | Entering]:
        if isinstance(batch, ShardedBatch):
            return {shard: self.of(part, (number, shard)) for shard, part in batch.shards.items()}
        return {0: self.of(batch, (number,))}

    def of(self, batch: FeatureBatch, update: tuple[int, ...] | None) -> Tensor | Entering:
        """The inputs for a batch.

        Args:
            batch: what was sent.
            update: number of the update that learns from it, and of the shard, where there are several: images are
                augmented, each shard by itself. None: nothing is learned.
        """
        edge_B, cut_B = batch.edge_B, batch.cut_B
        if edge_B is None or cut_B is None:
            return self._tensor(batch.features_BF, update)
        assert isinstance(self._back, Entrances)
        rows = {cut: np.flatnonzero(cut_B == cut) for cut in self._back.cuts}
        features = {
            cut: self._tensor(features_of(batch.features_BF, rows_B), update)
            for cut, rows_B in rows.items()
            if len(rows_B)
        }
        places = to_device(torch.from_numpy(np.concatenate(list(rows.values()))), self._device)
        offsets_BK = None
        if update is not None and self._config.fleet.logit_adjustment:
            offsets = self._shares.offsets(edge_B)
            offsets_BK = None if offsets is None else to_device(torch.from_numpy(offsets), self._device)
        return Entering(features, places, offsets_BK)

    def _tensor(self, features: Features, update: tuple[int, ...] | None) -> Tensor:
        """Features (B, *F) on the device."""
        features_BF = torch.from_numpy(features)
        if features_BF.dtype == torch.uint8:  # images
            if update is not None:
                generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "augment", *update))
                features_BF = augment(features_BF, generator=generator, kind=self._config.data.augment)
            return to_input(features_BF, self._device, channels_last=self._channels_last)
        features_BF = to_device(features_BF, self._device)
        if self._channels_last and features_BF.dim() == 4:  # maps, which cross channels-first
            features_BF = features_BF.contiguous(memory_format=torch.channels_last)
        return features_BF


def _tensors_of(inputs: Tensor | Entering) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    offsets = [] if inputs.offsets_BK is None else [inputs.offsets_BK]
    return [*inputs.features.values(), inputs.places, *offsets]
