"""What can be painted from the features that were sent? Three attacks, three networks, with and without protection.

    python benchmarks/reconstruction.py                   # everything that is not finished yet
    python benchmarks/reconstruction.py --only resnet18   # one network
    python benchmarks/reconstruction.py --table           # print the table from what is finished
    python benchmarks/reconstruction.py --figure out.png  # and draw images; needs the run directories

LFW faces, ``Smiling`` learned, ``Male`` hidden: the runs of ``benchmarks/privacy.py`` (made here where they are not in
``--work`` yet), attacked by a decoder, a GAN and the optimisation through the front's known weights. A classifier of
originals says whom it sees in the images; *adapted*, it has learned from such reconstructions (of the optimisation, its
threshold alone has), the stronger attack. A GAN that comes no nearer to images than its decoder counts as that decoder.
Each audit is a process of its own on one thread; its figures are kept in ``benchmarks/results/reconstruction/``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import HERE, audit_in_own_process, keep_result, show_table, train_in_own_process
from privacy import NETWORKS, configs, protection_of

from smartedge.lab.report import write_figure

RESULTS = HERE / "results" / "reconstruction"
SENSITIVE = "Male"
ATTACKS = ("decoder", "gan", "white_box")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="audits at once, one thread each")
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds for each audit")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the images of all finished audits")
    parser.add_argument("--work", type=Path, default=Path("runs/privacy"), help="run directories (large)")
    args = parser.parse_args()
    if not args.table:
        jobs = [name for name in args.only or NETWORKS if not (RESULTS / f"{name}.json").exists()]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda name: attack(name, work=args.work, budget=args.budget), jobs))
    print_table()
    if args.figure:
        runs = [run_dirs(name, args.work)["defended"] for name in NETWORKS if (RESULTS / f"{name}.json").exists()]
        print(write_figure(runs, args.figure))


def run_dirs(network: str, work: Path) -> dict[str, Path]:
    both = configs(f"smiling-male-{network}", 0, work)
    return {kind: Path(config["run_dir"]) for kind, config in both.items()}


def attack(network: str, *, work: Path, budget: float) -> None:
    runs = run_dirs(network, work)
    for config in configs(f"smiling-male-{network}", 0, work).values():
        train_in_own_process(config)
    found = audit_in_own_process(runs["defended"], runs["undefended"], ("reconstruction",), budget)
    if found["reconstruction"] is None:
        sys.exit(f"{network}: nothing was reconstructed in {budget:g} s; give the audit more by --budget")
    kept = {
        "protection": protection_of(f"smiling-male-{network}"),
        "floor": found["attributes"][SENSITIVE]["floor"],
        "reconstruction": found["reconstruction"],
        "skipped": [entry for entry in found["skipped"] if entry["attack"].startswith("reconstruction")],
    }
    keep_result(RESULTS / f"{network}.json", kept, f"--only {network} --budget {budget:g}")
    print(f"{network}: done", flush=True)


def print_table() -> None:
    rows = []
    for network in NETWORKS:
        file = RESULTS / f"{network}.json"
        if file.exists():
            found = json.loads(file.read_text())
            block, floor = found["reconstruction"], found["floor"]["balanced_accuracy"]
            rows += [row(network, name, block[name], floor) for name in ATTACKS if name in block]
            rows.append(reference(network, block))
    show_table(
        "from unprotected → from protected features; balanced accuracies in %", rows, RESULTS.with_suffix(".csv")
    )


def row(network: str, name: str, found: dict[str, Any], floor: float) -> dict[str, Any]:
    plain = found["undefended"]

    def both(value: Any) -> str:
        return f"{value(plain)} → {value(found)}"

    def read(key: str) -> str:
        return "" if found[key] is None else both(lambda figures: f"{100 * figures[key][SENSITIVE]:.1f}")

    def best(figures: dict[str, Any]) -> float:
        read_off = ("sensitive_balanced_accuracy", "sensitive_balanced_accuracy_adapted")
        return max(float(figures[key][SENSITIVE]) for key in read_off if figures[key])  # older commits tuned less

    def nearer(figures: dict[str, Any]) -> str:
        return {True: "yes", False: "no", None: ""}[figures["training"].get("nearer_than_decoder")]

    met = best(found) <= floor + 0.05 and best(plain) >= 0.85
    return {
        "network": network,
        "attack": name,
        "images": found["images"],
        "PSNR dB": both(lambda figures: f"{figures['psnr']:.1f}"),
        "SSIM": both(lambda figures: f"{figures['ssim']:.2f}"),
        "perceptual": both(lambda figures: f"{figures['perceptual']['value']:.3f}"),
        "sensitive": read("sensitive_balanced_accuracy"),
        "sensitive, adapted": read("sensitive_balanced_accuracy_adapted"),
        "desired": both(lambda figures: f"{100 * figures['desired_balanced_accuracy']:.1f}"),
        "sensitive AUROC": both(lambda figures: f"{figures['sensitive_auroc'][SENSITIVE]:.2f}"),
        "label floor": f"{100 * floor:.1f}",
        "nearer than its decoder": both(nearer) if name == "gan" else "",
        "share of its training": both(lambda figures: f"{share(figures['training']):.2f}"),
        "goal": "met" if met else "missed",
    }


def share(training: dict[str, Any]) -> float:
    """Of the attack's training, or of the classifier's that adapts to it: whichever had less."""
    return min(float(training["share"]), float(training.get("adapted_share", 1.0)))


def reference(network: str, block: dict[str, Any]) -> dict[str, Any]:
    """The row of the originals, and of the mean image for what it is like."""
    originals, mean = block["originals"], block["mean_image"]
    return {
        "network": network,
        "attack": "originals; mean image",
        "images": originals["images"],
        "PSNR dB": f"{mean['psnr']:.1f}",
        "SSIM": f"{mean['ssim']:.2f}",
        "perceptual": f"{mean['perceptual']['value']:.3f}",
        "sensitive": f"{100 * originals['sensitive_balanced_accuracy'][SENSITIVE]:.1f}",
        "sensitive, adapted": "",
        "desired": f"{100 * originals['desired_balanced_accuracy']:.1f}",
        "sensitive AUROC": f"{originals['sensitive_auroc'][SENSITIVE]:.2f}",
        "label floor": "",
        "nearer than its decoder": "",
        "share of its training": "",
        "goal": "",
    }


if __name__ == "__main__":
    main()
