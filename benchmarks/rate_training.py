"""One front, one log, one back of benchmarks/rate_accuracy.py: how they are trained, and what is sent between them."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rate_tasks import CUTMIX, MIX, SHIFT, TWICE, Sent
from torch import Tensor
from torch.nn import functional

from smartedge.artifacts.metrics import read_metrics
from smartedge.cloud.inputs import Ready
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training.from_logs import TrainingFromLogs
from smartedge.codec import get_codec, unpack
from smartedge.config import Config, load_config
from smartedge.edge.runner import EdgeRunner
from smartedge.launch.datasets import open_data
from smartedge.methods.back_step import CloudStep
from smartedge.methods.base import get_method
from smartedge.methods.loop import Progress
from smartedge.methods.options import options_of
from smartedge.models.cutting.cut import list_cuts
from smartedge.models.exits import task_loss
from smartedge.models.network import network_of
from smartedge.models.optim import apply_gradients
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.types import EncodedBatch, FeatureBatch
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.memory import MemoryLink

__all__ = ["releasing", "run_edge", "train_back", "whole_run"]


def releasing(config: Config, sent: Sent) -> Config:
    """The edge's settings: with ``twice`` every image is released under two augmentations, not once as it is."""
    if TWICE not in sent.variants:
        return config
    return load_config(config, {"schedule": "two-stage", "epochs": 2, "train": {"front_epochs": config.epochs}})


def run_edge(config: Config, folder: Path) -> dict[str, Any]:
    """The edge's part of a run, what it sends lossless into a log; the exit's figures, and bytes of an image otherwise.

    The front may learn for a rate, but the log gets its features as they are: each codec encodes them once.
    """
    begun = time.monotonic()
    for part in ("edge", "log"):
        shutil.rmtree(folder / part, ignore_errors=True)
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        link, monitor = MemoryLink(StoreHandler(log)), Quiet()
        runner = EdgeRunner(
            config, open_data(config, monitor), link, folder / "edge", monitor, resume=False, threaded=False
        )
        if config.codec_name.startswith("learned"):
            assert runner.gate is not None
            runner.config = load_config(config, {"codec": {"name": "float32", "bytes": None}})
            runner.streams = replace(runner.streams, config=runner.config)
            runner.sender = runner._make_sender(link, runner.gate)
        runner.run(threading.Event())
    summary = json.loads((folder / "edge" / "summary.json").read_text())
    reference = summary["reference_bytes"]
    if get_method(config.method).has_exit:
        reference |= {"plain_map_float32": plain_map_bytes(config)}
    return {
        "exit": summary["test"],
        "reference_bytes": reference,
        "seconds": {"edge": time.monotonic() - begun},
    }


def plain_map_bytes(config: Config) -> int:
    """Of the tensor at the cut as float32, without a bottleneck."""
    cuts = list_cuts(network_of(config.division(2)), config.data.image_size.shape)
    return 4 * math.prod(next(cut.shape for cut in cuts if cut.name == config.model.cut))


def train_back(config: Config, lossless: Any, folder: Path, sent: Sent) -> dict[str, Any]:
    """Send what was logged by the settings' codec, and train on what came; figures, and bytes per training image."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.closing(FeatureLog(folder / "log")) as log:
        up = resend(config, lossless, log)
        back, _ = get_method(config.method).cloud(config, log.streams[0].outputs)
        if TWICE in sent.variants:  # as many updates as with each image once
            config = load_config(config, {"epochs": config.epochs // 2})
        trainer = trainer_of(sent)(
            config,
            back,
            task_kind=log.streams[0].task_kind,
            device=pick_device(config.hardware.cloud_device, "hardware.cloud_device"),
            folder=folder,
            monitor=Quiet(),
            resume=False,
        )

        @functools.cache  # decoding takes longer than a step on a GPU
        def read(key: tuple[str, int]) -> FeatureBatch:
            return unpack(log.frame(key[1]).batch, log.header_of(key[1]))

        frames = Shuffled({"edge": log}, read, batch_size=config.train.batch_size, seed=config.seed)
        TrainingFromLogs(trainer, frames).run()
    assert trainer.test is not None
    val = [row for row in read_metrics(folder / "metrics.jsonl") if row.split == "val"][-1]
    shutil.rmtree(folder)  # large
    return {"bytes_up_per_image": up, "val": val.model_dump(), "test": trainer.test.model_dump()}


def whole_run(config: Config) -> dict[str, Any]:
    """A run in which features are sent anew in each epoch; figures, and bytes of a training image and epoch."""
    begun, folder = time.monotonic(), config.run_dir
    shutil.rmtree(folder, ignore_errors=True)
    results: Any = train(config, monitor=Quiet()).as_json()
    val = [row for row in read_metrics(folder / "cloud" / "metrics.jsonl") if row.split == "val"][-1]
    return {
        "exit": results["test"]["exit"],
        "test": results["test"]["back"],
        "val": val.model_dump(),
        "bytes_up_per_image": results["bytes_per_image"]["up"],
        "reference_bytes": {**results["bytes_per_image"]["reference"], "plain_map_float32": plain_map_bytes(config)},
        "seconds": {"both": time.monotonic() - begun},
    }


class Unsaved(BackTrainer):
    """Writes no checkpoints: they are large, and no point is resumed."""

    def save(self) -> None:
        """Nothing."""

    def _entering(self, ready: Ready, progress: Progress) -> Tensor:
        """What the back takes, on its device."""
        assert isinstance(ready.batch, FeatureBatch)
        taken = self.inputs.of(ready.batch, (progress.step,)) if ready.inputs is None else ready.inputs[0]
        assert isinstance(taken, Tensor)
        return taken


class Shifting(Unsaved):
    """Moves feature maps at random by one place each way."""

    def learn_whole(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        maps_BCHW = self._entering(ready, progress)
        padded = functional.pad(maps_BCHW, (1, 1, 1, 1), mode="replicate")
        windows = padded.unfold(2, maps_BCHW.shape[2], 1).unfold(3, maps_BCHW.shape[3], 1)  # (B, C, 3, 3, H, W)
        down_B, right_B = torch.randint(0, 3, (2, len(windows)), device=windows.device)
        moved_BCHW = windows[torch.arange(len(windows), device=windows.device), :, down_B, right_B]
        moved_BCHW = moved_BCHW.contiguous(memory_format=torch.channels_last)
        return super().learn_whole(replace(ready, inputs={0: moved_BCHW}), progress, want_gradient=want_gradient)


class Mixing(Unsaved):
    """Learns from mixtures of two images or maps, and of their labels.

    Mixup (Zhang et al., arXiv 1710.09412; of features: Verma et al., arXiv 1806.05236), with shares that are uniform.
    With ``cuts`` a rectangle of one is put into the other: CutMix (Yun et al., arXiv 1905.04899).
    """

    cuts = False

    def learn_whole(self, ready: Ready, progress: Progress, *, want_gradient: bool = False) -> CloudStep:
        self.back.train()
        batch = ready.batch
        assert isinstance(batch, FeatureBatch)
        options, labels_B = options_of(self.config), torch.from_numpy(batch.labels)
        inputs_BF, own_B = self._entering(ready, progress), labels_B.to(self.device)
        share, others_B = float(torch.rand(())), torch.randperm(len(labels_B)).to(self.device)
        other_BF, other_B = inputs_BF[others_B], own_B[others_B]
        if self.cuts:
            (height, width), side = inputs_BF.shape[2:], (1 - share) ** 0.5
            top, left = (int(torch.randint(0, size, ())) for size in (height, width))
            bottom, right = (min(at + round(side * size), size) for at, size in ((top, height), (left, width)))
            inputs_BF = inputs_BF.clone()
            inputs_BF[:, :, top:bottom, left:right] = other_BF[:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            inputs_BF = share * inputs_BF + (1 - share) * other_BF
        with options.autocast(self.device):
            logits_BK = self.back(inputs_BF)
        own, other = (
            task_loss(logits_BK, wanted, "single", label_smoothing=options.label_smoothing)
            for wanted in (own_B, other_B)
        )
        loss = share * own + (1 - share) * other
        loss.backward()
        apply_gradients(self.optimizer, clip_norm=options.clip_norm)
        step = CloudStep(logits_BK.detach().float(), loss.detach(), None)
        self.predictions["train"].add(batch.ids, labels_B, step.logits_BK, step.loss)
        self.latest_loss = step.loss
        return step


class CutMixing(Mixing):
    """See :class:`Mixing`."""

    cuts = True


def trainer_of(sent: Sent) -> type[Unsaved]:
    """What trains the back."""
    kinds: dict[str, type[Unsaved]] = {SHIFT: Shifting, MIX: Mixing, CUTMIX: CutMixing}
    return next((kinds[variant] for variant in sent.variants if variant in kinds), Unsaved)


def resend(config: Config, source: Any, target: Any) -> float:
    """Every frame of a log, encoded anew, over a socket into another log; bytes per training image at the socket."""
    codec = get_codec(config.codec_name)
    receiver = GrpcReceiver(StoreHandler(target), "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}", connect_timeout_s=10)
    up, images = 0, set[int]()
    for header in source.streams:
        before = link.counters().up
        link.open(replace(header, codec=codec.name, agreement=json.dumps(config.agreement(), sort_keys=True)))
        for seq in range(header.first_seq, header.first_seq + header.frames):
            frame = source.frame(seq)
            batch = unpack(frame.batch, header)
            encoded = EncodedBatch(frame.batch.ids, frame.batch.labels, *codec.encode(batch.features_BF))
            link.write(serialise(replace(frame, batch=encoded), header))
            images.update(batch.ids.tolist() if header.split == "train" else ())
        link.close()
        if header.split == "train":
            up += link.counters().up - before
    link.disconnect()
    receiver.close()
    return up / len(images)
