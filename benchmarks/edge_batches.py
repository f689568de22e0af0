"""Does the edge's step get faster in micro-batches that fit the cache? Is a frozen front faster in int8?

    python benchmarks/edge_batches.py --minutes 8   # goes on where the last call stopped; 75 where rows are left
    python benchmarks/edge_batches.py --table

One thread, bfloat16 and channels_last, which ``auto`` chooses on this machine. One update of 64 images by front and
task exit (ResNet-18 cut at ``layer1``, VGG-16 at ``features.6``; 32x32 and 64x64), computed in micro-batches of 8, 16,
32 and 64 images whose gradients add up: forward, exit, backward for each, then one update. Batch normalisation takes
its statistics from each micro-batch, so smaller ones would also change what is learned; here only time is asked.
First with glibc's ``malloc`` as it comes, then as every run has it, with freed memory kept (smartedge.runs.allocator).

Then the front alone, as an edge runs it that only releases (ONNX Runtime, one thread): float32 beside int8 with scales
for each channel, calibrated on the same images, and torch in bfloat16. The error is that of the features, ÷ their
standard deviation. All ways take turns; times are processor time, the median of several.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from common import HERE, keep_result, show_table
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import Tensor, nn

from smartedge.models.blueprint import Blueprint
from smartedge.models.network import Divided, divide, to_input
from smartedge.models.optim import make_optimizer
from smartedge.runs.allocator import keep_freed_memory

BATCH, MICRO = 64, (8, 16, 32, 64)
FRONTS = {"resnet18": "layer1", "vgg16_bn": "features.6"}
SIDES = (32, 64)
CPU = torch.device("cpu")
AS_IT_COMES, KEPT = "as it comes", "freed memory kept"
RESULTS = HERE / "results" / "edge-batches"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each way; the median counts")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no further row after so many minutes")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    until, left = time.monotonic() + 60 * args.minutes, 0
    for malloc in () if args.table else (AS_IT_COMES, KEPT):
        for name, side in itertools.product(FRONTS, SIDES):
            left += not all(done(kind, name, side, malloc, args.repeats, until) for kind in ("update", "front"))
    for kind, title in (("update", "one update of 64 images"), ("front", "the front alone")):
        rows = [json.loads(file.read_text())["row"] for file in sorted(RESULTS.glob(f"{kind}-*.json"))]
        show_table(f"{title}, us/image", rows, HERE / "results" / f"edge-batches-{kind}.csv")
    if left:
        sys.exit(75)


def done(kind: str, name: str, side: int, malloc: str, repeats: int, until: float) -> bool:
    """Measure a row, unless it is there or time is up; whether it is there now."""
    if kind == "front" and malloc == KEPT:  # how memory is freed matters to updates only
        return True
    file = RESULTS / f"{kind}-{name}-{side}-{malloc.replace(' ', '-')}.json"
    if file.exists():
        return True
    if time.monotonic() > until:
        return False
    if malloc == KEPT and not keep_freed_memory():
        sys.exit("this C library is not glibc, or MALLOC_... is set")
    parts = divide(Blueprint(name, at=FRONTS[name], outputs=10, image_size=side, seed=0))
    row: dict[str, Any] = {"network": name, "image": f"{side}x{side}"}
    if kind == "update":
        row |= {"malloc": malloc} | in_micro_batches(parts, side, repeats)
    else:
        row |= in_int8(parts.front.eval(), side, repeats)
    keep_result(file, {"row": row, "repeats": repeats, "load": os.getloadavg()[0]}, f"--repeats {repeats}")
    print(row, flush=True)
    return True


def images_of(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, 3, side, side), generator=generator, dtype=torch.uint8)


def in_micro_batches(parts: Divided, side: int, repeats: int) -> dict[str, Any]:
    """Microseconds of an update for an image, by size of micro-batch."""
    front, task_exit = parts.front.train(), parts.task_exit.train()
    front.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer([front, task_exit], name="adamw", lr=1e-3, weight_decay=1e-2, momentum=0.9)
    images_BCHW, labels_B = images_of(side), torch.arange(BATCH) % 10

    def update(size: int) -> None:
        optimizer.zero_grad()
        for images, labels in zip(images_BCHW.split(size), labels_B.split(size), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits_BK = task_exit(front(to_input(images, CPU, channels_last=True)))
            (nn.functional.cross_entropy(logits_BK.float(), labels) * len(labels) / BATCH).backward()
        optimizer.step()

    found = in_turn({f"{size}": lambda size=size: update(size) for size in MICRO}, repeats)  # type: ignore[misc]
    best = min(found, key=lambda size: found[size])
    ratio = found[best] / found[f"{BATCH}"]
    return {**{size: round(value) for size, value in found.items()}, "fastest": best, "÷ 64 at once": f"{ratio:.2f}"}


class _Images(CalibrationDataReader):  # type: ignore[misc] # it has no types
    """The images by which int8 finds its ranges, all at once: the graph has a fixed batch."""

    def __init__(self, given: dict[str, NDArray[np.float32]]) -> None:
        self._parts = iter([given])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._parts, None)


def in_int8(front: nn.Module, side: int, repeats: int) -> dict[str, Any]:
    """Microseconds of a forward pass for an image, and the error of int8."""
    inputs_BCHW = to_input(images_of(side), CPU)
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "front.onnx", Path(folder) / "int8.onnx"
        program = torch.onnx.export(front, (inputs_BCHW,), dynamo=True, verbose=False)
        assert program is not None
        program.save(plain)
        exact = session(plain)
        name = exact.get_inputs()[0].name
        given = {name: inputs_BCHW.numpy()}
        quantize_static(plain, small, _Images(given), quant_format=QuantFormat.QDQ, per_channel=True)
        rounded = session(small)
    last = inputs_BCHW.to(memory_format=torch.channels_last)

    def in_torch() -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            front(last)

    front.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = in_turn(
        {
            "float32": lambda: exact.run(None, given),
            "int8": lambda: rounded.run(None, given),
            "torch, bfloat16": in_torch,
        },
        repeats,
    )
    true_BF, int8_BF = exact.run(None, given)[0], rounded.run(None, given)[0]
    error = float(np.sqrt(np.square(int8_BF - true_BF).mean()) / true_BF.std())
    ratio = found["int8"] / found["float32"]
    return {
        **{way: round(value) for way, value in found.items()},
        "int8 ÷ float32": f"{ratio:.2f}",
        "error of int8": f"{error:.3f}",
    }


def session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median microseconds of processor time for an image, of ways that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(2 + repeats):
        for name, work in ways.items():
            begun = time.process_time()
            work()
            if number >= 2:
                taken[name].append(time.process_time() - begun)
    return {name: 1e6 * statistics.median(values) / BATCH for name, values in taken.items()}


if __name__ == "__main__":
    main()
