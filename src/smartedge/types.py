"""The data that parts pass to each other: frozen batches, their shapes, dtypes and units.

Shape letters used in names throughout the project:

    B  images in a batch        C, H, W  channels, height, width of a feature map or image
    K  outputs (classes of a single-label task, columns of a multi-label task)
    F  any trailing feature shape, (C, H, W) or (T, D) for tokens

This module imports nothing of smartedge, so every part may import it. It imports no torch, since the sending path
needs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BLANK",
    "EDGE_NAME",
    "PROTOCOL",
    "SPLITS",
    "Bytes",
    "EncodedBatch",
    "FeatureBatch",
    "Features",
    "Floats",
    "Frame",
    "ImageBatch",
    "Ints",
    "Labels",
    "ReleaseEvent",
    "ReleasedBatch",
    "SplitName",
    "StreamHeader",
    "Task",
]

PROTOCOL = 4  # version of headers and frames; another version is refused (format: smartedge.wire.frame)

BLANK = 2  # in place of 0 or 1 where an image lacks a label, in labels as uint8; NaN in labels as float32

EDGE_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"  # pattern of an edge's name; it becomes the name of a folder

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes: TypeAlias = "bytes | memoryview"  # a view: what came over a link lies in the message that brought it
Features: TypeAlias = "NDArray[np.float32] | NDArray[np.uint8]"  # (B, *F); uint8 where images are uploaded
Labels: TypeAlias = "NDArray[np.int64] | NDArray[np.float32]"  # int64 (B,) or float32 (B, K): see Task


@dataclass(frozen=True)
class Task:
    """The meaning of a label.

    ``kind="single"``: one of ``K`` classes, labels are int64 of shape (B,), trained with cross-entropy.
    ``kind="multi"``: ``K`` yes/no columns, labels are float32 of shape (B, K) in {0, 1}, trained with
    binary cross-entropy. ``names`` are the K class names, or the K column names.
    A boolean column is a single-label task of two classes named ``("no", "yes")``.
    ``blanks``: an image of a ``multi`` task may lack some of its labels, which are NaN then. Loss and figures leave
    them out.
    """

    kind: Literal["single", "multi"]
    columns: tuple[str, ...]
    names: tuple[str, ...]
    blanks: bool = False

    @property
    def outputs(self) -> int:
        """Width K of a head for this task."""
        return len(self.names)

    def without_names(self) -> Task:
        """The same task with numbers for the names of classes, which may be names of people."""
        if self.kind == "multi":
            return self
        return Task(self.kind, self.columns, tuple(map(str, range(self.outputs))))


@dataclass(frozen=True)
class ImageBatch:
    """Images as a data source gives them. They cross the link only as a release."""

    ids: np.ndarray  # int64 (B,), the image's index in its split: stable across epochs and runs
    images_BCHW: Tensor  # uint8 (B, C, H, W); three channels are RGB
    labels: Tensor  # see Task
    sensitive: Mapping[str, Tensor] = field(default_factory=dict)  # column -> int64 (B,); never leaves the edge


@dataclass(frozen=True)
class FeatureBatch:
    """Feature maps (images for method ``upload``) with ids and labels, as decoded from a frame.

    Attributes:
        ids: int64 (B,), the image's index in its split.
        features_BF: float32 (B, *F), or uint8 where images were uploaded. Where edges have different cuts, an object
            array (B,) of one float32 array (*F) each.
        labels: int64 (B,) or float32 (B, K): see :class:`Task`.
        edge_B: which edge sent each image, texts (B,); None: there is one edge.
        cut_B: where each image enters the back, texts (B,); None likewise.
    """

    ids: NDArray[np.int64]
    features_BF: Features
    labels: Labels
    edge_B: NDArray[np.str_] | None = None
    cut_B: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class ReleaseEvent:
    """The cost of one release of one image (replace-one adjacency, local model). Equal events are counted together.

    ``epsilon`` holds at ``delta``. The accountant does not compose these pairs. For Gaussian noise it composes
    ``noise_multiplier`` (σ ÷ sensitivity); for the others, which have δ = 0, it composes ``epsilon``.
    """

    mechanism: Literal["none", "gaussian", "laplace", "randomised-response", "subset-selection"]
    epsilon: float  # inf for "none": nothing protects the image
    delta: float = 0.0
    granularity: Literal["vector", "element"] = "vector"  # element: the guarantee covers each number alone
    noise_multiplier: float | None = None  # gaussian
    codewords: int | None = None  # discrete mechanisms: K
    subset: int | None = None  # subset selection: codewords in one release


_RELEASE_KEY = object()  # used by privacy.release alone; a test checks that no other module names it


@dataclass(frozen=True)
class ReleasedBatch:
    """A batch that may be packed for the wire; nothing else may. Only :mod:`smartedge.privacy.release` makes one.

    Attributes:
        ids: int64 (B,), the image's index in its split.
        features_BF: float32 (B, *F), or uint8 where images are uploaded.
        labels: int64 (B,) or float32 (B, K): see :class:`Task`.
        event: the cost of the features of each image.
        label_event: the cost of each image's label; None where no label travels.

    Raises:
        TypeError: another module tries to make one.
    """

    ids: NDArray[np.int64]
    features_BF: Features
    labels: Labels
    event: ReleaseEvent
    label_event: ReleaseEvent | None = None
    key: InitVar[object] = field(default=None, kw_only=True)

    def __post_init__(self, key: object) -> None:
        if key is not _RELEASE_KEY:
            raise TypeError(
                "a ReleasedBatch is made by smartedge.privacy.release only: raw features must not be packed"
            )


@dataclass(frozen=True)
class EncodedBatch:
    """A :class:`ReleasedBatch` that a codec turned into bytes.

    Attributes:
        ids: int64 (B,).
        labels: int64 (B,), or uint8 (B, K): 0, 1, or 2 where the label is lacking.
        payload: the encoded features.
        side: further data of the codec, such as ranges; may be empty.
    """

    ids: np.ndarray
    labels: np.ndarray
    payload: Bytes
    side: bytes


@dataclass(frozen=True)
class Frame:
    """One batch on the wire. ``seq`` counts the frames of a run, over all its streams, from 0.

    The stream header has its epoch and split.
    """

    seq: int
    batch: EncodedBatch


@dataclass(frozen=True)
class StreamHeader:
    """Sent once when a stream is opened; every frame is checked against it. Made by :meth:`of`."""

    protocol: int
    run: str  # identifies the run: a log belongs to one run
    agreement: str  # the settings on which both sides must agree, as JSON
    codec: str
    feature_shape: tuple[int, ...]  # F, without the batch dimension
    feature_dtype: Literal["float32", "uint8"]
    task_kind: Literal["single", "multi"]
    outputs: int  # K
    labels: bool  # whether each image's label travels with it
    blanks: bool  # whether an image may lack some of the labels of a multi-label task
    answer_shape: tuple[int, ...] | None  # of the answer to one image, float32; None: frames are not answered
    batch_size: int  # no frame holds more images than this
    epoch: int  # the epoch whose frames this stream carries
    split: SplitName  # and the split
    first_seq: int  # sequence number of the first frame of this stream
    frames: int  # how many frames this stream will carry
    joined_frames: int  # a one-way link that gathers frames sends no more than this together
    train_steps: int  # training frames per epoch

    @classmethod
    def of(  # noqa: PLR0913 - a record: one argument for each fact that differs between streams
        cls,
        *,
        run: str,
        agreement: Mapping[str, object],
        task: Task,
        codec: str,
        feature_shape: tuple[int, ...],
        feature_dtype: Literal["float32", "uint8"] = "float32",
        labels: bool = True,
        answer_shape: tuple[int, ...] | None = None,
        batch_size: int,
        split: SplitName,
        frames: int,
        first_seq: int = 0,
        joined_frames: int = 1,
        epoch: int = 0,
        train_steps: int = 0,
    ) -> StreamHeader:
        """A header with this version's protocol. The arguments are the fields above.

        ``agreement`` becomes JSON, ``task`` gives ``task_kind``, ``outputs`` and ``blanks``.
        """
        return cls(
            protocol=PROTOCOL,
            run=run,
            agreement=json.dumps(agreement, sort_keys=True),
            codec=codec,
            feature_shape=feature_shape,
            feature_dtype=feature_dtype,
            task_kind=task.kind,
            outputs=task.outputs,
            labels=labels,
            blanks=labels and task.blanks,
            answer_shape=answer_shape,
            batch_size=batch_size,
            epoch=epoch,
            split=split,
            first_seq=first_seq,
            frames=frames,
            joined_frames=joined_frames,
            train_steps=train_steps,
        )

    @property
    def answered(self) -> bool:
        """Whether the receiver answers every frame."""
        return self.answer_shape is not None

    @property
    def end_seq(self) -> int:
        """The sequence number of the last frame, plus one."""
        return self.first_seq + self.frames
