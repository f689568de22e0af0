"""Measures one part of a network on this machine, in a separate process, so that its memory can be measured.

    python -m smartedge.lab.plan.measure < request.json

The request and the answer are one JSON object each, see :func:`main`. Two figures need a new process for each cut:
the largest resident set, and the time of the first batch. The timed steps are those of real runs
(:mod:`smartedge.methods.learner`, :mod:`smartedge.methods.front_step`, :mod:`smartedge.methods.back_step`).
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smartedge.artifacts.profile import CodecFigures, Timing, WholeFigures
from smartedge.codec import Codec, get_codec, reconstruction_error
from smartedge.config import Config, load_config
from smartedge.edge.apart import Division, open_parts, read_answer
from smartedge.edge.protection import open_gate
from smartedge.errors import CodecError, ConfigError, CutError, SmartEdgeError
from smartedge.lab.plan.images import SampleImages, sample_images
from smartedge.lab.plan.machine_costs import BETWEEN_FRAMES_S, checkpoint_cost, transport_cost
from smartedge.lab.plan.timing import timed
from smartedge.logs import say
from smartedge.methods.back_step import cloud_forward, cloud_step
from smartedge.methods.base import get_method
from smartedge.methods.front_step import split_finish, split_start
from smartedge.methods.learner import Learner
from smartedge.methods.loop import Progress, take_step
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.options import optimizer_of, options_of, place
from smartedge.models.cutting.cut import Cut, list_cuts
from smartedge.models.layout import in_memory
from smartedge.models.network import divide, network_of, to_input
from smartedge.runs.allocator import keep_freed_memory
from smartedge.runs.machine import peak_rss_bytes, pick_device, rss_bytes
from smartedge.types import Features

__all__ = ["figures_of_cut", "figures_of_whole", "main", "training_step"]


def figures_of_cut(config: Config, codecs: Sequence[str], images: SampleImages, *, repeats: int) -> dict[str, object]:
    """Everything about ``config.model.cut``: :class:`~smartedge.artifacts.profile.CutFigures` without its place.

    Returns:
        ``figures`` as a mapping, and ``left_out``: codec → why it does not encode these features.
    """
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    learner = _edge_learner(config, images, device)
    front_step, front_forward, features_BF = _edge_side(learner, images, repeats)
    # Release and encode here too, so that the peak includes their memory.
    release, released_BF = _released(config, images, features_BF, repeats)
    get_codec(config.codec_name).encode(released_BF.numpy())
    edge_peak = _own_peak_bytes()
    front_state = _tensor_bytes(learner.state())
    figures_of_codecs, left_out = _codec_figures(codecs, released_BF, repeats)
    split_forward, split_backward = _split_side(config, learner, images, repeats)
    shape = learner.feature_shape
    del learner
    gc.collect()
    build_seconds = _build_seconds(config, images)
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


def _edge_learner(config: Config, images: SampleImages, device: torch.device) -> Learner:
    """The learner of an edge: another process divides the network, as in a run, so the peak of memory is an edge's."""
    method, division = get_method(config.method), config.division(images.task.outputs)
    with Division() as other:
        other.give(division, devices={}, threads=config.threads)
        other.check()
        made = read_answer(other.answer, _tell)
    return method.edge(config, images.task, device, images.dataset, None if made is None else open_parts(made, _tell))


def _tell(text: str) -> None:
    say(text, file=sys.stderr)


def _build_seconds(config: Config, images: SampleImages) -> float:
    """Time to make the network and to divide it, after the first time, which also imports modules."""
    divide(config.division(images.task.outputs))
    begun = time.perf_counter()
    divide(config.division(images.task.outputs))
    return time.perf_counter() - begun


def _edge_side(learner: Learner, images: SampleImages, repeats: int) -> tuple[Timing, Timing, Tensor]:
    """Time of a training step and of a forward pass, and what the front then gives (B, *F)."""
    given = images.batches
    size = len(given[0].ids)
    progress = Progress(1, 10 * (repeats + 2))

    device = next(next(iter(learner.modules.values())).parameters()).device

    def learn(number: int) -> None:
        take_step(learner.learn, given[number % len(given)], progress, rates=learner.rates)
        _wait(device)

    step = timed(learn, images=size, repeats=repeats)

    def forward(number: int) -> Tensor:
        features_BF, logits_BK = learner.infer(given[number % len(given)])
        found = features_BF if features_BF is not None else logits_BK
        assert found is not None
        return found.cpu()

    return step, timed(forward, images=size, repeats=repeats), forward(0)


def _released(config: Config, images: SampleImages, sent_BF: Tensor, repeats: int) -> tuple[Timing, Tensor]:
    """Time to put a batch through the gate (clip, ledger, noise), and what comes out."""
    ids, labels, size = images.batches[0].ids, images.batches[0].labels, len(sent_BF)
    with tempfile.TemporaryDirectory(dir=_existing_parent(config.run_dir)) as folder:
        mechanism = mechanism_of(config, tuple(sent_BF.shape[1:]))
        gate = open_gate(config, Path(folder), "profile", mechanism, images.task, existing=False)

        def release(number: int) -> Tensor:
            # New ids each time, so that no image exceeds its budget.
            released = gate.release(ids + 10**6 * number, sent_BF.numpy(), labels.numpy(), split="train", seq=number)
            return torch.from_numpy(released.features_BF)

        try:
            return timed(release, images=size, repeats=repeats, pause_s=BETWEEN_FRAMES_S), release(repeats + 2)
        finally:
            gate.ledger.close()


def _split_side(config: Config, learner: Learner, images: SampleImages, repeats: int) -> tuple[Timing, Timing]:
    """Time the two halves of split learning's step on the edge, with a random gradient from the cloud."""
    train, given = config.train, images.batches
    front = learner.modules["front"].train()
    optimizer = optimizer_of(config, [front])
    device = next(front.parameters()).device
    forward_s: list[float] = []

    def both(number: int) -> None:
        begun = time.perf_counter()
        inputs = to_input(given[number % len(given)].images_BCHW, device, channels_last=train.channels_last is True)
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


def _cloud_side(config: Config, images: SampleImages, features_BF: Tensor, repeats: int) -> dict[str, object]:
    train, size = config.train, len(features_BF)
    device = pick_device(config.hardware.cloud_device, "hardware.cloud_device")
    divided = divide(config.division(images.task.outputs))
    back = place(divided.back, config, device)
    optimizer = optimizer_of(config, [back])
    labels = images.batches[0].labels.to(device)

    def inputs() -> Tensor:
        return in_memory(features_BF.to(device), divided.layout, channels_last=train.channels_last is True)

    def step(want_gradient: bool) -> None:
        back.train()
        cloud_step(
            back,
            optimizer,
            inputs(),
            labels,
            images.task.kind,
            want_gradient=want_gradient,
            options=options_of(config),
        )
        _wait(device)

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
    """Codec → figures on these features, and codec → the reason why it does not accept them."""
    found: dict[str, CodecFigures] = {}
    left_out: dict[str, str] = {}
    for name in names:
        codec = get_codec(name)
        if codec.dtype != features_BF.numpy().dtype:
            continue
        try:
            found[name] = _codec_on(codec, features_BF.numpy(), repeats)
        except CodecError as error:
            left_out[name] = str(error)
    return found, left_out


def _codec_on(codec: Codec, features_BF: Features, repeats: int) -> CodecFigures:
    size, shape = len(features_BF), features_BF.shape[1:]
    payload, side = codec.encode(features_BF)

    def decode(number: int) -> Features:
        return codec.decode(payload, side, batch=size, feature_shape=shape, dtype=features_BF.dtype)

    return CodecFigures(
        encode=timed(lambda _: codec.encode(features_BF), images=size, repeats=repeats),
        decode=timed(decode, images=size, repeats=repeats),
        bytes_per_image=(len(payload) + len(side)) / size,
        rmse=reconstruction_error(codec, features_BF)["rmse"],
    )


def figures_of_whole(
    config: Config, codecs: Sequence[str], images: SampleImages, *, repeats: int, asked: Sequence[str] = ()
) -> dict[str, object]:
    """The undivided network, image codecs, and what does not depend on the network: disk, loopback, data.

    Returns:
        ``whole``, ``checkpoint``, ``transport``, ``data``, ``counts``, ``features``, ``outputs``, ``all_cuts`` and
        ``left_out``.

    Raises:
        ConfigError: one of ``asked``, the names of cuts, is none. It is told before anything is measured.
    """
    task = images.task
    recorded = network_of(config.division(task.outputs))
    cuts = _known(list_cuts(recorded, config.data.image_size.shape), config.model.name)
    listed = [name for name, *_ in cuts]
    if listed and (unknown := [name for name in asked if name not in listed]):
        raise ConfigError(f"--cuts: {', '.join(unknown)}: no such cut; choose among {', '.join(listed)}, or all")
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
        flops=sum(cuts[0][1:3]) if cuts else 0,
        build_seconds=build_seconds,
        peak_bytes=peak,
        baseline_bytes=baseline,
        state_bytes=state,
        release=release,
        codecs=image_codecs,
    )
    with tempfile.TemporaryDirectory(dir=_existing_parent(config.run_dir)) as folder:
        disk, transport = checkpoint_cost(Path(folder)), transport_cost(Path(folder), repeats)
    return {
        "whole": whole,
        "checkpoint": disk,
        "transport": transport,
        "data": images.data,
        "counts": images.counts,
        "features": images.what,
        "outputs": task.outputs,
        "all_cuts": cuts,
        "left_out": left_out,
    }


def _known(cuts: Sequence[Cut], network: str) -> list[tuple[str, int, int, int]]:
    """Name, FLOPs of front and back, and bytes of the tensor that crosses, of every cut.

    Raises:
        CutError: the FLOPs are not known.
    """
    known = []
    for cut in cuts:
        if cut.front_flops is None or cut.back_flops is None:
            raise CutError(
                f"{network} cannot be planned: one of its modules decides by values how much it computes, so its "
                "operations are not known; 'smartedge cuts' shows on which side of a cut it is"
            )
        known.append((cut.name, cut.front_flops, cut.back_flops, cut.activation_bytes))
    return known


def training_step(config: Config, images: SampleImages) -> Callable[[int], object]:
    """A training step of the undivided network. It gets the number of the step."""
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    learner = get_method(config.method).edge(config, images.task, device)
    progress, given = Progress(1, 100), images.batches
    return lambda number: take_step(learner.learn, given[number % len(given)], progress, rates=learner.rates)


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
    """The nearest parent folder that exists. It is on the disk that the run will write to."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def main() -> None:
    """Read a request from standard input, answer on standard output.

    Request: ``config`` (all settings), ``part`` ("cut", "whole" or "together"), ``codecs``, ``repeats``, ``cuts``
    ("whole"). Answer: what the functions above return, or ``error`` with ``code`` and ``message``. "together" answers
    ``{}`` when it is ready, then ``step`` (a timing) for each further line that it reads, to the end of its input.
    """
    request = json.loads(sys.stdin.readline())
    try:
        config = load_config(request["config"])
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        images, repeats = sample_images(config), request["repeats"]
        if request["part"] == "together":
            _serve_steps(config, images, repeats)
            return
        if request["part"] == "cut":
            answer = figures_of_cut(config, request["codecs"], images, repeats=repeats)
        else:
            answer = figures_of_whole(config, request["codecs"], images, repeats=repeats, asked=request["cuts"])
    except SmartEdgeError as error:
        answer = {"error": {"code": error.code, "message": str(error)}}
    _say(answer)


def _serve_steps(config: Config, images: SampleImages, repeats: int) -> None:
    step = training_step(config, images)
    _say({})
    while sys.stdin.readline():
        _say({"step": timed(step, images=len(images.batches[0].ids), repeats=repeats)})


def _say(answer: dict[str, object]) -> None:
    say(json.dumps(answer, default=lambda value: value.model_dump(mode="json")))
