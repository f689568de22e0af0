"""Two hundred edges at once: whether all complete, how fair the cloud is, and what each costs it in memory.

    python benchmarks/many_edges.py                 # 20 edges, then 200; three minutes on one core
    python benchmarks/many_edges.py --edges 4 8     # the same in small

The cloud is ``smartedge cloud --fleet``, a process of its own. 200 whole edges do not fit into this machine's memory:
the size of one is measured. So all but one are light. A light edge has a certificate and a connection of its own, and
sends what ``smartedge edge`` would send in its place: the features of its shard of the drawn faces, released, encoded
and framed by the same code. But it trains no front; all of them use one. It is a process, forked from one that has
imported everything. One edge is ``smartedge edge``, with the first shard.

Schedule joint. All edges have equally many images. ``jain`` is Jain's index over the images of each edge that the back
had learned from, the least of three moments: when a quarter, half and three quarters of all had been. ``kib_per_edge``
is the difference of the cloud's largest resident size between the two runs, divided by the number of further edges. It
contains the decoded frames that wait for training, 4 MiB at most for all edges together. With ``--narrow`` an image
has 16 features in place of 512, so that these count for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from common import HERE, keep_result
from trials import TINY, Process, ended, seconds_since, side, stopping, warm_up

from smartedge.artifacts.fleet_run import FleetFigures, OrderLine
from smartedge.cli.app import main as command_line
from smartedge.codec import get_codec, pack
from smartedge.config import Config, load_config
from smartedge.data import batches, shard
from smartedge.edge.outage import Outage
from smartedge.errors import LinkError
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import credentials_of
from smartedge.launch.datasets import dataset_of
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.privacy.release import release
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_link import GrpcLink

RESULTS = HERE / "results"
LONGEST_S = 900.0
SIZES = {"train": 32, "val": 4, "test": 8}  # images of each edge


class Shard(NamedTuple):
    """What a light edge sends of each split: batches, encoded."""

    task: Task
    shape: tuple[int, ...]  # of the features of an image
    splits: dict[str, list[EncodedBatch]]


def settings(run_dir: Path, work: Path, edges: int, *, narrow: bool, shard: str | None = None) -> Config:
    data = {"cache_dir": str(work / "cache"), "limit": {name: size * edges for name, size in SIZES.items()}}
    changes = {
        "run_dir": str(run_dir),
        "epochs": 3,
        "data": {**data, "shard": shard},
        "model": {"bottleneck": [4, 2, 2] if narrow else None},
        "train": {"batch_size": 8},
        "fleet": {"expect": edges},
    }
    return load_config(load_config(TINY), changes)


def name_of(number: int) -> str:
    return f"edge-{number:03d}"


def shards(config: Config, edges: int) -> dict[str, Shard]:
    """What the light edges send, by their names; the whole edge has the first part."""
    dataset, found = dataset_of(config), {}
    learner = get_method(config.method).edge(config, dataset.task, torch.device("cpu"), dataset)
    codec = get_codec(config.codec_name)
    for number in range(1, edges):
        part = shard(dataset, number + 1, edges)
        splits: dict[str, list[EncodedBatch]] = {}
        for name, split in part.splits.items():
            splits[str(name)] = []
            size = config.train.batch_size
            with batches(split, size, seed=0, epoch=0, shuffle=False, augment="none") as loader:
                for batch in loader:
                    features_BF, _ = learner.infer(batch)
                    assert features_BF is not None
                    released = release(batch.ids, features_BF.cpu().numpy(), batch.labels.numpy())
                    splits[str(name)].append(pack(released, codec))
        found[name_of(number)] = Shard(dataset.task, learner.feature_shape, splits)
    return found


def light_edge(name: str, mine: Shard, config: Config, fleet: Path, address: str) -> int:
    """A light edge: sends all its streams, and waits and tries again after an error of the link, as an edge does."""
    bundle = open_bundle(fleet / "bundles" / f"{name}.bundle")
    link = GrpcLink(address, credentials_of(bundle))
    outage = Outage(lambda text: print(f"{name}: {text}", flush=True))
    first = 0
    for epoch, split in get_schedule(config.schedule).streams(config):
        batches = mine.splits[split]
        header = StreamHeader.of(
            run=name,
            agreement=config.agreement(),
            task=mine.task,
            codec=config.codec_name,
            feature_shape=mine.shape,
            batch_size=config.train.batch_size,
            epoch=epoch,
            split=split,
            first_seq=first,
            frames=len(batches),
            train_steps=len(mine.splits["train"]),
        )
        while True:
            try:
                wanted = link.open(header)
                outage.over()
                for seq in range(wanted, header.end_seq):
                    link.write(serialise(Frame(seq, batches[seq - first]), header))
                link.close()
                break
            except LinkError as error:
                outage.wait(str(error), threading.Event())
        first = header.end_seq
    link.disconnect()
    return 0


def jain(images: Mapping[str, int], edges: int) -> float:
    """Jain's index: 1 where all have equally much, 1 ÷ edges where one has all."""
    shares = np.array([*images.values(), *[0] * (edges - len(images))], float)
    return float(shares.sum() ** 2 / (edges * (shares**2).sum()))


def fairness(journal: Path, edges: int) -> list[float]:
    """Jain's index when a quarter, half and three quarters of all frames had been learned from."""
    lines = [OrderLine.model_validate_json(line) for line in journal.read_text().splitlines()]
    keys = [edge for line in lines for edge, _ in line.frames or ()]
    return [round(jain(Counter(keys[: len(keys) * part // 4]), edges), 4) for part in (1, 2, 3)]


class Size:
    """The largest resident size of a process so far, in bytes, and its largest number of threads."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.most = self.threads = 0

    def look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            self.most = max(self.most, self._process.memory_info().rss)
            self.threads = max(self.threads, self._process.num_threads())


def run(edges: int, work: Path, *, narrow: bool) -> dict[str, Any]:
    """One run with so many edges."""
    folder = work / f"{edges}-edges"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fleet, config = folder / "fleet", settings(folder / "cloud", work, edges, narrow=narrow)
    whole = settings(folder / "whole", work, edges, narrow=narrow, shard=f"1/{edges}")
    names = [name_of(number) for number in range(edges)]
    made = Process(lambda: make_fleet(fleet, names), folder / "fleet.log")
    made.wait()
    assert made.code == 0, made.tail()
    parts = shards(config, edges)
    (folder / "cloud.yaml").write_text(config.to_yaml())
    program = [sys.executable, "-W", "ignore", "-m", "smartedge", "cloud", str(folder / "cloud.yaml")]
    program += ["--listen", "127.0.0.1:0", "--fleet", str(fleet), "--progress", "json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    started: list[Process] = []
    with stopping(started):
        cloud = Process(lambda: os.execve(sys.executable, program, environment), folder / "cloud.log")
        started.append(cloud)
        address = f"127.0.0.1:{port_of(cloud)}"
        begun, size = time.monotonic(), Size(cloud.pid)
        size.look()
        before = size.most
        started.append(
            side("edge", whole, "--bundle", str(fleet / "bundles" / "edge-000.bundle"), "--connect", address)
        )
        whole_size = Size(started[-1].pid)
        for name, mine in parts.items():
            work_of = partial(light_edge, name, mine, config, fleet, address)
            started.append(Process(work_of, folder / f"{name}.log"))
        while any(each.code is None for each in started):
            assert time.monotonic() - begun < LONGEST_S, "it has not ended"
            size.look()
            whole_size.look()
            ended(started, 0.05)
            failed = [each.tail() for each in started if each.code]
            assert not failed, failed
        took = seconds_since(begun)
    figures = FleetFigures.read(config.run_dir / "cloud" / "fleet.json")
    frames = sum(each.frames for each in figures.edges.values())
    return {
        "edges": edges,
        "seconds": took,
        "complete": sum(each.closed and each.lag == 0 for each in figures.edges.values()),
        "frames": frames,
        "frames_expected": edges
        * sum(
            -(-SIZES[split] // config.train.batch_size) for _, split in get_schedule(config.schedule).streams(config)
        ),
        "streams_broken": sum(file.read_text().count("cloud unreachable for") for file in folder.glob("edge-*.log")),
        "refused": sum(each.refused for each in figures.edges.values()),
        "jain": fairness(config.run_dir / "cloud" / "order.jsonl", edges),
        "cloud_mib_at_start": round(before / 2**20, 1),
        "cloud_mib_at_most": round(size.most / 2**20, 1),
        "cloud_threads_at_most": size.threads,
        "whole_edge_mib": round(whole_size.most / 2**20, 1),
    }


def make_fleet(fleet: Path, names: Sequence[str]) -> int:
    return command_line(["fleet", "init", str(fleet)]) or command_line(
        ["fleet", "add", str(fleet), *names, "--cloud", "127.0.0.1:1"]
    )


def port_of(cloud: Process) -> int:
    """Wait until the cloud listens; its port."""
    begun = time.monotonic()
    while True:
        for line in cloud.log.read_text().splitlines() if cloud.log.exists() else ():
            if line.startswith("{") and (port := json.loads(line)["port"]):
                return int(port)
        assert cloud.code is None and time.monotonic() - begun < 180, cloud.tail()
        ended([cloud], 0.1)


def main(arguments: Sequence[str]) -> int:
    """See the module. The exit code is 1 where an edge has not completed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs=2, default=[20, 200], help="of the two runs")
    parser.add_argument("--narrow", action="store_true", help="few features, so that frames that wait take no memory")
    parser.add_argument("--work", type=Path, default=Path("runs/many-edges"), help="folder for the runs")
    parser.add_argument("--result", type=Path, help="default: results/many-edges.json, or many-edges-narrow.json")
    args = parser.parse_args(arguments)
    warm_up()
    work: Path = args.work.resolve()
    runs = [run(edges, work, narrow=args.narrow) for edges in args.edges]
    few, many = runs
    more = (many["cloud_mib_at_most"] - few["cloud_mib_at_most"]) * 1024 / (many["edges"] - few["edges"])
    found = {"kib_per_edge": round(more, 1), "runs": runs}
    print(json.dumps(found, indent=1))
    keep_result(args.result or RESULTS / f"many-edges{'-narrow' * args.narrow}.json", found)
    return int(any(each["complete"] < each["edges"] or each["frames"] != each["frames_expected"] for each in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
