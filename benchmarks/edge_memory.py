"""What holds the memory of an edge that trains.

    python benchmarks/edge_memory.py

ResNet-18, images of 64×64, one thread, each case in a process of its own: the front up to layer1 with its task exit,
and the whole network. Memory is counted beyond what the process takes when the edge's code is imported, as in
`edge_baseline_rss_bytes` of results.json. *built*: resident when the network is there; *peak*: the largest of three
steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from common import HERE, keep_result, show_table

FAST = "bfloat16, channels_last"  # train.precision and train.channels_last
TRIES = 5  # the median counts: how the allocator reuses memory differs from run to run
CASES = (
    ("whole", 64, "float32"),
    ("front", 64, "float32"),
    ("front", 16, "float32"),
    ("whole", 64, FAST),
    ("front", 64, FAST),
)
CODE = """
import gc, json, sys
import smartedge.edge.runner
import torch
from smartedge.methods.front_step import edge_step
from smartedge.methods.options import StepOptions
from smartedge.models.zoo import networks
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer
from smartedge.runs.machine import peak_rss_bytes, rss_bytes

torch.set_num_threads(1)
part, batch, fast = sys.argv[1], int(sys.argv[2]), sys.argv[3] != "float32"
start = rss_bytes()
if part == "front":
    divided = divide(Blueprint("resnet18", "layer1", 2, 64, 0))
    network, head = divided.front, divided.task_exit
    del divided
else:
    network = networks.build("resnet18", outputs=2, image_size=64, seed=0)
    head = torch.nn.Identity()
if fast:
    network.to(memory_format=torch.channels_last), head.to(memory_format=torch.channels_last)
options = StepOptions(precision="bfloat16" if fast else "float32")
gc.collect()
built = rss_bytes()
optimizer = make_optimizer([network, head], name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9)
images_BCHW = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
labels_B = torch.randint(0, 2, (batch,))
for _ in range(3):
    inputs_BCHW = to_input(images_BCHW, torch.device("cpu"), channels_last=fast)
    edge_step(network, head, optimizer, inputs_BCHW, labels_B, "single", options=options)
compiler = sum(name.startswith(("torch._dynamo", "torch._inductor", "sympy")) for name in sys.modules)
print(json.dumps({"built": built - start, "peak": peak_rss_bytes() - start, "compiler": compiler}))
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    for part, batch, numbers in CASES:
        call = [sys.executable, "-W", "ignore", "-c", CODE, part, str(batch), numbers]
        runs = [subprocess.run(call, capture_output=True, text=True, check=True) for _ in range(TRIES)]
        tries = [json.loads(run.stdout) for run in runs]
        tries.sort(key=lambda found: found["peak"])
        rows.append({"part": part, "batch": batch, "numbers": numbers, **tries[TRIES // 2]})
    whole = {row["numbers"]: row["peak"] for row in rows if row["part"] == "whole"}
    table = [
        {
            "part": row["part"],
            "batch": row["batch"],
            "numbers": row["numbers"],
            "built_mib": round(row["built"] / 2**20),
            "peak_mib": round(row["peak"] / 2**20),
            "of_whole": round(row["peak"] / whole[row["numbers"]], 2),
            "of_whole in float32": round(row["peak"] / whole["float32"], 2),
            "modules of torch's compiler": row["compiler"],
        }
        for row in rows
    ]
    file = HERE / "results" / "edge_memory.json"
    show_table(f"Beyond start, torch {torch.__version__}", table, file.with_suffix(".csv"))
    keep_result(file, {"tries": TRIES, "rows": table})


if __name__ == "__main__":
    main()
