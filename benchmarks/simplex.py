"""Training over a link without a way back, of which datagrams are lost. Drawn faces; the way back is closed.

    python benchmarks/simplex.py                      # all rows, 20 s each on one core; needs superuser rights
    python benchmarks/simplex.py --only 10:10         # the link loses 10 %, and is made for 10 %
    python benchmarks/simplex.py --table

Edge and cloud are processes in network namespaces of their own, joined by a pair of virtual Ethernet devices. The
cloud's side has no route back, so its kernel throws away whatever is sent to the edge. The edge knows the hardware
address of the cloud, since not even ARP can be answered. Its kernel counts the packets that come to its device.

A proxy at the cloud's side drops datagrams at random. ``frames lost`` are those that the cloud's store marks as gaps.
``redundancy`` is the bytes of all datagrams for each byte of a frame.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import HERE, keep_result
from trials import TINY, Process, ended, give_key, seconds_since, stopping, train_alone, warm_up

from smartedge.artifacts.run import Shipped
from smartedge.cli.app import main as command_line
from smartedge.cloud.store.feature_log import FeatureReader, log_folder
from smartedge.config import Config, load_config
from smartedge.training import collect

RESULTS = HERE / "results" / "simplex"
ROWS = ["0:0", "5:5", "10:10", "20:20", "10:0", "20:10"]  # per cent: lost, and made for
SCHEDULES = ["joint", "freeze-and-log"]
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
EDGE_IP, CLOUD_IP = "10.90.0.1", "10.90.0.2"
EDGE_MAC, CLOUD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
PROXY_PORT, CLOUD_PORT = 8816, 8817
LONGEST_S = 600.0


def settings(run_dir: Path, work: Path, schedule: str, made_for: float) -> Config:
    changes = {
        "run_dir": str(run_dir),
        "schedule": schedule,
        "data": {
            "desired": "glasses",
            "sensitive": [],
            "cache_dir": str(work / "cache"),
            "limit": {"train": 1200, "val": 100, "test": 1000},
        },
        "model": {"name": "fleet_network:build", "bottleneck": None},
        "train": {"batch_size": 32, "lr": 3e-3},
        "link": {"simplex_rate": 4e6, "simplex_loss": made_for},
    }
    return load_config(load_config(TINY), changes)


def own_network() -> int:
    """Live in a network namespace of its own, until killed."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "a network namespace needs superuser rights")
    print("ready", flush=True)
    signal.pause()
    return 0


def within(network: Process, work: Callable[[], int]) -> Callable[[], int]:
    """The work, done in the namespace of a process."""

    def there() -> int:
        with open(f"/proc/{network.pid}/ns/net") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")
        return work()

    return there


def command(line: str, network: Process | None = None) -> str:
    """Run a command, in a namespace where one is named; returns its output."""
    into = [] if network is None else ["nsenter", "-t", str(network.pid), "-n"]
    return subprocess.run([*into, *line.split()], check=True, capture_output=True, text=True).stdout


def connect(edge: Process, cloud: Process) -> None:
    """Join two namespaces by virtual Ethernet, of which one direction is closed."""
    for network in (edge, cloud):
        command("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", network)
        command("ip link set lo up", network)
    command("ip link add smedge type veth peer name smcloud", edge)
    command(f"ip link set smcloud netns {cloud.pid}", edge)
    command(f"ip link set smedge address {EDGE_MAC} arp off up", edge)
    command(f"ip addr add {EDGE_IP}/24 dev smedge", edge)
    command(f"ip neigh replace {CLOUD_IP} lladdr {CLOUD_MAC} nud permanent dev smedge", edge)
    command("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0", cloud)
    command("sysctl -qw net.ipv4.conf.smcloud.rp_filter=0", cloud)
    command(f"ip link set smcloud address {CLOUD_MAC} arp off up", cloud)
    command(f"ip addr add {CLOUD_IP}/32 dev smcloud", cloud)  # its own address, and no route to the edge
    command("ip route add blackhole default", cloud)


def packets_back(edge: Process) -> int:
    """Packets that came to the edge's device."""
    (device,) = json.loads(command("ip -s -j link show smedge", edge))
    count: int = device["stats64"]["rx"]["packets"]
    return count


def lossy(loss: float) -> int:
    """Pass datagrams on, but for a share of them."""
    drawn = random.Random("simplex")
    here, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
    here.bind((CLOUD_IP, PROXY_PORT))
    there.connect(("127.0.0.1", CLOUD_PORT))
    print("ready", flush=True)
    while True:
        datagram = here.recv(2**16)
        if drawn.random() >= loss:
            with contextlib.suppress(ConnectionRefusedError):
                there.send(datagram)


def until(process: Process, text: str) -> None:
    """Wait until a process has said something."""
    begun = time.monotonic()
    while not process.log.exists() or text not in process.log.read_text():
        assert process.code is None and time.monotonic() - begun < 60, process.tail()
        ended([process], 0.05)


def run(config: Config, loss: float) -> dict[str, Any]:
    """One run over the one-way link; its figures."""
    folder = config.run_dir.parent
    fleet = folder / "fleet"
    give_key(config.run_dir)
    made = Process(lambda: _make_fleet(fleet), folder / "fleet.log")
    made.wait()
    assert made.code == 0, made.tail()
    file = folder / "run.yaml"
    file.write_text(config.to_yaml())
    started: list[Process] = []

    def start(name: str, work: Callable[[], int]) -> Process:
        started.append(Process(work, folder / f"{name}.log"))
        return started[-1]

    common = [str(file), "--progress", "json"]
    with stopping(started):
        networks = start("edge-network", own_network), start("cloud-network", own_network)
        for network in networks:
            until(network, "ready")
        connect(*networks)
        listen = ["--listen", "127.0.0.1:0", "--listen-udp", f"127.0.0.1:{CLOUD_PORT}", "--fleet", str(fleet)]
        cloud = start("cloud", within(networks[1], lambda: command_line(["cloud", *common, *listen])))
        until(cloud, "for datagrams on")
        until(start("proxy", within(networks[1], lambda: lossy(loss))), "ready")
        sending = ["--connect", f"udp://{CLOUD_IP}:{PROXY_PORT}", "--bundle", str(fleet / "bundles" / "door.bundle")]
        begun = time.monotonic()
        edge = start("edge", within(networks[0], lambda: command_line(["edge", *common, *sending])))
        while edge.code is None or cloud.code is None:
            left = LONGEST_S - (time.monotonic() - begun)
            assert ended([edge, cloud], left), "it has not ended"
            assert not edge.code and not cloud.code, edge.tail() + cloud.tail()
        back = packets_back(networks[0])
        took = seconds_since(begun)
    results = collect(config.run_dir)
    store = FeatureReader(log_folder(config.run_dir / "cloud", "door"))
    lost = sum(end - first for first, end in store.gaps)
    sizes = [len(found.batch.payload) + len(found.batch.side) for found in store.frames()]
    up = sum(Shipped.read(config.run_dir / "edge" / "shipped.json").up.values())
    back_at_test = results.test.back  # None where no test frame arrived
    return {
        "schedule": config.schedule,
        "lost": loss,
        "made_for": config.link.simplex_loss,
        "accuracy": None if back_at_test is None else back_at_test.balanced_accuracy,
        "exit_accuracy": None if results.test.exit is None else results.test.exit.balanced_accuracy,
        "frames": store.next_seq,
        "frames_lost": lost,
        "bytes_up": up,
        "bytes_per_training_image": results.bytes_per_image.up,
        "redundancy": up / (sum(sizes) / len(sizes) * store.next_seq),
        "bytes_down": results.bytes_per_image.down,
        "packets_back": back,
        "seconds": took,
    }


def _make_fleet(fleet: Path) -> int:
    return command_line(["fleet", "init", str(fleet)]) or command_line(
        ["fleet", "add", str(fleet), "door", "--cloud", f"{CLOUD_IP}:1"]
    )


def row(schedule: str, loss: float, made_for: float, work: Path) -> dict[str, Any]:
    """One row of the table, and the accuracy of the same run without a link."""
    whole = settings(work / f"whole-{schedule}" / "run", work, schedule, 0.0)
    give_key(whole.run_dir)
    train_alone(whole)
    folder = work / f"{schedule}-{loss:g}-{made_for:g}"
    shutil.rmtree(folder, ignore_errors=True)
    found = run(settings(folder / "run", work, schedule, made_for), loss)
    reference = json.loads((whole.run_dir / "results.json").read_text())["test"]["back"]["balanced_accuracy"]
    return {**found, "accuracy_without_loss": reference}


def table(folder: Path) -> None:
    """Print what is there."""
    titles = ["schedule", "lost", "made for", "accuracy %", "no loss %", "frames lost", "redundancy", "B/image", "back"]
    print("".join(f"{title:>16}" if number == 0 else f"{title:>12}" for number, title in enumerate(titles)))
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())
        accuracy = "-" if found["accuracy"] is None else f"{100 * found['accuracy']:.1f}"
        print(
            f"{found['schedule']:>16}{found['lost']:>12.0%}{found['made_for']:>12.0%}{accuracy:>12}"
            f"{100 * found['accuracy_without_loss']:>12.1f}{found['frames_lost']:>5} of {found['frames']:<3}"
            f"{found['redundancy']:>12.2f}{found['bytes_per_training_image']:>12.0f}{found['packets_back']:>12}"
        )


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_argument("--work", type=Path, default=Path("runs/simplex"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    if not args.table:
        if os.geteuid() != 0:
            sys.exit("network namespaces need superuser rights")
        warm_up()
        work: Path = args.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        for schedule in args.schedules:
            for name in args.only:
                file = args.results / f"{schedule}-{name.replace(':', '-')}.json"
                if not file.exists():
                    loss, made_for = (float(share) / 100 for share in name.split(":"))
                    keep_result(file, row(schedule, loss, made_for, work))
    table(args.results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
