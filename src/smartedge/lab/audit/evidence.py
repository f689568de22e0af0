"""The evidence of an attacker: releases of the protected images, and labelled features of its own.

The attacker knows the codec and the distribution of the noise. The protected images are the test split. To learn, the
attacker has its own (auxiliary) images; to choose between attackers, it has the val split. It can release its own
images as often as it likes. No image is in two splits. No person is in two splits either, where persons are known.

:class:`Evidence` has what every attack on features needs. There are two ways to fill it: from a finished run
(:mod:`.run_evidence`), or from features that somebody else computed (:mod:`.features.evidence`).

Letters: N images, V views, F the feature shape, K classes or outputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from smartedge.codec import Codec
from smartedge.data.label_order import order_tells
from smartedge.methods.differentiable import Differentiable, differentiable
from smartedge.models.layout import Layout
from smartedge.models.network import to_input
from smartedge.privacy.laws import ReleaseLaw, release_law
from smartedge.privacy.mechanisms import Mechanism
from smartedge.privacy.release import randomise_labels
from smartedge.runs.seeds import derive_seed
from smartedge.types import SplitName, Task

__all__ = [
    "Auxiliary",
    "Crossing",
    "Evidence",
    "Persons",
    "digest_of",
    "labels_as_sent",
    "of_a_training_image",
    "round_trip",
]

_MOST_RELEASES = 16  # of one image that an attacker reads together
_MOST_NUMBERS = 512  # of a release; with more, the exact law needs too many images of the attacker's own
_CERTAIN = 50.0  # log-odds that count as certainty
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Crossing:
    """What crosses the link about a training image, beside the features of one release."""

    releases: int  # of its features, over the whole training
    label_in_clear: bool  # whether its desired label travels as it is
    label_epsilon: float | None = None  # of randomised response on the label
    apply_to: Literal["always", "training"] = "always"  # whose releases carry the noise


@dataclass(frozen=True)
class Persons:
    """Who is in each image: a number for each person, int64 (N,). An image without a name has a number of its own."""

    column: str  # that names them
    train: Tensor
    val: Tensor
    test: Tensor
    also_in_training: int = 0  # persons of test (and train) in images that the front learned from


@dataclass(frozen=True)
class Auxiliary:
    """Labelled images that the attacker holds, of one split, as features."""

    # Bounded features without noise (N, *F): of the original and (train only) of the mirrored image.
    views_VNF: tuple[Tensor, ...]
    labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    desired: Tensor  # int64 (N,) or float32 (N, K), the true desired labels; a half where one is lacking
    seen: bool | None = True  # whether the front learned from them; None: not known
    left_out: int = 0  # images of the split that were left out for lack of time

    def __len__(self) -> int:
        return len(self.desired)

    def subset(self, rows: Tensor) -> Self:
        """The images at some positions, int64 (N,), in ascending order."""
        return replace(
            self,
            views_VNF=tuple(view_NF[rows] for view_NF in self.views_VNF),
            labels={name: column[rows] for name, column in self.labels.items()},
            desired=self.desired[rows],
            left_out=self.left_out + len(self) - len(rows),
        )


@dataclass(frozen=True, kw_only=True)
class Evidence(ABC):
    """Everything that an attack on features may use, and the true labels that judge it."""

    name: str  # "defended", "undefended" or "training-image"
    task: Task  # the desired label; one class only where there is none
    feature_shape: tuple[int, ...]
    layout: Layout  # the meaning of the axes of a feature
    mechanism: Mechanism
    noisy: bool  # whether the audited releases carry the mechanism's noise
    codec: Codec
    classes: Mapping[str, tuple[str, ...]]  # attribute → the names of its K classes
    train: Auxiliary
    val: Auxiliary
    test_ids: Tensor  # int64 (N,), in the order of the split
    test_features_NF: Tensor  # float32 (N, *F), as the cloud decoded them
    test_labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    test_desired: Tensor
    exit_scores: Mapping[SplitName, Tensor]  # the task exit's answers (N, K), probabilities; empty without an exit
    persons: Persons | None = None  # None where they are not known
    copies_in_training: int = 0  # images that were held out, and are training images under another name
    releases: int = 1  # of each image; the attacker has one map that stands for them all: see Evidence.release
    back_file: Path | None = None  # the final weights of the back; None where they are not known
    labelled: bool = False  # whether the attacker also sees the true desired label of each image

    # -- what depends on where the features come from

    @property
    @abstractmethod
    def seed(self) -> int:
        """The seed from which the attackers' random numbers are derived."""

    @property
    @abstractmethod
    def sensitive(self) -> tuple[str, ...]:
        """The columns that were to be hidden."""

    @property
    @abstractmethod
    def crossing(self) -> Crossing:
        """What crosses about a training image."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Images in a frame. The codec encodes one frame at a time."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the attacker's networks. Their inputs and results are kept on the CPU."""

    @property
    @abstractmethod
    def half_precision(self) -> bool:
        """Whether attackers compute in bfloat16, as the run did, so that more training fits into the time."""

    @property
    @abstractmethod
    def channels_last(self) -> bool:
        """Whether attackers keep maps in that layout in memory."""

    @property
    @abstractmethod
    def origin(self) -> object:
        """What the features were made from, as JSON values; for the fingerprint."""

    @property
    @abstractmethod
    def own_split(self) -> str:
        """What a person calls the images that attackers learn from: the name of a split."""

    @property
    @abstractmethod
    def bounded_test_NF(self) -> Tensor:
        """Bounded features without noise of the protected images, float32 (N, *F). No attacker of attributes has it."""

    @property
    def bounded_test_seconds(self) -> float:
        """How long ``bounded_test_NF`` will take, estimated; 0 where it is there."""
        return 0.0

    @abstractmethod
    def deep_network(self, outputs: int, *, seed: int) -> nn.Module:
        """A network of full depth with new weights, for the attacks ``deep`` and ``fine-tuned``: (B, *F) → (B, K)."""

    # -- what does not

    @property
    def releases_sent(self) -> int:
        """As ``releases``, without the limit on how many of them attackers read: a certificate is about all."""
        return self.crossing.releases if self.releases > 1 else 1

    @property
    def ordered(self) -> tuple[str, ...]:
        """The columns of which the order of the protected images tells something; desired ones are left out."""
        told = {name: codes_N for name, codes_N in self.test_labels.items() if name not in self.task.columns}
        if self.persons is not None:
            told[self.persons.column] = self.persons.test
        return tuple(name for name, codes_N in told.items() if order_tells(codes_N.numpy()))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what is attacked: origin, noise, releases and labels."""
        law = (self.mechanism, self.noisy, self.releases, self.labelled, self.codec.name)
        tensors = [self.test_features_NF, self.test_ids, self.test_desired]
        for own in (self.train, self.val):
            tensors += [*own.views_VNF[:1], own.desired]
        for labels in (self.train.labels, self.val.labels, self.test_labels):
            tensors += [labels[name] for name in sorted(labels)]
        what = json.dumps([self.origin, sorted(self.classes), repr(law)])
        return hashlib.sha256((what + digest_of(tensors)).encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """A digest of what the figures are about: the releases, their law, and what else is sent.

        Unlike the fingerprint it does not depend on the attributes, nor on how many images the attacker learns from.
        """
        law = repr((self.mechanism, self.noisy, self.codec.name, self.crossing))
        released = digest_of([self.test_features_NF, self.test_ids, self.test_desired])
        return hashlib.sha256((law + released).encode()).hexdigest()[:32]

    @property
    def twin(self) -> Differentiable:
        """The differentiable twin of the mechanism, which works on tensors."""
        return differentiable(self.mechanism)

    @cached_property
    def law(self) -> ReleaseLaw | None:
        """The law of what the attacker has of one image; None without noise, or where the law is not computed.

        It is not computed for large maps, nor for several releases that became a median or a count (see ``release``).
        """
        known = self.releases == 1 or (self.mechanism.channel() is None and self.mechanism.noise_norm == 2)
        few = math.prod(self.feature_shape) <= _MOST_NUMBERS
        return release_law(self.mechanism, self.releases) if self.noisy and known and few else None

    @property
    def log_odds(self) -> float:
        """Log-odds of a released set: a codeword inside it against a codeword outside it."""
        channel_KO = self.mechanism.channel()
        assert channel_KO is not None
        if not self.noisy or channel_KO.min() <= 0:
            return _CERTAIN
        return min(math.log(channel_KO.max() / channel_KO.min()), _CERTAIN)

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
        """The precision of attackers."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half_precision)

    def release(self, bounded_BF: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to one frame, encode and decode it: float32 (B, *F).

        Several ``releases`` are one map: their mean, or with Laplace noise their median. The mean is sufficient for
        Gaussian noise, and for codewords, of which it is a count. Nothing so short is sufficient for Laplace noise; the
        median is the most probable place of each number, and has the smaller error.
        """
        parts = []
        for _ in range(self.releases):
            noised_BF = self.twin.simulate(bounded_BF, generator=generator) if self.noisy else bounded_BF
            parts.append(round_trip(self.codec, noised_BF))
        if len(parts) == 1:
            return parts[0]
        all_RBF = torch.stack(parts)
        if self.mechanism.noise_norm == 2:
            return all_RBF.mean(dim=0)
        return torch.from_numpy(np.median(all_RBF.numpy(), axis=0))


def of_a_training_image(evidence: Evidence) -> Evidence | None:
    """The evidence about a *training* image: all of its releases, and its true desired label where a label is sent.

    The protected images take the place of training images: their further releases are simulated. None where this
    evidence is the same as the one release that was sent.
    """
    crossing = evidence.crossing
    noisy = evidence.mechanism.name != "none"
    releases = min(crossing.releases, _MOST_RELEASES) if noisy else 1
    labelled = crossing.label_in_clear or crossing.label_epsilon is not None
    if releases == 1 and noisy == evidence.noisy and not labelled:
        return None
    stronger = replace(evidence, name="training-image", noisy=noisy, releases=releases, labelled=labelled)
    if releases == 1 and noisy == evidence.noisy:
        return stronger
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, "audit", "releases"))
    parts = [stronger.release(part, generator) for part in evidence.bounded_test_NF.split(evidence.batch_size)]
    return replace(stronger, test_features_NF=torch.cat(parts))


def labels_as_sent(evidence: Evidence) -> Evidence:
    """The evidence with the desired labels as the cloud gets them: with ``dp.label_epsilon`` randomised, once for each.

    The attacker learns from its own images with labels that were randomised in the same way.
    """
    epsilon = evidence.crossing.label_epsilon
    if not evidence.labelled or epsilon is None:
        return evidence
    rng = np.random.default_rng(derive_seed(evidence.seed, "audit", "labels"))
    task = evidence.task

    def sent(desired: Tensor) -> Tensor:
        words = rng.integers(0, 2**64, (len(desired), task.outputs if task.kind == "multi" else 1), dtype=np.uint64)
        return torch.from_numpy(randomise_labels(desired.numpy(), task, epsilon, words))

    return replace(
        evidence,
        train=replace(evidence.train, desired=sent(evidence.train.desired)),
        val=replace(evidence.val, desired=sent(evidence.val.desired)),
        test_desired=sent(evidence.test_desired),
    )


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


def _to_pixels(inputs_BCHW: Tensor) -> Tensor:
    """The inverse of :func:`smartedge.models.network.to_input`."""
    lowest, step = (to_input(torch.tensor([[[[value]]]], dtype=torch.uint8), _CPU) for value in (0, 1))
    return ((inputs_BCHW - lowest) / (step - lowest)).round().clamp(0, 255).to(torch.uint8)
