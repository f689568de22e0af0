"""The evidence of an attacker: releases of the protected images as they were sent, and images of its own.

The attacker knows the architecture, the front's weights, the codec and the distribution of the noise. The protected
images are the test split; their released features are read from the feature log. To learn, the attacker has its own
(auxiliary) images: those that the run set apart for it (``data.audit_share``), or otherwise the train split. To choose
between attackers, it has the val split. It can send its own images through front, noise and codec as often as it likes.
No image is in two splits. No person is in two splits either, where the data set is split by person.

Letters: N images, V views, F the feature shape, K classes or outputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from smartedge.codec import Codec
from smartedge.config import Config
from smartedge.data import Split
from smartedge.methods.differentiable import Differentiable, differentiable
from smartedge.models.layout import Layout
from smartedge.models.network import to_input
from smartedge.privacy.mechanisms import Mechanism
from smartedge.runs.machine import pick_device
from smartedge.runs.seeds import derive_seed
from smartedge.types import SplitName, Task

__all__ = ["BATCH", "Auxiliary", "Evidence", "device_of", "digest_of", "of_a_training_image", "round_trip"]

BATCH = 128  # images through the front at a time
_MOST_RELEASES = 16  # of one image that an attacker reads together
_CERTAIN = 50.0  # log-odds that count as certainty
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Auxiliary:
    """Labelled images that the attacker holds, of one split."""

    split: Split  # images and labels, by position
    views_VNF: tuple[
        Tensor, ...
    ]  # bounded features without noise (N, *F): of the original and (train only) of the mirrored image
    labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    desired: Tensor  # int64 (N,) or float32 (N, K), the true desired labels
    seen: bool = True  # whether the front learned from them
    left_out: int = 0  # images of the split that were left out for lack of time

    def __len__(self) -> int:
        return len(self.desired)

    def subset(self, rows: Tensor) -> Auxiliary:
        """The images at some positions, int64 (N,), in ascending order."""
        labels = {name: column[rows] for name, column in self.labels.items()}
        views_VNF = tuple(view_NF[rows] for view_NF in self.views_VNF)
        left_out = self.left_out + len(self) - len(rows)
        return Auxiliary(self.split.subset(rows.numpy()), views_VNF, labels, self.desired[rows], self.seen, left_out)


@dataclass(frozen=True)
class Evidence:
    """Everything that an attack may use, and the true labels that judge it."""

    name: str  # "defended", "undefended" or "training-image"
    config: Config  # settings of the run, or of its undefended counterpart
    task: Task  # the desired label
    feature_shape: tuple[int, ...]
    layout: Layout  # the meaning of the axes of a feature
    front: nn.Module  # to_input(images) → features; on ``device``, in evaluation mode, its weights need no gradients
    mechanism: Mechanism
    noisy: bool  # whether the audited releases carry the mechanism's noise
    codec: Codec
    classes: Mapping[str, tuple[str, ...]]  # attribute → the names of its K classes
    train: Auxiliary
    val: Auxiliary
    test: Split  # the protected images; used to judge attacks and to show reconstructions
    test_ids: Tensor  # int64 (N,), in the order of the split
    test_features_NF: Tensor  # float32 (N, *F), decoded from the frames that were sent
    test_labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    test_desired: Tensor
    exit_scores: Mapping[SplitName, Tensor]  # the task exit's answers (N, K), probabilities; empty without an exit
    releases: int = 1  # of each image; the attacker has their mean, which is sufficient for every noise law used here
    back_file: Path | None = None  # the final weights of the back; None where they are not known
    labelled: bool = False  # whether the attacker also sees the true desired label of each image

    @property
    def batch_size(self) -> int:
        """Images in a frame. The codec encodes one frame at a time."""
        return self.config.train.batch_size

    @cached_property
    def device(self) -> torch.device:
        """The device of the attacker's networks. Their inputs and results are kept on the CPU."""
        return device_of(self.config)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what is attacked: settings, noise, front, releases and labels."""
        law = (self.mechanism, self.noisy, self.releases, self.labelled, self.codec.name)
        tensors = [self.test_features_NF, self.test_ids, self.test_desired, *self.front.state_dict().values()]
        for own in (self.train, self.val):
            tensors += [*own.views_VNF[:1], own.desired]
        for labels in (self.train.labels, self.val.labels, self.test_labels):
            tensors += [labels[name] for name in sorted(labels)]
        what = json.dumps([self.config.identity(), sorted(self.classes), repr(law)])
        return hashlib.sha256((what + digest_of(tensors)).encode()).hexdigest()[:32]

    @property
    def twin(self) -> Differentiable:
        """The differentiable twin of the mechanism, which works on tensors."""
        return differentiable(self.mechanism)

    @property
    def log_odds(self) -> float:
        """Log-odds of a released set: a codeword inside it against a codeword outside it."""
        channel_KO = self.mechanism.channel()
        assert channel_KO is not None
        if not self.noisy or channel_KO.min() <= 0:
            return _CERTAIN
        return min(math.log(channel_KO.max() / channel_KO.min()), _CERTAIN)

    def bounded(self, images_BCHW: Tensor, *, mirrored: bool = False) -> Tensor:
        """uint8 images (B, 3, H, W) → bounded features without noise, float32 (B, *F); no gradients."""
        images_BCHW = images_BCHW.flip(-1) if mirrored else images_BCHW
        with torch.no_grad(), self.autocast():
            features_BF = self.front(to_input(images_BCHW, self.device))
        return self.twin.bound(features_BF.float()).cpu()

    def draw(
        self, auxiliary: Auxiliary, generator: torch.Generator, rows: Tensor | None = None, *, view: int | None = None
    ) -> Tensor:
        """A fresh release of the attacker's own images, as the cloud would decode it.

        Args:
            auxiliary: the images.
            generator: a CPU generator, which draws view and noise.
            rows: positions of the images, int64 (N,), in the order wanted; default all.
            view: index of the view for all images; default: a random view for each image.

        Returns:
            float32 (N, *F).
        """
        rows = torch.arange(len(auxiliary)) if rows is None else rows
        parts = []
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            views_VBF = torch.stack([features_NF[part] for features_NF in auxiliary.views_VNF])
            chosen_B = (
                torch.full((len(part),), view)
                if view is not None
                else torch.randint(len(views_VBF), (len(part),), generator=generator)
            )
            parts.append(self.release(views_VBF[chosen_B, torch.arange(len(part))].float(), generator))
        return torch.cat(parts)

    def autocast(self) -> torch.autocast:
        """The precision of attackers: that of the run, so that more training fits into the time."""
        enabled = self.config.train.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def release(self, bounded_BF: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to one frame, encode and decode it: float32 (B, *F).

        For several ``releases``, return their mean.
        """
        total_BF = torch.zeros(())
        for _ in range(self.releases):
            noised_BF = self.twin.simulate(bounded_BF, generator=generator) if self.noisy else bounded_BF
            total_BF = total_BF + round_trip(self.codec, noised_BF)
        return total_BF / self.releases

    def images(self, split: Split, rows: Tensor | None = None) -> Tensor:
        """Images of a split, uint8 (B, 3, H, W)."""
        positions = np.arange(len(split)) if rows is None else rows.numpy()
        return split.read(positions).images_BCHW


def of_a_training_image(evidence: Evidence) -> Evidence | None:
    """The evidence about a *training* image: all of its releases, and its desired label where that is sent in clear.

    The protected images take the place of training images: their further releases are simulated. None where this
    evidence is the same as the one release that was sent.
    """
    config = evidence.config
    noisy = evidence.mechanism.name != "none"
    releases = min(config.releases, _MOST_RELEASES) if noisy else 1
    labelled = config.dp.label_epsilon is None
    if releases == 1 and noisy == evidence.noisy and not labelled:
        return None
    stronger = replace(evidence, name="training-image", noisy=noisy, releases=releases, labelled=labelled)
    if releases == 1 and noisy == evidence.noisy:
        return stronger
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "audit", "releases"))
    rows = torch.arange(len(evidence.test))
    bounded_NF = torch.cat([evidence.bounded(evidence.images(evidence.test, part)) for part in rows.split(BATCH)])
    parts = [stronger.release(part, generator) for part in bounded_NF.split(evidence.batch_size)]
    return replace(stronger, test_features_NF=torch.cat(parts))


def round_trip(codec: Codec, features_BF: Tensor) -> Tensor:
    """Encode and decode one frame. Images (method ``upload``) are coded as bytes."""
    images = codec.dtype == np.uint8
    coded_BF = _to_pixels(features_BF) if images else features_BF.float()
    payload, side = codec.encode(coded_BF.numpy())
    shape = tuple(coded_BF.shape)
    decoded_BF = torch.from_numpy(
        codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=codec.dtype)
    )
    return to_input(decoded_BF, _CPU) if images else decoded_BF


def digest_of(tensors: Iterable[Tensor]) -> str:
    """A digest of the content of tensors in this order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def device_of(config: Config) -> torch.device:
    """The device on which the attackers of a run compute."""
    return pick_device(config.hardware.cloud_device, "hardware.cloud_device")


def _to_pixels(inputs_BCHW: Tensor) -> Tensor:
    """The inverse of :func:`smartedge.models.network.to_input`."""
    lowest, step = (to_input(torch.tensor([[[[value]]]], dtype=torch.uint8), _CPU) for value in (0, 1))
    return ((inputs_BCHW - lowest) / (step - lowest)).round().clamp(0, 255).to(torch.uint8)
