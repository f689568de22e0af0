"""Answers for new images: the task exit on the edge where it is confident, the back in the cloud where it is not."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge import metrics
from smartedge.codec import get_codec, pack, unpack_frame
from smartedge.config import Config, load_run_config
from smartedge.edge.protection import open_gate
from smartedge.errors import FrameError, RunError
from smartedge.methods.front_step import edge_forward
from smartedge.methods.mechanism import mechanism_of
from smartedge.models.exits import probabilities
from smartedge.models.network import divide, to_input
from smartedge.types import EncodedBatch, Frame, Labels, StreamHeader, Task
from smartedge.wire.link import FrameSender

__all__ = ["Answer", "Answerer", "EdgeModel", "TrainedRun", "answer", "ask_over", "image_names"]

_BATCH = 64


@dataclass(frozen=True)
class TrainedRun:
    """A finished hierarchical run, ready to answer."""

    folder: Path
    config: Config
    task: Task

    @classmethod
    def open(cls, folder: Path) -> TrainedRun:
        """Read what a run directory says about itself.

        Raises:
            RunError: it holds no finished hierarchical run.
        """
        config = load_run_config(folder)
        try:
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{folder}: holds no finished run ({error}); train one with 'smartedge train'") from error
        if config.method != "hierarchical":
            raise RunError(
                f"{folder}: was trained with method {config.method!r}, which has no exit on the edge; "
                "infer needs a run of method 'hierarchical'"
            )
        task = results["task"]
        return cls(folder, config, Task(task["kind"], tuple(task["columns"]), tuple(task["names"])))


@dataclass(frozen=True)
class Answer:
    """What was answered for one image."""

    scores_K: np.ndarray  # float32 (K,), probabilities
    confidence: float  # of the exit, see smartedge.metrics.confidence
    by: str  # "exit" or "back"


class EdgeModel:
    """Front and task exit of a run, with the weights it ended with."""

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
        """uint8 (B, 3, H, W) → bounded features (B, *F) and logits (B, K), float32."""
        inputs = to_input(images_BCHW, torch.device("cpu"))
        return edge_forward(
            self.front,
            self.task_exit,
            inputs,
            mechanism=self.mechanism,
            task_kind=self.task_kind,
            precision=self.precision,
        )


# rows (B,), the images' names in the ledger (B,), features (B, *F) → probabilities (B, K)
Ask = Callable[[np.ndarray, np.ndarray, Tensor], Tensor]


def image_names(images_BCHW: Tensor) -> np.ndarray:
    """What the ledger knows images by that belong to no data set: 63 bits of SHA-256 of their pixels, int64 (B,)."""
    digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images_BCHW]
    return np.array([int.from_bytes(digest[:8], "big") >> 1 for digest in digests], dtype=np.int64)


def answer(run: TrainedRun, edge: EdgeModel, images_BCHW: Tensor, *, threshold: float, ask: Ask) -> list[Answer]:
    """Answer each image at the exit where its confidence is at least ``threshold``, else by ``ask``.

    Args:
        run: what the exit and the back were trained as.
        edge: its front and exit.
        images_BCHW: uint8 (B, 3, H, W), cropped and resized as in training.
        threshold: 0 answers everything on the edge, anything above 1 nothing.
        ask: gets only the images that the exit is not sure of.
    """
    answers: dict[int, Answer] = {}
    unsure: list[int] = []
    features: list[Tensor] = []
    for start in range(0, len(images_BCHW), _BATCH):
        features_BF, logits_BK = edge(images_BCHW[start : start + _BATCH])
        scores_BK = probabilities(logits_BK, run.task.kind).numpy()
        sure = metrics.confidence(scores_BK, run.task.kind)
        for row in range(len(scores_BK)):
            answers[start + row] = Answer(scores_BK[row], float(sure[row]), "exit")
            if sure[row] < threshold:
                unsure.append(start + row)
                features.append(features_BF[row])
    if unsure:
        scores_BK = ask(np.array(unsure), image_names(images_BCHW[unsure]), torch.stack(features)).numpy()
        for row, image in enumerate(unsure):
            answers[image] = Answer(scores_BK[row], answers[image].confidence, "back")
    return [answers[image] for image in range(len(images_BCHW))]


def ask_over(sender: FrameSender, run: TrainedRun, edge: EdgeModel) -> Ask:
    """Ask the cloud at the other end of a link (``smartedge serve``), through the run's gate and codec, without labels.

    Images sent are recorded in the run's ledger, split ``infer``. Asking again for the same batch is no new release.

    Raises:
        PrivacyError: when asked, where an image's budget is spent, or the ledger is missing.
    """
    codec = get_codec(run.config.codec_name)

    def ask(rows: np.ndarray, names: np.ndarray, features_BF: Tensor) -> Tensor:
        header = _header(run, edge.feature_shape, frames=-(-len(rows) // _BATCH))
        gate = open_gate(run.config, run.folder / "edge", None, edge.mechanism, None, existing=True)
        found = []
        with gate.ledger:
            sender.open(header)
            for seq in range(header.frames):
                part = slice(seq * _BATCH, (seq + 1) * _BATCH)
                released = gate.release(
                    names[part],
                    features_BF[part].numpy(),
                    _no_labels(run.task, len(rows[part])),
                    split="infer",
                    seq=None,
                    wire_ids=rows[part],
                )
                encoded = pack(released, codec)
                reply = sender.exchange(Frame(seq, encoded))
                scores_BK = get_codec("float32").decode(
                    reply.batch.payload,
                    reply.batch.side,
                    batch=len(encoded.ids),
                    feature_shape=(run.task.outputs,),
                    dtype=np.dtype(np.float32),
                )
                found.append(torch.from_numpy(scores_BK))
            sender.close()
        return torch.cat(found)

    return ask


_SAME = ("codec", "feature_shape", "feature_dtype", "task_kind", "outputs", "answer_shape")


class Answerer:
    """Answers frames with the back's probabilities: the cloud's end (a :class:`smartedge.wire.link.FrameHandler`)."""

    def __init__(self, run: TrainedRun) -> None:
        self.run = run
        divided = divide(run.config.division(run.task.outputs))
        self.back, self.feature_shape = divided.back.eval(), divided.feature_shape
        _load(self.back, run.folder / "cloud" / "back.safetensors")

    def accept(self, header: StreamHeader) -> None:
        """Refuse whoever does not hold the same network."""
        if header.labels:
            raise RunError("this is 'smartedge serve', which answers 'smartedge infer'; train with 'smartedge cloud'")
        own = _header(self.run, self.feature_shape, frames=header.frames)
        if (
            json.loads(header.agreement) != json.loads(own.agreement)
            or any(getattr(header, name) != getattr(own, name) for name in _SAME)
            or header.batch_size > own.batch_size
        ):
            raise RunError(
                f"the edge holds another run than {self.run.folder}; bring its results.json and config.yaml there, and "
                "the cloud/ that belongs to them (never edge/noise.key or edge/samples.safetensors)"
            )

    def ingest(self, header: StreamHeader, frame: Frame) -> Frame:
        """Probabilities (B, K) in float32."""
        batch = unpack_frame(frame, header)
        with torch.no_grad():
            try:
                logits_BK = self.back(torch.from_numpy(batch.features_BF))
            except RuntimeError as error:
                raise FrameError(f"features of shape {header.feature_shape} do not fit the back: {error}") from error
        payload, side = get_codec("float32").encode(probabilities(logits_BK, self.run.task.kind).numpy())
        encoded = EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side)
        return Frame(frame.seq, encoded)

    def finish(self, header: StreamHeader) -> None:
        """Nothing is kept."""

    def abort(self, header: StreamHeader) -> None:
        """Nothing is kept."""


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
    """A place holder: frames of method ``infer`` carry no labels."""
    return np.zeros(count, np.int64) if task.kind == "single" else np.zeros((count, task.outputs), np.float32)


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path}: the weights cannot be loaded ({error})") from error
