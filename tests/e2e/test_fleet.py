"""A fleet from real processes: the commands of docs/fleet.md."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from forked import Popen
from lossy_proxy import LossyProxy
from runs import assert_same_run, share_key
from safetensors.torch import load_file

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.cli.app import main
from smartedge.cloud.store.feature_log import FeatureReader
from smartedge.config import Config
from smartedge.runs.progress import Quiet, parse_update
from smartedge.training import collect, train

Start = Callable[..., Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start("edge", config, ...)``: one side as a process."""
    started: list[Popen] = []

    def start(verb: str, config: Config, *arguments: str) -> Popen:
        settings = config.run_dir.with_suffix(f".{verb}.yaml")
        settings.write_text(config.to_yaml())
        command = [sys.executable, "-m", "smartedge", verb, str(settings), "--progress", "json", *arguments]
        pipe = subprocess.PIPE
        started.append(Popen(command, stdout=pipe, stderr=pipe))
        return started[-1]

    yield start
    for side in started:
        side.kill()
        side.communicate()


def udp_port_of(cloud: Popen) -> int:
    assert cloud.stdout is not None
    for line in cloud.stdout:
        update = parse_update(line)
        if update is not None and "for datagrams on" in update.text:
            return int(update.text.rpartition(":")[2])
    raise AssertionError(cloud.communicate()[1])


def port_of(cloud: Popen) -> int:
    assert cloud.stdout is not None
    for line in cloud.stdout:
        update = parse_update(line)
        if update is not None and update.port:
            return update.port
    raise AssertionError(cloud.communicate()[1])


def ends(*sides: Popen) -> Sequence[tuple[int, str]]:
    """Exit code and errors of each side."""
    found = []
    for side in sides:
        _, errors = side.communicate(timeout=120)
        found.append((side.returncode, errors))
    return found


def test_a_run_of_an_edge_with_a_bundle_equals_one_on_this_machine(tiny_config, tmp_path: Path, start: Start) -> None:
    plain, secured = tiny_config("plain", epochs=1), tiny_config("secured", epochs=1)
    train(plain, single_process=True, monitor=Quiet())
    fleet = tmp_path / "fleet"
    assert main(["fleet", "init", str(fleet)]) == 0
    cloud = start("cloud", secured, "--fleet", str(fleet), "--listen", "127.0.0.1:0")
    address = f"127.0.0.1:{port_of(cloud)}"
    assert main(["fleet", "add", str(fleet), "door", "--cloud", address]) == 0
    assert main(["fleet", "add", str(fleet), "gate", "--cloud", address]) == 0
    gate = fleet / "bundles" / "gate.bundle"
    kept = gate.read_bytes()
    assert main(["fleet", "revoke", str(fleet), "gate"]) == 0
    gate.write_bytes(kept)
    gate.chmod(0o600)
    refused = start("edge", tiny_config("refused", epochs=1), "--bundle", str(gate))
    [(code, told)] = ends(refused)
    assert code == 11 and "the certificate of edge 'gate' was revoked" in told
    edge = start("edge", secured, "--bundle", str(fleet / "bundles" / "door.bundle"))
    assert [code for code, _ in ends(edge, cloud)] == [0, 0]
    collect(secured.run_dir)
    assert_same_run(plain.run_dir, secured.run_dir)


@pytest.mark.slow
def test_a_fleet_whose_cloud_is_killed_ends_by_its_journal(tiny_config, tmp_path: Path, start: Start) -> None:
    """Three edges; kill -9 for the cloud within its training. Its weights are those that store and journal give."""
    names = ["door", "gate", "hall"]
    fleet = tmp_path / "fleet"
    assert main(["fleet", "init", str(fleet)]) == 0
    assert main(["fleet", "add", str(fleet), *names, "--cloud", "127.0.0.1:1"]) == 0
    config = tiny_config("cloud", fleet={"expect": names, "mix": 4}, epochs=4)
    edges = {
        name: tiny_config(name, data={"shard": f"{number}/3"}, epochs=4) for number, name in enumerate(names, start=1)
    }
    journal = config.run_dir / "cloud" / "order.jsonl"

    def start_edges(port: int, *more: str) -> list[Popen]:
        bundles = {name: str(fleet / "bundles" / f"{name}.bundle") for name in names}
        where = f"127.0.0.1:{port}"
        return [start("edge", edges[name], "--bundle", bundles[name], "--connect", where, *more) for name in names]

    cloud = start("cloud", config, "--fleet", str(fleet), "--listen", "127.0.0.1:0")
    first = start_edges(port_of(cloud))
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"frames") < 2:
        assert cloud.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    cloud.kill()
    before = journal.read_bytes()
    for edge in first:
        edge.kill()
    cloud = start("cloud", config, "--fleet", str(fleet), "--listen", "127.0.0.1:0", "--resume")
    again = start_edges(port_of(cloud), "--resume")
    assert [(code, told) for code, told in ends(*again, cloud) if code] == []
    whole = journal.read_bytes()
    assert whole.startswith(before[: before.rfind(b"\n") + 1]) and len(whole) > len(before)
    repeat = tiny_config("repeat", fleet={"expect": names, "mix": 4}, epochs=4)
    (repeat.run_dir / "cloud").mkdir(parents=True)
    for name in ("store", "closed"):
        shutil.copytree(config.run_dir / "cloud" / name, repeat.run_dir / "cloud" / name)
    shutil.copy(journal, repeat.run_dir / "cloud" / "order.jsonl")
    (repeat.run_dir / "config.yaml").write_text(repeat.to_yaml())
    assert ends(start("cloud", repeat, "--listen", "127.0.0.1:0", "--resume"))[0][0] == 0
    backs = [load_file(each.run_dir / "cloud" / "back.safetensors") for each in (config, repeat)]
    assert all(torch.equal(backs[0][name], backs[1][name]) for name in backs[0])
    figures = FleetFigures.read(config.run_dir / "cloud" / "fleet.json")
    assert sorted(figures.edges) == names and figures.complete


@pytest.mark.parametrize(
    ("made_for", "loss", "schedule"),
    [
        (0.3, 0.2, "joint"),
        pytest.param(0.0, 0.1, "freeze-and-log", marks=pytest.mark.slow),
        pytest.param(0.3, 0.2, "freeze-and-log", marks=pytest.mark.slow),
        pytest.param(0.0, 0.1, "joint", marks=pytest.mark.slow),
    ],
)
def test_an_edge_without_a_way_back(
    made_for: float, loss: float, schedule: str, tiny_config, tmp_path: Path, start: Start
) -> None:
    """Over datagrams of which some are lost, and none comes back. Where more is lost than the link is made for, the run
    ends all the same, and its log says what is missing. The seed of the losses is fixed."""
    changes = {"epochs": 2, "schedule": schedule, "link": {"simplex_rate": 1e8, "simplex_loss": made_for}}
    plain, one_way = tiny_config("plain", **changes), tiny_config("one_way", **changes)
    share_key(plain.run_dir, one_way.run_dir)
    train(plain, single_process=True, monitor=Quiet())
    fleet = tmp_path / "fleet"
    assert main(["fleet", "init", str(fleet)]) == 0
    assert main(["fleet", "add", str(fleet), "door", "--cloud", "127.0.0.1:9"]) == 0
    cloud = start("cloud", one_way, "--fleet", str(fleet), "--listen", "127.0.0.1:0", "--listen-udp", "127.0.0.1:0")
    rng = random.Random(3)
    proxy = LossyProxy(udp_port_of(cloud), lambda number, datagram: rng.random() < loss)
    try:
        bundle = fleet / "bundles" / "door.bundle"
        edge = start("edge", one_way, "--bundle", str(bundle), "--connect", f"udp://127.0.0.1:{proxy.port}")
        assert [code for code, _ in ends(edge, cloud)] == [0, 0]
        assert proxy.dropped > 0
        assert proxy.came_back == 0
    finally:
        proxy.close()
    results = collect(one_way.run_dir)
    assert results.bytes_per_image.down == 0
    gaps = FeatureReader(one_way.run_dir / "cloud" / "store" / "door").gaps
    if made_for > loss:
        assert gaps == []
        assert_same_run(plain.run_dir, one_way.run_dir)
    else:
        assert gaps
