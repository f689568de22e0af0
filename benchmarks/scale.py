"""What 1000, 100 000 and 1 000 000 edges at one image a second would need in the cloud, from measured unit costs.

    python benchmarks/scale.py                       # the table of docs/scale.md, and docs/scale.png
    python benchmarks/scale.py --images-a-second 0.1 --cores 32

Unit costs are read from kept results: of ingest from ``load/100-edges.json`` and ``load/400-edges.json``
(``benchmarks/load.py``), of memory from ``many-edges.json``, of the disk's waits from ``store.json``, of training
from ``workers.json``. From the two small runs it predicts the run with 1000 edges, ``load/1000-edges.json``, and says
by how much it is wrong. Everything that is assumed and not measured is a field of :class:`Assumptions`; the output
names all of them. Result: ``results/scale.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs" / "scale.png"
DAY_S = 86_400
FLEETS = (1_000, 100_000, 1_000_000)

Run = Mapping[str, Any]  # a kept result of load.py


@dataclass(frozen=True)
class Assumptions:
    """What is not measured. Times are in seconds, sizes in bytes."""

    images_a_second: float = 1.0  # of each edge
    images_per_frame: int = 64  # the default batch
    reconnects_a_day: float = 24.0  # of each edge: its link breaks once an hour
    cores: int = 16  # of a machine, each as fast as the one measured
    memory_bytes: int = 64 * 2**30  # of a machine
    network_bits_s: float = 10e9  # of a machine
    disk_bytes: float = 8e12  # of a machine
    use: float = 0.5  # share of processor, network and memory that is planned to be used; the rest is for bursts
    times_learned: float = 1.0  # how often the back learns from each image
    broker_connections: int = 65_536  # of a NATS server: its default limit
    broker_copies: int = 3  # of each frame in the broker: a cluster that may lose a node


@dataclass(frozen=True)
class Limits:
    """Limits that smartedge sets itself (``wire/grpc_receiver.py``), of one receiving process."""

    connections: int = 1024


@dataclass(frozen=True)
class Costs:
    """Measured unit costs. Processor times are in seconds of one core, sizes in bytes."""

    idle_cpu: float  # of the process alone, each second
    edge_cpu: float  # of each connected edge, each second
    connect_cpu: float  # of one edge that connects: TLS handshake with two certificates, header
    frame_cpu: float  # of one frame: received, checked, appended, made durable, confirmed
    log_cpu: float  # of an edge's first frame, further: its log is made
    start_memory: float  # of the process alone
    edge_memory: float
    start_files: float  # open ones
    edge_files: float
    frame_body: float  # head and payload
    frame_wire: float  # at the socket: body, framing, TLS
    edge_wire: float  # of one connection: handshake, stream header
    frame_disk: float
    edge_disk: float  # whole blocks of the file system
    sync_wait: float  # until one frame is durable, where frames wait for one another
    train_cpu: float  # of one image, each time it is learned from


def cpu_of(run: Run, phase: str) -> tuple[float, float]:
    """Seconds of processor time, and of the clock."""
    return run["phases"][phase]["cpu_seconds"], run["phases"][phase]["seconds"]


def ingest_costs(few: Run, many: Run) -> dict[str, float]:
    """Unit costs from two runs. What grows with the number of edges follows from the difference between them."""
    n, m = few["edges"], many["edges"]
    idle = [cpu / seconds for cpu, seconds in (cpu_of(few, "idle"), cpu_of(many, "idle"))]
    edge_cpu = (idle[1] - idle[0]) / (m - n)
    idle_cpu = idle[0] - n * edge_cpu

    def beyond_idle(run: Run, phase: str) -> float:
        cpu, seconds = cpu_of(run, phase)
        return float(cpu - seconds * (idle_cpu + run["edges"] * edge_cpu))

    first, steady = many["phases"]["first"], many["phases"]["steady"]
    further = steady["frames"] - first["frames"]
    frame_cpu = beyond_idle(many, "steady") / further
    frame_wire = (steady["received_bytes"] - first["received_bytes"]) / further
    frame_disk = (steady["store_disk_bytes"] - first["store_disk_bytes"]) / further
    edge_files = (steady["descriptors"] - few["phases"]["steady"]["descriptors"]) / (m - n)
    return {
        "idle_cpu": idle_cpu,
        "edge_cpu": edge_cpu,
        "connect_cpu": beyond_idle(many, "connect") / m,
        "frame_cpu": frame_cpu,
        "log_cpu": max(0.0, beyond_idle(many, "first") / m - frame_cpu),
        "start_memory": max(few["start"]["rss_bytes"], many["start"]["rss_bytes"]),
        "start_files": steady["descriptors"] - m * edge_files,
        "edge_files": edge_files,
        "frame_body": many["frame_bytes"],
        "frame_wire": frame_wire,
        "edge_wire": first["received_bytes"] / m - frame_wire,
        "frame_disk": frame_disk,
        "edge_disk": first["store_disk_bytes"] / m - frame_disk,
    }


def between(size: float, small: tuple[float, float], large: tuple[float, float]) -> float:
    """The value at ``size`` on the straight line through two points (size, value)."""
    (x, y), (x2, y2) = small, large
    return y + (size - x) * (y2 - y) / (x2 - x)


def measured() -> Costs:
    """The costs, from the kept results."""
    ingest = ingest_costs(kept("load/100-edges.json"), kept("load/400-edges.json"))
    store = kept("store.json")["durable"]
    waits = [store[f"{size}, sync every 1, ours"]["ms per frame"] / 1000 for size in ("10 kB", "1 MB")]
    step = kept("workers.json")["time"]["seconds of a step"]["today, 1 shard"]["cpu"]
    return Costs(
        **ingest,
        edge_memory=1024 * kept("many-edges.json")["kib_per_edge"],
        sync_wait=between(ingest["frame_body"], (10_240, waits[0]), (2**20, waits[1])),
        train_cpu=step / 64,
    )


def kept(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


# -- the check


def predicted(costs: Costs, run: Run) -> dict[str, float]:
    """What a run of ``load.py`` with so many edges, frames and seconds should have cost."""
    edges, phases = run["edges"], run["phases"]
    frames = phases["steady"]["frames"]

    def idle(phase: str) -> float:
        return float(phases[phase]["seconds"] * (costs.idle_cpu + edges * costs.edge_cpu))

    cpu = {
        "CPU s, edges connect": edges * costs.connect_cpu + idle("connect"),
        "CPU s, edges are silent": idle("idle"),
        "CPU s, first frames": edges * (costs.log_cpu + costs.frame_cpu) + idle("first"),
        "CPU s, further frames": (frames - edges) * costs.frame_cpu + idle("steady"),
    }
    return {
        **cpu,
        "CPU s, all of these": sum(cpu.values()),
        "memory, MiB": (costs.start_memory + edges * costs.edge_memory) / 2**20,
        "open files": costs.start_files + edges * costs.edge_files,
        "received, MB": (frames * costs.frame_wire + edges * costs.edge_wire) / 1e6,
        "disk, MB": (frames * costs.frame_disk + edges * costs.edge_disk) / 1e6,
    }


def found(run: Run) -> dict[str, float]:
    """What it did cost, by the same names."""
    phases, last = run["phases"], run["phases"]["steady"]
    names = {
        "connect": "edges connect",
        "idle": "edges are silent",
        "first": "first frames",
        "steady": "further frames",
    }
    cpu = {f"CPU s, {name}": phases[phase]["cpu_seconds"] for phase, name in names.items()}
    return {
        **cpu,
        "CPU s, all of these": sum(cpu.values()),
        "memory, MiB": max(each["rss_bytes"] for each in phases.values()) / 2**20,
        "open files": last["descriptors"],
        "received, MB": last["received_bytes"] / 1e6,
        "disk, MB": last["store_disk_bytes"] / 1e6,
    }


# -- the plan


def most_edges(costs: Costs, assumed: Assumptions, limits: Limits) -> dict[str, int]:
    """How many edges each limit of one receiving process, on a machine of its own, allows. The least breaks first."""
    frames = assumed.images_a_second / assumed.images_per_frame  # of one edge, each second
    cpu = costs.edge_cpu + frames * costs.frame_cpu + costs.connect_cpu * assumed.reconnects_a_day / DAY_S
    bits = 8 * (frames * costs.frame_wire + costs.edge_wire * assumed.reconnects_a_day / DAY_S)
    return {
        "connections of one process": limits.connections,
        "processor (one core: Python)": math.floor((assumed.use - costs.idle_cpu) / cpu),
        "waits for the disk, one after the other": math.floor(1 / (frames * costs.sync_wait)),
        "memory": math.floor((assumed.use * assumed.memory_bytes - costs.start_memory) / costs.edge_memory),
        "network": math.floor(assumed.use * assumed.network_bits_s / bits),
        "disk of a machine, for a day": math.floor(
            assumed.disk_bytes / (costs.edge_disk + DAY_S * frames * costs.frame_disk)
        ),
    }


def plan(costs: Costs, assumed: Assumptions, limits: Limits, edges: int) -> dict[str, float]:
    """What a fleet of so many edges needs."""
    images = edges * assumed.images_a_second
    frames = images / assumed.images_per_frame
    allowed = most_edges(costs, assumed, limits)
    whole = min(count for name, count in allowed.items() if "a day" not in name)
    processes = math.ceil(edges / whole)
    reconnects = edges * assumed.reconnects_a_day / DAY_S
    cores = (
        processes * costs.idle_cpu + edges * costs.edge_cpu + frames * costs.frame_cpu + reconnects * costs.connect_cpu
    )
    memory = processes * costs.start_memory + edges * costs.edge_memory
    wire = frames * costs.frame_wire + reconnects * costs.edge_wire
    machines = max(
        cores / (assumed.use * assumed.cores),
        memory / (assumed.use * assumed.memory_bytes),
        8 * wire / (assumed.use * assumed.network_bits_s),
        processes / assumed.cores,
    )
    a_day = DAY_S * frames * costs.frame_disk
    training = images * assumed.times_learned * costs.train_cpu
    return {
        "images a second": images,
        "frames a second": frames,
        "receiving processes": processes,
        "cores for receiving": cores,
        "memory for receiving, GiB": memory / 2**30,
        "machines for receiving": math.ceil(machines),
        "network in, Mbit/s": 8 * wire / 1e6,
        "disk a day, TB": a_day / 1e12,
        "days until the disk of these machines is full": math.ceil(machines) * assumed.disk_bytes / a_day,
        "files in the store": 3 * edges,
        "cores for training": training,
        "machines for training": math.ceil(training / (assumed.use * assumed.cores)),
        "broker servers for the connections": math.ceil(edges / (assumed.use * assumed.broker_connections)),
        "broker disk writes, MB/s": assumed.broker_copies * frames * costs.frame_body / 1e6,
    }


# -- what is printed


def number(value: float) -> str:
    """Three digits that count, and thousands apart."""
    if value >= 100 or value == int(value):
        return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ") if value >= 10_000 else f"{value:.0f}"
    return f"{value:.3g}"


def plan_table(plans: Mapping[int, Mapping[str, float]]) -> str:
    lines = ["| edges | " + " | ".join(f"{edges:,}".replace(",", " ") for edges in plans) + " |"]
    lines.append("| --- |" + " ---: |" * len(plans))
    for name in next(iter(plans.values())):
        lines.append(f"| {name} | " + " | ".join(number(each[name]) for each in plans.values()) + " |")
    return "\n".join(lines)


def check_table(costs: Costs, run: Run) -> str:
    lines = ["| 1000 edges | predicted | measured | off by |", "| --- | ---: | ---: | ---: |"]
    real = found(run)
    for name, value in predicted(costs, run).items():
        lines.append(
            f"| {name} | {number(value)} | {number(real[name])} | {round(100 * (value / real[name] - 1)):+d} % |"
        )
    return "\n".join(lines)


def limits_table(limits: Mapping[str, int]) -> str:
    lines = ["| limit of one receiving process | edges |", "| --- | ---: |"]
    return "\n".join(
        lines + [f"| {name} | {number(count)} |" for name, count in sorted(limits.items(), key=lambda each: each[1])]
    )


def draw(costs: Costs, assumed: Assumptions, limits: Limits, file: Path) -> None:
    """Cores, processes, network and disk over the number of edges, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fleets = [round(10 ** (power / 8)) for power in range(16, 49)]
    plans = [plan(costs, assumed, limits, edges) for edges in fleets]
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    shown = {
        "cores for training": ("#b2182b", -5),
        "network in, Mbit/s": ("#2166ac", 5),
        "cores for receiving": ("#1b7837", 5),
        "receiving processes": ("#762a83", 0),
        "disk a day, TB": ("#666666", -5),
    }
    for name, (colour, up) in shown.items():
        values = [each[name] for each in plans]
        axes.plot(fleets, values, color=colour, linewidth=2)
        axes.annotate(name, (fleets[-1], values[-1]), (6, up), textcoords="offset points", color=colour, va="center")
    axes.axvline(limits.connections, color="black", linewidth=1, linestyle=":")
    axes.annotate("one process is full", (limits.connections, 1), (4, 4), xycoords=("data", "axes fraction"),
                  textcoords="offset points", fontsize=9, annotation_clip=False)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="edges, each with one image a second", xlim=(100, 1e6))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Assumptions):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--no-files", action="store_true", help="only print")
    given = vars(parser.parse_args(arguments))
    only_print = given.pop("no_files") or Assumptions(**given) != Assumptions()
    costs, assumed, limits = measured(), Assumptions(**given), Limits()
    plans = {edges: plan(costs, assumed, limits, edges) for edges in FLEETS}
    run = kept("load/1000-edges.json")
    print("unit costs:", json.dumps(dataclasses.asdict(costs), indent=1))
    print("assumed:", json.dumps(dataclasses.asdict(assumed), indent=1))
    print(check_table(costs, run), limits_table(most_edges(costs, assumed, limits)), plan_table(plans), sep="\n\n")
    if not only_print:
        from common import keep_result

        keep_result(
            RESULTS / "scale.json",
            {
                "unit_costs": dataclasses.asdict(costs),
                "assumed": dataclasses.asdict(assumed),
                "check": {"predicted": predicted(costs, run), "measured": found(run)},
                "most_edges_of_one_process": most_edges(costs, assumed, limits),
                "plans": plans,
            },
        )
        draw(costs, assumed, limits, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
