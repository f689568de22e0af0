"""What the edge's step is made of, what makes it faster, and what encoding adds to it.

    python benchmarks/edge_step.py

One thread; ResNet-18 cut at layer1, images of 64x64, batches of 64, as in the other benchmarks. For each way of
computing (float32 or bfloat16 autocast, channels_last or not, compiled or not) the median seconds of a whole step:
input, front, exit, backward, update. All ways take turns, so that what else the machine does meets them alike; ratios
are to float32 as it comes. For that and the fastest way torch's profiler says which operators the time goes to;
*overhead* is wall clock in no operator: Python and dispatch. Encoding is timed beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from common import HERE, keep_result, show_table
from torch import nn

from smartedge.codec import get_codec
from smartedge.methods.front_step import edge_step
from smartedge.methods.options import StepOptions
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer

BATCH, SIDE = 64, 64
CPU = torch.device("cpu")

# Operators by what they do, the first match counts.
_KINDS = (
    ("convolution", ("convolution", "mkldnn_conv")),
    ("matrix product", ("addmm", "mm", "linear", "bmm")),
    ("normalisation", ("batch_norm",)),
    ("conversion and copies", ("copy_", "_to_copy", "contiguous", "clone", "reorder", "to_dense")),
)


def make_step(
    precision: str, channels_last: bool, compiled: bool, bottleneck: tuple[int, ...] | None
) -> Callable[[], Any]:
    """One step on a fixed batch."""
    parts = divide(Blueprint("resnet18", at="layer1", outputs=2, image_size=SIDE, seed=0, bottleneck=bottleneck))
    front, task_exit = parts.front.train(), parts.task_exit.train()
    if channels_last:
        front.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer([front, task_exit], name="adamw", lr=1e-3, weight_decay=1e-2, momentum=0.9)
    run = front
    if compiled:
        run = cast(nn.Module, torch.compile(front))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (BATCH,), generator=generator)

    def step() -> Any:
        inputs = to_input(images, CPU, channels_last=channels_last)
        return edge_step(run, task_exit, optimizer, inputs, labels, "single", options=StepOptions(precision))

    return step


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def shares(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Share of a step's wall clock that each kind of operator takes, and that no operator takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        wall = sum(seconds(step) for _ in range(repeats))
    found: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key.startswith(("aten::", "mkldnn::", "torch::", "fused")) or "Backward" in event.key:
            kind = next((kind for kind, parts in _KINDS if any(part in event.key for part in parts)), "other operators")
            found[kind] += event.self_cpu_time_total * 1e-6
    found["overhead"] = wall - sum(found.values())
    return {kind: value / wall for kind, value in sorted(found.items(), key=lambda item: -item[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25, help="of each step; the median counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = {
        f"{precision}{', channels_last' if last else ''}{', compiled' if compiled else ''}": (precision, last, compiled)
        for compiled in (False, True)
        for precision in ("float32", "bfloat16")
        for last in (False, True)
    }
    steps: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    for name, way in ways.items():
        try:
            steps[name] = make_step(*way, None)
            for _ in range(3):
                steps[name]()
        except Exception as error:  # no C++ compiler, or a graph that cannot be compiled
            steps.pop(name, None)
            failed[name] = str(error).strip().splitlines()[0][:200]
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.repeats):
        for name, step in steps.items():
            taken[name].append(seconds(step))
    median = {name: statistics.median(values) / BATCH for name, values in taken.items()}
    base = median["float32"]
    rows = [
        {"way": name, "us/image": round(1e6 * value), "to float32": f"{value / base:.2f}"}
        for name, value in median.items()
    ]
    show_table("a step of the edge", rows, HERE / "results" / "edge-step.csv")
    for name, reason in failed.items():
        print(f"{name}: not possible here ({reason})")
    eager = {name: value for name, value in median.items() if "compiled" not in name}
    fastest = min(eager, key=lambda name: eager[name])
    made_of = {name: shares(steps[name], args.repeats) for name in ("float32", fastest)}
    for name, parts in made_of.items():
        print(f"{name}: " + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in parts.items()))
    encoding = []
    for what, bottleneck in (("64x16x16 map", None), ("8x4x4 bottleneck", (8, 4, 4))):
        step = make_step(*ways[fastest], bottleneck)
        features_BF = step().features_BF.detach().float().numpy()
        each = statistics.median(seconds(step) for _ in range(args.repeats)) / BATCH
        for codec in ("uint8", "uint4"):
            encode = partial(get_codec(codec).encode, features_BF)
            own = statistics.median(seconds(encode) for _ in range(args.repeats)) / BATCH
            encoding.append(
                {
                    "features": what,
                    "codec": codec,
                    "step us/image": round(1e6 * each),
                    "encode us/image": round(1e6 * own, 1),
                    "encode / (step + encode)": f"{100 * own / (own + each):.2f} %",
                }
            )
    print()
    show_table(f"encoding beside a step ({fastest})", encoding, HERE / "results" / "edge-step-encoding.csv")
    facts = {"us_per_image": {k: 1e6 * v for k, v in median.items()}, "not_possible": failed, "made_of": made_of}
    keep_result(HERE / "results" / "edge-step.json", {**facts, "encoding": encoding})


if __name__ == "__main__":
    main()
