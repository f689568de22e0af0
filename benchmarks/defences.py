"""Published defences behind the same attackers and the same certificate, beside ours.

    python benchmarks/defences.py                    # every row that is not finished yet
    python benchmarks/defences.py --only nopeek      # one row; may be repeated
    python benchmarks/defences.py --table            # print the table and draw the figure from what is finished

LFW at 64×64, ``Smiling`` learned, ``Male`` hidden, ResNet-18 cut at ``layer1``, one seed. Of the training images 30 %
are set apart (persons too): attackers learn from them, and no front does. Every row has the same budget: six epochs of
the front; then the front is frozen and a back (three residual blocks) has ten epochs of what is released; then all
attackers. Each defence is on the plain map, as published, and on a bottleneck of as many bytes as ours. The number that
a paper leaves open was chosen on the validation images: of the values tried, those whose task exit loses at most one
point against the best; of these, the one that a linear attacker reads least.

Fronts are kept in ``--work``, figures in ``benchmarks/results/defences/``; what is there is not made again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from published.rows import ROWS
from published.training import choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROWS, help="may be repeated")
    parser.add_argument("--fronts", action="store_true", help="train fronts, and attack nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/defences"), help="trained fronts")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    for name in args.only or ROWS:
        if time.monotonic() - begun < args.seconds:
            found = choose(name, args.work)
            print(name, found.sending.value, found.tried, f"{time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
