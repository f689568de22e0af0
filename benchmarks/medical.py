"""A medical pair: what is kept of the finding, what is read of the sex, and what no attacker can exceed.

    python benchmarks/medical.py            # half an hour of one core: train, audit, certify
    python benchmarks/medical.py --table    # print what is kept

It calls ``examples/medical_pair.py``, with its settings and its images. These images are DRAWN, in MedMNIST's layout.
No patient was ever seen. So the figures show that the way is whole, and say nothing about real films. They are kept in
``benchmarks/results/medical-pair.json``; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, keep_result

from smartedge.metrics import rounded_up

RESULT = HERE / "results" / "medical-pair.json"
EXAMPLE = HERE.parent / "examples" / "medical_pair.py"
SEX = "label_1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--images", type=int, default=6000, help="drawn training images (6000)")
    parser.add_argument("--epochs", type=int, default=8, help="of the front, and of the back (8)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for the audit (300)")
    parser.add_argument("--work", type=Path, default=Path("runs/medical-pair"), help="the run directory; must be new")
    args = parser.parse_args()
    if not args.table and not RESULT.exists():
        effort = ["--images", str(args.images), "--epochs", str(args.epochs), "--budget", str(args.budget)]
        subprocess.run([sys.executable, str(EXAMPLE), "--quiet", "--run-dir", str(args.work), *effort], check=True)
        keep_result(RESULT, read(args.work), " ".join(effort))
    if RESULT.exists():
        show(json.loads(RESULT.read_text()))


def read(run: Path) -> dict[str, Any]:
    """The figures of a finished and audited run."""
    results = json.loads((run / "results.json").read_text())
    audit = json.loads((run / "audit" / "audit.json").read_text())
    certificate = audit["certificate"]
    return {
        "data": "drawn by examples/medical_pair.py",
        "epochs": results["epochs"],
        "audited_images": audit["audited"]["images"],
        "test": results["test"],
        "bytes_per_image": results["bytes_per_image"],
        "sex": audit["attributes"][SEX],
        "membership": audit["membership"],
        "skipped": audit["skipped"],
        "verdict": audit["verdict"],
        "certificate": {
            name: certificate[name]["attributes"][SEX]
            for name in ("one_release", "training_image")
            if certificate and certificate[name]
        },
    }


def show(found: dict[str, Any]) -> None:
    sex, bounds = found["sex"], {name: rounded_up(each["bound"]) for name, each in found["certificate"].items()}
    lines = {
        "finding, by the cloud": found["test"]["back"]["balanced_accuracy"],
        "finding, by the exit": found["test"]["exit"]["balanced_accuracy"],
        "sex, from features without protection": (sex["undefended"] or {}).get("balanced_accuracy"),
        f"sex, best attack ({sex['best']['attack']})": sex["best"]["balanced_accuracy"],
        "sex, from the finding alone": sex["floor"]["balanced_accuracy"],
        "sex, no attacker exceeds (95 %)": bounds.get("one_release"),
        "the same, the finding known": bounds.get("training_image"),
    }
    print("balanced accuracy in %; drawn images")
    for name, value in lines.items():
        print(f"{name:42}{'not measured' if value is None else f'{100 * value:.1f}'}")
    print(found["verdict"])


if __name__ == "__main__":
    main()
