"""Measures which precision and memory format make a training step fastest on this machine (``auto`` in ``train``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from smartedge.artifacts.run import Speed
from smartedge.methods.options import autocast
from smartedge.models.network import to_input, undivided
from smartedge.runs.allocator import keep_freed_memory

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["measure_speed"]

_BUDGET_S = 2.0  # of measuring, without building the network
_IMAGES = 8  # in a step, at most
_CLEARLY = 0.9  # another way than float32 is chosen only where it takes at most this share of its time
_PLAIN = ("float32", False)
_OUTPUTS = 2  # of the network; their number hardly matters


def measure_speed(config: Config, device: torch.device) -> Speed:
    """Time steps of the undivided network, forward and backward, on random images, in all four ways.

    The ways take turns, and the fastest step of each counts, so that other work on the machine disturbs little.

    Args:
        config: names the network, the image size and the number of threads. What is not ``auto`` is kept as it is.
        device: where the steps are made.

    Raises:
        CutError: the network is unknown, or has no weights of that name.
    """
    train = config.train
    precisions = ("float32", "bfloat16") if train.precision == "auto" else (train.precision,)
    formats = (False, True) if train.channels_last == "auto" else (train.channels_last,)
    ways = [(precision, last) for precision in precisions for last in formats]
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
        keep_freed_memory()  # as the run will do
    try:
        best = _fastest_steps(config, device, ways)
    finally:
        torch.set_num_threads(threads)
    usual = _PLAIN if _PLAIN in best else ways[0]
    quickest = min(best, key=lambda way: best[way])
    precision, last = quickest if best[quickest] <= _CLEARLY * best[usual] else usual
    return Speed(
        precision=precision,
        channels_last=last,
        seconds={f"{name}{', channels last' if last else ''}": seconds for (name, last), seconds in best.items()},
        threads=config.threads,
    )


def _fastest_steps(config: Config, device: torch.device, ways: list[tuple[str, bool]]) -> dict[tuple[str, bool], float]:
    """Way → seconds of its fastest step; the first step of each does not count."""
    with torch.random.fork_rng():  # what is measured does not move the random numbers of the run
        network = undivided(config.division(_OUTPUTS)).to(device).train()
        size = min(_IMAGES, config.train.batch_size)
        images_BCHW = torch.randint(0, 256, (size, *config.data.image_size.shape), dtype=torch.uint8)
        best: dict[tuple[str, bool], float] = {}
        begun, rounds = time.perf_counter(), 0
        while rounds < 2 or time.perf_counter() - begun < _BUDGET_S:
            for precision, last in ways:
                network.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]
                inputs_BCHW = to_input(images_BCHW, device, channels_last=last)
                start = time.perf_counter()
                with autocast(device, precision):
                    loss = network(inputs_BCHW).float().square().mean()
                loss.backward()
                network.zero_grad()
                loss.item()  # waits for the device
                seconds = time.perf_counter() - start
                if rounds:
                    best[precision, last] = min(seconds, best.get((precision, last), seconds))
            rounds += 1
    return best
