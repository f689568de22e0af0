"""One edge of eight has wrong training labels: the back's accuracy with and without ``fleet.max_influence``.

    python benchmarks/poisoned.py             # two minutes on one core
    python benchmarks/poisoned.py --seeds 0 1 2

Cloud and edges are processes, each edge with a certificate and a data set of its own: 150 drawn faces, with or without
glasses; with ``--larger 4`` one edge has 600, the most that count. All hold one front that was trained on other faces
(schedule two-stage with ``model.front``). The labels of that edge's training images are inverted; those of its test
images are not.
``accuracy`` is the back's on the test images of
all edges: where all are honest, with the poisoned edge, and with it and ``fleet.max_influence: 0``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, keep_result
from many_edges import make_fleet, port_of
from trials import TINY, Process, ended, side, stopping, train_alone, warm_up

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.artifacts.summary import CloudSummary
from smartedge.config import Config, load_config
from smartedge.data.drawn.faces import ATTRIBUTES, draw

RESULTS = HERE / "results"
EDGES, POISONED = 8, "edge3"
SIZES = {"train": 150, "val": 10, "test": 150}  # images of each edge
FRONT = 4  # times as many training images has the front
ARMS: dict[str, tuple[bool, float | None]] = {  # whether one edge is poisoned, and the cap
    "honest": (False, None),
    "poisoned": (True, None),
    "capped": (True, 0.0),
}
LONGEST_S = 900.0


def write_data(file: Path, number: int, seed: int, *, larger: int = 1, inverted: bool = False) -> None:
    """A data set of which nothing is in another's; with ``larger`` times as many training images."""
    arrays: dict[str, Any] = {}
    for split, size in SIZES.items():
        indices = np.arange(size * (larger if split == "train" else 1)) + FRONT * number * size
        found, flags = draw(indices, split=split, image_size=16, seed=1000 + seed)  # type: ignore[arg-type]
        glasses = flags[:, ATTRIBUTES.index("glasses")].astype(np.int64)
        arrays[f"{split}_images"] = found
        arrays[f"{split}_labels"] = (1 - glasses if inverted and split == "train" else glasses)[:, None]
    np.savez(file, **arrays)


def settings(run_dir: Path, data: Path, work: Path, seed: int, **changes: Any) -> Config:
    base = {
        "run_dir": str(run_dir),
        "seed": seed,
        "epochs": 8,
        "data": {"path": str(data), "desired": "label", "sensitive": [], "cache_dir": str(work / "cache")},
        "model": {"name": "fleet_network:build", "bottleneck": None},
        "train": {"batch_size": 16, "lr": 2e-3},
    }
    tiny = {**TINY, "data": {key: value for key, value in TINY["data"].items() if key != "limit"}}
    return load_config(load_config(load_config(tiny), base), changes)


def published_front(work: Path, seed: int) -> Path:
    """A front that was trained on the faces of nobody in the fleet."""
    folder = work / f"front-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder / "public.npz", EDGES, seed, larger=FRONT)
    config = settings(folder / "run", folder / "public.npz", work, seed, method="hierarchical")
    train_alone(config)
    return config.run_dir / "edge" / "front.safetensors"


def run(arm: str, work: Path, seed: int, larger: int) -> dict[str, Any]:
    """One arm: eight edges and a cloud; one edge has ``larger`` times as many images."""
    poisoned, cap = ARMS[arm]
    folder = work / f"{arm}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [f"edge{number}" for number in range(EDGES)]
    fleet = folder / "fleet"
    made = Process(lambda: make_fleet(fleet, names), folder / "fleet.log")
    made.wait()
    assert made.code == 0, made.tail()
    changes = {
        "schedule": "two-stage",
        "model": {"front": str(published_front(work, seed))},
        "fleet": {"expect": EDGES, "max_influence": cap},
    }
    started: list[Process] = []
    with stopping(started):
        config = settings(folder / "cloud", folder, work, seed, **changes)
        cloud = side("cloud", config, "--fleet", str(fleet), "--listen", "127.0.0.1:0")
        started.append(cloud)
        address = f"127.0.0.1:{port_of(cloud)}"
        for number, name in enumerate(names):
            data = folder / f"{name}.npz"
            times = larger if name == POISONED else 1
            write_data(data, number, seed, larger=times, inverted=poisoned and name == POISONED)
            mine = settings(folder / name, data, work, seed, **changes)
            bundle = str(fleet / "bundles" / f"{name}.bundle")
            started.append(side("edge", mine, "--bundle", bundle, "--connect", address))
        while any(each.code is None for each in started):
            assert ended(started, LONGEST_S), "it has not ended"
            failed = [each.tail() for each in started if each.code]
            assert not failed, failed
    figures = FleetFigures.read(config.run_dir / "cloud" / "fleet.json")
    test = CloudSummary.read(config.run_dir / "cloud" / "summary.json").test
    assert test is not None
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": test.balanced_accuracy,
        "capped": [name for name, each in figures.edges.items() if each.capped],
        "loss": {name: each.loss for name, each in figures.edges.items()},
    }


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--larger", type=int, default=1, choices=range(1, FRONT + 1), help="times, of one edge's data")
    parser.add_argument("--work", type=Path, default=Path("runs/poisoned"), help="folder for the runs")
    parser.add_argument("--result", type=Path, help="default: results/poisoned-1.json, by --larger")
    args = parser.parse_args(arguments)
    warm_up()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in args.seeds:
        for arm in ARMS:
            found.append(run(arm, work, seed, args.larger))
            print(f"{arm:<10}{seed:>3}{100 * found[-1]['accuracy']:8.1f} %  capped: {found[-1]['capped']}", flush=True)
    keep_result(args.result or RESULTS / f"poisoned-{args.larger}.json", {"runs": found})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
