"""What holds the memory of an edge that trains.

    python benchmarks/edge_memory.py

ResNet-18, images of 64×64, one thread, each case in a process of its own: the front up to layer1 with its task exit,
and the whole network. Memory is counted beyond what the process takes when the edge's code is imported, as in
`edge_baseline_rss_bytes` of results.json. *built*: resident when the network is there; *peak*: the largest of three
steps.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from common import HERE, show_table

CASES = (("whole", 64), ("front", 64), ("front", 16))
CODE = """
import gc, json, sys
import smartedge.edge.runner
import torch
from smartedge.methods.front_step import edge_step
from smartedge.models import zoo
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide, to_input
from smartedge.models.optim import make_optimizer
from smartedge.runs.machine import peak_rss_bytes, rss_bytes

torch.set_num_threads(1)
part, batch = sys.argv[1], int(sys.argv[2])
start = rss_bytes()
if part == "front":
    divided = divide(Blueprint("resnet18", "layer1", 2, 64, 0))
    network, head = divided.front, divided.task_exit
    del divided
else:
    network = zoo.build("resnet18", outputs=2, image_size=64, seed=0)
    head = torch.nn.Identity()
gc.collect()
built = rss_bytes()
optimizer = make_optimizer([network, head], name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9)
images_BCHW = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
labels_B = torch.randint(0, 2, (batch,))
for _ in range(3):
    edge_step(network, head, optimizer, to_input(images_BCHW, torch.device("cpu")), labels_B, "single")
compiler = sum(name.startswith(("torch._dynamo", "torch._inductor", "sympy")) for name in sys.modules)
print(json.dumps({"built": built - start, "peak": peak_rss_bytes() - start, "compiler": compiler}))
"""


def main() -> None:
    rows = []
    for part, batch in CASES:
        call = [sys.executable, "-W", "ignore", "-c", CODE, part, str(batch)]
        found = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        rows.append({"part": part, "batch": batch, **found})
    whole = rows[0]["peak"]
    table = [
        {
            "part": row["part"],
            "batch": row["batch"],
            "built_mib": round(row["built"] / 2**20),
            "peak_mib": round(row["peak"] / 2**20),
            "of_whole": round(row["peak"] / whole, 2),
            "modules of torch's compiler": row["compiler"],
        }
        for row in rows
    ]
    show_table(f"Beyond start, torch {torch.__version__}", table, HERE / "results" / "edge_memory.csv")


if __name__ == "__main__":
    main()
