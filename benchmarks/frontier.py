"""What is kept of the desired label against what attackers still read, over the weight λ of the adversary and over ε.

    python benchmarks/frontier.py                 # every sweep that is not finished yet
    python benchmarks/frontier.py --only epsilon  # one of them

Over photographs (LFW, ``Smiling`` learned, ``Male`` hidden): ``weight`` with a bottleneck of 4 numbers, ``weight-wide``
with one of 128, ``epsilon`` with eight codewords; ``drawn-weight`` over the embedded faces with 4 numbers. Each is one
``smartedge sweep --audit`` of an example's settings, one seed: every point is attacked within ``--budget`` seconds, and
the same network without protection beside them. The figures and the picture are kept in
``benchmarks/results/frontier/``; a sweep that was stopped goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from common import HERE, data_folder, keep_result

from smartedge.lab.report import write_sweep
from smartedge.lab.sweep import sweep

RESULTS = HERE / "results" / "frontier"
EXAMPLES = HERE.parent / "examples"
FAST = ("train.precision=bfloat16", "train.channels_last=true", "hardware.threads=1")
FACES = ("data.desired=Smiling", "data.sensitive=[Male]")
ONCE = ("schedule=freeze-and-log", "dp.label_epsilon=null")  # each image released once, its label in clear
WIDE = ("model.bottleneck=8x4x4", "adversary.exits=[conv,conv]")  # room for more than the answer
SWEEPS: dict[str, tuple[str, dict[str, tuple[Any, ...]], tuple[str, ...]]] = {
    "weight": ("private-faces.yaml", {"adversary.weight": (0, 1, 3)}, FACES + FAST),
    "weight-wide": ("private-faces.yaml", {"adversary.weight": (0, 3, 10)}, FACES + FAST + WIDE),
    "epsilon": ("private-codewords.yaml", {"dp.epsilon": (1, 2, 4, 8, 16)}, FACES + FAST + ONCE),
    "drawn-weight": ("private-faces.yaml", {"adversary.weight": (0, 1, 3, 10)}, FAST),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SWEEPS, help="may be repeated")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for the audit of each run")
    parser.add_argument("--work", type=Path, default=Path("runs/frontier"), help="run directories (large)")
    args = parser.parse_args()
    for name in args.only or SWEEPS:
        if not (RESULTS / f"{name}.json").exists():
            run(name, args.work / name, args.budget)


def run(name: str, folder: Path, budget: float) -> None:
    example, axes, settings = SWEEPS[name]
    if not name.startswith("drawn"):
        settings = (*settings, f"data.path={data_folder('lfw-attributes')}")
    found = sweep(EXAMPLES / example, axes, settings, folder=folder, audit_seconds=budget, single_process=True)
    failed = [point.error for point in found.points if point.state != "done"]
    if failed:
        raise SystemExit(f"{name}: {failed[0]}; call it again to try again")
    kept = found.model_dump(mode="json", include={"schema_version", "axes", "rows", "undefended"})
    keep_result(RESULTS / f"{name}.json", kept, f"--only {name} --budget {budget:g}")
    write_sweep(folder)
    shutil.copy(folder / "frontier.png", RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
