"""Calibrates the exit on validation images: its temperature, and what each threshold does. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from smartedge import metrics
from smartedge.artifacts.front import Calibration, ThresholdRow
from smartedge.codec import get_codec
from smartedge.errors import ConfigError
from smartedge.inference.answering import Back, Front
from smartedge.privacy.noise import Noise
from smartedge.types import Features, Labels, Task

__all__ = ["NEVER", "Goal", "calibrate", "fit_temperature"]

NEVER = 1.01  # a threshold that no confidence reaches
_ROWS = 101
_WIDEST = 3.0  # log of the largest temperature


@dataclass(frozen=True)
class Goal:
    """How the threshold is to be chosen; exactly one of the two is given.

    Attributes:
        offload: share of the images that the back may answer at most.
        lose: how much accuracy may be lost at most, against a back that answers every image; a share of 1.
    """

    offload: float | None = None
    lose: float | None = None

    def threshold(self, calibration: Calibration) -> float:
        """The threshold of a calibration that reaches the goal. It holds for the validation images on average.

        Raises:
            ConfigError: the back's accuracy is not known.
        """
        if self.offload is not None:
            return max(row.threshold for row in calibration.rows if row.offloaded <= self.offload)
        if calibration.back_accuracy is None or self.lose is None:
            raise ConfigError(
                "--lose: how accurate the back is, is not known; calibrate where the run's cloud/ folder is, or use "
                "--offload"
            )
        good = [
            row.threshold
            for row in calibration.rows
            if row.accuracy is not None and row.accuracy >= calibration.back_accuracy - self.lose - 1e-9
        ]
        return min(good)  # the last row, where the back answers everything, is among them


def calibrate(
    front: Front,
    batches: Iterable[tuple[NDArray[np.uint8], Labels]],
    *,
    noise: Noise,
    protected: bool,
    back: Back | None,
) -> Calibration:
    """Let front, exit and back answer validation images as at inference.

    Releases are simulated: nothing is sent, so nothing is debited.

    Args:
        front: front and exit.
        batches: images, uint8 (B, 3, H, W), and their desired labels.
        noise: secret randomness for the simulated releases.
        protected: images of inference are released with noise (``dp.apply_to: always``).
        back: answers what the codec leaves of the releases; None: the back's accuracy stays unknown.

    Raises:
        ConfigError: there is no image.
    """
    codec = get_codec(front.config.codec_name)
    logits, answers, labels = [], [], []
    for number, (images_BCHW, labels_B) in enumerate(batches):
        shown_BF = (
            _simulate(front, front.features(images_BCHW), noise, number) if protected else front.features(images_BCHW)
        )
        logits.append(front.logits(shown_BF, released=True))
        labels.append(labels_B)
        if back is not None:
            payload, side = codec.encode(shown_BF)
            shape = front.feature_shape
            decoded_BF = codec.decode(
                payload, side, batch=len(shown_BF), feature_shape=shape, dtype=np.dtype(np.float32)
            )
            answers.append(back(decoded_BF))
    if not logits:
        raise ConfigError("there are no validation images to calibrate the exit with")
    logits_NK, labels_N = np.concatenate(logits), cast("Labels", np.concatenate(labels))
    temperature = fit_temperature(logits_NK, labels_N, front.task)
    exit_NK = metrics.probabilities(logits_NK / np.float32(temperature), front.task.kind)
    right_exit_N = _right(exit_NK, labels_N, front.task)
    right_back_N = _right(np.concatenate(answers), labels_N, front.task) if answers else None
    return Calibration(
        temperature=temperature,
        images=len(labels_N),
        exit_accuracy=float(right_exit_N.mean()),
        back_accuracy=None if right_back_N is None else float(right_back_N.mean()),
        rows=_rows(metrics.confidence(exit_NK, front.task.kind), right_exit_N, right_back_N),
    )


def fit_temperature(logits_NK: NDArray[np.float32], labels: Labels, task: Task) -> float:
    """The temperature with the least loss (Guo et al. 2017, section 4.2), by golden-section search on its logarithm."""

    def loss(log_temperature: float) -> float:
        scores_NK = metrics.probabilities(logits_NK / np.float32(math.exp(log_temperature)), task.kind).astype(
            np.float64
        )
        if task.kind == "single":
            chosen_N = scores_NK[np.arange(len(labels)), labels.astype(np.int64)]
        else:
            chosen_N = np.where(labels > 0.5, scores_NK, 1 - scores_NK)[~np.isnan(labels)]
        return float(-np.log(np.maximum(chosen_N, 1e-12)).mean())

    low, high, golden = -_WIDEST, _WIDEST, (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _simulate(front: Front, bounded_BF: Features, noise: Noise, number: int) -> Features:
    """What a release of these features looks like."""
    mechanism = front.mechanism
    nonce = noise.nonce("calibration", number, content=bounded_BF)
    return mechanism.randomise(bounded_BF, noise.words(nonce, len(bounded_BF) * mechanism.words_per_image))


def _right(scores_NK: NDArray[np.float32], labels: Labels, task: Task) -> NDArray[np.float64]:
    """The share of right answers of each image, float64 (N,): 0 or 1 for a single label, a mean over the known ones."""
    right = metrics.answers(scores_NK, task.kind) == labels
    if task.kind == "single":
        return np.asarray(right, dtype=np.float64)
    return np.asarray(right.sum(axis=1) / np.maximum(np.isfinite(labels).sum(axis=1), 1))


def _rows(
    sure_N: NDArray[np.float64], exit_N: NDArray[np.float64], back_N: NDArray[np.float64] | None
) -> tuple[ThresholdRow, ...]:
    """Thresholds at the quantiles of the confidence, ascending; the first offloads nothing, the last everything."""
    places = np.unique(np.quantile(sure_N, np.linspace(0, 1, _ROWS), method="lower"))
    rows = []
    for threshold in [0.0, *places.tolist(), NEVER]:
        unsure_N = sure_N < threshold
        accuracy = None if back_N is None else float(np.where(unsure_N, back_N, exit_N).mean())
        rows.append(ThresholdRow(threshold=threshold, offloaded=float(unsure_N.mean()), accuracy=accuracy))
    return tuple(rows)
