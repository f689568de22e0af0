"""Do edge, link and cloud really overlap? Time per epoch of a hierarchical run against each stage measured alone.

    python benchmarks/overlap.py

Edge and cloud are two processes, pinned to one core each (Linux, two cores). Measured alone, on the same cores: the
edge with a link that throws its frames away, the link with frames that are ready, the cloud with a complete log. The
goal is a run that takes at most 1.15 times its slowest stage. Start-up (imports, data, building the networks) is not
part of an epoch and not counted, on any side. The first batch, which the cloud has to wait for, is counted: it is
spread over the run's 4 epochs (over 2 epochs the same code gave 1.18, in rounds of 1.03, 1.18 and 1.20).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import HERE, DropHandler, data_folder, keep_result

from smartedge.config import Config, load_config
from smartedge.runs.progress import Quiet

CORES = {"edge": 0, "cloud": 1}


def settings(work: Path, images: int, model: str, cut: str) -> Config:
    return load_config(
        {
            "epochs": 4,
            "run_dir": str(work / "run"),
            "data": {
                "path": str(data_folder("lfw-attributes")),
                "desired": "Smiling",
                "image_size": 64,
                "limit": {"train": images, "val": 64, "test": 64},
            },
            "model": {"name": model, "cut": cut, "bottleneck": None},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
        }
    )


def pinned(side: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "smartedge", side, *arguments, "--progress", "json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {CORES[side]})
    return process


def together(config: Config) -> float:
    """Seconds per epoch of the two processes, from the edge's first step to the cloud's last."""
    file = config.run_dir.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    cloud = pinned("cloud", [str(file), "--listen", "127.0.0.1:0"])
    assert cloud.stdout is not None
    port = json.loads(cloud.stdout.readline())["port"]
    edge = pinned("edge", [str(file), "--connect", f"127.0.0.1:{port}"])
    for process in (edge, cloud):
        assert process.stdout is not None
        process.stdout.read()  # to its end; its input stays open meanwhile, else it would stop
        assert process.wait() == 0, process.args
    sides = {side: json.loads((config.run_dir / side / "summary.json").read_text())["session"] for side in CORES}
    seconds: float = sides["cloud"]["ended"] - sides["edge"]["started"]
    return seconds / config.epochs


def alone(stage: str, config: Config) -> float:
    """Seconds per epoch of one stage; called in a process of its own, pinned to that stage's core."""
    import torch

    torch.set_num_threads(1)
    if stage == "edge":
        from smartedge.edge.runner import EdgeRunner
        from smartedge.launch.datasets import open_data
        from smartedge.wire.memory import MemoryLink

        runner = EdgeRunner(
            config,
            open_data(config, Quiet()),
            MemoryLink(DropHandler()),
            config.run_dir.parent / "edge-alone",
            Quiet(),
            resume=False,
            threaded=True,
        )
        begun = time.perf_counter()
        runner.run(threading.Event())
        return (time.perf_counter() - begun) / config.epochs
    from smartedge.cloud.store.feature_log import FeatureReader, log_folder

    log = FeatureReader(log_folder(config.run_dir / "cloud"))
    return (link_alone(log) if stage == "link" else cloud_alone(config, log)) / config.epochs


def link_alone(log: Any) -> float:
    from smartedge.wire.frame import serialise
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.grpc_receiver import GrpcReceiver

    frames = list(log.frames())
    receiver = GrpcReceiver(DropHandler(), "127.0.0.1")
    receiver.start()
    link = GrpcLink(f"127.0.0.1:{receiver.port}")
    begun = time.perf_counter()
    for header in log.streams:
        link.open(header)
        for frame in frames[header.first_seq : header.first_seq + header.frames]:
            link.write(serialise(frame, header))
        link.close()
    seconds = time.perf_counter() - begun
    link.disconnect()
    receiver.close()
    return seconds


def cloud_alone(config: Config, log: Any) -> float:
    import torch

    from smartedge.cloud.trainer import BackTrainer
    from smartedge.cloud.training.in_sequence import consume
    from smartedge.codec import unpack
    from smartedge.models.network import divide

    folder = config.run_dir.parent / "cloud-alone"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    back = divide(config.division(2)).back
    trainer = BackTrainer(
        config, back, task_kind="single", device=torch.device("cpu"), folder=folder, monitor=Quiet(), resume=False
    )
    begun = time.perf_counter()
    for seq in range(log.next_seq):
        header = log.header_of(seq)
        consume(trainer, header, seq, unpack(log.frame(seq).batch, header))
    return time.perf_counter() - begun


def in_own_process(stage: str, config: Config) -> float:
    file = config.run_dir.with_suffix(".yaml")
    core = CORES["edge" if stage == "edge" else "cloud"]
    shutil.rmtree(config.run_dir.parent / "edge-alone", ignore_errors=True)
    command = ["taskset", "-c", str(core), sys.executable, __file__, "--stage", stage, "--config", str(file)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="training images")
    parser.add_argument("--rounds", type=int, default=3, help="the median ratio counts")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--cut", default="layer1")
    parser.add_argument("--stage", choices=["edge", "link", "cloud"], help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(alone(args.stage, load_config(args.config)))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as work:
        config = settings(Path(work), args.images, args.model, args.cut)
        for number in range(args.rounds):
            shutil.rmtree(config.run_dir, ignore_errors=True)
            times = {"together": together(config)}
            for stage in ("edge", "link", "cloud"):
                times[stage] = in_own_process(stage, config)
            times["ratio"] = times["together"] / max(times["edge"], times["link"], times["cloud"])
            rounds.append(times)
            print(f"round {number + 1}: " + ", ".join(f"{key} {value:.2f}" for key, value in times.items()), flush=True)
    ratio = median(times["ratio"] for times in rounds)
    sum_ratio = median(t["together"] / (t["edge"] + t["link"] + t["cloud"]) for t in rounds)
    print(f"run ÷ slowest stage: {ratio:.3f} (goal: at most 1.15); run ÷ sum of the stages: {sum_ratio:.3f}")
    found = {
        "settings": {"images": args.images, "model": args.model, "cut": args.cut, "cores": CORES},
        "seconds_per_epoch": rounds,
        "run_to_slowest_stage": ratio,
        "run_to_sum_of_stages": sum_ratio,
    }
    keep_result(HERE / "results" / f"overlap-{args.model}-{args.cut}.json", found)


if __name__ == "__main__":
    main()
