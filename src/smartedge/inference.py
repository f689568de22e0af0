"""Answers for new images: by the task exit on the edge where it is confident, else by the back in the cloud."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge import metrics
from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.summary import has_finished
from smartedge.codec import get_codec, pack, unpack_frame
from smartedge.config import Config, load_config, load_run_config
from smartedge.edge.protection import open_gate
from smartedge.errors import FrameError, RunError
from smartedge.methods.base import get_method
from smartedge.methods.front_step import edge_forward
from smartedge.methods.mechanism import mechanism_of
from smartedge.models.exits import probabilities
from smartedge.models.network import divide, to_input
from smartedge.privacy.release import select
from smartedge.types import EncodedBatch, Frame, Labels, ReleasedBatch, StreamHeader, Task
from smartedge.wire.frame import serialise
from smartedge.wire.link import FrameSender

__all__ = ["Answer", "BackServer", "EdgeModel", "TrainedRun", "answer", "image_names"]

_BATCH = 64


@dataclass(frozen=True)
class TrainedRun:
    """A finished hierarchical run, ready to answer."""

    folder: Path
    config: Config
    task: Task

    @classmethod
    def open(cls, folder: Path) -> TrainedRun:
        """Read the facts of a run directory: ``shared/run.json``, and ``config.yaml`` where it is there.

        Raises:
            RunError: it holds no finished hierarchical run.
        """
        file = folder / "shared" / "run.json"
        own = load_run_config(folder) if (folder / "config.yaml").exists() or not file.exists() else None
        shared = SharedRun.read(file)
        config = own or load_config(shared.settings)
        if not get_method(config.method).has_exit:
            raise RunError(
                f"{folder}: was trained with method {config.method!r}, which has no exit on the edge; "
                "infer needs a run of method 'hierarchical'"
            )
        return cls(folder, config, Task(shared.task.kind, shared.task.columns, shared.task.names))


@dataclass(frozen=True)
class Answer:
    """The answer for one image."""

    scores_K: np.ndarray  # float32 (K,), probabilities
    confidence: float  # of the exit, see smartedge.metrics.confidence
    by: str  # "exit" or "back"


class EdgeModel:
    """Front and task exit of a run, with their final weights."""

    def __init__(self, run: TrainedRun) -> None:
        divided = divide(run.config.division(run.task.outputs))
        self.front, self.task_exit = divided.front.eval(), divided.task_exit.eval()
        _load(self.front, run.folder / "edge" / "front.safetensors")
        _load(self.task_exit, run.folder / "edge" / "exit.safetensors")
        self.feature_shape = divided.feature_shape
        self.mechanism = mechanism_of(run.config, self.feature_shape)
        self.task_kind = run.task.kind
        self.precision = run.config.train.precision

    def __call__(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, H, W) → bounded features (B, *F) and the exit's probabilities (B, K), float32.

        Where releases are random, the front takes one image at a time. In a batch, the last bits of the features depend
        on the other images; the same image in another batch would then be a new release.
        """
        size = _BATCH if self.mechanism.words_per_image == 0 else 1
        parts = [self._answer(part) for part in images_BCHW.split(size)]
        features_BF, logits_BK = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return features_BF, probabilities(logits_BK, self.task_kind)

    def answer_to_release(self, released_BF: Tensor) -> Tensor:
        """The exit's probabilities (B, K), float32, for features as they were released, (B, *F)."""
        with torch.no_grad():
            return probabilities(self.task_exit(released_BF).float(), self.task_kind)

    def _answer(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return edge_forward(
            self.front,
            self.task_exit,
            to_input(images_BCHW, torch.device("cpu")),
            mechanism=self.mechanism,
            task_kind=self.task_kind,
            precision=self.precision,
        )


def image_names(images_BCHW: Tensor) -> np.ndarray:
    """Ids for the ledger of images without a data set: 63 bits of SHA-256 of their pixels, int64 (B,)."""
    digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images_BCHW]
    return np.array([int.from_bytes(digest[:8], "big") >> 1 for digest in digests], dtype=np.int64)


def answer(
    run: TrainedRun, images_BCHW: Tensor, *, threshold: float, server: FrameSender | None = None
) -> list[Answer]:
    """Answer each image at the exit where its confidence is at least ``threshold``, else by the back.

    Without a server the back answers in this process: nothing leaves the machine, and nothing is released. With a
    server every image is released first, as in training: the ledger is debited and noise is added. The exit then sees
    the release alone. So the choice of the images that are sent reveals no more than the releases themselves.

    Args:
        run: the finished run.
        images_BCHW: uint8 (B, 3, H, W), cropped and resized as in training.
        threshold: 0: the exit answers every image, and nothing is released. Above 1: the back answers every image.
        server: a link to ``smartedge serve``.

    Raises:
        PrivacyError: an image's budget is spent, or the ledger is missing; nothing is sent then.
        RunError: weights are missing.
    """
    edge = EdgeModel(run)
    features_BF, scores_BK = edge(images_BCHW)
    released = None
    if server is not None and threshold > 0:
        released = _release(run, edge, images_BCHW, features_BF)
        scores_BK = edge.answer_to_release(torch.from_numpy(released.features_BF))
    sure_B = metrics.confidence(scores_BK.numpy(), run.task.kind)
    answers = [Answer(scores_K, float(sure), "exit") for scores_K, sure in zip(scores_BK.numpy(), sure_B, strict=True)]
    unsure = np.flatnonzero(sure_B < threshold)
    if len(unsure):
        if server is None or released is None:
            by_back_BK = _answer_by_back(_load_back(run)[0], features_BF[torch.from_numpy(unsure)], run.task)
        else:
            by_back_BK = _ask(server, run, edge, select(released, unsure, np.arange(len(unsure))))
        for row, scores_K in zip(unsure.tolist(), by_back_BK.numpy(), strict=True):
            answers[row] = Answer(scores_K, answers[row].confidence, "back")
    return answers


def _release(run: TrainedRun, edge: EdgeModel, images_BCHW: Tensor, features_BF: Tensor) -> ReleasedBatch:
    """Release through the run's gate, as split ``infer``. The same image again is no new release."""
    gate = open_gate(run.config, run.folder / "edge", None, edge.mechanism, None, existing=True)
    with gate.ledger:
        return gate.release(
            image_names(images_BCHW),
            features_BF.numpy(),
            _no_labels(run.task, len(images_BCHW)),
            split="infer",
            seq=None,
        )


def _ask(server: FrameSender, run: TrainedRun, edge: EdgeModel, released: ReleasedBatch) -> Tensor:
    """The back's probabilities (B, K) for a release, from the other end of a link."""
    codec, reply_codec = get_codec(run.config.codec_name), get_codec("float32")
    frames = -(-len(released.ids) // _BATCH)
    found = []
    header = _header(run, edge.feature_shape, frames=frames)
    server.open(header)
    for seq in range(frames):
        rows = np.arange(seq * _BATCH, min((seq + 1) * _BATCH, len(released.ids)))
        encoded = pack(select(released, rows, released.ids[rows]), codec)
        reply = server.exchange(serialise(Frame(seq, encoded), header))
        scores_BK = reply_codec.decode(
            reply.batch.payload,
            reply.batch.side,
            batch=len(encoded.ids),
            feature_shape=(run.task.outputs,),
            dtype=np.dtype(np.float32),
        )
        found.append(torch.from_numpy(scores_BK))
    server.close()
    return torch.cat(found)


def _load_back(run: TrainedRun) -> tuple[nn.Module, tuple[int, ...]]:
    """The run's back in evaluation mode, and the shape F of the features that it takes."""
    if not has_finished(run.folder / "cloud"):
        raise RunError(
            f"{run.folder / 'cloud'}: the cloud has not finished this run, or is elsewhere; finish the run, or copy "
            "cloud/ there"
        )
    divided = divide(run.config.division(run.task.outputs))
    back = divided.back.eval()
    _load(back, run.folder / "cloud" / "back.safetensors")
    return back, divided.feature_shape


def _answer_by_back(back: nn.Module, features_BF: Tensor, task: Task) -> Tensor:
    """Probabilities (B, K), float32."""
    with torch.no_grad():
        return probabilities(back(features_BF).float(), task.kind)


_SAME = ("codec", "feature_shape", "feature_dtype", "task_kind", "outputs", "answer_shape")


class BackServer:
    """Answers frames with the probabilities of the back: what ``smartedge serve`` runs.

    It is a :class:`smartedge.wire.link.FrameHandler`.
    """

    def __init__(self, run: TrainedRun) -> None:
        self.run = run
        self.back, self.feature_shape = _load_back(run)

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Refuse an edge that holds another network."""
        if header.labels:
            raise RunError("this is 'smartedge serve', which answers 'smartedge infer'; train with 'smartedge cloud'")
        own = _header(self.run, self.feature_shape, frames=header.frames)
        if (
            json.loads(header.agreement) != json.loads(own.agreement)
            or any(getattr(header, name) != getattr(own, name) for name in _SAME)
            or header.batch_size > own.batch_size
        ):
            raise RunError(
                f"the edge holds another run than {self.run.folder}; copy the shared/ of its run directory there, and "
                "the cloud/ that belongs to it (never edge/, results.json or audit/)"
            )
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame:
        """Probabilities (B, K) in float32."""
        batch = unpack_frame(frame, header)
        try:
            scores_BK = _answer_by_back(self.back, torch.from_numpy(batch.features_BF), self.run.task)
        except RuntimeError as error:
            raise FrameError(f"features of shape {header.feature_shape} do not fit the back: {error}") from error
        payload, side = get_codec("float32").encode(scores_BK.numpy())
        encoded = EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side)
        return Frame(frame.seq, encoded)

    def sync(self, edge: str, header: StreamHeader) -> int:
        """No frame is kept."""
        return header.first_seq

    def finish(self, edge: str, header: StreamHeader) -> None:
        """Nothing to do: no frame is kept."""

    def abort(self, edge: str, header: StreamHeader) -> None:
        """Nothing to do: no frame is kept."""


def _header(run: TrainedRun, feature_shape: tuple[int, ...], *, frames: int) -> StreamHeader:
    return StreamHeader.of(
        run=uuid.uuid4().hex,
        agreement=run.config.agreement(),
        task=run.task,
        codec=run.config.codec_name,
        feature_shape=feature_shape,
        labels=False,
        answer_shape=(run.task.outputs,),
        batch_size=_BATCH,
        split="test",
        frames=frames,
    )


def _no_labels(task: Task, count: int) -> Labels:
    """Zeros in place of labels: frames of ``smartedge infer`` carry none."""
    return np.zeros(count, np.int64) if task.kind == "single" else np.zeros((count, task.outputs), np.float32)


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path}: the weights cannot be loaded ({error})") from error
