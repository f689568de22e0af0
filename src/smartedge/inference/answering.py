"""Answers images with a front, and with a back where the exit is not sure enough. Needs no torch.

What decides whether something is sent is a release too (docs/decisions/0019-what-decides-is-a-release.md): with a
server every image is released first, and the exit sees the release alone.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from smartedge import metrics
from smartedge.codec import get_codec, pack, unpack
from smartedge.config import Config
from smartedge.errors import ConfigError, LinkError
from smartedge.privacy.mechanisms import Mechanism
from smartedge.privacy.release import Gate, select
from smartedge.types import Features, Frame, Labels, ReleasedBatch, StreamHeader, Task
from smartedge.wire.frame import answer_header, serialise
from smartedge.wire.link import FrameSender

__all__ = ["BATCH", "Answer", "Answerer", "Back", "Front", "check_threshold", "header_of"]

BATCH = 64  # images in one frame at most
_RETRY_S = 30.0  # after the server was not there, the exit answers alone for so long


class Front(Protocol):
    """Front and task exit, run by torch or by ONNX Runtime."""

    config: Config
    task: Task
    mechanism: Mechanism
    feature_shape: tuple[int, ...]
    agreement: dict[str, JsonValue]  # settings on which the server must agree; "front": SHA-256 of the weights

    def features(self, images_BCHW: NDArray[np.uint8]) -> Features:
        """uint8 (B, 3, H, W) → bounded features, float32 (B, *F)."""

    def logits(self, features_BF: Features, *, released: bool) -> NDArray[np.float32]:
        """The exit's logits, float32 (B, K), for features as they were released, or bounded ones without noise."""


class Back(Protocol):
    """A back in this process."""

    def __call__(self, features_BF: Features) -> NDArray[np.float32]:
        """Probabilities, float32 (B, K)."""


@dataclass(frozen=True)
class Answer:
    """The answer for one image.

    Attributes:
        scores_K: probabilities of the K classes or columns, float32 (K,).
        confidence: of the exit, from 0 to 1: the probability of its answer, after the temperature.
        by: ``"exit"`` or ``"back"``: whose answer it is.
    """

    scores_K: NDArray[np.float32]
    confidence: float
    by: str

    def text(self, task: Task) -> tuple[str, float]:
        """The answer in words, and its confidence, from 0 to 1."""
        chosen = metrics.answers(self.scores_K[None], task.kind)[0]
        if task.kind == "single":
            return task.names[int(chosen)], float(self.scores_K.max())
        names = [name for name, yes in zip(task.names, chosen, strict=True) if yes]
        return ", ".join(names) or "(none)", float(metrics.confidence(self.scores_K[None], "multi")[0])


class Answerer:
    """Answers each image at the exit where its confidence is at least the threshold, else by the back.

    Without a server nothing leaves the machine, and nothing is released: the back in this process answers, or the exit
    where there is none. With a server every image is released first, as in training: the ledger is debited and noise is
    added. The exit then sees the release alone, so the choice of what is sent reveals no more than the releases
    themselves. Where the server is not there, the exit answers.

    Args:
        front: front and exit.
        threshold: 0: the exit answers every image, and nothing is released. Above 1: the back answers every image.
        temperature: the exit's logits are divided by it.
        back: answers in this process; only without a server.
        server: a link to ``smartedge serve``. :meth:`close` disconnects it.
        gate: makes the releases; needed with a server. :meth:`close` closes its ledger.
        tell: takes a line of news: the server went away, or is there again.

    Raises:
        ConfigError: the threshold is not a number of at least 0.
    """

    def __init__(
        self,
        front: Front,
        *,
        threshold: float,
        temperature: float = 1.0,
        back: Back | None = None,
        server: FrameSender | None = None,
        gate: Gate | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        check_threshold(threshold)
        if (server is None) != (gate is None):
            raise ValueError("a server needs a gate, and a gate a server")
        self.front = front
        self.threshold = threshold
        self._temperature = temperature
        self._back, self._server, self._gate, self._tell = back, server, gate, tell
        self._away_until: float | None = None  # the server is not asked before this time

    def answer(self, images_BCHW: NDArray[np.uint8]) -> list[Answer]:
        """Answer some images.

        Args:
            images_BCHW: uint8 (B, 3, H, W), cropped and resized as in training.

        Returns:
            One answer for each image, in this order.

        Raises:
            PrivacyError: an image's budget is spent, or the ledger is missing; nothing is sent then.
            RunError: the server holds another run.
        """
        kind = self.front.task.kind
        features_BF = self.front.features(images_BCHW)
        released = None
        if self._gate is not None and self.threshold > 0:
            labels = _no_labels(self.front.task, len(images_BCHW))
            released = self._gate.release(_ids_of(images_BCHW), features_BF, labels, split="infer", seq=None)
        shown_BF = features_BF if released is None else released.features_BF
        logits_BK = self.front.logits(shown_BF, released=released is not None)
        scores_BK = metrics.probabilities(logits_BK / np.float32(self._temperature), kind)
        sure_B = metrics.confidence(scores_BK, kind)
        answers = [Answer(scores_K, float(sure), "exit") for scores_K, sure in zip(scores_BK, sure_B, strict=True)]
        unsure = np.flatnonzero(sure_B < self.threshold)
        if len(unsure) and (by_back_BK := self._ask(unsure, released, features_BF)) is not None:
            for row, scores_K in zip(unsure.tolist(), by_back_BK, strict=True):
                answers[row] = Answer(scores_K, answers[row].confidence, "back")
        return answers

    def close(self) -> None:
        """Disconnect from the server, and close the ledger."""
        if self._server is not None:
            self._server.disconnect()
        if self._gate is not None:
            self._gate.ledger.close()

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, unsure: NDArray[np.int64], released: ReleasedBatch | None, features_BF: Features
    ) -> NDArray[np.float32] | None:
        """The back's probabilities for the images of these rows; None: no back can be reached."""
        if self._server is None or released is None:
            return None if self._back is None else self._back(features_BF[unsure])
        if self._away_until is not None and time.monotonic() < self._away_until:
            return None
        try:
            found = _exchange(self._server, self.front, select(released, unsure, np.arange(len(unsure))))
        except LinkError as error:
            if self._away_until is None:
                self._tell(f"the server cannot be reached, so the exit answers ({error})")
            self._server.disconnect()
            self._away_until = time.monotonic() + _RETRY_S
            return None
        if self._away_until is not None:
            self._away_until = None
            self._tell("the server is there again")
        return found


def check_threshold(threshold: float) -> None:
    """Refuse what is no threshold.

    Raises:
        ConfigError: it is not a number from 0 to a little above 1.
    """
    if not 0 <= threshold < 2:
        raise ConfigError(
            f"--threshold {threshold:g}: must be a number from 0 to 1.01, as 0.9 for 90 %; 0 answers everything on the "
            "edge, 1.01 nothing"
        )


def _ids_of(images_BCHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Ids for the ledger of images without a data set: 63 bits of SHA-256 of their pixels, int64 (B,)."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images_BCHW]
    return np.array([int.from_bytes(digest[:8], "big") >> 1 for digest in digests], dtype=np.int64)


def header_of(
    config: Config,
    task: Task,
    agreement: Mapping[str, object],
    feature_shape: tuple[int, ...],
    *,
    frames: int,
) -> StreamHeader:
    """The header of a stream of questions."""
    return StreamHeader.of(
        run=uuid.uuid4().hex,
        agreement=agreement,
        task=task,
        codec=config.codec_name,
        feature_shape=feature_shape,
        labels=False,
        answer_shape=(task.outputs,),
        batch_size=BATCH,
        split="test",
        frames=frames,
    )


def _exchange(server: FrameSender, front: Front, released: ReleasedBatch) -> NDArray[np.float32]:
    """The back's probabilities (B, K) for a release, from the other end of a link."""
    codec = get_codec(front.config.codec_name)
    frames = -(-len(released.ids) // BATCH)
    found = []
    header = header_of(front.config, front.task, front.agreement, front.feature_shape, frames=frames)
    server.open(header)
    for seq in range(frames):
        rows = np.arange(seq * BATCH, min((seq + 1) * BATCH, len(released.ids)))
        encoded = pack(select(released, rows, released.ids[rows]), codec)
        reply = server.exchange(serialise(Frame(seq, encoded), header))
        found.append(unpack(reply.batch, answer_header(header)).features_BF)
    server.close()
    return np.concatenate(found).astype(np.float32)


def _no_labels(task: Task, count: int) -> Labels:
    """Zeros in place of labels: frames of questions carry none."""
    return np.zeros(count, np.int64) if task.kind == "single" else np.zeros((count, task.outputs), np.float32)
