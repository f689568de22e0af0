"""A fleet from real processes: the commands of docs/fleet.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from runs import assert_same_run

from smartedge.cli.app import main
from smartedge.config import Config
from smartedge.runs.progress import Quiet, parse_update
from smartedge.training import collect, train

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start("edge", config, ...)``: one side as a process. Its input stays open until the test ends."""
    reading, writing = os.pipe()
    started: list[subprocess.Popen[str]] = []

    def start(verb: str, config: Config, *arguments: str) -> subprocess.Popen[str]:
        settings = config.run_dir.with_suffix(f".{verb}.yaml")
        settings.write_text(config.to_yaml())
        command = [sys.executable, "-m", "smartedge", verb, str(settings), "--progress", "json", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=reading, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for side in started:
        side.kill()
        side.communicate()
    os.close(reading)
    os.close(writing)


def port_of(cloud: subprocess.Popen[str]) -> int:
    assert cloud.stdout is not None
    for line in cloud.stdout:
        update = parse_update(line)
        if update is not None and update.port:
            return update.port
    raise AssertionError(cloud.communicate()[1])


def ends(*sides: subprocess.Popen[str]) -> Sequence[tuple[int, str]]:
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
