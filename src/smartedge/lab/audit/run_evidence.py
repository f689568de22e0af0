"""The evidence of a finished run: its front makes the features, and its feature log has what was released."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from smartedge.config import Config
from smartedge.data import Split
from smartedge.errors import DataError
from smartedge.lab.audit.evidence import Auxiliary, Crossing, Evidence, digest_of
from smartedge.methods.base import get_method
from smartedge.models.network import to_input
from smartedge.runs.machine import pick_device

if TYPE_CHECKING:
    from smartedge.lab.audit.feature_cache import FeatureCache

__all__ = ["BATCH", "OwnImages", "RunEvidence", "device_of", "finite"]

BATCH = 128  # images through the front at a time


@dataclass(frozen=True, kw_only=True)
class OwnImages(Auxiliary):
    """Labelled images that the attacker holds, with the images themselves."""

    split: Split  # images and labels, by position

    def order(self, generator: torch.Generator) -> Tensor:
        """All positions, int64 (N,), in a random order: streamed images in one in which they can be read."""
        if not self.split.streamed:
            return torch.randperm(len(self.split), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        return torch.from_numpy(self.split.shuffled(np.random.default_rng(seed)))

    def subset(self, rows: Tensor) -> Self:
        """The images at some positions, int64 (N,), in ascending order."""
        return replace(super().subset(rows), split=self.split.subset(rows.numpy()))


@dataclass(frozen=True, kw_only=True)
class RunEvidence(Evidence):
    """The evidence of a run, or of its undefended counterpart.

    The attacker also knows the architecture and the front's weights. Its own images are those that the run set apart
    for it (``data.audit_share``), or otherwise the train split.
    """

    config: Config  # settings of the run, or of its undefended counterpart
    front: nn.Module  # to_input(images) → features; on ``device``, in evaluation mode, its weights need no gradients
    train: OwnImages
    val: OwnImages
    test: Split  # the protected images; used to judge attacks and to show reconstructions
    cache: FeatureCache | None = None  # keeps features on disk
    seconds_each: float = 0.0  # that the front needs for an image
    edge: str | None = None  # whose releases these are, where it has a name

    @property
    def seed(self) -> int:
        """The run's."""
        return self.config.seed

    @property
    def sensitive(self) -> tuple[str, ...]:
        """``data.sensitive``."""
        return tuple(self.config.data.sensitive)

    @property
    def crossing(self) -> Crossing:
        """By the schedule and the section ``dp``."""
        dp = self.config.dp
        return Crossing(self.config.releases, dp.label_epsilon is None, dp.label_epsilon, dp.apply_to)

    @property
    def batch_size(self) -> int:
        """Images in a frame. The codec encodes one frame at a time."""
        return self.config.train.batch_size

    @cached_property
    def device(self) -> torch.device:
        """The device of the cloud."""
        return device_of(self.config)

    @property
    def half_precision(self) -> bool:
        """By ``train.precision``."""
        return self.config.train.precision == "bfloat16"

    @property
    def channels_last(self) -> bool:
        """``train.channels_last``."""
        return self.config.train.channels_last is True

    @cached_property
    def origin(self) -> object:
        """The settings, and a digest of the front's weights."""
        return [self.config.identity(), digest_of(self.front.state_dict().values())]

    @property
    def own_split(self) -> str:
        """``audit`` where the run set images apart."""
        return "audit" if self.train.seen is False else "train"

    @cached_property
    def bounded_test_NF(self) -> Tensor:
        """The front's features of the protected images."""
        if self.cache and self.cache.keeps(self, self.test):
            return self.cache.views(self, self.test, "test")[0]
        rows = torch.arange(len(self.test)).split(BATCH)
        return torch.cat([self.bounded(self.images(self.test, part)) for part in rows])

    @property
    def bounded_test_seconds(self) -> float:
        """By the time that the front needed for other images."""
        there = "bounded_test_NF" in self.__dict__ or (self.cache and self.cache.has(self, self.test, "test"))
        return 0.0 if there else self.seconds_each * len(self.test)

    def deep_network(self, outputs: int, *, seed: int) -> nn.Module:
        """The run's back."""
        network, _ = get_method(self.config.method).cloud(self.config.model_copy(update={"seed": seed}), outputs)
        return network

    def bounded(self, images_BCHW: Tensor, *, mirrored: bool = False) -> Tensor:
        """uint8 images (B, 3, H, W) → bounded features without noise, float32 (B, *F); no gradients."""
        images_BCHW = images_BCHW.flip(-1) if mirrored else images_BCHW
        with torch.no_grad(), self.autocast():
            features_BF = self.front(to_input(images_BCHW, self.device))
        return self.twin.bound(finite(features_BF).float()).cpu()

    def images(self, split: Split, rows: Tensor | None = None) -> Tensor:
        """Images of a split, uint8 (B, 3, H, W)."""
        positions = np.arange(len(split)) if rows is None else rows.numpy()
        return split.read(positions).images_BCHW


def device_of(config: Config) -> torch.device:
    """The device on which the attackers of a run compute."""
    return pick_device(config.hardware.cloud_device, "hardware.cloud_device")


def finite(features_BF: Tensor) -> Tensor:
    """Features (B, *F) as they are.

    Raises:
        DataError: some are not finite. The gate would refuse them, so no release of these images can be judged.
    """
    if bool(features_BF.isfinite().all()):
        return features_BF
    bad = int((~features_BF.flatten(1).isfinite().all(dim=1)).sum())
    raise DataError(
        f"{bad} of {len(features_BF)} images that were looked at together have features that are not finite. They can "
        "never be released, so nothing can be said about them; remove such images (often empty ones), or train the "
        "front again with a lower train.lr"
    )
