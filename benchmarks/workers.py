"""Workers that train one back together: equal weights, killed workers, the time of a step.

    python benchmarks/workers.py equal [--work FOLDER]             # ResNet-18: weights of 1, 2 and 4 workers
    python benchmarks/workers.py kills --trials 20 [--first 0]     # kill -9 of a random worker at a random step
    python benchmarks/workers.py time [--rounds 7]                 # a step of 1 and of 2 workers; decoding a frame
    python benchmarks/workers.py overhead [--rounds 7]             # one worker over the store ÷ the cloud's process

Each writes its part of results/workers.json. Frames hold random features, encoded as uint8, since equality and speed do
not depend on their content. One thread for each worker. ``equal`` and ``kills`` start torchrun as the cloud does, on a
store that is complete. Trials of other seeds are kept, and each names its commit. ``time`` gives seconds of wall clock
and of CPU for each step, the medians over all steps. Where other programs use the machine, the wall
clock shows them too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from common import HERE, keep_json, provenance
from safetensors.torch import load_file

from smartedge.artifacts.summary import has_finished
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.worker import Worker
from smartedge.cloud.workers.group import ALONE, Group, WorkerGroup
from smartedge.cloud.workers.launcher import ENVIRONMENT, launch_command
from smartedge.cloud.workers.shared_step import divided, shared_step
from smartedge.codec import get_codec, pack, unpack
from smartedge.config import Config, load_config
from smartedge.files import private_folder, write_atomically
from smartedge.methods.back_step import cloud_step
from smartedge.methods.base import get_method
from smartedge.methods.options import options_of
from smartedge.methods.schedules import get_schedule
from smartedge.models.optim import make_optimizer
from smartedge.privacy.release import release
from smartedge.runs.allocator import keep_freed_memory
from smartedge.runs.progress import Quiet, parse_update
from smartedge.runs.seeds import RandomStream
from smartedge.types import FeatureBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink

RESULTS = HERE / "results" / "workers.json"
SHARDS = 4


def settings(folder: Path, *, small: bool, **changes: Any) -> Config:
    """ResNet-18 cut after its first stage; ``small``: images of 32 pixels, steps of 16."""
    return load_config(
        {
            "epochs": 2,
            "run_dir": str(folder),
            "data": {"image_size": 32 if small else 64},
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": None},
            "train": {"batch_size": 16 if small else 64},
            "hardware": {"cloud_device": "cpu", "threads": 1},
        },
        {"cloud": {"shards": SHARDS}, **changes},
    )


def batch_of(config: Config, seed: int) -> FeatureBatch:
    _, shape = get_method(config.method).cloud(config, 2)
    rng, count = np.random.default_rng(seed), config.train.batch_size
    features_BF = rng.normal(size=(count, *shape)).astype(np.float32)
    return FeatureBatch(np.arange(count) + seed * count, features_BF, rng.integers(0, 2, count))


def headers_of(config: Config, steps: int) -> list[StreamHeader]:
    _, shape = get_method(config.method).cloud(config, 2)
    made: list[StreamHeader] = []
    for epoch, split in get_schedule(config.schedule).streams(config):
        made.append(
            StreamHeader.of(
                run="benchmark",
                agreement=config.agreement(),
                task=Task("single", ("label",), ("no", "yes")),
                codec="uint8",
                feature_shape=shape,
                batch_size=config.train.batch_size,
                epoch=epoch,
                split=split,
                frames=steps if split == "train" else 1,
                first_seq=made[-1].end_seq if made else 0,
                train_steps=steps,
            )
        )
    return made


def fill(config: Config, steps: int) -> None:
    """A run whose edge has sent everything, and of which nothing was trained."""
    private_folder(config.run_dir)
    write_atomically(config.run_dir / "config.yaml", config.to_yaml())
    cloud = config.run_dir / "cloud"
    receiving = Receiving(config, cloud, Quiet(), resume=False, start=None)
    link = MemoryLink(receiving.ingest)
    for header in headers_of(config, steps):
        for seq in range(link.open(header), header.end_seq):
            batch = batch_of(config, seq)
            released = release(batch.ids, batch.features_BF, batch.labels)
            link.write(serialise(Frame(seq, pack(released, get_codec("uint8"))), header))
        link.close()
    receiving.close()
    mark_complete(cloud, True)


def copy_of(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def weights_of(run: Path) -> str:
    """SHA-256 of all weights and running statistics that a run ended with."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(run / "cloud" / "back.safetensors").items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


class Kill:
    """Ends one worker with SIGKILL, at a seeded update of the training's progress and a little later.

    Args:
        seed: of the worker, the update, and the delay.
        workers: how many there are.
        updates: of training in the whole run.
        everything: kill all workers and torchrun.
    """

    def __init__(self, seed: int, workers: int, updates: int, *, everything: bool = False) -> None:
        self.everything = everything
        draw = random.Random(seed)
        self.rank, self.update, self.delay = draw.randrange(workers), draw.randrange(updates), draw.uniform(0, 0.5)
        self.at: float | None = None

    def do(self, torchrun: int) -> None:
        time.sleep(self.delay)
        workers = workers_of(torchrun)
        for process in [psutil.Process(torchrun), *workers] if self.everything else workers[self.rank : self.rank + 1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.at = time.monotonic()
                process.kill()


def workers_of(torchrun: int) -> list[psutil.Process]:
    """The processes that torchrun has forked, in the order of the workers: each has its command line."""
    parent, found = psutil.Process(torchrun), []
    for process in parent.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline() == parent.cmdline():
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def cpu_seconds(torchrun: int) -> float:
    """Of all workers that torchrun has now, since they were started."""
    found = 0.0
    for process in workers_of(torchrun):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def launched(run: Path, workers: int, kill: Kill | None = None) -> dict[str, Any]:
    """Train to the end with workers of torchrun, as the cloud starts them."""
    begun, updates, again, used = time.monotonic(), 0, None, 0.0
    (run / "cloud" / "rendezvous").unlink(missing_ok=True)
    log = (run / "cloud" / "workers.log").open("w")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    environment, killing = {**os.environ, **ENVIRONMENT}, None
    with log, subprocess.Popen(launch_command(run, workers), text=True, env=environment, **pipes) as torchrun:
        assert torchrun.stdout is not None
        for line in torchrun.stdout:
            update = parse_update(line)
            if update is None:
                continue
            if update.phase == "workers" and kill is not None and kill.at is not None and again is None:
                again, used = time.monotonic(), cpu_seconds(torchrun.pid)
            if update.phase == "train":
                updates += 1
                if kill is not None and killing is None and updates == kill.update + 1:
                    killing = threading.Thread(target=kill.do, args=(torchrun.pid,))
                    killing.start()
        code = torchrun.wait()
    if killing is not None:
        killing.join()
    if code or not has_finished(run / "cloud"):
        sys.exit(f"{run}: torchrun ended with {code}; see cloud/workers.log")
    found: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 1), "weights": weights_of(run)}
    if kill is not None:
        found |= {"rank": kill.rank, "killed": kill.at is not None}
        if again is not None and kill.at is not None:
            found["restart seconds"] = round(again - kill.at, 1)
            found["restart CPU seconds"] = round(used, 2)  # of all workers together
    return found


def in_one_process(run: Path, config: Config) -> str:
    """Train on the store in one process, without torchrun. What an earlier call has trained is used again."""
    if has_finished(run / "cloud"):
        return weights_of(run)
    torch.set_num_threads(1)
    worker = Worker(config, run / "cloud", ALONE, Quiet())
    assert worker.run(threading.Event())
    worker.close()
    return weights_of(run)


def equal(work: Path) -> dict[str, Any]:
    rows = []
    for schedule in ("joint", "freeze-and-log"):
        config = settings(work / f"{schedule}-store", small=False, schedule=schedule)
        if not config.run_dir.exists():
            fill(config, steps=3)
        by_workers = {1: in_one_process(copy_of(config.run_dir, work / f"{schedule}-1"), config)}
        for workers in (2, 4):
            run = copy_of(config.run_dir, work / f"{schedule}-{workers}")
            by_workers[workers] = launched(run, workers)["weights"]
        rows.append({"schedule": schedule, "weights": by_workers, "equal": len(set(by_workers.values())) == 1})
        print(rows[-1], flush=True)
    return {"shards": SHARDS, "network": "ResNet-18 cut after layer1, 64 pixels, steps of 64", "rows": rows}


def kills(work: Path, first: int, trials: int) -> dict[str, Any]:
    steps, epochs, expected = 8, 2, {}
    for schedule in ("joint", "freeze-and-log"):
        config = settings(work / f"kill-{schedule}", small=True, schedule=schedule, epochs=epochs)
        if not config.run_dir.exists():
            fill(config, steps)
        alone = work / f"kill-{schedule}-1"
        if not has_finished(alone / "cloud"):
            copy_of(config.run_dir, alone)
        expected[schedule] = in_one_process(alone, config)
    kept = json.loads(RESULTS.read_text()).get("kills", {}) if RESULTS.exists() else {}
    rows = [row for row in kept.get("rows", []) if not first <= row["seed"] < first + trials]
    rows = [{**{name: kept[name] for name in ("date", "commit")}, **row} for row in rows]  # where a row has none
    of_now = {name: provenance()[name] for name in ("date", "commit")}
    for seed in range(first, first + trials):
        schedule = ("joint", "freeze-and-log")[seed % 2]
        run = copy_of(work / f"kill-{schedule}", work / "kill-now")
        found = launched(run, 2, Kill(seed, 2, steps * epochs // 4))
        found["equal"] = found.pop("weights") == expected[schedule]
        rows.append({"seed": seed, "schedule": schedule, **found, "load": round(os.getloadavg()[0], 1), **of_now})
        print(rows[-1], flush=True)
    killed = [row for row in rows if row["killed"]]
    restarts = [row["restart seconds"] for row in killed if "restart seconds" in row]
    return {
        "network": "ResNet-18 cut after layer1, 32 pixels, steps of 16; 2 workers, 4 shards",
        "trials": len(killed),
        "equal": sum(row["equal"] for row in killed),
        "restart seconds": {"median": median(restarts), "most": max(restarts)},
        "rows": sorted(rows, key=lambda row: row["seed"]),
    }


def timed_steps(config: Config, group: Group, steps: int, *, shards: int) -> dict[str, float]:
    """Seconds of one update. With one shard it is today's step; else each worker computes its shards."""
    keep_freed_memory()  # as the cloud and its workers do
    back, _ = get_method(config.method).cloud(config, 2)
    back.train()
    optimizer = make_optimizer([back], name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9)
    stream, batch, wall, cpu = RandomStream(0), batch_of(config, 0), [], []
    for _ in range(steps):
        group.gather(b"")
        begun, used = time.perf_counter(), time.process_time()
        with stream.active():
            if shards == 1:
                features_BF, labels = torch.from_numpy(batch.features_BF), torch.from_numpy(batch.labels)
                cloud_step(back, optimizer, features_BF, labels, "single", options=options_of(config))
            else:
                mine = divided(batch, shards, group.own(shards))
                inputs = lambda number, part: torch.from_numpy(part.features_BF)  # noqa: E731
                shared_step(back, optimizer, mine, inputs, group, label_epsilon=None, options=options_of(config))
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
    return {"wall": median(wall[1:]), "least wall": min(wall[1:]), "cpu": median(cpu[1:])}


def step_worker(out: Path, steps: int, *, sockets: bool) -> None:
    """A process of ``time``, started by torchrun. ``sockets``: as if its workers were on several machines."""
    torch.set_num_threads(1)
    if sockets:
        os.environ["LOCAL_WORLD_SIZE"] = "1"
    group = WorkerGroup(torch.device("cpu"), print)
    found = timed_steps(settings(out, small=False), group, steps, shards=SHARDS)
    if group.leads:
        write_atomically(out / "step.json", json.dumps(found))
    group.close()


def time_all(work: Path, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    config = settings(work / "time", small=False)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {"today, 1 shard": [], "1 worker": [], "2 workers": []}
    rows["2 workers, over sockets"] = []
    for _ in range(rounds):
        rows["today, 1 shard"].append(timed_steps(config, ALONE, 4, shards=1))
        rows["1 worker"].append(timed_steps(config, ALONE, 4, shards=SHARDS))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        environment = {**os.environ, **ENVIRONMENT}
        for name, option in {"2 workers": [], "2 workers, over sockets": ["--sockets"]}.items():
            subprocess.run([*command, "step", "--work", str(config.run_dir), *option], check=True, env=environment)
            rows[name].append(json.loads((config.run_dir / "step.json").read_text()))
        print({name: found[-1] for name, found in rows.items()}, flush=True)
    steps = {
        name: {
            "wall": round(median(each["wall"] for each in found), 3),
            "least wall": round(min(each["least wall"] for each in found), 3),
            "cpu": round(median(each["cpu"] for each in found), 3),
        }
        for name, found in rows.items()
    }
    ratios = {
        what: {
            "2 workers / 1": round(steps["2 workers"][what] / steps["1 worker"][what], 2),
            "2 workers / 1, over sockets": round(steps["2 workers, over sockets"][what] / steps["1 worker"][what], 2),
            "4 shards / today, one worker": round(steps["1 worker"][what] / steps["today, 1 shard"][what], 2),
        }
        for what in ("wall", "least wall", "cpu")
    }
    return {
        "network": "ResNet-18 cut after layer1, 64 pixels, steps of 64, 4 shards",
        "seconds of a step": steps,
        "ratios": ratios,
        "rounds": rounds,
        "decoding, seconds": decoding(config),
        "load": os.getloadavg()[0],
    }


def decoding(config: Config) -> float:
    """Least seconds that decoding a frame takes."""
    header, batch = headers_of(config, 1)[0], batch_of(config, 0)
    frame = Frame(0, pack(release(batch.ids, batch.features_BF, batch.labels), get_codec("uint8")))
    found = []
    for _ in range(7):
        begun = time.perf_counter()
        unpack(frame.batch, header)
        found.append(time.perf_counter() - begun)
    return min(found)


def overhead(work: Path, rounds: int) -> dict[str, Any]:
    """CPU seconds of training on a store: a worker alone ÷ the cloud's own process, one shard, least of all rounds."""
    torch.set_num_threads(1)
    config = settings(work / "overhead", small=True, cloud={"shards": 1})
    if not config.run_dir.exists():
        fill(config, steps=12)
    found: dict[str, list[float]] = {"cloud": [], "worker": []}
    for _ in range(rounds):
        for name, seconds in found.items():
            run = copy_of(config.run_dir, work / f"overhead-{name}")
            if name == "worker":
                worker = Worker(config, run / "cloud", ALONE, Quiet())
                begun = time.process_time()
                assert worker.run(threading.Event())
            else:
                runner = CloudRunner(config, run / "cloud", Quiet(), resume=True, inline=False)
                begun = time.process_time()
                assert runner.run(threading.Event())
            seconds.append(time.process_time() - begun)
            worker.close() if name == "worker" else runner.close()
    least = {name: round(min(seconds), 2) for name, seconds in found.items()}
    return {"rounds": rounds, **least, "ratio": round(min(found["worker"]) / min(found["cloud"]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equal", "kills", "time", "overhead", "step"])
    parser.add_argument("--work", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial; others are kept")
    parser.add_argument("--sockets", action="store_true", help="of step: exchange gradients over sockets")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.what == "step":
        return step_worker(args.work, 5, sockets=args.sockets)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if args.what == "equal":
            found = equal(work)
        elif args.what == "kills":
            found = kills(work, args.first, args.trials)
        else:
            found = (time_all if args.what == "time" else overhead)(work, args.rounds)
    said = {"equal": "equal", "kills": f"kills --trials {args.trials} --first {args.first}"}.get(
        args.what, f"{args.what} --rounds {args.rounds}"
    )
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    keep_json(RESULTS, {**kept, args.what: {**provenance(said), **found}})


if __name__ == "__main__":
    main()
