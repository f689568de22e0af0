"""Accuracy of a fleet of eight edges, against one edge with all of their data. CIFAR-10, a small network.

    python benchmarks/fleet.py                            # all arms; about 25 minutes on one core
    python benchmarks/fleet.py --only own-iid published-iid
    python benchmarks/fleet.py --size large --seeds 0 1 2 --device cuda
    python benchmarks/fleet.py --table                    # from the results that are there

Two ways to have fronts: ``own``, each edge trains its own from the same start (schedule joint); ``published``, all
hold one that was trained before on other images (schedule freeze-and-log). Two ways to divide the training images:
``iid``, at random; ``skewed``, each class by shares from a Dirichlet law with concentration 0.3. ``poisoned``: as
own-iid, but one edge has its labels shifted by one class; ``capped``: that with fleet.max_influence 0. ``two-cuts``:
every second edge is cut after the second stage, with logit adjustment; ``late``: all edges are; ``nested``: both
published fronts are parts of one network, which was trained with an exit at each cut; ``published-back``: this, and the
back begins with the layers of that network that lie between the cuts; ``adjusted``: logit adjustment alone;
``started``: own fronts that begin with the published one (model.start), with logit adjustment. The test images are
divided at random, so that together they are always the same. Size ``small``: 2400 images in all, 6 epochs; ``large``:
8000 images and 20 epochs, for a machine with a GPU.

Edges and cloud are those of real runs; they talk over the link in memory, one edge after the other. Then the cloud
learns, as if all had come at once. An arm that is done is kept in benchmarks/results/fleet/ or fleet-large/, and is not
done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fleet_network
import numpy as np
import torch
import torch.nn.functional as F
from common import HERE, data_folder, difference, keep_json, percent, provenance, show_table
from torch import nn

from smartedge.cloud.runner import CloudRunner
from smartedge.config import Config, load_config
from smartedge.data import DataSet, Split, batches, open_dataset, shard
from smartedge.edge.runner import EdgeRunner
from smartedge.models.network import divide, to_input
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.progress import Quiet
from smartedge.types import SplitName
from smartedge.wire.memory import MemoryLink

RESULTS = HERE / "results"
EDGES = 8
CONCENTRATION = 0.3


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is learned from, for how long."""

    folder: str  # of the results
    train: int  # images of all edges
    public: int  # images that the published front learns from
    epochs: int
    batch: int
    val: int = 160
    test: int = 4000


SMALL = Size("fleet", train=2400, public=800, epochs=6, batch=32)
SIZES = {
    "small": SMALL,
    "large": Size("fleet-large", train=8000, public=2000, epochs=20, batch=64),
}
EPOCHS = SMALL.epochs  # of benchmarks/fleet_remedies.py
ARMS = {
    # name: (edges, fronts, division of the images, cap)
    "one-own": (1, "own", "iid", None),
    "own-iid": (EDGES, "own", "iid", None),
    "own-skewed": (EDGES, "own", "skewed", None),
    "one-published": (1, "published", "iid", None),
    "published-iid": (EDGES, "published", "iid", None),
    "published-skewed": (EDGES, "published", "skewed", None),
    "own-poisoned": (EDGES, "own", "poisoned", None),
    "own-capped": (EDGES, "own", "poisoned", 0.0),
    # with logit adjustment; every second edge has a later cut
    "two-cuts-own-iid": (EDGES, "own", "iid", None),
    "two-cuts-own-skewed": (EDGES, "own", "skewed", None),
    "two-cuts-published-iid": (EDGES, "published", "iid", None),
    "two-cuts-published-skewed": (EDGES, "published", "skewed", None),
    # all edges with the later cut; two cuts, and both published fronts are parts of one network
    "late-published-iid": (EDGES, "published", "iid", None),
    "two-cuts-nested-iid": (EDGES, "nested", "iid", None),
    "two-cuts-nested-skewed": (EDGES, "nested", "skewed", None),
    "two-cuts-published-back-iid": (EDGES, "nested", "iid", None),
    "two-cuts-published-back-skewed": (EDGES, "nested", "skewed", None),
    # with logit adjustment; from one start
    "one-started": (1, "started", "iid", None),
    "started-iid": (EDGES, "started", "iid", None),
    "started-skewed": (EDGES, "started", "skewed", None),
    "two-cuts-started-iid": (EDGES, "started", "iid", None),
    "two-cuts-started-skewed": (EDGES, "started", "skewed", None),
    # with logit adjustment
    "adjusted-own-iid": (EDGES, "own", "iid", None),
    "adjusted-own-skewed": (EDGES, "own", "skewed", None),
    "adjusted-published-skewed": (EDGES, "published", "skewed", None),
}
CUTS = ("stage1", "stage2")


def settings(
    fronts: str,
    edges: int,
    cap: float | None,
    front: Path | None,
    seed: int,
    size: Size = SMALL,
    device: str = "cpu",
    **fleet: Any,
) -> Config:
    """The settings of one arm; ``fleet`` are further ones of this section. Started fronts begin with ``front``."""
    given = "start" if fronts == "started" else "front"
    return load_config(
        {
            "schedule": "freeze-and-log" if fronts in ("published", "nested") else "joint",
            "epochs": size.epochs,
            "seed": seed,
            "data": {"path": "cifar10", "desired": "label", "image_size": 32},
            "model": {
                "name": "fleet_network:build",
                "cut": "stage1",
                "bottleneck": None,
                given: None if front is None else str(front),
                "exit": {"width": 32, "depth": 1},
            },
            "train": {"batch_size": size.batch, "lr": 2e-3},
            "link": {"max_lead_frames": 10**6},
            "hardware": {"edge_device": device, "cloud_device": device, "threads": 1},
            "fleet": {"expect": edges, "max_influence": cap, "logit_adjustment": False, **fleet},
        }
    )


def with_cut(config: Config, cut: str) -> Config:
    """The settings of an edge with that cut."""
    return load_config(config, {"model": {"cut": cut}})


def whole_data(size: Size = SMALL) -> DataSet:
    """The images of all edges and the public ones (the split ``audit``)."""
    folder = str(data_folder("cifar10"))
    limit: dict[SplitName, int] = {"train": size.train + size.public, "val": size.val, "test": size.test}
    share = size.public / (size.train + size.public)
    return open_dataset(folder, "label", image_size=32, limit=limit, audit_share=share)


def parts_of(data: DataSet, edges: int, division: str, seed: int) -> list[DataSet]:
    """The part of each edge."""
    parts = [shard(data, number + 1, edges, seed=seed) for number in range(edges)] if edges > 1 else [data]
    train = data.splits["train"]
    if division == "skewed":
        rng = np.random.default_rng((seed, 7))
        owner_N = np.zeros(len(train), np.int64)
        labels = train.labels.numpy()
        while True:
            for label in np.unique(labels):
                of = np.flatnonzero(labels == label)
                shares = rng.dirichlet(np.full(edges, CONCENTRATION))
                ends = np.round(shares.cumsum() * len(of)).astype(int)
                owners = np.searchsorted(ends, np.arange(len(of)), side="right")
                owner_N[rng.permutation(of)] = owners.clip(max=edges - 1)
            if np.bincount(owner_N, minlength=edges).min() >= 64:
                break
        parts = [
            dataclasses.replace(part, splits={**part.splits, "train": train.subset(np.flatnonzero(owner_N == number))})
            for number, part in enumerate(parts)
        ]
    if division == "poisoned":
        parts[3] = dataclasses.replace(parts[3], splits={**parts[3].splits, "train": shifted(parts[3].splits["train"])})
    return parts


def shifted(split: Split) -> Split:
    """The split with every label replaced by that of the next class."""
    made = split.subset(np.arange(len(split)))
    made.labels = (made.labels + 1) % 10
    return made


def published_front(data: DataSet, folder: Path, seed: int, size: Size, device: str, cut: str) -> Path:
    """A front that was trained on the public images, in a run of its own."""
    target = folder / cut / "edge" / "front.safetensors"
    if not target.exists():
        assert data.audit is not None
        public = dataclasses.replace(data, splits={**data.splits, "train": data.audit})
        config = with_cut(settings("published", 1, None, None, seed, size, device), cut)
        runner = CloudRunner(config, target.parents[1] / "cloud", Quiet(), resume=False, inline=True)
        edge(config, public, MemoryLink(runner.ingest), target.parent)
        runner.close()
    return target


def nested_fronts(data: DataSet, folder: Path, seed: int, size: Size) -> dict[str, torch.Tensor]:
    """Write both published fronts, parts of one network that learned the public images with an exit at each cut.

    The early layers learn from both exits. Returns the weights between the cuts.
    """
    assert data.audit is not None
    config, cpu = settings("published", 1, None, None, seed, size), torch.device("cpu")
    early, late = (divide(with_cut(config, cut).division(10)) for cut in CUTS)
    network = fleet_network.SmallNetwork(10)
    network.load_state_dict({**network.state_dict(), **late.front.state_dict()})
    stages, exits = [network.stage1, network.stage2], [early.task_exit, late.task_exit]
    trained = nn.ModuleList([*stages, *exits]).train()
    optimizer = make_optimizer([trained], name="adamw", lr=config.train.lr, weight_decay=0.05, momentum=0.9)
    steps = len(data.audit) // size.batch
    for step in range(size.epochs * steps):
        if step % steps == 0:
            epoch = batches(
                data.audit, size.batch, seed=seed, epoch=step // steps, shuffle=True, augment="flip", drop_last=True
            )
            loader = iter(epoch)
        batch = next(loader)
        set_learning_rate(optimizer, peak=config.train.lr, step=step, steps=size.epochs * steps)
        x_BCHW, losses = to_input(batch.images_BCHW, cpu), []
        for stage, task_exit in zip(stages, exits, strict=True):
            x_BCHW = stage(x_BCHW)
            losses.append(F.cross_entropy(task_exit(x_BCHW), batch.labels))
        torch.stack(losses).sum().backward()
        apply_gradients(optimizer, clip_norm=5.0)
    state = network.state_dict()
    for cut, each in zip(CUTS, (early, late), strict=True):
        target = folder / cut / "edge"
        target.mkdir(parents=True)
        save_weights(target / "front.safetensors", {name: state[name] for name in each.front.state_dict()})
        save_weights(target / "exit.safetensors", each.task_exit.state_dict())
    return {name: tensor for name, tensor in state.items() if name.startswith("stage2")}


def edge(config: Config, data: DataSet, link: MemoryLink, folder: Path) -> None:
    """One edge of a fleet, to its end."""
    assert EdgeRunner(config, data, link, folder, Quiet(), resume=False, threaded=False).run(threading.Event())


def run_arm(name: str, seed: int, size_name: str, device: str) -> dict[str, Any]:
    """Train one arm. Returns its figures."""
    size = SIZES[size_name]
    edges, fronts, division, cap = ARMS[name]
    data = whole_data(size)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mixed, adjusted = name.startswith("two-cuts"), name.startswith(("two-cuts", "adjusted", "started"))
        used = CUTS if mixed else CUTS[1:] if name.startswith("late") else CUTS[:1]
        front = None if fronts == "own" else folder / "{cut}" / "edge" / "front.safetensors"
        fleet_network.PUBLISHED.clear()
        if fronts == "nested":
            between = nested_fronts(data, folder, seed, size)
            if "published-back" in name:
                fleet_network.PUBLISHED.update(between)
        elif fronts != "own":
            for cut in used:
                published_front(data, folder, seed, size, device, cut)
        cuts = CUTS if mixed else None
        config = settings(fronts, edges, cap, front, seed, size, device, cuts=cuts, logit_adjustment=adjusted)
        config = with_cut(config, used[0])
        runner = CloudRunner(config, folder / "cloud", Quiet(), resume=False, inline=False)
        parts = parts_of(data, edges, division, seed)
        for number, part in enumerate(parts):
            own = with_cut(config, CUTS[number % 2]) if mixed else config
            edge(own, part, MemoryLink(runner.ingest, f"edge{number}"), folder / f"edge{number}")
        assert runner.run(threading.Event())
        trainer = runner.trainer
        summary = runner.close()
        assert summary.test is not None and trainer is not None
        each: dict[str, Any] = {}
        if (folder / "cloud" / "fleet.json").exists():
            each = json.loads((folder / "cloud" / "fleet.json").read_text())["edges"]
        return {
            "arm": name,
            "seed": seed,
            "accuracy": summary.test.accuracy,
            "images": [len(part.splits["train"]) for part in parts],
            "edges": {
                name: {"accuracy": figures["test"]["accuracy"], "capped": figures["capped"], "loss": figures["loss"]}
                for name, figures in each.items()
            },
            "steps": trainer.progress.step,
            "seconds": time.perf_counter() - begun,
            **provenance(f"--size {size_name} --only {name} --seeds {seed} --device {device}"),
        }


def table(folder: Path) -> None:
    """Print and keep what is there: accuracy on all test images, mean over the seeds, beside that of one edge."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        _, _, division, _ = ARMS[result["arm"]]
        honest = [each["accuracy"] for edge, each in result["edges"].items() if edge != "edge3"]
        accuracy = float(np.mean(honest)) if division == "poisoned" else result["accuracy"]
        found.setdefault(result["arm"], {})[result["seed"]] = accuracy
    rows = [
        {
            "arm": name,
            "seeds": len(found[name]),
            "accuracy %": percent(list(found[name].values())),
            "to one edge": difference(found[name], found.get(f"one-{fronts.replace('nested', 'published')}", {})),
        }
        for name, (_, fronts, _, _) in ARMS.items()
        if name in found
    ]
    show_table(
        "accuracy on all test images; own-poisoned and own-capped: on those of the seven honest edges",
        rows,
        folder.with_suffix(".csv"),
    )


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu", help="where edges and cloud compute: cpu or cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the folders of results")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = args.results / SIZES[args.size].folder
    if not args.table:
        for seed in args.seeds:
            for name in args.only:
                path = folder / f"{name}-{seed}.json"
                if not path.exists():
                    keep_json(path, run_arm(name, seed, args.size, args.device))
                    print(f"{name} {seed}: done", flush=True)
    table(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
