"""The gate: the only maker of a :class:`~smartedge.types.ReleasedBatch`.

Only such a batch can be packed for the wire, so raw features cannot leave the edge by accident. Sending without
protection is a release too; it is recorded with ε = ∞.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import PrivacyError
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Mechanism, response_weights
from smartedge.privacy.noise import Noise
from smartedge.types import _RELEASE_KEY, Features, Labels, ReleasedBatch, ReleaseEvent, Task

__all__ = ["Gate", "label_event_of", "randomise_labels", "release", "select"]

UNPROTECTED = ReleaseEvent("none", math.inf)


def release(ids: NDArray[np.int64], features_BF: Features, labels: Labels) -> ReleasedBatch:
    """Release a batch without protection, for your own loop: no clipping, noise or ledger, labels in clear; ε = ∞.

    Args:
        ids: int64 (B,), the images' indices in their split.
        features_BF: (B, *F), float32 feature maps or uint8 images.
        labels: int64 (B,), classes from 0; or float32 (B, K) in {0, 1}, where NaN is a label that is lacking.
    """
    return ReleasedBatch(ids, features_BF, labels, UNPROTECTED, UNPROTECTED, key=_RELEASE_KEY)


def select(released: ReleasedBatch, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> ReleasedBatch:
    """Some images of a release, under other ids. Choose them by the release alone, so that ε covers the choice.

    Args:
        released: a release of B images.
        rows: int64 (N,), places in it.
        ids: int64 (N,), the ids that the other side gets. They must not reveal which images were left out.
    """
    return ReleasedBatch(
        ids,
        released.features_BF[rows],
        released.labels[rows],
        released.event,
        released.label_event,
        key=_RELEASE_KEY,
    )


class Gate:
    """Clips, writes to the ledger, adds noise, in this order. If a step fails, nothing is sent.

    Args:
        mechanism: what protects the features.
        ledger: records every release, and refuses one that exceeds the budget.
        noise: the edge's secret source of randomness.
        task: the meaning of the labels; None where no labels travel.
        label_epsilon: ε of randomised response on the labels of protected splits; None: they travel in clear.
        training_only: splits other than ``train`` are not protected (``dp.apply_to: training``).
        front_is_final: the front that makes the features of ``val`` and ``test`` does not change between releases.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        ledger: Ledger,
        noise: Noise,
        *,
        task: Task | None,
        label_epsilon: float | None,
        training_only: bool,
        front_is_final: bool,
    ) -> None:
        self.mechanism = mechanism
        self.ledger = ledger
        self.noise = noise
        self.task = task
        self.label_epsilon = label_epsilon
        self.training_only = training_only
        self.front_is_final = front_is_final

    def release(
        self,
        ids: NDArray[np.int64],
        features_BF: Features,
        labels: Labels,
        *,
        split: str,
        seq: int | None,
    ) -> ReleasedBatch:
        """Release a batch. The same batch under the same ``seq`` is the same release: same bytes, no second debit.

        Training images get new noise in every frame: the back learns to work with it. Any other image gets the
        same noise for the same features, in any batch. So a repeated release costs nothing. While a front still
        learns, its images get new noise in every frame, too: from a repetition one would see that an image's features
        are what they were under the front before, which no noise would cover.

        Args:
            ids: int64 (B,), the ledger's ids of the images.
            features_BF: (B, *F), as the front made them or as :meth:`Mechanism.bound` left them.
            labels: int64 (B,) or float32 (B, K); zeros, for example, where no labels travel.
            split: of the images.
            seq: the frame's number in the run; None: the batch is no frame of a run.

        Raises:
            PrivacyError: a feature is not finite, a budget would be exceeded, or the ledger cannot be written.
        """
        # Copies of its own: whatever happens to the caller's arrays meanwhile, what was debited is what is sent.
        ids, labels = np.array(ids, dtype=np.int64), labels.copy()
        features_BF = self._checked(features_BF, len(ids), split)
        protected = split == "train" or not self.training_only
        bounded_BF = self.mechanism.bound(features_BF)
        nonce = self.noise.nonce("features", split, -1 if seq is None else seq, ids=ids, content=bounded_BF)
        image_nonces = None
        if split == "infer" or (split != "train" and self.front_is_final):
            image_nonces = [
                self.noise.nonce("image", split, image, content=one_F)
                for image, one_F in zip(ids.tolist(), bounded_BF, strict=True)
            ]
        event = self.mechanism.event if protected else UNPROTECTED
        label_epsilon = self.label_epsilon if protected else None
        label_event = None if self.task is None else label_event_of(self.task, label_epsilon)
        self.ledger.debit(
            split,
            ids,
            event,
            seq=-1 - int.from_bytes(nonce[:7], "big") if seq is None else seq,
            nonce=nonce,
            image_nonces=image_nonces,
            label_event=label_event,
            exempt=not protected,
        )
        if protected:
            each = self.mechanism.words_per_image
            words = (
                self.noise.words(nonce, len(ids) * each)
                if image_nonces is None
                else np.concatenate([self.noise.words(image_nonce, each) for image_nonce in image_nonces])
            )
            bounded_BF = self.mechanism.randomise(bounded_BF, words)
        if self.task is not None and label_epsilon is not None:
            # An image's label has the same noise each time it is sent.
            per_image = self.task.outputs if self.task.kind == "multi" else 1
            drawn = [self.noise.words(self.noise.nonce("label", split, image), per_image) for image in ids.tolist()]
            labels = randomise_labels(labels, self.task, label_epsilon, np.stack(drawn))
        return ReleasedBatch(ids, bounded_BF, labels, event, label_event, key=_RELEASE_KEY)

    def _checked(self, features_BF: Features, images: int, split: str) -> Features:
        """A copy of the features as a plain array: uint8, or finite numbers in the precision that is released.

        Raises:
            PrivacyError: they are not, or their shape is not the mechanism's.
        """
        with np.errstate(over="ignore"):  # beyond float32 they are infinite
            # A plain array: a masked one calls all finite that is not masked.
            whole = features_BF.dtype == np.uint8
            plain_BF: Features = np.array(features_BF, np.uint8) if whole else np.array(features_BF, np.float32)
        wanted = (images, *self.mechanism.feature_shape)
        if plain_BF.shape != wanted:  # else images could share their noise
            raise PrivacyError(
                f"features of split '{split}' have shape {plain_BF.shape}, and {wanted} is to be released: nothing of "
                "this batch was sent"
            )
        if not bool(np.isfinite(plain_BF).all()):
            raise PrivacyError(
                f"features of split '{split}' are not finite, so no noise covers them: nothing of this batch was sent. "
                "The front has diverged; lower train.lr"
            )
        return plain_BF


def label_event_of(task: Task, epsilon: float | None) -> ReleaseEvent:
    """The cost of one image's label. It is paid once, since the label is randomised once.

    A multi-label task spends ε/K on each of K yes/no columns; all columns together are pure ε.
    """
    if epsilon is None:
        return UNPROTECTED
    return ReleaseEvent("randomised-response", epsilon, codewords=task.outputs if task.kind == "single" else 2)


def randomise_labels(labels: Labels, task: Task, epsilon: float, words: NDArray[np.uint64]) -> Labels:
    """Randomised response on labels: weight e^ε for the true one (e^(ε/K) for each column of K), 1 for every other.

    Args:
        labels: int64 (B,), or float32 (B, K) in {0, 1}.
        task: of the labels.
        epsilon: of one image's label, or of all its columns together.
        words: uint64 (B, 1), or (B, K) for a multi-label task.

    Returns:
        Of the same shape and dtype.

    Raises:
        PrivacyError: a label is lacking.
    """
    if labels.dtype != np.int64 and bool(np.isnan(labels).any()):
        raise PrivacyError("a label is lacking, and randomised response does not hide which: nothing was sent")
    classes, each = (task.outputs, epsilon) if task.kind == "single" else (2, epsilon / task.outputs)
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise PrivacyError(f"a label is none of the {classes} classes, so no noise covers it: nothing was sent")
    often, rare, _ = response_weights(each, likely=1, unlikely=classes - 1)  # no words are left over
    truth_BX = labels.astype(np.int64).reshape(words.shape)
    ends = np.array([often + rare * i - 1 for i in range(classes)], dtype=np.uint64)
    place_BX = np.searchsorted(ends, words)  # 0: the truth; i: the i-th other class
    other_BX = place_BX - 1 + (place_BX - 1 >= truth_BX)
    answer_BX = np.where(place_BX == 0, truth_BX, other_BX)
    answers = answer_BX.reshape(labels.shape)
    return answers.astype(np.int64) if labels.dtype == np.int64 else answers.astype(np.float32)
