"""Accuracy of a fleet of eight edges, against one edge with all of their data. LFW, ``Smiling``, 32×32.

    python benchmarks/fleet_faces.py                          # all arms of one seed; 15 minutes on an idle core
    python benchmarks/fleet_faces.py --only own-iid --seeds 1
    python benchmarks/fleet_faces.py --table                  # from the results that are there

The same question and the same small network as in benchmarks/fleet.py, on the task that the library is for. Cloud and
edges are processes, each edge with a certificate of its own. They talk over sockets, and edges train at the same time.

A quarter of the training images (2 272) is public: fronts that are published learn from it, for 12 epochs, as parts of
one network with an exit at each cut. The others (6 838) are the edges', for 4 epochs of steps of 32 images. A step of
ResNet-18 takes three times as long. The test images of LFW and most of its validation images are tested on: 2 186, of
persons that no training image shows (standard error 0.6 points).

Nobody is at two edges. ``iid``: persons are divided at random. ``skewed``: the persons of each label are divided by
shares from a Dirichlet law with concentration 0.3; a person counts for the label of most of the person's images.

    published   all edges hold the early front (cut at stage1)
    back        the same, and the back begins with the published network's second stage
    late        all edges hold the late front (cut at stage2)
    two-cuts    every second edge is cut at stage2; the back begins as in back
    kept        the same, and the layers between the cuts stay as they were published (train.freeze)
    own         each edge trains a front of its own (joint)
    started     the same, from the early published front (model.start)

Logit adjustment is on, as by default. An arm that is done is kept in benchmarks/results/fleet-faces/, and is not done
again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fleet_network
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from common import HERE, data_folder, difference, keep_json, percent, provenance, show_table
from many_edges import fairness, make_fleet, port_of
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from trials import Process, ended, side, stopping, warm_up

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.artifacts.summary import CloudSummary
from smartedge.config import Config, load_config
from smartedge.data import DataSet, Split, batches, open_dataset, shard
from smartedge.edge.runner import EdgeRunner
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import credentials_of
from smartedge.models.network import divide_in_order, to_input
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.progress import Quiet
from smartedge.wire.grpc_link import GrpcLink

RESULTS = HERE / "results" / "fleet-faces"
EDGES, CONCENTRATION, CUTS = 8, 0.3, ("stage1", "stage2")
BATCH, EPOCHS, PUBLIC_EPOCHS, PUBLIC_SHARE, LR, VAL, SIZE = 32, 4, 12, 0.25, 2e-3, 160, 32
LEAST = 2 * BATCH  # images that an edge has
LONGEST_S = 3600.0
ARMS = {
    # name: (edges, fronts, cuts, division of the images)
    "one-published": (1, "published", CUTS[:1], "iid"),
    "published-iid": (EDGES, "published", CUTS[:1], "iid"),
    "published-skewed": (EDGES, "published", CUTS[:1], "skewed"),
    "one-back": (1, "back", CUTS[:1], "iid"),
    "one-late": (1, "back", CUTS[1:], "iid"),
    "two-cuts-iid": (EDGES, "back", CUTS, "iid"),
    "two-cuts-skewed": (EDGES, "back", CUTS, "skewed"),
    "two-cuts-kept-iid": (EDGES, "kept", CUTS, "iid"),
    "two-cuts-kept-skewed": (EDGES, "kept", CUTS, "skewed"),
    "one-own": (1, "own", CUTS[:1], "iid"),
    "own-iid": (EDGES, "own", CUTS[:1], "iid"),
    "own-skewed": (EDGES, "own", CUTS[:1], "skewed"),
    "started-iid": (EDGES, "started", CUTS[:1], "iid"),
    "started-skewed": (EDGES, "started", CUTS[:1], "skewed"),
    "one-started": (1, "started", CUTS[:1], "iid"),
}
ONE = {"two-cuts": "one-back", "two-cuts-kept": "one-back"}  # arms of one edge that others are compared with


def settings(run_dir: Path, fronts: str, cuts: Sequence[str], edges: int, seed: int, published: Path | None) -> Config:
    """The settings of the cloud in one arm. ``published`` is the folder of the published fronts."""
    joint = fronts in ("own", "started")
    front = None if published is None or fronts == "own" else str(published / "{cut}" / "front.safetensors")
    return load_config(
        {
            "run_dir": str(run_dir),
            "schedule": "joint" if joint else "freeze-and-log",
            "epochs": EPOCHS,
            "seed": seed,
            "data": {"path": str(data_folder("lfw-attributes")), "desired": "Smiling", "image_size": SIZE},
            "model": {
                "name": "fleet_network:build",
                "cut": cuts[0],
                "bottleneck": None,
                "start" if joint else "front": front,
                "exit": {"width": 32, "depth": 1},
            },
            "train": {"batch_size": BATCH, "lr": LR, "freeze": ["stage2"] if fronts == "kept" else []},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
            "fleet": {"expect": edges, "cuts": list(cuts) if len(cuts) > 1 else None, "farewell": 0.01},
        }
    )


def whole_data(work: Path) -> DataSet:
    """The images of all edges and the public ones (the split ``audit``); more test images than LFW has itself."""
    folder, source = work / "data", data_folder("lfw-attributes")
    if not folder.exists():
        tables = {name: pq.read_table(source / f"{name}.parquet") for name in ("train", "val", "test")}
        val = tables["val"].sort_by("identity")
        tables["val"], tables["test"] = val[:VAL], pa.concat_tables([tables["test"], val[VAL:]])
        apart = np.isin(tables["test"]["identity"].to_numpy(), tables["val"]["identity"].to_numpy())
        tables["test"] = tables["test"].filter(pa.array(~apart))  # the person in whose images the cut lies
        made = folder.with_name("data.new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for name, table in tables.items():
            pq.write_table(table, made / f"{name}.parquet")
        made.rename(folder)
    return open_dataset(str(folder), "Smiling", image_size=SIZE, audit_share=PUBLIC_SHARE, cache_dir=work / "cache")


def parts_of(data: DataSet, edges: int, division: str, seed: int) -> list[DataSet]:
    """The part of each edge. Nobody is in two parts."""
    if edges == 1:
        return [data]
    parts = [shard(data, number + 1, edges, seed=seed) for number in range(edges)]
    if division == "skewed":
        owner_N = skewed_owners(data.splits["train"], edges, np.random.default_rng((seed, 7)))
        for number, part in enumerate(parts):
            train = data.splits["train"].subset(np.flatnonzero(owner_N == number))
            parts[number] = dataclasses.replace(part, splits={**part.splits, "train": train})
    return parts


def skewed_owners(train: Split, edges: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The edge of each image: for each label, persons by shares from a Dirichlet law."""
    persons, person_N, images_P = np.unique(train.persons, return_inverse=True, return_counts=True)
    label_P = np.bincount(person_N, weights=train.labels.numpy()) > images_P / 2
    owner_P = np.zeros(len(persons), np.int64)
    while True:
        for label in (False, True):
            of = rng.permutation(np.flatnonzero(label_P == label))
            images = images_P[of].cumsum()
            ends = rng.dirichlet(np.full(edges, CONCENTRATION)).cumsum() * images[-1]
            owner_P[of] = np.searchsorted(ends, images - images_P[of] / 2).clip(max=edges - 1)
        owner_N: NDArray[np.int64] = owner_P[person_N]
        if np.bincount(owner_N, minlength=edges).min() >= LEAST:
            return owner_N


def publish(data: DataSet, folder: Path, seed: int) -> int:
    """Write the published fronts, parts of one network that learned the public images with an exit at each cut.

    ``between.safetensors`` holds that network's layers between the cuts.
    """
    assert data.audit is not None
    parts, ends = divide_in_order(settings(folder, "own", CUTS[:1], 1, seed, None).division(2), CUTS)
    stages, exits = parts[:-1], [end.task_exit for end in ends]
    trained = nn.ModuleList([*stages, *exits]).train()
    optimizer = make_optimizer([trained], name="adamw", lr=LR, weight_decay=0.05, momentum=0.9)
    steps = len(data.audit) // BATCH
    for epoch in range(PUBLIC_EPOCHS):
        loader = batches(data.audit, BATCH, seed=seed, epoch=epoch, shuffle=True, augment="flip", drop_last=True)
        for number, batch in enumerate(loader):
            set_learning_rate(optimizer, peak=LR, step=epoch * steps + number, steps=PUBLIC_EPOCHS * steps)
            x_BCHW = to_input(batch.images_BCHW, torch.device("cpu"))
            losses = []
            for stage, task_exit in zip(stages, exits, strict=True):
                x_BCHW = stage(x_BCHW)
                losses.append(F.cross_entropy(task_exit(x_BCHW), batch.labels))
            torch.stack(losses).sum().backward()
            apply_gradients(optimizer, clip_norm=5.0)
    state: dict[str, torch.Tensor] = {}
    for cut, stage, task_exit in zip(CUTS, stages, exits, strict=True):
        state.update(stage.state_dict())
        (folder / cut).mkdir(parents=True)
        save_weights(folder / cut / "exit.safetensors", task_exit.state_dict())
        save_weights(folder / cut / "front.safetensors", state)
    save_weights(folder / "between.safetensors", stages[1].state_dict())  # last: it marks the end
    return 0


def one_edge(config: Config, data: DataSet, bundle: Path, address: str) -> int:
    """An edge's process, to its end."""
    link = GrpcLink(address, credentials_of(open_bundle(bundle)))
    folder = config.run_dir / "edge"
    assert EdgeRunner(config, data, link, folder, Quiet(), resume=False, threaded=True).run(threading.Event())
    return 0


def in_process(work: Callable[[], int], log: Path) -> None:
    """Do it in a process of its own. This one stays without threads, so that it can be forked."""
    made = Process(work, log)
    made.wait()
    assert made.code == 0, made.tail()


def run_arm(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Train one arm. Returns its figures."""
    edges, fronts, cuts, division = ARMS[name]
    folder, published = work / f"{name}-{seed}", work / f"published-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = whole_data(work)
    if not (published / "between.safetensors").exists():
        shutil.rmtree(published, ignore_errors=True)
        in_process(partial(publish, data, published, seed), folder / "publish.log")
    fleet_network.PUBLISHED.clear()
    if fronts in ("back", "kept"):
        fleet_network.PUBLISHED.update(load_file(published / "between.safetensors"))
    names = [f"edge{number}" for number in range(edges)]
    in_process(partial(make_fleet, folder / "fleet", names), folder / "fleet.log")
    config = settings(folder / "cloud", fronts, cuts, edges, seed, published)
    parts, begun, started = parts_of(data, edges, division, seed), time.perf_counter(), list[Process]()
    with stopping(started):
        started.append(side("cloud", config, "--fleet", str(folder / "fleet"), "--listen", "127.0.0.1:0"))
        address = f"127.0.0.1:{port_of(started[0])}"
        for number, (edge, part) in enumerate(zip(names, parts, strict=True)):
            cut = cuts[number % len(cuts)]
            mine = load_config(config, {"run_dir": str(folder / edge), "model": {"cut": cut}})
            bundle = folder / "fleet" / "bundles" / f"{edge}.bundle"
            started.append(Process(partial(one_edge, mine, part, bundle, address), folder / f"{edge}.log"))
        while any(each.code is None for each in started):
            assert ended(started, LONGEST_S), "it has not ended"
            failed = [each.tail() for each in started if each.code]
            assert not failed, failed
    summary = CloudSummary.read(folder / "cloud" / "cloud" / "summary.json")
    figures, journal = folder / "cloud" / "cloud" / "fleet.json", folder / "cloud" / "cloud" / "order.jsonl"
    assert summary.test is not None
    found = {
        "arm": name,
        "seed": seed,
        "accuracy": summary.test.accuracy,
        "test_images": len(data.splits["test"]),
        "images": [len(part.splits["train"]) for part in parts],
        "smiling": [round(float(part.splits["train"].labels.float().mean()), 3) for part in parts],
        "edges": {}
        if not figures.exists()
        else {
            edge: {"accuracy": None if each.test is None else each.test.accuracy, "loss": each.loss}
            for edge, each in FleetFigures.read(figures).edges.items()
        },
        "jain": fairness(journal, edges) if journal.exists() else None,
        "seconds": round(time.perf_counter() - begun, 1),
        **provenance(f"--only {name} --seeds {seed}"),
    }
    shutil.rmtree(folder)
    return found


def table() -> None:
    """Print and keep what is there: accuracy on all test images, mean over the seeds, beside that of one edge."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault(result["arm"], {})[result["seed"]] = result["accuracy"]
    rows = []
    for name in ARMS:
        if name in found:
            group = name.rpartition("-")[0]
            beside = "one-published" if group == "one" else ONE.get(group, f"one-{group}")
            rows.append(
                {
                    "arm": name,
                    "seeds": len(found[name]),
                    "accuracy %": percent(list(found[name].values())),
                    "points": difference(found[name], found.get(beside, {})),
                    "to": beside,
                }
            )
    show_table("accuracy on all test images", rows, RESULTS.with_suffix(".csv"))


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/fleet-faces"), help="folder for the runs")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    if not args.table:
        warm_up()
        for seed in args.seeds:
            for name in args.only:
                path = RESULTS / f"{name}-{seed}.json"
                if not path.exists():
                    keep_json(path, run_arm(name, seed, args.work.resolve()))
                    print(f"{name} {seed}: done", flush=True)
    table()


if __name__ == "__main__":
    main(sys.argv[1:])
