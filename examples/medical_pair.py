"""A finding to keep, the patient's sex to hide: training, audit and certificate on images in MedMNIST's layout.

The images are DRAWN by this program: grey shapes with the outline of a chest film, no patients and no anatomy that a
physician would accept. They show the way for a real file (``--data PATH``), with two yes/no labels for each image: the
finding, and the sex. In the drawn ones the finding is a soft opacity in a lung, and occurs in 60 % of one sex and in
40 % of the other. So the finding alone tells the sex with 60 % balanced accuracy: nobody who keeps it can hide more.

    python examples/medical_pair.py                                # half an hour of one core; writes runs/medical-pair/
    python examples/medical_pair.py --images 300 --epochs 1 --budget 20      # a try
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import smartedge
from smartedge.lab.audit.suite import AuditSettings, audit
from smartedge.runs.progress import Bars, Quiet

SIZE = 28
FINDING_GIVEN_SEX = (0.6, 0.4)
ATTACKS = ("linear", "trees", "mixture", "mlp", "deep", "fine-tuned", "membership", "epsilon", "certificate")
Floats = NDArray[np.float64]


def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images uint8 (N, 28, 28) and labels uint8 (N, 2): finding, sex."""
    sex = rng.integers(0, 2, count)
    finding = (rng.random(count) < np.asarray(FINDING_GIVEN_SEX)[sex]).astype(np.int64)
    images = np.stack([_chest(bool(f), bool(s), rng) for f, s in zip(finding, sex, strict=True)])
    return images, np.stack([finding, sex], axis=1).astype(np.uint8)


def _chest(finding: bool, sex: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    axis = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    turn, zoom = rng.normal(0, 0.05), rng.uniform(0.9, 1.1)
    x0, y0 = np.meshgrid(axis - rng.normal(0, 0.05), axis - rng.normal(0, 0.05))
    x, y = zoom * (x0 * np.cos(turn) - y0 * np.sin(turn)), zoom * (x0 * np.sin(turn) + y0 * np.cos(turn))
    width = rng.uniform(0.8, 0.95) - 0.04 * sex
    picture = 0.1 + 0.5 * _disc(x / width, (y - 0.15) / 1.1, 1.0)
    lungs = [(side * rng.uniform(0.36, 0.42), rng.uniform(-0.05, 0.05)) for side in (-1, 1)]
    for centre_x, centre_y in lungs:
        picture -= rng.uniform(0.3, 0.4) * _disc((x - centre_x) / 0.27, (y - centre_y) / 0.6, 1.0)
    ribs = np.sin(rng.uniform(13, 17) * (y + 0.35 * np.abs(x)) + rng.uniform(0, 2 * np.pi))
    picture += rng.uniform(0.02, 0.06) * ribs * _disc(x / width, y / 0.9, 1.0)
    picture += 0.15 * np.exp(-((x / 0.08) ** 2))  # the spine
    picture += rng.uniform(0.2, 0.3) * _disc((x - 0.14) / rng.uniform(0.22, 0.3), (y - 0.32) / 0.26, 1.0)  # the heart
    if sex:  # soft tissue over the lower lungs
        for side in (-1, 1):
            shape = ((x - side * 0.42) / 0.3) ** 2 + ((y - rng.uniform(0.36, 0.46)) / 0.2) ** 2
            picture += rng.uniform(0.1, 0.2) * np.exp(-shape)
    if finding:
        for _ in range(rng.integers(1, 3)):
            centre_x, centre_y = lungs[rng.integers(2)]
            place = (centre_x + rng.uniform(-0.12, 0.12), centre_y + rng.uniform(-0.35, 0.25))
            shape = ((x - place[0]) ** 2 + (y - place[1]) ** 2) / rng.uniform(0.09, 0.16) ** 2
            picture += rng.uniform(0.2, 0.4) * np.exp(-shape)
    picture = rng.uniform(-0.05, 0.05) + rng.uniform(0.85, 1.15) * picture + rng.normal(0, 0.03, picture.shape)
    return np.asarray((255 * picture).clip(0, 255), dtype=np.uint8)


def _disc(x: Floats, y: Floats, radius: float) -> Floats:
    """1 inside, 0 outside, with a soft edge."""
    return np.asarray(1 / (1 + np.exp((np.hypot(x, y) - radius) * 14)))


def write(path: Path, train: int) -> None:
    """An ``.npz`` file in MedMNIST's layout: half as many test images as training images, and a sixth for val."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, count in (("train", train), ("val", train // 6), ("test", train // 2)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = draw(count, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def main() -> None:
    """Draw, train, audit, and print what was kept and what was hidden."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file in MedMNIST's layout with two yes/no labels; default: drawn")
    parser.add_argument("--images", type=int, default=6000, help="drawn training images (6000)")
    parser.add_argument("--epochs", type=int, default=8, help="of the front, and of the back (8)")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for the audit (600)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/medical-pair"), help="(runs/medical-pair)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args()
    path = args.data or args.run_dir.with_suffix(".npz")
    if args.data is None:
        write(path, args.images)
    changes = [f"data.path={path}", f"run_dir={args.run_dir}", f"epochs={args.epochs}"]
    config = smartedge.load_config(
        Path(__file__).with_name("medical-pair.yaml"), [*changes, f"train.front_epochs={args.epochs}"]
    )
    monitor = Quiet() if args.quiet else Bars()
    results = smartedge.train(config, single_process=True, monitor=monitor)
    found = audit(args.run_dir, AuditSettings(attacks=ATTACKS, budget=args.budget), monitor)
    monitor.close()

    block, back = found.attributes["label_1"], results.test.back
    assert back is not None and block.best is not None
    print(f"finding, learned in the cloud: {100 * back.balanced_accuracy:.1f} % balanced accuracy")
    undefended = f"{100 * block.undefended.balanced_accuracy:.1f} %" if block.undefended else "not measured"
    print(f"sex, read from the features without protection: {undefended}")
    low, high = (100 * edge for edge in block.best.ci95)
    best = 100 * block.best.balanced_accuracy
    print(f"sex, read from what was sent: {best:.1f} % ({low:.1f} to {high:.1f}) by '{block.best.attack}'")
    print(f"sex, from the finding alone: {100 * block.floor.balanced_accuracy:.1f} %")
    certificate = found.certificate.one_release if found.certificate else None
    if certificate is None:
        print("nothing was certified:", *(entry.reason for entry in found.skipped if entry.attack == "certificate"))
    else:
        print(f"no attacker exceeds {100 * certificate.attributes['label_1'].bound:.1f} % (95 % confidence)")
    print(args.run_dir / "audit" / "audit.json")


if __name__ == "__main__":
    main()
