"""What protection costs the edge: time per image and peak memory of its step, as ratios to the unprotected step.

    python benchmarks/protection_cost.py

The same front, cut and images; each variant is measured in a process of its own, on one thread, the variants in turn,
round after round, and the median ratio of the rounds counts. A step is forward and backward of front and exits, and
(apart) what releasing and encoding the batch takes, which runs on a thread of its own in a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import HERE, keep_result

BATCH = 64
CUT = {"name": "resnet18", "cut": "layer1", "bottleneck": None}
NARROW = {**CUT, "bottleneck": "4x1x1"}
NOISE = {"mechanism": "gaussian", "sigma": 0.4}
ADVERSARY = {"exits": ["mlp", "mlp"], "weight": 3.0, "confusion": "conditional", "steps": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "unprotected": {"model": CUT},
    "bottleneck": {"model": NARROW},
    "bottleneck, noise": {"model": NARROW, "dp": NOISE},
    "bottleneck, noise, adversaries": {"model": NARROW, "dp": NOISE, "adversary": ADVERSARY},
    "codewords, randomised response, adversaries": {
        "model": {**CUT, "codebook": 8},
        "dp": {"mechanism": "randomised-response", "epsilon": 4.0},
        "adversary": ADVERSARY,
    },
}


def measure(settings: dict[str, Any], steps: int) -> dict[str, float]:
    """In a process of its own: milliseconds per image of the step, of release and encoding, and peak MiB."""
    import torch

    from smartedge.codec import get_codec, pack
    from smartedge.config import load_config
    from smartedge.data import batches
    from smartedge.edge.protection import open_gate
    from smartedge.launch.datasets import open_data
    from smartedge.methods.base import get_method
    from smartedge.methods.loop import Progress, take_step
    from smartedge.runs.machine import peak_rss_bytes
    from smartedge.runs.progress import Quiet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_config(
        {
            "data": {"sensitive": "masculine", "limit": {"train": BATCH * 4, "val": 64, "test": 64}},
            "train": {"precision": "bfloat16", "channels_last": True},
            **settings,
        }
    )
    dataset = open_data(config, Quiet())
    learner: Any = get_method(config.method).edge(config, dataset.task, torch.device("cpu"), dataset)
    progress = Progress(1, steps)
    codec = get_codec(config.codec_name)
    stepping: list[float] = []
    sending: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        gate = open_gate(config, Path(folder), "bench", learner.mechanism, dataset.task, existing=False)
        while (done := progress.step) < steps:
            with batches(dataset.splits["train"], BATCH, seed=0, epoch=done, shuffle=True) as loader:
                for batch in loader:
                    begun = time.perf_counter()
                    result = take_step(learner.learn, batch, progress, rates=learner.rates).step
                    middle = time.perf_counter()
                    released = gate.release(
                        batch.ids, result.features_BF.numpy(), batch.labels.numpy(), split="train", seq=progress.step
                    )
                    pack(released, codec)
                    stepping.append(middle - begun)
                    sending.append(time.perf_counter() - middle)
    per_image = 1000 / BATCH
    peak = peak_rss_bytes()
    assert peak is not None
    return {
        "step_ms": per_image * median(stepping[2:]),
        "release_and_encode_ms": per_image * median(sending[2:]),
        "peak_mib": peak / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="the median ratio counts")
    parser.add_argument("--steps", type=int, default=24, help="of each variant; the first two do not count")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(VARIANTS[args.measure], args.steps)))
        return
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(args.rounds):
        found = {}
        for name in VARIANTS:
            command = [sys.executable, __file__, "--measure", name, "--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        rounds.append(found)
    print(f"{'':46}{'step':>10}{'÷ unprotected':>15}{'release+encode':>16}{'peak':>10}{'÷ unprotected':>15}")
    ratios = {}
    for name in VARIANTS:
        time_ratio = median(each[name]["step_ms"] / each["unprotected"]["step_ms"] for each in rounds)
        memory_ratio = median(each[name]["peak_mib"] / each["unprotected"]["peak_mib"] for each in rounds)
        ratios[name] = {"step_time": time_ratio, "peak_memory": memory_ratio}
        step = median(each[name]["step_ms"] for each in rounds)
        sent = median(each[name]["release_and_encode_ms"] for each in rounds)
        peak = median(each[name]["peak_mib"] for each in rounds)
        print(f"{name:46}{step:7.2f} ms{time_ratio:15.2f}{sent:13.2f} ms{peak:6.0f} MiB{memory_ratio:15.2f}")
    result = {"variants": VARIANTS, "ratios_to_unprotected": ratios, "rounds": rounds}
    keep_result(HERE / "results" / "protection-cost.json", result)


if __name__ == "__main__":
    main()
