"""The arithmetic of benchmarks/scale.py, with round numbers; and that docs/scale.md shows what it prints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import scale
import yaml
from scale import Assumptions, Costs, Limits

from smartedge.wire import grpc_receiver

ROOT = Path(__file__).parents[3]
COSTS = Costs(
    idle_cpu=0.01,
    edge_cpu=0.0001,
    connect_cpu=0.004,
    frame_cpu=0.002,
    log_cpu=0.001,
    start_memory=2**30,
    edge_memory=2**20,
    start_files=15,
    edge_files=5,
    frame_body=64_000,
    frame_wire=65_000,
    edge_wire=4_000,
    frame_disk=66_000,
    edge_disk=12_000,
    sync_wait=0.01,
    train_cpu=0.005,
)
ASSUMED = Assumptions(reconnects_a_day=86_400 / 2)  # every two seconds


def run_of(edges: int, seconds: float = 100.0, frames: int = 9) -> dict[str, Any]:
    """What load.py would have kept of a run that costs exactly COSTS."""
    idle = seconds * (COSTS.idle_cpu + edges * COSTS.edge_cpu)
    wire = edges * COSTS.edge_wire
    first = {
        "seconds": seconds,
        "cpu_seconds": idle + edges * (COSTS.log_cpu + COSTS.frame_cpu),
        "rss_bytes": COSTS.start_memory + edges * COSTS.edge_memory,
        "frames": edges,
        "descriptors": 15 + 5 * edges,
        "received_bytes": wire + edges * COSTS.frame_wire,
        "store_disk_bytes": edges * (COSTS.edge_disk + COSTS.frame_disk),
    }
    steady = {
        **first,
        "cpu_seconds": idle + edges * (frames - 1) * COSTS.frame_cpu,
        "frames": edges * frames,
        "received_bytes": wire + edges * frames * COSTS.frame_wire,
        "store_disk_bytes": edges * (COSTS.edge_disk + frames * COSTS.frame_disk),
    }
    silent = {"seconds": seconds, "cpu_seconds": idle, "rss_bytes": 0}
    connect = {"seconds": seconds, "cpu_seconds": idle + edges * COSTS.connect_cpu, "rss_bytes": 0}
    return {
        "edges": edges,
        "frame_bytes": COSTS.frame_body,
        "start": {"rss_bytes": COSTS.start_memory},
        "phases": {"connect": connect, "idle": silent, "first": first, "steady": steady},
    }


def test_unit_costs_are_found_again_in_runs_that_cost_just_that() -> None:
    costs = scale.ingest_costs(run_of(20), run_of(100))
    assert costs == {name: pytest.approx(getattr(COSTS, name)) for name in costs}
    others = {"edge_memory", "sync_wait", "train_cpu"}  # from other results
    assert set(costs) | others == {field.name for field in dataclasses.fields(Costs)}


def test_a_run_that_costs_just_that_is_predicted() -> None:
    run = run_of(1000, seconds=50.0, frames=3)
    real = scale.found(run)
    assert scale.predicted(COSTS, run) == {name: pytest.approx(value) for name, value in real.items()}
    assert real["CPU s, further frames"] == pytest.approx(50 * (0.01 + 0.1) + 2000 * 0.002)
    assert "off by |" in scale.check_table(COSTS, run) and scale.check_table(COSTS, run).count("+0 %") == len(real)


def test_what_one_process_can_take() -> None:
    assert scale.most_edges(COSTS, ASSUMED, Limits()) == {
        "connections of one process": 1024,
        # 0.5 - 0.01 cores; an edge takes 0.1 ms, 2 ms / 64, and 4 ms / 2 each second
        "processor (one core: Python)": 229,
        "waits for the disk, one after the other": 6400,  # a hundred frames a second
        "memory": 31 * 1024,  # 32 GiB less the process alone
        "network": 207_253,  # 5 Gbit/s; 8 * (65 000 / 64 + 4 000 / 2) bits of each edge
        "disk of a machine, for a day": 89_774,  # 8 TB; 12 000 + 1350 * 66 000 bytes of each edge
    }


def test_what_a_fleet_needs() -> None:
    found = scale.plan(COSTS, ASSUMED, Limits(), 6400)
    assert found == {
        "images a second": 6400,
        "frames a second": 100,
        "receiving processes": 28,  # of 229 edges
        "cores for receiving": pytest.approx(28 * 0.01 + 6400 * 0.0001 + 100 * 0.002 + 3200 * 0.004),
        "memory for receiving, GiB": pytest.approx(28 + 6.25),
        "machines for receiving": 2,  # 13.92 cores, of 8 each; 28 processes, of 16 each
        "network in, Mbit/s": pytest.approx(8 * (100 * 65_000 + 3200 * 4_000) / 1e6),
        "disk a day, TB": pytest.approx(86_400 * 100 * 66_000 / 1e12),
        "days until the disk of these machines is full": pytest.approx(2 * 8 / 0.57024),
        "files in the store": 19_200,
        "cores for training": 32,
        "machines for training": 4,
        "broker servers for the connections": 1,
        "broker disk writes, MB/s": pytest.approx(3 * 100 * 64_000 / 1e6),
    }


def test_more_images_a_second_need_more_and_not_more_connections() -> None:
    slow, fast = (scale.plan(COSTS, Assumptions(images_a_second=rate), Limits(), 1000) for rate in (1, 5))
    assert fast["cores for training"] == pytest.approx(5 * slow["cores for training"])
    assert fast["disk a day, TB"] == pytest.approx(5 * slow["disk a day, TB"])
    assert fast["receiving processes"] == slow["receiving processes"] == 1


def test_numbers_are_short() -> None:
    shown = {0: "0", 0.1234: "0.123", 5: "5", 12.34: "12.3", 123.4: "123", 1024: "1024", 123_456: "123 000"}
    assert {value: scale.number(value) for value in shown} == shown


def test_the_limits_are_those_of_the_receiver() -> None:
    assert dataclasses.asdict(Limits()).items() <= dataclasses.asdict(grpc_receiver.Limits()).items()


def test_the_page_shows_what_is_printed() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    costs, assumed = scale.measured(), Assumptions()
    plans = {edges: scale.plan(costs, assumed, Limits(), edges) for edges in scale.FLEETS}
    assert scale.plan_table(plans) in page
    assert scale.check_table(costs, scale.kept("load/1000-edges.json")) in page
    assert scale.limits_table(scale.most_edges(costs, assumed, Limits())) in page
    kept = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text())
    assert kept["unit_costs"] == pytest.approx(dataclasses.asdict(costs))


def test_the_chart_asks_for_what_1000_edges_need() -> None:
    needs = scale.plan(scale.measured(), Assumptions(), Limits(), 1000)
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "smartedge" / "values.yaml").read_text())
    asked = values["ingest"]["resources"]["requests"]
    assert needs["cores for receiving"] / 0.5 <= int(asked["cpu"].removesuffix("m")) / 1000 < 1
    assert needs["memory for receiving, GiB"] <= int(asked["memory"].removesuffix("Gi")) <= 2
