"""Puts ``results.json`` of a run together from the files of its two sides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from smartedge import metrics
from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.artifacts.metrics import read_metrics
from smartedge.artifacts.results import (
    BytesPerImage,
    BytesTotal,
    DataFacts,
    Figures,
    Heads,
    Privacy,
    Results,
    StageSeconds,
)
from smartedge.artifacts.run import RunFacts
from smartedge.artifacts.summary import CloudSummary, EdgeSummary
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import RunError
from smartedge.files import write_atomically
from smartedge.runs.checkpoint import save_weights

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.methods.base import Method

__all__ = ["assemble"]


def assemble(run_dir: Path, config: Config, method: Method, facts: RunFacts) -> Results:
    """Write ``results.json``, ``metrics.jsonl`` and ``predictions.safetensors`` of a run; returns the results.

    Args:
        run_dir: holds ``edge/`` and, where the method has a cloud, ``cloud/``.
        config: the run's settings.
        method: the method that ``config.method`` names.
        facts: where and how the run was started.

    Raises:
        RunError: a side has not finished.
    """
    edge = EdgeSummary.read(run_dir / "edge" / "summary.json")
    cloud = CloudSummary.read(run_dir / "cloud" / "summary.json") if method.has_cloud else None
    for side in (edge, cloud):
        if side is not None and not side.finished:
            raise RunError(f"{run_dir / side.side}: the run was stopped before its end; continue it with --resume")
    undivided = edge.test if cloud is None else cloud.test
    at_exit = edge.test if method.has_exit else None
    same_images = cloud is None or _answers_of_back(run_dir) is not None
    noisy_labels = config.dp.label_epsilon is not None and config.dp.apply_to == "always"
    if noisy_labels and cloud is not None:  # the labels that the cloud has are partly wrong
        undivided = _against_true_labels(run_dir, edge.task.kind)
    traffic = edge.traffic
    sent = traffic.images.get("train", 0)
    wall, per_epoch, stages = _times(config.epochs, edge, cloud)
    results = Results(
        smartedge_version=facts.versions.get("smartedge"),
        method=config.method,
        schedule=config.schedule,
        model=config.model.name,
        weights=edge.weights or (cloud.weights if cloud else None),
        cut=config.model.cut if method.divides else None,
        bottleneck=_bottleneck(config, edge.feature_shape) if method.divides else None,
        codec=config.codec_name if cloud else None,
        seed=config.seed,
        epochs=config.epochs,
        task=edge.task,
        data=DataFacts(
            path=config.data.path,
            image_size=config.data.image_size,
            **edge.images,
            skipped=edge.skipped,
            notes=edge.notes,
        ),
        test=Heads(back=undivided, exit=at_exit),
        cloud_gain=undivided.accuracy - at_exit.accuracy if undivided and at_exit and same_images else None,
        bytes_per_image=BytesPerImage(
            up=traffic.up.get("train", 0) / sent if sent else 0.0,
            down=traffic.down.get("train", 0) / sent if sent else 0.0,
            source=traffic.source or None,
            reference=edge.reference_bytes,
        ),
        codec_error=traffic.codec_error,
        bytes_total=BytesTotal(up=sum(traffic.up.values()), down=sum(traffic.down.values())),
        seconds_per_epoch=per_epoch,
        seconds_total=wall,
        stage_seconds=stages,
        edge_processor_seconds=None if edge.processor_seconds is None else edge.processor_seconds / config.epochs,
        edge_data_share=_share(edge.data_wait_seconds, edge.busy_seconds),
        edge_peak_rss_bytes=edge.peak_rss_bytes,
        edge_baseline_rss_bytes=edge.baseline_rss_bytes,
        cloud_peak_rss_bytes=cloud.peak_rss_bytes if cloud else None,
        releases_per_image=edge.releases_per_image,
        privacy=edge.privacy and _with_baseline(run_dir, edge.privacy, edge.task, with_exit=at_exit is not None),
        machine=facts.machine,
        versions=facts.versions,
        started=facts.started,
        command=facts.command,
    )
    rows = [row for side in ("edge", "cloud") for row in read_metrics(run_dir / side / "metrics.jsonl")]
    rows.sort(key=lambda row: row.epoch)
    write_atomically(run_dir / "metrics.jsonl", "".join(row.line() for row in rows))
    _join_predictions(run_dir, at_exit=at_exit is not None)
    results.write(run_dir / "results.json")
    return results


def _bottleneck(config: Config, crossing: tuple[int, ...]) -> tuple[int, ...] | None:
    """Its shape, which ``auto`` leaves to the network. A vector has none then."""
    named = config.bottleneck
    if named != "auto":
        return named
    return crossing if len(crossing) > 1 else None


def _with_baseline(run_dir: Path, privacy: Privacy, task: TaskFacts, *, with_exit: bool) -> Privacy:
    """The ledger's figures, with a baseline: randomised response on the exit's answers alone.

    The answers are taken at their best threshold on the test images. An exit that learned through strong noise is
    unsure of everything; its plain answers would be a baseline that is too easy to beat.
    """
    if not with_exit or privacy.vector_epsilon is None:
        return privacy
    found = load_file(run_dir / "edge" / "predictions.safetensors")
    recalled = metrics.attainable_balanced_accuracy(found["labels"].numpy(), found["scores"].numpy(), task.kind)
    baseline = _response_baseline(recalled, privacy.vector_epsilon, task)
    return privacy.model_copy(update={"randomised_response_baseline": baseline})


def _response_baseline(recalled: float, epsilon: float, task: TaskFacts) -> float:
    """Balanced accuracy of k-ary randomised response on answers, with the ε of one release.

    ``recalled`` is the balanced accuracy of the answers themselves. The true answer is sent with probability p, every
    other class with probability q. A class with recall r then has recall p·r + q·(1 − r), and balanced accuracy is the
    mean over the classes. Each of K yes/no columns has ε/K.
    """
    outputs = len(task.names)
    classes, each = (outputs, epsilon) if task.kind == "single" else (2, epsilon / outputs)
    kept = 1 / (1 + (classes - 1) * math.exp(-each))
    other = (1 - kept) / (classes - 1)
    return float(other + (kept - other) * recalled)


def _against_true_labels(run_dir: Path, kind: Literal["single", "multi"]) -> Figures | None:
    """The back's figures on the test split, against the edge's true labels; None without its answers to this edge."""
    answers = _answers_of_back(run_dir)
    if answers is None:
        return None
    edge, cloud = load_file(run_dir / "edge" / "predictions.safetensors"), load_file(answers)
    place = {image: row for row, image in enumerate(edge["ids"].tolist())}
    labels = edge["labels"][torch.tensor([place[image] for image in cloud["ids"].tolist()])]
    scores = cloud["scores"].double().clamp(1e-12, 1 - 1e-12)
    if kind == "single":
        loss = -scores.gather(1, labels[:, None].long()).log().mean()
    else:
        loss = torch.nn.functional.binary_cross_entropy(scores, labels.double())
    figures = metrics.evaluate(labels.numpy(), cloud["scores"].numpy(), kind)
    return Figures.model_validate({"loss": float(loss), **figures})


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else 0.0


def _times(epochs: int, edge: EdgeSummary, cloud: CloudSummary | None) -> tuple[float, float, StageSeconds]:
    """Seconds of the last session, seconds per epoch, and busy seconds of each stage, validation included.

    A resumed run has several sessions. ``epochs`` are those of the whole run.
    """
    last = cloud or edge
    wall = max(side.session.ended for side in (edge, last)) - edge.session.started
    # Where the front is trained first, times are divided by the epochs of the back.
    in_session = last.session.epochs or edge.session.epochs or 1
    link, in_cloud = edge.traffic.link_seconds, cloud.busy_seconds if cloud else 0.0
    if not edge.threaded:  # the edge waits until the cloud has used each frame
        link = max(0.0, link - in_cloud)
    stages = StageSeconds(
        edge=edge.busy_seconds / epochs,
        encode=(edge.traffic.release_seconds + edge.traffic.encode_seconds) / epochs,
        link=link / epochs,
        cloud=in_cloud / epochs,
    )
    return wall, wall / in_session, stages


def _answers_of_back(run_dir: Path) -> Path | None:
    """The file of the back's answers on this edge's test images.

    None where it is not here, or where it has the images of several edges: each of these counts its own from 0.
    """
    answers, fleet = run_dir / "cloud" / "predictions.safetensors", run_dir / "cloud" / "fleet.json"
    if not answers.exists() or (fleet.exists() and len(FleetFigures.read(fleet).edges) > 1):
        return None
    return answers


def _join_predictions(run_dir: Path, *, at_exit: bool) -> None:
    """Write both sides' answers on the test split into one file, for the images that both answered."""
    edge, answers = run_dir / "edge" / "predictions.safetensors", _answers_of_back(run_dir)
    parts: dict[str, dict[str, Tensor]] = {}
    if edge.exists():
        parts["exit" if at_exit else "back"] = load_file(edge)
    if answers is not None:
        parts["back"] = load_file(answers)
    shared = set.intersection(*(set(part["ids"].tolist()) for part in parts.values()))
    ids = sorted(shared)
    joined: dict[str, Tensor] = {"ids": torch.tensor(ids, dtype=torch.int64)}
    for name, part in parts.items():
        place = {image: row for row, image in enumerate(part["ids"].tolist())}
        rows = torch.tensor([place[image] for image in ids], dtype=torch.int64)
        joined.setdefault("labels", part["labels"][rows])  # the edge's first: the cloud's may be randomised
        joined[name] = part["scores"][rows]
    save_weights(run_dir / "predictions.safetensors", joined)
