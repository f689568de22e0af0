"""Measures one part of a network on this machine; run as a process of its own, so that its memory is its own.

    python -m smartedge.lab.plan.measure < request.json

The request and the answer are one JSON object each, see :func:`main`. A fresh process per cut is what makes two figures
honest: the largest resident set, and what the first batch costs. The steps that are timed are those that runs make
(:mod:`smartedge.methods.learner`, :mod:`smartedge.methods.front_step`, :mod:`smartedge.methods.back_step`).
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smartedge.augment import augment
from smartedge.cloud.log import FeatureLog, LogOnly
from smartedge.codec import Codec, get_codec, reconstruction_error
from smartedge.config import Config, load_config
from smartedge.data import DataSet
from smartedge.edge.protection import open_gate
from smartedge.edge.source import dataset_of
from smartedge.errors import CodecError, DataError, SmartEdgeError
from smartedge.lab.plan.profile import CheckpointCost, CodecFigures, Timing, Transport, WholeFigures
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.methods.base import get_method
from smartedge.methods.front_step import split_finish, split_start
from smartedge.methods.learner import Learner
from smartedge.methods.loop import Progress, take_step
from smartedge.methods.mechanism import mechanism_of
from smartedge.models import zoo
from smartedge.models.cut import list_cuts
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer
from smartedge.runs.checkpoint import Checkpoints
from smartedge.runs.machine import peak_rss_bytes, pick_device, rss_bytes
from smartedge.types import EncodedBatch, Frame, ImageBatch, StreamHeader, Task
from smartedge.wire.flight import FlightLink, FlightReceiver
from smartedge.wire.frame import PROTOCOL

__all__ = ["Images", "figures_of_cut", "figures_of_whole", "main", "sample_images", "steps_on_demand"]

_BATCHES = 4  # different batches of images, taken in turn


@dataclass(frozen=True)
class Images:
    """What is sent through the network to time it."""

    batches: tuple[ImageBatch, ...]  # full ones
    task: Task
    dataset: DataSet | None  # None where they are made up
    data: Timing  # reading and augmenting
    what: str  # for people

    @property
    def counts(self) -> dict[str, int]:
        """Images by split; empty where they are made up."""
        return {str(name): len(split) for name, split in self.dataset.splits.items()} if self.dataset else {}


def sample_images(config: Config) -> Images:
    """A few batches of the data set that the settings name; where it is not here, of random pixels.

    Raises:
        DataError: the data set is not here and the settings hide a column of it, so that labels are needed.
    """
    data, size = config.data, config.train.batch_size
    try:
        dataset = dataset_of(config)
    except DataError:
        if data.sensitive:
            raise
        return _random_images(config)
    split = dataset.splits["train"]
    rng = np.random.default_rng(config.seed)
    places = rng.permutation(len(split))
    size = min(size, len(split))
    found: dict[int, ImageBatch] = {}

    def read(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        batch = split.read(np.roll(places, number * size)[:size])
        images_BCHW = augment(batch.images_BCHW, generator=generator, kind=data.augment)
        found[number % _BATCHES] = replace(batch, images_BCHW=images_BCHW)

    reading = timed(read, images=size, repeats=2 * _BATCHES)
    return Images(tuple(found.values()), dataset.task, dataset, reading, f"images of {dataset.name}")


def _random_images(config: Config) -> Images:
    desired, size, side = config.data.desired, config.train.batch_size, config.data.image_size
    generator = torch.Generator().manual_seed(0)
    if isinstance(desired, str):
        task = Task("single", (desired,), ("no", "yes"))
        labels = torch.randint(0, 2, (size,), generator=generator)
    else:
        task = Task("multi", tuple(desired), tuple(desired))
        labels = torch.randint(0, 2, (size, len(desired)), generator=generator).float()
    pixels_BCHW = torch.randint(0, 256, (size, 3, side, side), generator=generator, dtype=torch.uint8)
    batch = ImageBatch(np.arange(size), pixels_BCHW, labels)
    nothing = Timing(seconds=0.0, cpu_seconds=0.0, spread=0.0, first_seconds=0.0)
    return Images((batch,), task, None, nothing, f"random pixels: {config.data.path} is not on this machine")


def timed(work: Callable[[int], object], *, images: int, repeats: int) -> Timing:
    """Median of ``repeats`` calls after two that do not count, ``work(number)``, each over so many images."""
    wall: list[float] = []
    cpu: list[float] = []
    for number in range(repeats + 2):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        work(number)
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - begun_cpu)
    middle = statistics.median(wall[2:])
    quarters = np.percentile(wall[2:], [25, 75])
    return Timing(
        seconds=middle / images,
        cpu_seconds=statistics.median(cpu[2:]) / images,
        spread=float(quarters[1] - quarters[0]) / middle if middle else 0.0,
        first_seconds=max(0.0, wall[0] - middle),
    )


def figures_of_cut(config: Config, codecs: Sequence[str], images: Images, *, repeats: int) -> dict[str, Any]:
    """Everything about ``config.model.cut``: :class:`~smartedge.lab.plan.profile.CutFigures` but for its place.

    Returns:
        ``figures`` as a mapping, and ``left_out``: codec → why it does not encode these features.
    """
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    divide(**config.division(images.task.outputs))  # what is slow the first time (imports) is not building
    begun = time.perf_counter()
    learner = get_method(config.method).edge(config, images.task, device, images.dataset)
    build_seconds = time.perf_counter() - begun
    front_step, front_forward, features_BF = _edge_side(learner, images, repeats)
    # Released and encoded here too, so that the memory it takes is part of the peak.
    release, released_BF = _released(config, images, features_BF, repeats)
    get_codec(config.codec_name).encode(released_BF)
    edge_peak = _own_peak_bytes()
    front_state = _tensor_bytes(learner.state())
    figures_of_codecs, left_out = _codec_figures(codecs, released_BF, repeats)
    split_forward, split_backward = _split_side(config, learner, images, repeats)
    shape = learner.feature_shape
    del learner
    gc.collect()
    cloud = _cloud_side(config, images, released_BF, repeats)
    figures = {
        "shape": shape,
        "front_step": front_step,
        "front_forward": front_forward,
        "split_forward": split_forward,
        "split_backward": split_backward,
        "release": release,
        "build_seconds": build_seconds,
        "edge_peak_bytes": edge_peak,
        "front_state_bytes": front_state,
        "codecs": figures_of_codecs,
        **cloud,
    }
    return {"figures": figures, "left_out": left_out}


def _edge_side(learner: Learner, images: Images, repeats: int) -> tuple[Timing, Timing, Tensor]:
    """Time of a training step and of a forward pass, and what the front then gives (B, *F)."""
    given = images.batches
    size = len(given[0].ids)
    progress = Progress(1, 10 * (repeats + 2))

    def learn(number: int) -> object:
        return take_step(learner.learn, given[number % len(given)], progress, rates=learner.rates)

    step = timed(learn, images=size, repeats=repeats)

    def forward(number: int) -> Tensor:
        features_BF, logits_BK = learner.infer(given[number % len(given)])
        found = features_BF if features_BF is not None else logits_BK
        assert found is not None
        return found.cpu()

    return step, timed(forward, images=size, repeats=repeats), forward(0)


def _released(config: Config, images: Images, sent_BF: Tensor, repeats: int) -> tuple[Timing, Tensor]:
    """Time to put a batch through the gate (clip, ledger, noise), and what comes out."""
    ids, labels, size = images.batches[0].ids, images.batches[0].labels, len(sent_BF)
    with tempfile.TemporaryDirectory(dir=_existing_parent(config.run_dir)) as folder:
        mechanism = mechanism_of(config, tuple(sent_BF.shape[1:]))
        gate = open_gate(config, Path(folder), "profile", mechanism, images.task, existing=False)

        def release(number: int) -> Tensor:
            # Other ids each time: no image exceeds its budget.
            return gate.release(ids + 10**6 * number, sent_BF, labels, split="train", seq=number).features_BF

        try:
            return timed(release, images=size, repeats=repeats), release(repeats + 2)
        finally:
            gate.ledger.close()


def _split_side(config: Config, learner: Learner, images: Images, repeats: int) -> tuple[Timing, Timing]:
    """The two halves of split learning's step on the edge; the gradient that comes back is made up."""
    train, given = config.train, images.batches
    front = learner.modules["front"].train()
    optimizer = make_optimizer(
        [front], name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    device = next(front.parameters()).device
    forward_s: list[float] = []

    def both(number: int) -> None:
        begun = time.perf_counter()
        inputs = to_input(given[number % len(given)].images_BCHW, device, channels_last=train.channels_last)
        features_BF = split_start(front, inputs, precision=train.precision)
        features_BF.detach().cpu()
        forward_s.append(time.perf_counter() - begun)
        split_finish(optimizer, features_BF, torch.full_like(features_BF, 1e-6), clip_norm=train.clip_grad_norm)
        _wait(device)

    size = len(given[0].ids)
    whole = timed(both, images=size, repeats=repeats)
    first = statistics.median(forward_s[2:]) / size
    share = first / whole.seconds if whole.seconds else 0.0
    parts = (first, max(0.0, whole.seconds - first))
    return tuple(  # type: ignore[return-value]
        Timing(
            seconds=seconds,
            cpu_seconds=whole.cpu_seconds * part,
            spread=whole.spread,
            first_seconds=whole.first_seconds * part,
        )
        for seconds, part in zip(parts, (share, 1 - share), strict=True)
    )


def _cloud_side(config: Config, images: Images, features_BF: Tensor, repeats: int) -> dict[str, Any]:
    train, size = config.train, len(features_BF)
    device = pick_device(config.hardware.cloud_device, "hardware.cloud_device")
    back = divide(**config.division(images.task.outputs)).back.to(device)
    if train.channels_last:
        back.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(
        [back], name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    labels = images.batches[0].labels.to(device)

    def inputs() -> Tensor:
        moved_BF = features_BF.to(device)
        last = train.channels_last and moved_BF.dim() == 4
        return moved_BF.contiguous(memory_format=torch.channels_last) if last else moved_BF

    def step(want_gradient: bool) -> None:
        back.train()
        cloud_step(
            back,
            optimizer,
            inputs(),
            labels,
            images.task.kind,
            want_gradient=want_gradient,
            precision=train.precision,
            clip_norm=train.clip_grad_norm,
        )

    def forward(number: int) -> None:
        back.eval()
        cloud_forward(back, inputs(), precision=train.precision).cpu()

    return {
        "back_step": timed(lambda _: step(False), images=size, repeats=repeats),
        "back_step_gradient": timed(lambda _: step(True), images=size, repeats=repeats),
        "back_forward": timed(forward, images=size, repeats=repeats),
        "back_state_bytes": _tensor_bytes([back.state_dict(), optimizer.state_dict()]),
    }


def _codec_figures(
    names: Sequence[str], features_BF: Tensor, repeats: int
) -> tuple[dict[str, CodecFigures], dict[str, str]]:
    """Codec → figures on these features, and codec → why it does not take them."""
    found: dict[str, CodecFigures] = {}
    left_out: dict[str, str] = {}
    for name in names:
        codec = get_codec(name)
        if codec.dtype != features_BF.dtype:
            continue
        try:
            found[name] = _codec_on(codec, features_BF, repeats)
        except CodecError as error:
            left_out[name] = str(error)
    return found, left_out


def _codec_on(codec: Codec, features_BF: Tensor, repeats: int) -> CodecFigures:
    size, shape = len(features_BF), tuple(features_BF.shape[1:])
    payload, side = codec.encode(features_BF)

    def decode(number: int) -> Tensor:
        return codec.decode(payload, side, batch=size, feature_shape=shape, dtype=features_BF.dtype)

    return CodecFigures(
        encode=timed(lambda _: codec.encode(features_BF), images=size, repeats=repeats),
        decode=timed(decode, images=size, repeats=repeats),
        bytes_per_image=(len(payload) + len(side)) / size,
        rmse=reconstruction_error(codec, features_BF)["rmse"],
    )


def figures_of_whole(config: Config, codecs: Sequence[str], images: Images, *, repeats: int) -> dict[str, Any]:
    """The undivided network, image codecs, and what does not depend on the network: disk, loopback, data.

    Returns:
        ``whole``, ``checkpoint``, ``transport``, ``data``, ``counts``, ``features``, ``outputs``, ``all_cuts`` and
        ``left_out``.
    """
    task, side = images.task, config.data.image_size
    recorded = zoo.build(**config.whole(task.outputs))
    cuts = list_cuts(recorded, (3, side, side))
    del recorded
    gc.collect()
    baseline = rss_bytes()
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    begun = time.perf_counter()
    learner = get_method(config.method).edge(config, task, device)
    build_seconds = time.perf_counter() - begun
    step, forward, _ = _edge_side(learner, images, repeats)
    peak, state = _own_peak_bytes(), _tensor_bytes(learner.state())
    release, _ = _released(config, images, images.batches[0].images_BCHW, repeats)
    image_codecs, left_out = _codec_figures(codecs, images.batches[0].images_BCHW, repeats)
    whole = WholeFigures(
        step=step,
        forward=forward,
        flops=cuts[0].front_flops + cuts[0].back_flops if cuts else 0,
        build_seconds=build_seconds,
        peak_bytes=peak,
        baseline_bytes=baseline,
        state_bytes=state,
        release=release,
        codecs=image_codecs,
    )
    with tempfile.TemporaryDirectory(dir=_existing_parent(config.run_dir)) as folder:
        disk, transport = _checkpoint_cost(Path(folder)), _transport_cost(Path(folder), repeats)
    return {
        "whole": whole,
        "checkpoint": disk,
        "transport": transport,
        "data": images.data,
        "counts": images.counts,
        "features": images.what,
        "outputs": task.outputs,
        "all_cuts": [[cut.name, cut.front_flops, cut.back_flops, cut.activation_bytes] for cut in cuts],
        "left_out": left_out,
    }


def steps_on_demand(config: Config, images: Images, *, repeats: int) -> Iterator[Timing]:
    """Training steps of the undivided network, timed anew for each item that is asked for."""
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    learner = get_method(config.method).edge(config, images.task, device)
    progress = Progress(1, 10 * (repeats + 2))
    given, size = images.batches, len(images.batches[0].ids)

    def step(number: int) -> object:
        return take_step(learner.learn, given[number % len(given)], progress, rates=learner.rates)

    for number in range(2):
        step(number)
    while True:
        yield timed(step, images=size, repeats=repeats)


def _checkpoint_cost(folder: Path) -> CheckpointCost:
    """Seconds per checkpoint and per byte, from a small one and a large one."""
    seconds: dict[int, float] = {}
    for numbers in (2**14, 2**23):  # 64 KiB, 32 MiB
        store, state = Checkpoints(folder / str(numbers)), {"weights": torch.zeros(numbers)}
        tries = []
        for number in range(3):
            begun = time.perf_counter()
            store.save(number, state)
            tries.append(time.perf_counter() - begun)
        seconds[4 * numbers] = statistics.median(tries)
    fixed, per_byte = _line(seconds)
    return CheckpointCost(seconds=fixed, seconds_per_byte=per_byte)


def _transport_cost(folder: Path, repeats: int) -> Transport:
    """Seconds per frame and per byte over loopback, log included, from small frames and large ones."""
    wall: dict[int, float] = {}
    cpu: dict[int, float] = {}
    frames, batch = min(4 * repeats, 31), 64  # so few that each is a message of its own
    for numbers in (16, 4096):
        shape, payload = (numbers,), np.random.default_rng(0).standard_normal((batch, numbers), np.float32).tobytes()
        encoded = EncodedBatch(np.arange(batch), np.zeros(batch, np.int64), payload, b"")
        header = StreamHeader(
            protocol=PROTOCOL,
            run="profile",
            agreement="{}",
            method="hierarchical",
            schedule="joint",
            codec="float32",
            feature_shape=shape,
            feature_dtype="float32",
            task_kind="single",
            outputs=2,
            batch_size=batch,
            epoch=0,
            split="train",
            first_seq=0,
            frames=frames,
            train_steps=frames,
        )
        log = FeatureLog(folder / f"log-{numbers}")
        receiver = FlightReceiver(LogOnly(log), "127.0.0.1")
        receiver.start()
        link = FlightLink(f"127.0.0.1:{receiver.port}")
        try:
            link.open(header)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for seq in range(frames):
                link.write(Frame(seq, 0, "train", seq + 1 == frames, encoded))
            link.close()
            wall[len(payload)] = (time.perf_counter() - begun) / frames
            cpu[len(payload)] = (time.process_time() - begun_cpu) / frames
        finally:
            link.disconnect()
            receiver.close()
            log.close()
    fixed, per_byte = _line(wall)
    fixed_cpu, per_byte_cpu = _line(cpu)
    return Transport(
        seconds_per_frame=fixed,
        seconds_per_byte=per_byte,
        cpu_seconds_per_frame=fixed_cpu,
        cpu_seconds_per_byte=per_byte_cpu,
    )


def _line(seconds: dict[int, float]) -> tuple[float, float]:
    """Intercept and slope through two points (bytes, seconds), neither below zero."""
    (few, short), (many, long) = sorted(seconds.items())
    slope = max(0.0, (long - short) / (many - few))
    return max(0.0, short - slope * few), slope


def _own_peak_bytes() -> int:
    """The largest resident set of this process image alone.

    ``getrusage`` also counts what the process was before it became this program: the copy of its parent.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return peak_rss_bytes() or rss_bytes()


def _tensor_bytes(tree: Any) -> int:
    """Bytes of all tensors in a nested structure."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(_tensor_bytes, tree.values()))
    return sum(map(_tensor_bytes, tree)) if isinstance(tree, (list, tuple)) else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _existing_parent(path: Path) -> Path:
    """The nearest folder that exists: on the disk on which the run will write."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def main() -> int:
    """Read a request from standard input, answer on standard output.

    Request: ``config`` (all settings), ``part`` ("cut", "whole" or "together"), ``codecs``, ``repeats``. Answer: what
    the functions above return, or ``error`` with ``code`` and ``message``. "together" answers ``{}`` when it is ready,
    then ``step`` (a timing) for each further line that it reads, to the end of its input.
    """
    request = json.loads(sys.stdin.readline())
    try:
        config = load_config(request["config"])
        torch.set_num_threads(config.threads)
        images, repeats = sample_images(config), request["repeats"]
        if request["part"] == "together":
            _serve_steps(config, images, repeats)
            return 0
        part = {"cut": figures_of_cut, "whole": figures_of_whole}[request["part"]]
        answer = part(config, request["codecs"], images, repeats=repeats)
    except SmartEdgeError as error:
        answer = {"error": {"code": error.code, "message": str(error)}}
    _say(answer)
    return 0


def _serve_steps(config: Config, images: Images, repeats: int) -> None:
    steps = steps_on_demand(config, images, repeats=repeats)
    next(steps)  # warm
    _say({})
    while sys.stdin.readline():
        _say({"step": next(steps)})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, default=lambda value: value.model_dump(mode="json")), flush=True)


if __name__ == "__main__":
    sys.exit(main())
