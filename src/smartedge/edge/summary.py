"""Writes the edge's files at the end of a run: weights, test images, ``summary.json``, ``shared/run.json``."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from smartedge.artifacts.results import Privacy, ReferenceBytes
from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.summary import EdgeSummary, Session
from smartedge.artifacts.task import TaskFacts
from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.data import DataSet
from smartedge.edge.state import Counts
from smartedge.files import finite_or_none, private_folder
from smartedge.images.size import RGB
from smartedge.methods.base import Method
from smartedge.methods.learner import Learner
from smartedge.privacy.release import Gate
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import peak_rss_bytes, rss_bytes
from smartedge.runs.pictures import as_pictures
from smartedge.runs.weights_facts import weights_facts
from smartedge.types import Task

__all__ = ["Process", "privacy_summary", "save_samples", "save_trained", "summarise", "write_shared"]

_JPEG_IMAGES = 256  # images encoded for the comparison with JPEG
_SAMPLE_IMAGES = 24  # test images kept for the report, on the edge


def save_trained(folder: Path, learner: Learner) -> None:
    """Write the weights of each module, such as ``front.safetensors``."""
    for name, module in learner.modules.items():
        save_weights(folder / f"{name}.safetensors", module.state_dict())


def save_samples(folder: Path, dataset: DataSet) -> None:
    """Write the first test images, readable by their owner alone."""
    split = dataset.splits["test"]
    shown = split.read(np.arange(min(_SAMPLE_IMAGES, len(split))))
    tensors = {"images": as_pictures(shown.images_BCHW), "ids": torch.from_numpy(shown.ids), "labels": shown.labels}
    save_weights(folder / "samples.safetensors", tensors)


@dataclass(frozen=True)
class Process:
    """Facts of the edge's process at its start."""

    threaded: bool  # frames are sent by a thread of their own
    processor_counts: bool  # it computes on no GPU, and the cloud has a process of its own
    epochs_before: int  # completed in earlier processes of the run
    started: float = field(default_factory=time.time)  # seconds since 1970
    begun: float = field(default_factory=time.monotonic)
    rss_bytes: int = field(default_factory=rss_bytes)  # resident set before the training


def _facts_of(task: Task) -> TaskFacts:
    return TaskFacts(kind=task.kind, columns=task.columns, names=task.names)


def write_shared(folder: Path, config: Config, task: Task, feature_shape: tuple[int, ...]) -> None:
    """Write the facts that a server needs to answer for the run. Of labels: only the number of classes."""
    private_folder(folder)
    facts = _facts_of(task.without_names())
    shared = SharedRun(settings=config.agreement(), task=facts, feature_shape=feature_shape)
    shared.write(folder / "run.json")


def summarise(
    process: Process,
    counts: Counts,
    method: Method,
    dataset: DataSet,
    gate: Gate | None,
    learner: Learner,
    *,
    given: bool,
    finished: bool,
) -> EdgeSummary:
    """The content of ``summary.json``.

    Args:
        process: the one that ends now.
        counts: what the edge has counted.
        method: of the run.
        dataset: of the run.
        gate: made the releases; None where nothing was released.
        learner: of the run.
        given: whether the front was trained before (``model.front``).
        finished: whether the run is complete.
    """
    feature_shape, parts = learner.feature_shape, learner.modules
    return EdgeSummary(
        threaded=process.threaded,
        finished=finished,
        session=Session.ending(process.started, process.begun, counts.epochs - process.epochs_before),
        busy_seconds=counts.busy,
        processor_seconds=counts.processor if process.processor_counts else None,
        data_wait_seconds=counts.data_wait,
        data_busy_seconds=counts.data_busy,
        test=counts.test,
        teacher_val=counts.teacher_val,
        traffic=counts.traffic.totals(),
        releases_per_image=gate.ledger.releases("train") if gate and finished else 0,
        privacy=privacy_summary(gate, front=_front(parts, given=given)) if gate and finished else None,
        feature_shape=feature_shape,
        reference_bytes=_reference_bytes(dataset, feature_shape if method.divides else None),
        task=_facts_of(dataset.task),
        images={str(name): len(split) for name, split in dataset.splits.items()},
        skipped=dict(dataset.skipped),
        notes=tuple(dataset.notes),
        weights=weights_facts(parts.values()),
        peak_rss_bytes=peak_rss_bytes(),
        baseline_rss_bytes=process.rss_bytes,
    )


def privacy_summary(gate: Gate, *, front: Literal["trained", "frozen", "given"] | None = None) -> Privacy:
    """The block ``privacy`` of ``results.json`` (``docs/results-schema.md``), from what the ledger holds.

    None means that a value is ∞ or does not apply. The totals are those of the image that spent most, in the protected
    splits.

    Args:
        gate: made the releases.
        front: what the front's weights learned from the images, in the words of that block.
    """
    mechanism, budget = gate.mechanism, gate.ledger.budget
    balance = gate.ledger.balance()
    worst = balance.spent_most
    total = worst.epsilon if worst else 0.0
    # An element's ε protects one number. The whole map has the sum over its numbers, since Laplace noise is pure ε.
    element = mechanism.event.granularity == "element"
    whole = mechanism.vector_epsilon * worst.releases if element and worst else total
    pure = mechanism.delta == 0 and (worst is None or worst.releases <= 1)
    labels = max((group.label_epsilon for group in balance.groups if group.split == "train"), default=0.0)
    return Privacy(
        **asdict(mechanism.describe()),
        epsilon_total=finite_or_none(total),
        delta_total=0.0 if pure else budget.delta,
        releases_max=worst.releases if worst else 0,
        epsilon_budget=finite_or_none(budget.epsilon),
        delta_budget=budget.delta,
        vector_epsilon_total=finite_or_none(whole),
        labels="clear" if gate.label_epsilon is None else "randomised",
        label_epsilon=finite_or_none(labels),
        epsilon_with_label=finite_or_none(whole + labels),
        apply_to="training" if gate.training_only else "always",
        front=front,
    )


def _front(parts: Mapping[str, nn.Module], *, given: bool) -> Literal["trained", "frozen", "given"] | None:
    if "front" not in parts:
        return None
    if given:
        return "given"
    return "trained" if any(p.requires_grad for p in parts["front"].parameters()) else "frozen"


def _reference_bytes(dataset: DataSet, feature_shape: tuple[int, ...] | None) -> ReferenceBytes:
    """Bytes of one image as JPEG, as raw pixels, and as a float32 feature map."""
    split = dataset.splits["train"]
    images_BCHW = split.read(np.arange(min(_JPEG_IMAGES, len(split)))).images_BCHW
    return ReferenceBytes(
        jpeg_q90=_jpeg_bytes(images_BCHW.numpy()) / len(images_BCHW),
        raw_uint8=float(np.prod(images_BCHW.shape[1:])),
        feature_float32=None if feature_shape is None else 4.0 * float(np.prod(feature_shape)),
    )


def _jpeg_bytes(images_BCHW: NDArray[np.uint8]) -> int:
    """Bytes of images as JPEG of quality 90. Of other channels than red, green and blue, each is a grey picture."""
    if images_BCHW.shape[1] != RGB:
        planes_B1HW = images_BCHW.reshape(-1, 1, *images_BCHW.shape[2:])
        return sum(_grey_jpeg_bytes(plane_HW) for plane_HW in planes_B1HW[:, 0])
    payload, side = get_codec("jpeg").encode(images_BCHW)
    return len(payload) + len(side)


def _grey_jpeg_bytes(plane_HW: NDArray[np.uint8]) -> int:
    Image.fromarray(plane_HW).save(file := io.BytesIO(), "JPEG", quality=90)
    return len(file.getvalue())
