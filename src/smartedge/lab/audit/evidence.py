"""What the attacker holds: releases of the protected images as they crossed the link, and images of its own.

The threat model is that of DESIGN §5. The attacker knows the architecture, the front's weights, the codec and the noise
law. The protected images are the test split, whose released features are read from the feature log. The attacker's
own (auxiliary) images are the train and val splits; it sends them through the front, the noise law and the codec
itself, as often as it likes. The splits are disjoint by image, and by identity where the data set's are.

Letters: N images, V views, F the feature shape, K classes or outputs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.cloud.log import FeatureLog
from smartedge.codec import Codec, get_codec, unpack_frame
from smartedge.config import Config, load_config, load_run_config
from smartedge.data import DataSet, Split, batches
from smartedge.data.columns import read_columns
from smartedge.edge.protection import mechanism_of
from smartedge.edge.source import dataset_of
from smartedge.edge.step import edge_step, exit_logits
from smartedge.errors import ConfigError, RunError
from smartedge.files import write_json_atomically
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.models.exits import probabilities
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer, set_learning_rate
from smartedge.privacy.mechanisms import Discrete, Mechanism
from smartedge.runs.checkpoint import Checkpoints, save_weights
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import SplitName, Task

__all__ = [
    "Auxiliary",
    "Evidence",
    "gather",
    "gather_undefended",
    "is_undefended",
    "of_a_training_image",
    "undefended_config",
]

_BATCH = 128  # images through the front at a time
_FULL_PRECISION_BYTES = 256 * 2**20  # views larger than this are held in half precision
_MOST_RELEASES = 16  # of one image that are read together
_CERTAIN = 50.0  # log-odds that stand for certainty
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Auxiliary:
    """Labelled images that the attacker holds, of one split."""

    split: Split  # images and labels, by position
    views_VNF: tuple[Tensor, ...]  # bounded, noiseless features (N, *F): original, and mirrored (train only)
    labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    desired: Tensor  # int64 (N,) or float32 (N, K), the true desired labels

    def __len__(self) -> int:
        return len(self.desired)


@dataclass(frozen=True)
class Evidence:
    """Everything that an attack may use, and the truth that it is judged by."""

    name: str  # "defended", "undefended" or "training-image"
    config: Config  # of the run, or of what it would be undefended
    task: Task  # the desired label's
    feature_shape: tuple[int, ...]
    front: nn.Module  # to_input(images) → features; on ``device``, in evaluation mode, without gradients of its own
    mechanism: Mechanism
    noisy: bool  # whether the audited releases carry the mechanism's noise
    codec: Codec
    classes: Mapping[str, tuple[str, ...]]  # attribute → the names of its K classes
    train: Auxiliary
    val: Auxiliary
    test: Split  # the protected images; for judging, and for pictures of what an attack got
    test_ids: Tensor  # int64 (N,), in the order of the split
    test_features_NF: Tensor  # float32 (N, *F), as decoded from what crossed the link
    test_labels: Mapping[str, Tensor]  # attribute → int64 (N,); −1 where unknown
    test_desired: Tensor
    exit_scores: Mapping[SplitName, Tensor]  # the edge's own answers (N, K), probabilities; empty without an exit
    releases: int = 1  # of each image, whose mean is what the attacker has: of every law here it says all that they say
    labelled: bool = False  # whether the attacker sees the true desired label of each image beside its features

    @property
    def batch_size(self) -> int:
        """Images in a frame: what the codec encodes at once."""
        return self.config.train.batch_size

    @cached_property
    def device(self) -> torch.device:
        """Where the attacker's networks compute; what they are given, and what they find, is on the CPU."""
        return _device_of(self.config)

    @property
    def log_odds(self) -> float:
        """Of a discrete outcome: for a codeword that it holds, against one that it does not."""
        assert isinstance(self.mechanism, Discrete)
        return min(self.mechanism.log_odds, _CERTAIN) if self.noisy else _CERTAIN

    def bounded(self, images_BCHW: Tensor, *, mirrored: bool = False) -> Tensor:
        """uint8 images (B, 3, H, W) → bounded features without noise, float32 (B, *F); no gradients."""
        images_BCHW = images_BCHW.flip(-1) if mirrored else images_BCHW
        with torch.no_grad(), self.autocast():
            features_BF = self.front(to_input(images_BCHW, self.device))
        return self.mechanism.bound(features_BF.float()).cpu()

    def draw(
        self, auxiliary: Auxiliary, generator: torch.Generator, rows: Tensor | None = None, *, view: int | None = None
    ) -> Tensor:
        """A fresh release of the attacker's own images, as the cloud would decode it.

        Args:
            auxiliary: whose images.
            generator: where view and noise come from; a CPU generator.
            rows: int64 (N,), which images, in the order wanted; default all of them.
            view: always this one; default one at random for each image.

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
        """In which attackers compute: as the run did, so that more of their training fits into the time."""
        enabled = self.config.train.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def release(self, bounded_BF: Tensor, generator: torch.Generator) -> Tensor:
        """Noise by the mechanism's law and one round trip through the codec, for one frame: float32 (B, *F).

        Of several ``releases``, the mean.
        """
        total_BF = torch.zeros(())
        for _ in range(self.releases):
            noised_BF = self.mechanism.simulate(bounded_BF, generator=generator) if self.noisy else bounded_BF
            total_BF = total_BF + _round_trip(self.codec, noised_BF)
        return total_BF / self.releases

    def images(self, split: Split, rows: Tensor | None = None) -> Tensor:
        """Images of a split, uint8 (B, 3, H, W)."""
        positions = np.arange(len(split)) if rows is None else rows.numpy()
        return split.read(positions).images_BCHW


def gather(run_dir: Path, attributes: Sequence[str], *, name: str = "defended", monitor: Monitor) -> Evidence:
    """Collect the evidence that a finished run left.

    Args:
        run_dir: holds ``edge/`` (the front's weights are published) and ``cloud/`` (the feature log).
        attributes: the columns to be audited; desired ones may be among them.
        name: of the evidence.
        monitor: takes progress updates.

    Raises:
        RunError: the run has not finished, or one side's folder is missing.
        ConfigError: the method sends nothing.
        DataError: the data set has changed or has no such column.
    """
    config = load_run_config(run_dir)
    if config.method == "local":
        raise ConfigError(f"{run_dir}: method 'local' sends nothing, so there is nothing to attack")
    dataset, labels, classes = _open(config, attributes)
    front, task_exit, feature_shape = _trained_parts(config, dataset.task, run_dir / "edge")
    test_NF = _released(run_dir, config, dataset.splits["test"].ids)
    return _evidence(
        name,
        config,
        dataset,
        labels,
        classes,
        front,
        task_exit,
        feature_shape,
        test_NF=test_NF,
        scores_file=run_dir / "edge" / "predictions.safetensors",
        monitor=monitor,
    )


def gather_undefended(
    defended: Evidence,
    folder: Path,
    *,
    named: Path | None = None,
    monitor: Monitor,
    clock: Clock,
) -> Evidence:
    """The same network, cut and exit without bottleneck, noise and adversary: what the attacks are compared with.

    Args:
        defended: the audited run's evidence; returned under another name where it is undefended itself.
        folder: where the front that is trained for this, once, is kept.
        named: a finished run to take instead of training one.
        monitor: takes progress updates.
        clock: when it runs out the training ends, and goes on from its last whole epoch at the next call.

    Raises:
        ConfigError: ``named`` is defended itself, or learned from other images.
        RunError: ``named`` has not finished.
        OutOfTime: the front could not be trained to its end.
    """
    attributes = list(defended.classes)
    if named is not None:
        evidence = gather(named, attributes, name="undefended", monitor=monitor)
        _check_comparable(defended, evidence, named)
        return evidence
    if is_undefended(defended.config):
        return replace(defended, name="undefended")
    config = undefended_config(defended.config)
    dataset, labels, classes = _open(config, attributes)
    if _settings_of(folder) != config.identity():
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "front.safetensors").exists():
        _train_front(config, dataset, folder, monitor, clock)
    front, task_exit, feature_shape = _trained_parts(config, dataset.task, folder)
    return _evidence(
        "undefended",
        config,
        dataset,
        labels,
        classes,
        front,
        task_exit,
        feature_shape,
        test_NF=None,
        scores_file=None,
        monitor=monitor,
    )


def of_a_training_image(evidence: Evidence) -> Evidence | None:
    """What an attacker holds of a *training* image: all of its releases, and its desired label where that is in clear.

    The protected images stand for such images: their further releases are simulated. None where this is no more than
    the one release that crossed.
    """
    config = evidence.config
    noisy = evidence.mechanism.name != "none"
    releases = min(config.releases, _MOST_RELEASES) if noisy else 1
    labelled = config.dp.label_epsilon is None
    if releases == 1 and noisy == evidence.noisy and not labelled:
        return None
    stronger = replace(evidence, name="training-image", noisy=noisy, releases=releases, labelled=labelled)
    if releases == 1 and noisy == evidence.noisy:
        return stronger
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "audit", "releases"))
    rows = torch.arange(len(evidence.test))
    bounded_NF = torch.cat([evidence.bounded(evidence.images(evidence.test, part)) for part in rows.split(_BATCH)])
    parts = [stronger.release(part, generator) for part in bounded_NF.split(evidence.batch_size)]
    return replace(stronger, test_features_NF=torch.cat(parts))


def is_undefended(config: Config) -> bool:
    """Whether nothing protects what is sent: no bottleneck, no codewords, no noise, no adversary."""
    if config.method == "upload":  # the images themselves
        return True
    model = config.model
    narrowed = model.bottleneck is not None or model.codebook is not None
    return not narrowed and config.dp.mechanism == "none" and not config.suppresses


def undefended_config(config: Config) -> Config:
    """The settings of a run without what protects it."""
    raw = config.model_dump(mode="json")
    raw["model"] |= {"bottleneck": None, "codebook": None}
    if raw["codec"]["name"] == "code":  # which is for codewords
        raw["codec"]["name"] = None
    for section in ("adversary", "dp"):
        del raw[section]
    del raw["train"]["distill"]
    return load_config(raw)


# -- parts


def _open(
    config: Config, attributes: Sequence[str]
) -> tuple[DataSet, dict[SplitName, dict[str, Tensor]], dict[str, tuple[str, ...]]]:
    """The data set as the run opened it, and the labels of the audited columns."""
    data = config.data
    dataset = dataset_of(config)
    labels, classes = read_columns(
        dataset, data.path, attributes, image_size=data.image_size, limit=data.limit, cache_dir=data.cache_dir
    )
    return dataset, labels, classes


def _trained_parts(config: Config, task: Task, folder: Path) -> tuple[nn.Module, nn.Module | None, tuple[int, ...]]:
    """Front, task exit (None where the method has none) and feature shape, from one side's folder."""
    if config.method == "upload":
        return nn.Identity(), None, (3, config.data.image_size, config.data.image_size)
    divided = divide(**config.division(task.outputs))
    front = divided.front
    _load(front, folder / "front.safetensors")
    task_exit: nn.Module | None = None
    if config.method == "hierarchical":
        task_exit = divided.task_exit
        _load(task_exit, folder / "exit.safetensors")
    for module in (front, task_exit):
        if module is not None:
            module.to(_device_of(config)).eval().requires_grad_(False)
    return front, task_exit, divided.feature_shape


def _evidence(
    name: str,
    config: Config,
    dataset: DataSet,
    labels: Mapping[SplitName, Mapping[str, Tensor]],
    classes: Mapping[str, tuple[str, ...]],
    front: nn.Module,
    task_exit: nn.Module | None,
    feature_shape: tuple[int, ...],
    *,
    test_NF: Tensor | None,
    scores_file: Path | None,
    monitor: Monitor,
) -> Evidence:
    """Send all images through the front. Where no log is at hand, the test images are released here, once."""
    mechanism = mechanism_of(config, feature_shape)
    split_of = dataset.splits
    nothing = torch.empty(0)
    evidence = Evidence(
        name=name,
        config=config,
        task=dataset.task,
        feature_shape=feature_shape,
        front=front,
        mechanism=mechanism,
        noisy=config.dp.mechanism != "none" and config.dp.apply_to == "always",
        codec=get_codec(config.codec_name),
        classes=classes,
        train=Auxiliary(split_of["train"], (), labels["train"], split_of["train"].labels),
        val=Auxiliary(split_of["val"], (), labels["val"], split_of["val"].labels),
        test=split_of["test"],
        test_ids=torch.from_numpy(split_of["test"].ids.copy()),
        test_features_NF=nothing,
        test_labels=labels["test"],
        test_desired=split_of["test"].labels,
        exit_scores={},
    )
    clean: dict[SplitName, Tensor] = {}
    scores: dict[SplitName, Tensor] = {}
    for split in ("train", "val", "test"):
        clean[split] = _views(evidence, split_of[split], split, monitor, mirrored=False)
        if task_exit is not None:
            scores[split] = _scores(task_exit, mechanism, clean[split], dataset.task.kind, evidence.device)
    if scores_file is not None and task_exit is not None:
        scores["test"] = _stored_scores(scores_file, evidence.test_ids, scores["test"])
    if test_NF is None:
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "audit", "release"))
        parts = [evidence.release(part.float(), generator) for part in clean["test"].split(evidence.batch_size)]
        test_NF = torch.cat(parts)
    mirrored = _views(evidence, split_of["train"], "train", monitor, mirrored=True)
    return replace(
        evidence,
        train=replace(evidence.train, views_VNF=(clean["train"], mirrored)),
        val=replace(evidence.val, views_VNF=(clean["val"],)),
        test_features_NF=test_NF,
        exit_scores=scores,
    )


def _views(evidence: Evidence, split: Split, split_name: str, monitor: Monitor, *, mirrored: bool) -> Tensor:
    """Bounded features of a whole split, (N, *F); in half precision where they would fill the memory."""
    bytes_needed = 4 * len(split) * int(np.prod(evidence.feature_shape))
    dtype = torch.float16 if bytes_needed > _FULL_PRECISION_BYTES else torch.float32
    views_NF = torch.empty((len(split), *evidence.feature_shape), dtype=dtype)
    phase = f"{evidence.name} features {split_name}{' mirrored' if mirrored else ''}"
    for start in range(0, len(split), _BATCH):
        rows = torch.arange(start, min(start + _BATCH, len(split)))
        views_NF[rows] = evidence.bounded(evidence.images(split, rows), mirrored=mirrored).to(dtype)
        monitor.update(Update("audit", phase, int(rows[-1]) + 1, len(split)))
    return views_NF


@torch.no_grad()
def _scores(
    task_exit: nn.Module, mechanism: Mechanism, bounded_NF: Tensor, task_kind: str, device: torch.device
) -> Tensor:
    """The edge's answers to features that it bounded itself, probabilities (N, K)."""
    parts = [exit_logits(task_exit, mechanism, part.float().to(device), task_kind) for part in bounded_NF.split(_BATCH)]
    return torch.cat([probabilities(part, task_kind).cpu() for part in parts])


def _stored_scores(file: Path, ids: Tensor, otherwise: Tensor) -> Tensor:
    """The edge's answers as it wrote them, in the order of ``ids``; ``otherwise`` where it wrote none."""
    if not file.exists():
        return otherwise
    stored = load_file(file)
    place = {image: row for row, image in enumerate(stored["ids"].tolist())}
    if set(place) != set(ids.tolist()):
        raise RunError(f"{file}: is not about the images of the test split; has the data set changed since the run?")
    return stored["scores"][[place[image] for image in ids.tolist()]].float()


def _released(run_dir: Path, config: Config, ids: np.ndarray) -> Tensor:
    """The one release of every test image, decoded from the feature log in the order of ``ids``: float32 (N, *F).

    Raises:
        RunError: the log is not there, or does not hold every test image exactly once.
    """
    folder = run_dir / "cloud" / "log"
    if not (folder / "streams.jsonl").exists():
        raise RunError(
            f"{folder}: there is no feature log; the audit needs both sides' folders, edge/ and cloud/, in one run "
            "directory: copy the missing one there"
        )
    found: dict[int, Tensor] = {}
    with closing(FeatureLog(folder)) as log:
        for stream in log.streams:
            if stream.split != "test":
                continue
            for seq in range(stream.first_seq, min(stream.first_seq + stream.frames, log.next_seq)):
                batch = unpack_frame(log.frame(seq), stream)
                for image, features_F in zip(batch.ids.tolist(), batch.features_BF, strict=True):
                    if image in found:
                        raise RunError(
                            f"{folder}: test image {image} was released more than once; this log is not one run"
                        )
                    found[image] = features_F
    if set(found) != set(ids.tolist()):
        raise RunError(
            f"{folder}: holds {len(found)} test images, but the data set has {len(ids)} (or others); "
            "let the run finish, and audit it with the data set that it was trained on"
        )
    features_NF = torch.stack([found[image] for image in ids.tolist()])
    return to_input(features_NF, _CPU) if config.method == "upload" else features_NF


def _round_trip(codec: Codec, features_BF: Tensor) -> Tensor:
    """Encode and decode one frame. Images (method ``upload``) are coded as the bytes that they are."""
    images = codec.dtype == torch.uint8
    coded_BF = _to_pixels(features_BF) if images else features_BF.float()
    payload, side = codec.encode(coded_BF)
    shape = tuple(coded_BF.shape)
    decoded_BF = codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=coded_BF.dtype)
    return to_input(decoded_BF, _CPU) if images else decoded_BF


def _to_pixels(inputs_BCHW: Tensor) -> Tensor:
    """The inverse of :func:`smartedge.models.network.to_input`."""
    lowest, step = (to_input(torch.tensor([[[[value]]]], dtype=torch.uint8), _CPU) for value in (0, 1))
    return ((inputs_BCHW - lowest) / (step - lowest)).round().clamp(0, 255).to(torch.uint8)


def _settings_of(folder: Path) -> object:
    """Those of the front that is kept there, or begun; None where there is none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_comparable(defended: Evidence, undefended: Evidence, named: Path) -> None:
    if not is_undefended(undefended.config):
        raise ConfigError(f"--undefended {named}: that run has a bottleneck, noise or adversarial exits of its own")
    one, other = defended.config.data, undefended.config.data
    if (one.path, one.image_size, one.limit) != (other.path, other.image_size, other.limit):
        raise ConfigError(f"--undefended {named}: that run learned from other images; give one with the same 'data'")
    if not torch.equal(defended.test_ids, undefended.test_ids):
        raise ConfigError(f"--undefended {named}: that run was tested on other images; give one with the same 'seed'")
    for key, value in (
        ("data.desired", lambda e: e.task.columns),
        ("model.name", lambda e: e.config.model.name),
        ("model.cut", lambda e: e.config.model.cut),
    ):
        if value(defended) != value(undefended):
            raise ConfigError(
                f"--undefended {named}: its {key} is {value(undefended)}, and the audited run's is {value(defended)}; "
                "give a run that differs in its protection alone"
            )


def _train_front(config: Config, dataset: DataSet, folder: Path, monitor: Monitor, clock: Clock) -> None:
    """Stage 1 on the edge without protection: front and task exit, with the run's own settings; resumes by epoch."""
    train, task = config.train, dataset.task
    divided = divide(**config.division(task.outputs))
    device = _device_of(config)
    modules: dict[str, nn.Module] = {"front": divided.front.to(device), "exit": divided.task_exit.to(device)}
    optimizer = make_optimizer(
        modules.values(),
        name=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
    )
    random = RandomStream(derive_seed(config.seed, "edge"), device)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(folder / "config.json", config.identity())
    checkpoints = Checkpoints(folder / "checkpoints")
    epoch, step = 0, 0
    if numbers := checkpoints.numbers():
        state = checkpoints.load(numbers[-1])
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name], strict=True)
        optimizer.load_state_dict(state["optimizer"])
        random.state, epoch, step = state["random"], state["epoch"], state["step"]
    epochs = config.front_epochs if config.front_first else config.epochs
    split = dataset.splits["train"]
    per_epoch = max(1, len(split) // train.batch_size)
    steps = per_epoch * epochs
    while epoch < epochs:
        for module in modules.values():
            module.train()
        with batches(
            split,
            train.batch_size,
            seed=config.seed,
            epoch=epoch,
            shuffle=True,
            augment=config.data.augment,
            drop_last=len(split) >= train.batch_size,
        ) as loader:
            for batch in loader:
                if clock.remaining() == 0:
                    raise OutOfTime(
                        f"the undefended front is at epoch {epoch + 1} of {epochs}; another call goes on there"
                    )
                set_learning_rate(optimizer, peak=train.lr, step=step, steps=steps)
                with random.active():
                    edge_step(
                        modules["front"],
                        modules["exit"],
                        optimizer,
                        to_input(batch.images_BCHW, device),
                        batch.labels.to(device),
                        task.kind,
                        precision=train.precision,
                        label_smoothing=train.label_smoothing,
                        clip_norm=train.clip_grad_norm,
                    )
                step += 1
                if step % 4 == 0 or step == steps:
                    text = f"epoch {epoch + 1}/{epochs}"
                    monitor.update(Update("audit", "undefended front", step, steps, text))
        epoch += 1
        checkpoints.save(
            epoch,
            {
                "modules": {name: module.state_dict() for name, module in modules.items()},
                "optimizer": optimizer.state_dict(),
                "random": random.state,
                "epoch": epoch,
                "step": step,
            },
        )
        checkpoints.forget_before(epoch)
    save_weights(folder / "exit.safetensors", modules["exit"].state_dict())
    save_weights(folder / "front.safetensors", modules["front"].state_dict())  # last: it says that all is there
    checkpoints.forget_before(epochs + 1)


def _device_of(config: Config) -> torch.device:
    return pick_device(config.hardware.cloud_device, "hardware.cloud_device")


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{path}: the weights cannot be loaded ({error}); the audit needs both sides' folders, edge/ and "
            "cloud/, of a finished run in one run directory"
        ) from error
