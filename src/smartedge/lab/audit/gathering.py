"""Collects the evidence of a finished run: its data set, its front, and the features that it sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.artifacts.run import EdgeRun
from smartedge.artifacts.summary import refuse_unfinished
from smartedge.cloud.files_for_edges import back_weights
from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder
from smartedge.codec import get_codec, unpack
from smartedge.config import Config, load_run_config
from smartedge.data import DataSet, Split
from smartedge.data.columns import persons_of, read_columns
from smartedge.data.raw import PERSON_COLUMN, RawData
from smartedge.data.reading.repeated import copies
from smartedge.edge.state import fingerprint
from smartedge.errors import ConfigError, DataError, RunError
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.evidence import Persons
from smartedge.lab.audit.feature_cache import FeatureCache
from smartedge.lab.audit.run_evidence import BATCH, OwnImages, RunEvidence, device_of
from smartedge.lab.audit.store import Store
from smartedge.launch.datasets import dataset_of, raw_data_of
from smartedge.methods.base import get_method
from smartedge.methods.front_step import exit_logits
from smartedge.methods.mechanism import mechanism_of
from smartedge.models.blueprint import of_a_run, weights_named
from smartedge.models.exits import probabilities
from smartedge.models.layout import Layout
from smartedge.models.network import divide, to_input
from smartedge.runs.progress import Monitor
from smartedge.runs.seeds import derive_seed
from smartedge.types import SplitName, Task
from smartedge.wire.link import UNNAMED_EDGE

__all__ = [
    "FEWEST_IMAGES",
    "AuditedData",
    "EdgeNetworks",
    "SentFeatures",
    "affordable",
    "assemble",
    "check_run",
    "gather",
    "open_audited",
    "trained_parts",
]

FEWEST_IMAGES = 512  # own images that an attacker learns from, if it has so many
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class AuditedData:
    """A run's data set, and the columns of it that are audited."""

    raw: RawData  # as it lies on disk
    dataset: DataSet
    own: Split  # the images that attackers learn from: set apart by the run, or otherwise its training images
    labels: Mapping[SplitName, Mapping[str, Tensor]]  # split (train: ``own``) → attribute → int64 (N,); −1 unknown
    classes: Mapping[str, tuple[str, ...]]  # attribute → the names of its K classes
    persons: Persons | None  # None where the data set names none


@dataclass(frozen=True)
class EdgeNetworks:
    """The networks that the edge trained, on the attacker's device and in evaluation mode."""

    front: nn.Module
    task_exit: nn.Module | None  # None where the method has none
    feature_shape: tuple[int, ...]
    layout: Layout  # the meaning of the axes of a feature


@dataclass(frozen=True)
class SentFeatures:
    """The features of the test images that a run sent, and the answers of its task exit."""

    test_NF: Tensor  # float32 (N, *F), decoded from the feature log
    scores_NK: Tensor | None  # probabilities; None where the edge did not write them


def gather(
    run_dir: Path, attributes: Sequence[str], *, name: str = "defended", clock: Clock, monitor: Monitor
) -> RunEvidence:
    """Collect the evidence that a finished run left.

    Args:
        run_dir: holds ``edge/`` (the front's weights are published) and ``cloud/`` (the feature log).
        attributes: the columns to be audited; desired columns are allowed.
        name: the name of the evidence.
        clock: the time for this; when it is short, the attacker learns from fewer images.
        monitor: takes progress updates.

    Raises:
        RunError: the run has not finished, or one side's folder is missing.
        ConfigError: the method sends nothing.
        DataError: the data set has changed or has no such column.
    """
    config = load_run_config(run_dir)
    if not get_method(config.method).has_cloud:
        raise ConfigError(f"{run_dir}: method '{config.method}' sends nothing, so there is nothing to attack")
    opened = open_audited(config, attributes)
    parts = trained_parts(config, opened.dataset.task, run_dir / "edge")
    check_run(run_dir, opened.dataset)
    ids = opened.dataset.splits["test"].ids
    stored = _stored_scores(run_dir / "edge" / "predictions.safetensors", ids) if parts.task_exit is not None else None
    log = _log_of_this_edge(run_dir)
    crossed = SentFeatures(_released(log, config, ids), stored)
    evidence = assemble(
        name, config, opened, parts, crossed, folder=run_dir / "audit" / "features", clock=clock, monitor=monitor
    )
    back_file = back_weights(run_dir / "cloud", config.model.cut)
    return replace(
        evidence,
        edge=None if log.edge == UNNAMED_EDGE else log.edge,
        back_file=back_file if back_file.exists() else None,
    )


def open_audited(config: Config, attributes: Sequence[str]) -> AuditedData:
    """The data set as the run opened it, and the labels of the audited columns."""
    dataset, raw = dataset_of(config), raw_data_of(config)
    own = dataset.audit or dataset.splits["train"]
    labels, classes = read_columns(raw, replace(dataset, splits={**dataset.splits, "train": own}), attributes)
    return AuditedData(raw, dataset, own, labels, classes, _persons(raw, dataset))


def check_run(run_dir: Path, dataset: DataSet) -> None:
    """Refuse a run whose front is not the last one, or whose data set was changed.

    Raises:
        RunError: the edge has not finished: an interrupted run has weights too, and goes on with others.
        DataError: ids or labels are others. Images that the front learned from may be in another split now.
    """
    refuse_unfinished(run_dir)
    if EdgeRun.read(run_dir / "edge" / "run.json").data != fingerprint(dataset):
        raise DataError(
            f"{run_dir}: the images or labels of {dataset.name} are not those of this run. The front may have learned "
            "from images that are in another split now; restore the data set"
        )


def _persons(raw: RawData, dataset: DataSet) -> Persons | None:
    """Who is in each image, by the column ``identity``; None where the data set has no such column.

    Raises:
        DataError: only some splits have the column.
    """
    persons = persons_of(raw, dataset, PERSON_COLUMN)
    if persons is None:
        return None
    # The attacker learns from the images that were set apart, where there are any.
    parts = [persons["train" if dataset.audit is None else "audit"], persons["val"], persons["test"]]
    first = 1 + max(int(part.max()) for part in parts)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    train, val, test = (
        torch.where(part >= 0, part, first + torch.arange(end - len(part), end))
        for part, end in zip(parts, ends, strict=True)
    )
    trained_on = persons["train"]
    held_out = test if dataset.audit is None else torch.cat([test, train])
    both = np.intersect1d(held_out.numpy(), trained_on[trained_on >= 0].numpy())
    return Persons(PERSON_COLUMN, train, val, test, len(both))


def _copies(dataset: DataSet) -> int:
    """How many protected images, and own ones where they were set apart, are training images under another name."""
    held_out = {"test": dataset.splits["test"]} | ({} if dataset.audit is None else {"audit": dataset.audit})
    return sum(again for again, _ in copies(dataset.splits["train"], held_out).values())


def trained_parts(config: Config, task: Task, folder: Path) -> EdgeNetworks:
    """Front, task exit and feature shape, with the weights that one side's folder holds."""
    method = get_method(config.method)
    if not method.divides:
        return EdgeNetworks(nn.Identity(), None, config.data.image_size.shape, "channels-first")
    pretrained = weights_named(config.model.name, config.model.weights) != "none"
    divided = divide(of_a_run(config.division(task.outputs), pretrained=pretrained))
    front = divided.front
    _load(front, folder / "front.safetensors")
    task_exit: nn.Module | None = None
    if method.has_exit:
        task_exit = divided.task_exit
        _load(task_exit, folder / "exit.safetensors")
    for module in (front, task_exit):
        if module is not None:
            module.to(device_of(config)).eval().requires_grad_(False)
    return EdgeNetworks(front, task_exit, divided.feature_shape, divided.layout)


def assemble(
    name: str,
    config: Config,
    opened: AuditedData,
    parts: EdgeNetworks,
    crossed: SentFeatures | None,
    *,
    folder: Path,
    clock: Clock,
    monitor: Monitor,
) -> RunEvidence:
    """Send the attacker's images through the front. Without ``crossed``, release the test images here, once.

    The front's features are kept in ``folder``, for the next call.

    Raises:
        OutOfTime: without ``crossed``, where there is no time even for the smallest number of images.
    """
    dataset, split_of = opened.dataset, opened.dataset.splits
    seen: bool | None = dataset.audit is None and get_method(config.method).divides
    if config.begins_with_a_file and not seen:
        seen = None  # what is in the file may have learned from them
    evidence = RunEvidence(
        name=name,
        config=config,
        task=dataset.task,
        feature_shape=parts.feature_shape,
        layout=parts.layout,
        front=parts.front,
        mechanism=mechanism_of(config, parts.feature_shape),
        noisy=config.dp.mechanism != "none" and config.dp.apply_to == "always",
        codec=get_codec(config.codec_name),
        classes=opened.classes,
        train=OwnImages((), opened.labels["train"], _without_blanks(opened.own.labels), seen=seen, split=opened.own),
        val=OwnImages((), opened.labels["val"], _without_blanks(split_of["val"].labels), split=split_of["val"]),
        test=split_of["test"],
        test_ids=torch.from_numpy(split_of["test"].ids.copy()),
        test_features_NF=torch.empty(0) if crossed is None else crossed.test_NF,
        test_labels=opened.labels["test"],
        test_desired=_without_blanks(split_of["test"].labels),
        exit_scores={},
        persons=opened.persons,
        copies_in_training=_copies(dataset),
    )
    scores: dict[SplitName, Tensor] = {}
    cache = FeatureCache(Store(folder), clock, monitor, ends=crossed is None)

    def features(split: Split, split_name: SplitName) -> tuple[Tensor, float]:
        clean_NF, seconds_each = cache.views(evidence, split, split_name)
        if parts.task_exit is not None:
            scores[split_name] = _scores(parts.task_exit, evidence, clean_NF)
        return clean_NF, seconds_each

    val_NF, seconds = features(evidence.val.split, "val")
    if crossed is None or (parts.task_exit is not None and crossed.scores_NK is None):
        clean_NF, _ = features(evidence.test, "test")
    if crossed is None:
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "audit", "release"))
        released = [evidence.release(part.float(), generator) for part in clean_NF.split(evidence.batch_size)]
        evidence = replace(evidence, test_features_NF=torch.cat(released))
    elif crossed.scores_NK is not None:
        scores["test"] = crossed.scores_NK
    images, mirrored = affordable(len(evidence.train), seconds, clock.remaining())
    if images < len(evidence.train):
        if crossed is None and images * seconds > clock.remaining():
            raise OutOfTime(f"{images} images of the attacker's own would take {images * seconds:.0f} s")
        order = torch.randperm(len(evidence.train), generator=torch.Generator().manual_seed(config.seed))
        evidence = _with_fewer(evidence, order[:images].sort().values)
    views_VNF = [features(evidence.train.split, "train")[0]]
    if mirrored:
        views_VNF.append(cache.views(evidence, evidence.train.split, "train", mirrored=True)[0])
    return replace(
        evidence,
        cache=replace(cache, ends=False),  # what a later stage needs of it has a clock of its own
        seconds_each=seconds,
        train=replace(evidence.train, views_VNF=tuple(views_VNF)),
        val=replace(evidence.val, views_VNF=(val_NF,)),
        exit_scores=scores,
    )


def _with_fewer(evidence: RunEvidence, rows: Tensor) -> RunEvidence:
    """The evidence with only so many of the attacker's own images."""
    persons = evidence.persons and replace(evidence.persons, train=evidence.persons.train[rows])
    return replace(evidence, train=evidence.train.subset(rows), persons=persons)


def affordable(images: int, seconds_each: float, seconds: float) -> tuple[int, bool]:
    """How many images the attacker can learn from in the time, and whether also from their mirrored views.

    If the time does not suffice for all images, the number is a power of two. Two calls with the same budget then use
    the same number, so the second can reuse the results of the first.
    """
    if seconds_each <= 0 or 2 * images * seconds_each <= seconds:
        return images, True
    fit = int(seconds / seconds_each)
    if fit >= images:
        return images, False
    return min(images, max(FEWEST_IMAGES, 2 ** max(0, fit.bit_length() - 1))), False


def _without_blanks(desired: Tensor) -> Tensor:
    """Desired labels as attackers see them: a half in place of one that is lacking."""
    return desired.nan_to_num(0.5) if desired.is_floating_point() else desired


@torch.no_grad()
def _scores(task_exit: nn.Module, evidence: RunEvidence, bounded_NF: Tensor) -> Tensor:
    """The task exit's answers to bounded features, probabilities (N, K)."""
    kind = evidence.task.kind
    parts = [
        exit_logits(task_exit, evidence.mechanism, part.float().to(evidence.device), kind)
        for part in bounded_NF.split(BATCH)
    ]
    return torch.cat([probabilities(part, kind).cpu() for part in parts])


def _stored_scores(file: Path, ids: np.ndarray) -> Tensor | None:
    """The answers that the edge wrote, in the order of ``ids``; None where it wrote none."""
    if not file.exists():
        return None
    stored = load_file(file)
    place = {image: row for row, image in enumerate(stored["ids"].tolist())}
    if set(place) != set(ids.tolist()):
        raise RunError(f"{file}: is not about the images of the test split; has the data set changed since the run?")
    return stored["scores"][[place[image] for image in ids.tolist()]].float()


def _log_of_this_edge(run_dir: Path) -> FeatureReader:
    """The log of the edge whose folder is in the run directory. The cloud may hold logs of other edges beside it.

    Raises:
        RunError: it is not there.
    """
    cloud = run_dir / "cloud"
    run = EdgeRun.read(run_dir / "edge" / "run.json").run
    for edge in edges_of(cloud):
        log = FeatureReader(log_folder(cloud, edge), edge)
        if log.streams and log.streams[0].run == run:
            return log
    raise RunError(
        f"{cloud}: there is no feature log of this edge, so it is not that of this run; bring the right one with "
        "'smartedge collect'"
    )


def _released(log: FeatureReader, config: Config, ids: np.ndarray) -> Tensor:
    """The one release of every test image, decoded from the feature log in the order of ``ids``: float32 (N, *F).

    Raises:
        RunError: the log does not hold every test image exactly once.
    """
    folder = log.folder
    found: dict[int, Tensor] = {}
    for stream in log.streams:
        if stream.split != "test":
            continue
        for seq in range(stream.first_seq, min(stream.end_seq, log.next_seq)):
            batch = unpack(log.frame(seq).batch, stream)
            for image, features_F in zip(batch.ids.tolist(), torch.from_numpy(batch.features_BF), strict=True):
                if image in found:
                    raise RunError(f"{folder}: test image {image} was released more than once; this log is not one run")
                found[image] = features_F
    if set(found) != set(ids.tolist()):
        raise RunError(
            f"{folder}: holds {len(found)} test images, but the data set has {len(ids)} (or others); "
            "let the run finish, and audit it with the data set that it was trained on"
        )
    features_NF = torch.stack([found[image] for image in ids.tolist()])
    return to_input(features_NF, _CPU) if get_method(config.method).sends == "images" else features_NF


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{path}: the weights cannot be loaded ({error}); bring the file again from where the run was made"
        ) from error
