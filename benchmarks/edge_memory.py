"""What holds the memory of an edge that trains.

    python benchmarks/edge_memory.py

ResNet-18, images of 64×64, one thread, each case in a process of its own. *whole*: the whole network as torchvision
and torch come, without smartedge. *local*: the whole network as method ``local`` trains it. *front*: the front up to
layer1 with its task exit, as ``smartedge edge`` trains it. Memory is counted beyond what the process takes when the
edge's code is imported, as in `edge_baseline_rss_bytes` of results.json. *built*: resident when the network is there;
*peak*: the largest of four steps; *other process*: the peak of the process that divides the network, which ends before
torch is imported here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from common import HERE, keep_result, show_table

FAST = "bfloat16, channels_last"  # train.precision and train.channels_last
TRIES = 3  # the median counts: how the allocator reuses memory differs from run to run
CASES = (
    ("whole", 64, "float32"),
    ("local", 64, "float32"),
    ("front", 64, "float32"),
    ("front", 16, "float32"),
    ("whole", 64, FAST),
    ("front", 64, FAST),
)
CODE = """
import gc, json, resource, sys
from smartedge.edge.apart import Division, open_parts, read_answer
from smartedge.models.blueprint import Blueprint

part, batch, fast = sys.argv[1], int(sys.argv[2]), sys.argv[3] != "float32"
if part == "front":
    with Division() as division:
        division.give(Blueprint("resnet18", "layer1", 2, 64, 0), devices={"hardware.edge_device": "cpu"}, threads=1)
        division.check()
        made = read_answer(division.answer, print)
other = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

import smartedge.edge.runner
import torch
from smartedge.methods.front_step import edge_step
from smartedge.methods.options import StepOptions
from smartedge.models.network import to_input
from smartedge.models.optim import in_one_pass, make_optimizer
from smartedge.models.zoo import networks
from smartedge.runs.allocator import keep_freed_memory
from smartedge.runs.machine import peak_rss_bytes, rss_bytes

torch.set_num_threads(1)
if part != "whole":
    keep_freed_memory()
start = rss_bytes()
if part == "front":
    parts = open_parts(made, print)
    network, head = parts.front, parts.task_exit
    del made, parts
else:
    network = networks.build("resnet18", outputs=2, image_size=64, seed=0)
    head = torch.nn.Identity()
if fast:
    network.to(memory_format=torch.channels_last), head.to(memory_format=torch.channels_last)
options = StepOptions(precision="bfloat16" if fast else "float32")
gc.collect()
built = rss_bytes()
if part == "whole":
    optimizer = in_one_pass(torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05))
else:
    optimizer = make_optimizer([network, head], name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9)
images_BCHW = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
labels_B = torch.randint(0, 2, (batch,))
for _ in range(4):
    inputs_BCHW = to_input(images_BCHW, torch.device("cpu"), channels_last=fast)
    edge_step(network, head, optimizer, inputs_BCHW, labels_B, "single", options=options)
compiler = sum(name.startswith(("torch._dynamo", "torch._inductor", "sympy")) for name in sys.modules)
found = {"built": built - start, "peak": peak_rss_bytes() - start, "compiler": compiler, "other": other}
print(json.dumps(found))
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
            "other process": round(row["other"] / 2**20),
        }
        for row in rows
    ]
    file = HERE / "results" / "edge_memory.json"
    show_table(f"Beyond start, torch {torch.__version__}", table, file.with_suffix(".csv"))
    keep_result(file, {"tries": TRIES, "rows": table})


if __name__ == "__main__":
    main()
